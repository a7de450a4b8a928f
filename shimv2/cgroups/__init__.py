"""Control groups v1 and v2: finds a container's cgroups, reads their files, watches for OOM kills.

This package reads the kernel's files only.  It never runs the OCI runtime.
"""
