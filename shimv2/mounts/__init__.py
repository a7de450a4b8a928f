"""The mounts that make a container's root file system, and their undo.

`rootfs` makes and undoes them all; `umount` stands apart and needs no asyncio, for `delete`.
Mounts are made in the shim's mount namespace, which is containerd's.
"""
