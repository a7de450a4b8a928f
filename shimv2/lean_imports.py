"""Keep out of a shim what the standard library imports and a shim never uses.

`asyncio`, `hashlib` and `shutil` import OpenSSL, bzip2 and LZMA if they can, and do without
otherwise (CPython, Lib/asyncio/selector_events.py, Lib/hashlib.py, Lib/shutil.py).
"""

import sys
from typing import Final

_UNUSED: Final = ("ssl", "_bz2", "_lzma")
_BUILT_IN_HASHES: Final = ("_sha256", "_sha2")  # CPython 3.11; 3.12 and newer


def hide_unused() -> None:
    """Let `import ssl` and the like raise ImportError from here on, in this process.

    OpenSSL's hashes are hidden only if the interpreter has its own without an extension module.
    """
    hidden = [*_UNUSED]
    if any(name in sys.builtin_module_names for name in _BUILT_IN_HASHES):
        hidden.append("_hashlib")
    for name in hidden:
        # None in place of a module: its import raises (Python reference, "The import system").
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
