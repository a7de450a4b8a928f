"""A containerd shim (runtime v2) for runc and crun."""

import os.path
from typing import Final

VERSION: Final = "0.1.0"

COMPILED_DIR: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_bin")
"""The directory of the compiled C parts; it does not exist if there was no C compiler."""
