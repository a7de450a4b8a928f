"""Checks that the process at the other end of a socket has the attributes in its key."""

import contextlib
import ctypes
import errno
import os
import select
import socket
import struct
from typing import Final

from shimv2.zygote.attributes import library_function

_SO_PEERPIDFD: Final = 77  # Linux 6.5
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid
_is_key_of: Final = library_function("pyrunc_is_key_of_1", ctypes.c_int)


def verified_pid(connection: socket.socket, key: bytes) -> int | None:
    """Return the pid of the process that connected; None if its attributes differ from `key`.

    Credentials, namespaces, security label and hard limits are read from /proc.  From Linux 6.5 on
    a pidfd shows whether the pid was reused meanwhile.
    """
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    if uid != os.geteuid() or pid <= 0:  # 0: a pid namespace that is not visible here
        return None
    with contextlib.ExitStack() as undo:
        try:
            pidfd = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
            undo.callback(os.close, pidfd)
        except OSError as error:
            if error.errno != errno.ENOPROTOOPT:
                return None  # it has ended
            pidfd = None
        if _is_key_of is None or not _is_key_of(key, len(key), pid):
            return None
        # If the process still runs, its pid was not reused: all was read of this process.
        if pidfd is not None and select.select([pidfd], [], [], 0)[0]:
            return None
    return int(pid)
