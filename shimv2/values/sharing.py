"""Names in a memory map, which show whether a shim shares its zygote's memory.  Pure.

    7f1c00000000-7f1c00100000 rw-p 7f1c00000000 00:01 1041   /memfd:pyrunc-image (deleted)

A zygote that shares its memory maps the image.  Any other zygote maps an empty file, whose name is
the reason.  Forks inherit the mapping.  A shim that has started cold has neither mapping.
"""

from typing import Final

IMAGE: Final = "pyrunc-image"  # _publish.c has it, too
UNSHARED: Final = "pyrunc-unshared: "
_MEMFD: Final = "/memfd:"
_DELETED: Final = " (deleted)"


def sharing(maps: str) -> str:
    """Say whether a shim with this memory map, as in /proc/PID/maps, shares memory."""
    for line in maps.splitlines():
        _, _, name = line.partition(_MEMFD)
        name = name.removesuffix(_DELETED)
        if name == IMAGE:
            return "shared"
        if name.startswith(UNSHARED):
            return f"not shared: {name.removeprefix(UNSHARED)}"
    return "not shared: started without a zygote"
