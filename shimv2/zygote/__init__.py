"""The zygote: a process with all modules imported from which shims are forked.

    launcher.c   the shim's binary: sends its command line to a zygote, or makes a cold start
    supervisor   starts a zygote after a cold start, and logs why if that fails
    warmup       the fake container lifecycles before the first fork
    parent       the zygote
    child        the pre-forked child, which waits for a launcher
    protocol     the messages between launcher, waiting child and zygote
    peer         the check that a launcher has the attributes in its key
    attributes   the attributes that the waiting child takes over from the launcher
    folder       the folder of sockets, and of failed warm-ups
    conf         the launcher's conf file, which the installation writes

Only `cli` may import from here.
"""
