"""The package's C part.  It exists if the installation had a C compiler."""

import ctypes
import os
from typing import Final

from shimv2 import COMPILED_DIR

__all__ = ["load"]

_PATH: Final = os.path.join(COMPILED_DIR, "libmemory.so")


def load() -> ctypes.PyDLL | None:
    """Load the library; None if there is none, or if it is of another version.

    Its functions keep the GIL (`PyDLL`): no other Python thread runs during a call.
    """
    try:
        library = ctypes.PyDLL(_PATH)
        library.pyrunc_fill_1.restype = None
        words = (ctypes.c_void_p, ctypes.c_long)  # array.buffer_info()
        library.pyrunc_publish_4.argtypes = (*words, *words, ctypes.c_uint64)
        library.pyrunc_publish_4.restype = ctypes.c_char_p
        library.pyrunc_reclaim_2.restype = ctypes.c_long
        library.pyrunc_used_pages_1.argtypes = words
        library.pyrunc_used_pages_1.restype = ctypes.c_long
        library.pyrunc_prefault_1.argtypes = words
        library.pyrunc_prefault_1.restype = None
    except (OSError, AttributeError):
        return None
    return library
