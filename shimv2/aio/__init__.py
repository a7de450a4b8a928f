"""The event loop of the shim, waiting for descriptors, and tasks that outlive their request.

All higher packages may call it.  It knows nothing about containers or the runtime.
"""
