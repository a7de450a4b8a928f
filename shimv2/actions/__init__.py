"""The actions that containerd runs the binary for: start, delete and -info.

`cli` imports only the one that is asked for, because containerd waits for it.
"""
