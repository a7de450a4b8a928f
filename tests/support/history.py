"""Older versions of this shim, from the repository's history."""

import os
import subprocess
import sys
from typing import Final

from tests.support.host import NAME, ROOT, write_shim

BEFORE: Final = {
    "before the zygote": "shimv2/zygote.py",
    "before checkpoints": "shimv2/runtime/criu.py",
}
"""The name of a version -> a file that the next commit added."""


class NoHistory(Exception):
    """The tree does not have the wanted commits; the text has the reason."""


def install_older(version: str, folder: str) -> str:
    """Unpack one of BEFORE below `folder` and return the path of its shim.

    It is started by a script and has no C parts, as on a machine without a compiler.

    Raises:
        NoHistory: the tree is no clone, or a shallow one.
    """
    commit = _commit_before(BEFORE[version])
    tree = os.path.join(folder, f"tree-{commit[:12]}")
    os.mkdir(tree)
    archive = os.path.join(tree, "archive.tar")
    _git("archive", "--output", archive, commit, "shimv2", "ttrpc", "protos")
    subprocess.run(["tar", "-C", tree, "-xf", archive], check=True)
    os.unlink(archive)
    path = os.path.join(tree, NAME)
    write_shim(path, root=tree, python=sys.executable)
    return path


def _commit_before(path: str) -> str:
    if _git("rev-parse", "--is-shallow-repository") == "true":
        raise NoHistory("a shallow clone has no older versions: git fetch --unshallow")
    first = _git("log", "--format=%H", "--diff-filter=A", "--", path).split()[-1]
    return _git("rev-parse", f"{first}^")


def _git(*args: str) -> str:
    # The tree may belong to another user, and is only read.
    command = ["git", "-c", f"safe.directory={ROOT}", "-C", ROOT, *args]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        raise NoHistory("there is no git here") from None
    if done.returncode:
        raise NoHistory(done.stderr.strip())
    return done.stdout.strip()
