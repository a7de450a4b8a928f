"""The OCI runtime: its command lines, time limits, output and errors.

The rest of the shim uses `interface`; `runc` implements it for runc and crun.
"""
