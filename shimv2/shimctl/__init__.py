"""The operator's tool, `shimctl`, and the harness under it: a small containerd-like client.

Nothing of the shim imports this package.  It is a tool, not the daemon: it runs on the stock
asyncio loop, starts children with asyncio's own calls and may use threads.
"""
