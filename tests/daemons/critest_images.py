"""Images made of busybox, under the names of the images that critest pulls."""

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from typing import Final

from shimv2.shimctl.image import make_image
from shimv2.shimctl.rootfs import make_rootfs

_E2E: Final = "e2e-test-images"
_TOOLS: Final = "k8s-staging-cri-tools"
DIGEST_IMAGE: Final = f"{_TOOLS}/test-image-digest:latest"
"""Pulled by its digest only, which a stand-in cannot have."""

_SERVE: Final = ("nginx", "master process")  # what critest looks for in the command line
# Name and tag -> command and user.  Names in one line are the same image.
_IMAGES: Final[Mapping[tuple[str, ...], tuple[tuple[str, ...], str]]] = {
    (f"{_E2E}/busybox:1.29-2",): (("sh",), ""),
    (f"{_E2E}/nginx:1.14-2",): (_SERVE, ""),
    (f"{_E2E}/httpd:2.4.39-4",): (("httpd-logging",), ""),
    (f"{_E2E}/nonewprivs:1.3",): (("nonewprivs",), ""),
    (f"{_TOOLS}/hostnet-nginx-amd64:latest",): (("nginx", "12003"), ""),
    (f"{_TOOLS}/test-image-predefined-group:latest",): (("sh",), "1000"),
    (f"{_TOOLS}/test-image-user-uid:latest",): (("sh",), "1002"),
    (f"{_TOOLS}/test-image-user-username:latest",): (("sh",), "www-data"),
    (f"{_TOOLS}/test-image-user-uid-group:latest",): (("sh",), "1003:1004"),
    (f"{_TOOLS}/test-image-user-username-group:latest",): (("sh",), "www-data:100"),
    (f"{_TOOLS}/test-image-latest:latest",): (("sh",), ""),
    (f"{_TOOLS}/test-image-tag:test",): (("sh",), ""),
    (f"{_TOOLS}/test-image-tag:all",): (("sh",), ""),
    (DIGEST_IMAGE,): (("sh",), ""),
    (f"{_TOOLS}/test-image-1:latest",): (("sh",), ""),
    (f"{_TOOLS}/test-image-2:latest",): (("sh",), ""),
    (f"{_TOOLS}/test-image-3:latest",): (("sh",), ""),
    tuple(f"{_TOOLS}/test-image-tags:{tag}" for tag in (1, 2, 3)): (("sh",), ""),
    ("pause:3.9",): (("sh",), ""),
}
_SCRIPTS: Final = {
    "nginx": 'port=80\n[ "$1" = "master process" ] || port=$1\n'
    'echo $$ >/var/run/nginx.pid\nhttpd -f -p "$port" -h /www\n',
    "httpd-logging": "echo httpd\nexec httpd -f -h /www\n",
    "ipcs": "cat /proc/sysvipc/shm\n",
    "pgrep": 'exec pidof "$@"\n',
}
# Prints its effective user.  It is a setuid program of root: only no_new_privs prevents root.
_NO_NEW_PRIVS: Final = """
#include <stdio.h>
#include <unistd.h>

int main(void)
{
	printf("Effective uid: %d\\n", (int)geteuid());
	return 0;
}
"""
_USERS: Final = "www-data:x:33:33::/:/bin/sh\ndefault-user:x:1000:1000::/:/bin/sh\n"
_GROUPS: Final = "www-data:x:33:\ngroup-defined-in-image:x:50000:default-user\n"


def make_images(folder: str) -> Mapping[str, str]:
    """Fill a folder for the registry; return the digest of each name's manifest."""
    root = os.path.join(folder, "root")
    _make_root(root)
    os.makedirs(os.path.join(folder, "blobs/sha256"))
    names: dict[str, str] = {}
    for same, (command, user) in _IMAGES.items():
        with open(os.path.join(root, "etc/image"), "w", encoding="utf-8") as file:
            file.write(f"{same[0]}\n")  # so that each has a digest of its own
        archive = os.path.join(folder, "image.tar")
        make_image(archive, rootfs=root, name=same[0], command=command, user=user)
        names |= dict.fromkeys(same, _unpacked(archive, folder))
    with open(os.path.join(folder, "names.json"), "w", encoding="utf-8") as file:
        json.dump(names, file)
    shutil.rmtree(root)
    return names


def _unpacked(archive: str, folder: str) -> str:
    """Put the blobs of an image into the folder; return the digest of its manifest."""
    with tarfile.open(archive) as tar:
        files = {member.name: tar.extractfile(member) for member in tar}
        for name, file in files.items():
            if name.startswith("blobs/") and file is not None:
                with open(os.path.join(folder, name), "wb") as blob:
                    shutil.copyfileobj(file, blob)
        index = files["index.json"]
        assert index is not None
        (manifest,) = json.load(index)["manifests"]
    return str(manifest["digest"])


def _make_root(root: str) -> None:
    make_rootfs(root)
    _link_hard(os.path.join(root, "bin"))
    for name in ("www", "var/run"):
        os.makedirs(os.path.join(root, name))
    _append(os.path.join(root, "www/index.html"), "a page\n")
    _append(os.path.join(root, "etc/passwd"), _USERS)
    _append(os.path.join(root, "etc/group"), _GROUPS)
    for name, script in _SCRIPTS.items():
        path = os.path.join(root, "bin", name)
        _append(path, f"#!/bin/sh\n{script}")
        os.chmod(path, 0o755)
    program = os.path.join(root, "bin/nonewprivs")
    compiler = ("cc", "-static", "-Os", "-x", "c", "-o", program, "-")
    subprocess.run(compiler, check=True, input=_NO_NEW_PRIVS.encode())
    os.chmod(program, 0o4755)


def _link_hard(folder: str) -> None:
    """Make every applet a hard link, so that a mount can hide a single one."""
    for entry in list(os.scandir(folder)):
        if entry.is_symlink():
            os.unlink(entry.path)
            os.link(os.path.join(folder, "busybox"), entry.path)


def _append(path: str, text: str) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)
