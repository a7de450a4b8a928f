"""The event loop of the shim, waiting for descriptors, and tasks that outlive their request.

Everything above may call in here; nothing here knows about containers or the runtime.
"""
