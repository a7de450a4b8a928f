"""What tests and benches need of the machine around a shim.

Daemons and runtimes, those of other releases, zygotes, and what a run leaves behind.  Tests and
benches may import it; no command of `shimctl` does, and it is not installed.
"""
