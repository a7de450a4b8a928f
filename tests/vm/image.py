"""The disk from which the test machine boots, made of Debian packages and kept in the cache.

    packages ── tools/debs.sh ──► qemu/   the emulator with its own loader and libraries
                              └─► root/   Debian 12 as unpacked: no maintainer script has run
    root/ + pip's packages + what those scripts would do ──► image/root.ext4, linux, initramfs

Every part is in a folder named by what it was made from, so that another list makes another folder.
A folder is made in one step, complete.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.vm.stages import Stages

TREE: Final = Path(__file__).resolve().parents[2]
_HERE: Final = Path(__file__).resolve().parent
_SUITE: Final = "bookworm"
_EMULATOR: Final = ("qemu-system-x86",)
_GUEST: Final = (
    *("base-files", "base-passwd", "bash", "coreutils", "dash", "debianutils", "diffutils"),
    *("findutils", "grep", "gzip", "hostname", "libc-bin", "mawk", "mount", "netbase", "procps"),
    *("sed", "tar", "util-linux", "kmod", "iproute2", "iptables", "e2fsprogs"),
    *("linux-image-cloud-amd64", "python3", "fuse3", "bindfs"),
    *("busybox-static", "runc", "crun", "containerd", "criu"),
)
# Packages of the development extra that no test needs in the guest.
_NOT_IN_GUEST: Final = ("mypy", "ruff", "types-")
PYTHON: Final = "3.11"  # bookworm's
_DISK_BYTES: Final = 3 << 30  # a sparse file
# In the order in which they must be loaded; ext4 is built into the kernel.
_MODULES: Final = (
    *("virtio/virtio_ring", "virtio/virtio", "virtio/virtio_pci_modern_dev"),
    *("virtio/virtio_pci_legacy_dev", "virtio/virtio_pci", "block/virtio_blk"),
    "char/virtio_console",
)
# Links that the packages' scripts make (update-alternatives, dash).
_LINKS: Final = {
    "usr/bin/sh": "dash",
    "usr/bin/awk": "mawk",
    "usr/sbin/iptables": "xtables-nft-multi",
    "usr/sbin/iptables-save": "xtables-nft-multi",
    "usr/sbin/iptables-restore": "xtables-nft-multi",
    "usr/sbin/ip6tables": "xtables-nft-multi",
    "usr/sbin/ip6tables-save": "xtables-nft-multi",
    "usr/sbin/ip6tables-restore": "xtables-nft-multi",
}
_FILES: Final = {
    "etc/hostname": "vm\n",
    "etc/hosts": "127.0.0.1 localhost vm\n",
    "etc/resolv.conf": "",
    "etc/fstab": "",
}
_FOLDERS: Final = ("proc", "sys", "dev", "run", "tmp", "root", "work", "mnt", "var/tmp", "var/lib")
_DROPPED: Final = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "boot")


class CannotBuild(Exception):
    """This machine cannot make the image; the text has the reason."""


@dataclass(frozen=True, slots=True)
class Image:
    """The parts of a bootable machine, as files of the cache.  They are never written to."""

    emulator: Path  # a root folder with QEMU in it
    disk: Path
    kernel: Path
    initramfs: Path


def image(cache: Path, stages: Stages) -> Image:
    """Return the image, built if it is not in `cache` yet.

    Raises:
        CannotBuild: a program is missing, or a step failed; its output is on stderr.
    """
    key = _key(_SUITE, *_GUEST, *_requirements(), *_sources())
    emulator = cache / f"vm-qemu-{_key(_SUITE, *_EMULATOR)}"
    root = cache / f"vm-root-{_key(_SUITE, *_GUEST)}"
    made = cache / f"vm-image-{key}"
    if not (emulator.exists() and made.exists()):
        _check_machine()
        cache.mkdir(parents=True, exist_ok=True)
        with stages("packages of Debian"):
            _debs(emulator, _EMULATOR)
            _debs(root, _GUEST)
        with _sole_builder(made), stages("image"):
            if not made.exists():
                _build(root, made)
    return Image(emulator, made / "root.ext4", made / "linux", made / "initramfs")


def loaded(root: Path, program: str) -> list[str]:
    """Return a command that runs a program of an unpacked `root` with that root's libraries."""
    libraries = root / "usr/lib/x86_64-linux-gnu"
    loader = libraries / "ld-linux-x86-64.so.2"
    return [str(loader), "--library-path", str(libraries), str(root / program)]


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _sources() -> list[str]:
    return [(_HERE / name).read_text() for name in ("image.py", "guest/initramfs")]


def _requirements() -> list[str]:
    with open(TREE / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["shimctl"], *extras["dev"]]
    return [line for line in wanted if not line.startswith(_NOT_IN_GUEST)]


def _check_machine() -> None:
    if os.uname().machine != "x86_64":
        raise CannotBuild(f"the machine is emulated on x86_64, this is {os.uname().machine}")
    if os.geteuid() != 0:
        raise CannotBuild("making the image needs root: its files belong to root")
    missing = [tool for tool in ("apt-get", "dpkg-deb", "tar", "chroot") if not shutil.which(tool)]
    if missing:
        raise CannotBuild(f"not installed: {', '.join(missing)}")


