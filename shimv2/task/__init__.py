"""The core of the shim: the table of containers, their processes and the lifecycles of these.

`api` calls it with frozen specs, and gets results or domain errors.  It knows no messages.
"""
