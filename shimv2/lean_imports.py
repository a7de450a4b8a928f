"""Keep out of a shim what the standard library imports and a shim never uses.

`asyncio`, `hashlib` and `shutil` import OpenSSL, bzip2, LZMA and Zstandard if they can, and do
without otherwise (CPython, Lib/asyncio/selector_events.py, Lib/hashlib.py, Lib/shutil.py).
"""

import importlib
import sys
from typing import Final

_UNUSED: Final = ("ssl", "_bz2", "_lzma", "_zstd")
_OWN_HASHES: Final = ("_sha2", "_sha256")  # CPython 3.12 and newer; 3.11


def hide_unused() -> None:
    """Let `import ssl` and the like raise ImportError from here on, in this process.

    OpenSSL's hashes are hidden only if the interpreter has its own.  Some are built without.
    """
    hidden = [*_UNUSED]
    if any(_can_import(name) for name in _OWN_HASHES):
        hidden.append("_hashlib")
    for name in hidden:
        # None in place of a module: its import raises (Python reference, "The import system").
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


def _can_import(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True
