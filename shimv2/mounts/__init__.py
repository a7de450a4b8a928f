"""The mounts that make a container's root file system, and their undo.

`rootfs` makes and undoes them all.  `umount` needs no asyncio, so the `delete` action can use it.
Mounts are made in the shim's mount namespace, which is containerd's.
"""
