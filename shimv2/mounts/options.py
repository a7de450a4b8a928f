"""Mount options in containerd's form: flags for the kernel, data for the filesystem.  Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shimv2.gocompat.gotext import quote
from shimv2.kernel import linux
from shimv2.values.errors import Refused

_SET: Final = {
    "ro": linux.MS_RDONLY, "nosuid": linux.MS_NOSUID, "nodev": linux.MS_NODEV,
    "noexec": linux.MS_NOEXEC, "sync": linux.MS_SYNCHRONOUS, "dirsync": linux.MS_DIRSYNC,
    "remount": linux.MS_REMOUNT, "mand": linux.MS_MANDLOCK, "noatime": linux.MS_NOATIME,
    "nodiratime": linux.MS_NODIRATIME, "relatime": linux.MS_RELATIME,
    "strictatime": linux.MS_STRICTATIME, "bind": linux.MS_BIND,
    "rbind": linux.MS_BIND | linux.MS_REC,
}  # fmt: skip
_CLEAR: Final = {
    "rw": linux.MS_RDONLY, "suid": linux.MS_NOSUID, "dev": linux.MS_NODEV,
    "exec": linux.MS_NOEXEC, "async": linux.MS_SYNCHRONOUS, "nomand": linux.MS_MANDLOCK,
    "atime": linux.MS_NOATIME, "diratime": linux.MS_NODIRATIME,
    "norelatime": linux.MS_RELATIME, "nostrictatime": linux.MS_STRICTATIME,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Options:
    flags: int = 0
    data: tuple[str, ...] = ()
    loop: bool = False
    direct_io: bool = False
    uid_map: str = ""  # as given; both maps are set, or neither
    gid_map: str = ""


def parse_options(words: Sequence[str]) -> Options:
    """Split mount options into flags and the filesystem's data; any unknown word is data.

    Raises:
        Refused: an option is one of containerd's mount manager, or half of an id mapping is given.
    """
    refuse_mount_manager_options(words)
    flags, data, loop = 0, [], "loop" in words
    maps = {"uidmap": "", "gidmap": ""}
    for word in words:
        name, given, value = word.partition("=")
        if given and name in maps:
            maps[name] = value
        elif word in _SET:
            flags |= _SET[word]
        elif word in _CLEAR:
            flags &= ~_CLEAR[word]
        elif word != "loop" and not (loop and word == "direct-io"):
            data.append(word)
    if bool(maps["uidmap"]) != bool(maps["gidmap"]):
        # Without the other half, files would belong to the wrong ids.
        raise Refused("an idmapped mount needs both uidmap and gidmap")
    return Options(
        flags, tuple(data), loop, loop and "direct-io" in words, maps["uidmap"], maps["gidmap"]
    )


def refuse_mount_manager_options(words: Sequence[str]) -> None:
    """Refuse `X-containerd.*`: containerd's mount manager should have consumed them."""
    for word in words:
        if word.startswith("X-containerd."):
            text = f"internal mount option {quote(word)} was not consumed by the mount manager"
            raise Refused(text)
