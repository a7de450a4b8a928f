"""What containerd calls the binary for: start, delete and -info, and what a `start` needs.

Each action is imported by `cli` only when it is asked for: containerd waits for every one of them.
"""
