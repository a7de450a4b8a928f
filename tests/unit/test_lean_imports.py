"""What the standard library would import, and a shim does without."""

import subprocess
import sys

_HIDDEN = """
from shimv2.lean_imports import hide_unused
hide_unused()
import asyncio, hashlib, os, shutil, sys
{check}
"""


def _run(check: str) -> str:
    argv = [sys.executable, "-c", _HIDDEN.format(check=check)]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def test_no_library_of_tls_or_compression_is_loaded() -> None:
    maps = _run("print(open('/proc/self/maps').read())")

    assert "libc.so" in maps or "musl" in maps
    assert not any(name in maps for name in ("libssl", "libcrypto", "libbz2", "liblzma", "libzstd"))


def test_what_imports_them_works_without() -> None:
    digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    check = """
print(hashlib.sha256(b"test").hexdigest())
print(asyncio.run(asyncio.sleep(0, "slept")))
folder = "/tmp/shim-lean-%d" % os.getpid()
os.mkdir(folder)
shutil.rmtree(folder)
print(os.path.exists(folder))
"""

    assert _run(check).split() == [digest, "slept", "False"]


def test_what_is_imported_already_stays() -> None:
    code = "import ssl, sys\nfrom shimv2.lean_imports import hide_unused\nhide_unused()\nimport ssl"

    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_server_imports_no_module_that_it_does_not_need() -> None:
    """A large module that comes in by accident is in the memory of every shim."""
    check = """
import shimv2.daemon
unwanted = {"ipaddress", "tempfile", "tomllib", "urllib.parse"}
print(*sorted(unwanted & set(sys.modules)))
"""

    assert _run(check).split() == []
