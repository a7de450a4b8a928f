"""Loop devices: files as block devices, for mounts with the option `loop`."""

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Final

from shimv2.gocompat.gotext import strerror
from shimv2.kernel import linux
from shimv2.values.errors import Refused

_CONTROL: Final = "/dev/loop-control"
_TRIES: Final = 100  # another process may take the free device first


@contextlib.contextmanager
def loop_device(source: str, *, read_only: bool, direct_io: bool) -> Iterator[str]:
    """Attach the file `source` to a free loop device and yield the device's path.

    The device is held open within the block.  With LO_FLAGS_AUTOCLEAR it detaches itself at its
    last unmount, or at the end of the block when nothing mounted it.
    """
    flags = linux.LO_FLAGS_AUTOCLEAR
    flags |= linux.LO_FLAGS_READ_ONLY if read_only else 0
    flags |= linux.LO_FLAGS_DIRECT_IO if direct_io else 0
    with contextlib.ExitStack() as stack:
        backing_fd = os.open(source, os.O_RDONLY if read_only else os.O_RDWR)
        stack.callback(os.close, backing_fd)
        control_fd = os.open(_CONTROL, os.O_RDWR)
        stack.callback(os.close, control_fd)
        for _ in range(_TRIES):
            device = f"/dev/loop{linux.free_loop_device(control_fd)}"
            device_fd = os.open(device, os.O_RDWR)
            try:
                linux.configure_loop_device(device_fd, backing_fd, source, flags)
            except OSError as exc:
                os.close(device_fd)
                if exc.errno != errno.EBUSY:
                    text = f"attach {source} to {device}: {strerror(exc.errno or 0)}"
                    raise Refused(text) from exc
            else:
                stack.callback(os.close, device_fd)
                yield device
                return
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), _CONTROL)
