"""The heart of the shim: the table of containers, their processes, and how each one's life goes.

`api` calls in with frozen specs and gets results or domain errors; no message is known here.
"""
