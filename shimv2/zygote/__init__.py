"""The zygote: a warm process that forks shims on request.

`parent` is the zygote itself, `child` the process it forks ahead of need, `protocol` what both say
to the launcher (`launcher.c`), `attributes` what a child takes over from its caller, `warmup` what
happens before the first fork.  Only `cli` may import from here.
"""
