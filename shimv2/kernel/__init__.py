"""System calls that Python lacks, the start of child processes, and their reaping.

`spawn` is the one place that makes children of a running shim, `reaper` the one that waits for
them.  All higher packages may call it.  It knows nothing about containers.
"""
