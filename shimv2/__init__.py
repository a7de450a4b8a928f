"""A containerd shim (runtime v2) for runc and crun."""

from typing import Final

VERSION: Final = "0.1.0"
