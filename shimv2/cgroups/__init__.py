"""Control groups v1 and v2: where a container's are, what their files say, the watch for OOM kills.

It parses and reads; it never asks the OCI runtime.
"""
