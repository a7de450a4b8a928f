"""The zygote: a warm process that forks shims on request.

`supervisor` leaves one behind, `warmup` is what it does before the first fork, `parent` is the
zygote itself, `child` the process it forks ahead of need, `protocol` what these and the launcher
(`launcher.c`) send each other, `peer` the check that a launcher is what it says, `attributes` what
a child takes over from it, `folder` where zygotes listen, `conf` what an installation tells its
launcher.  Only `cli` may import from here.
"""
