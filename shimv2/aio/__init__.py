"""The event loop of the shim, waiting for descriptors, and tasks that outlive their caller.

Everything above may call in here; nothing here knows about containers or the runtime.
"""
