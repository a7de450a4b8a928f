"""`shimctl`, the operator's tool, and the harness under it: a client that acts like containerd.

No module of the shim imports this package.  Unlike the shim it runs on asyncio's own event loop,
starts child processes with asyncio, and may use threads.
"""
