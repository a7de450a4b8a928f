"""The OCI runtime: its command lines, time limits, output and errors.

`interface` is what the rest of the shim knows, `runc` the implementation for runc and crun.
"""
