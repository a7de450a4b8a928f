"""A containerd shim (runtime v2) for runc and crun."""

import os.path
from typing import Final

VERSION: Final = "0.1.0"

COMPILED_DIR: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_bin")
"""Where the build puts the C parts; without a C compiler the folder does not exist."""