@contextlib.contextmanager
def _sole_builder(made: Path) -> Iterator[None]:
    with open(f"{made}.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _debs(folder: Path, packages: Sequence[str]) -> None:
    _run([str(TREE / "tools/debs.sh"), "--closure", _SUITE, str(folder), *packages])


def _build(unpacked: Path, made: Path) -> None:
    """Make the image in a temporary folder and rename that."""
    with tempfile.TemporaryDirectory(prefix=f"{made.name}.", dir=made.parent) as folder:
        work, root = Path(folder, "image"), Path(folder, "root")
        work.mkdir()
        # Links and no copies: the next steps make and remove files, but rewrite none.
        _run(["cp", "-al", str(unpacked), str(root)])
        (kernel,) = (root / "boot").glob("vmlinuz-*")
        shutil.copy(kernel, work / "linux")
        release = kernel.name.removeprefix("vmlinuz-")
        _initramfs(root, release, Path(folder, "initramfs"), work / "initramfs")
        _configure(root, release)
        _python(root)
        _disk(root, work / "root.ext4")
        work.rename(made)


def _configure(root: Path, release: str) -> None:
    """Do the work of the packages' scripts that the tests need."""
    for name in _DROPPED:
        shutil.rmtree(root / name, ignore_errors=True)
    for name in ("passwd", "group"):
        shutil.copy(root / f"usr/share/base-passwd/{name}.master", root / f"etc/{name}")
        (root / f"etc/{name}").chmod(0o644)
    for name, target in _LINKS.items():
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to(target)
    for name, text in _FILES.items():
        (root / name).unlink(missing_ok=True)
        (root / name).write_text(text)
    (root / "var/run").rmdir()
    (root / "var/run").symlink_to("/run")
    for name in _FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    _run(["chroot", str(root), "ldconfig"])
    _run(["chroot", str(root), "depmod", release])


def _python(root: Path) -> None:
    """Install the packages that the tests import, and compile them: imports are slow in the
    emulator."""
    site = f"usr/local/lib/python{PYTHON}/dist-packages"
    pip = ["pip", "-q", "--disable-pip-version-check", "install", "--root-user-action=ignore"]
    wheels = ["--only-binary=:all:", "--python-version", PYTHON, "--target", str(root / site)]
    _run([str(TREE / ".venv/bin/python"), "-m", *pip, *wheels, *_requirements()])
    compiled = [f"/usr/lib/python{PYTHON}", "/usr/lib/python3/dist-packages", f"/{site}"]
    skipped = r"/(test|idlelib|lib2to3/tests)/"
    _run(["chroot", str(root), "python3", "-m", "compileall", "-q", "-x", skipped, *compiled])


def _initramfs(root: Path, release: str, folder: Path, target: Path) -> None:
    """Pack the files that mount the disk: busybox, kernel modules, a script."""
    for name in ("bin", "dev", "mnt", "modules", "proc"):
        (folder / name).mkdir(parents=True)
    shutil.copy(root / "usr/bin/busybox", folder / "bin/busybox")
    for applet in ("sh", "mount", "insmod", "switch_root", "sleep"):
        (folder / "bin" / applet).symlink_to("busybox")
    drivers = root / f"usr/lib/modules/{release}/kernel/drivers"
    for number, module in enumerate(_MODULES):
        shutil.copy(drivers / f"{module}.ko", folder / f"modules/{number}.ko")
    shutil.copy(_HERE / "guest/initramfs", folder / "init")
    (folder / "init").chmod(0o755)
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    with open(target, "wb") as file:
        busybox = str(root / "usr/bin/busybox")
        _run(
            [busybox, "cpio", "-o", "-H", "newc"],
            input="\n".join(names).encode(),
            stdout=file,
            stderr=subprocess.DEVNULL,  # how many blocks
            cwd=folder,
        )


def _disk(root: Path, target: Path) -> None:
    with open(target, "wb") as file:
        file.truncate(_DISK_BYTES)
    # Debian 12's own, for Debian 12's kernel.  No journal: this disk is never recovered.
    mke2fs = loaded(root, "usr/sbin/mke2fs")
    options = ["-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", str(root)]
    _run([*mke2fs, *options, str(target)], env={"MKE2FS_CONFIG": str(root / "etc/mke2fs.conf")})


def _run(
    args: Sequence[str],
    *,
    input: bytes = b"",  # noqa: A002 - subprocess's word
    stdout: object = None,
    stderr: object = None,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> None:
    try:
        subprocess.run(
            args,
            check=True,
            input=input,
            stdout=stdout,  # type: ignore[call-overload]
            stderr=stderr,
            cwd=cwd,
            env={**os.environ, **(env or {})},
        )
    except subprocess.CalledProcessError as error:
        raise CannotBuild(f"{' '.join(args[:8])}: status {error.returncode}") from None
