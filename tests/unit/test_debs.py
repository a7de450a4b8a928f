"""The mirrors of Debian packages are those of the machine's own apt; the tree names no host."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.support.host import ROOT

_DEBS: Final = os.path.join(ROOT, "tools", "debs.sh")
_HOSTS: Final = re.compile(r"debian\.org|ubuntu\.com|debian\.net")
_NAMELESS: Final = ("tools/*", "tests/**/*.py", "tests/vm/**/*", "Makefile", ".ci/*")

pytestmark = pytest.mark.skipif(not shutil.which("apt-get"), reason="there is no apt")


def asked(folder: Path, *sources: str, **env: str) -> str:
    """Request a package with these lines in sources.list; return the text of the error."""
    (folder / "sources.list").write_text("".join(f"{line}\n" for line in sources))
    (folder / "apt.conf").write_text(
        f'Dir::Etc::SourceList "{folder}/sources.list"; Dir::Etc::SourceParts "/dev/null";\n'
    )
    done = subprocess.run(
        [_DEBS, "trixie", str(folder / "root"), "criu"],
        env={"PATH": os.environ["PATH"], "APT_CONFIG": str(folder / "apt.conf"), **env},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert not (folder / "root").exists()
    return done.stderr


def test_packages_come_from_the_mirrors_of_the_machines_apt(tmp_path: Path) -> None:
    """Those that have a Debian suite, for packages and for security updates."""
    text = asked(
        tmp_path,
        "deb file:/elsewhere/apt nodistro main",
        "deb file:/mirror/debian stable main",
        "deb file:/safe/debian stable-security main",
    )

    assert "file:/mirror/debian trixie" in text
    assert "file:/safe/debian trixie-security" in text
    assert "elsewhere" not in text


def test_environment_names_other_mirrors(tmp_path: Path) -> None:
    """For a machine whose apt has no Debian mirror."""
    text = asked(tmp_path, DEBS_MIRROR="file:/given/debian", DEBS_SECURITY="file:/given/safe")

    assert "file:/given/debian trixie" in text
    assert "file:/given/safe trixie-security" in text


def test_machine_without_a_debian_source_is_an_error_with_the_variables_to_set(
    tmp_path: Path,
) -> None:
    """Other distributions have other suites and other packages."""
    assert "DEBS_MIRROR" in asked(tmp_path, "deb file:/elsewhere/apt nodistro main")


def test_no_mirror_is_named_in_the_tree() -> None:
    """A machine behind a proxy or without internet has its own mirrors."""
    paths = (path for pattern in _NAMELESS for path in Path(ROOT).glob(pattern) if path.is_file())
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in paths
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if _HOSTS.search(line)
    ]

    assert found == []
