"""Builds an OCI image archive of the busybox root, for `ctr image import` without a registry."""

import gzip
import hashlib
import io
import json
import os
import platform
import tarfile
from collections.abc import Sequence
from typing import Final

from shimv2.shimctl.rootfs import make_rootfs

IMAGE: Final = "localhost/pyrunc/busybox:latest"
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}
_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def make_image(
    archive: str,
    *,
    rootfs: str,
    name: str = IMAGE,
    command: Sequence[str] = ("/bin/sh",),
    user: str = "",
) -> None:
    """Write an OCI layout as one tar file; `rootfs` is a directory, filled if it is empty.

    Times and owners are fixed, so the same busybox always gives the same digests.
    """
    if not os.path.exists(os.path.join(rootfs, "bin")):
        make_rootfs(rootfs)
    layer = _layer(rootfs)
    # Level 1: the archive is removed after the test, so its size does not matter.
    packed = gzip.compress(layer, 1, mtime=0)
    blobs: dict[str, bytes] = {}
    config = _json(
        {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Env": [_PATH], "Cmd": list(command), "WorkingDir": "/", "User": user},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "busybox-static"}],
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _add(blobs, config, "application/vnd.oci.image.config.v1+json"),
            "layers": [_add(blobs, packed, "application/vnd.oci.image.layer.v1.tar+gzip")],
        }
    )
    entry = _add(blobs, manifest, "application/vnd.oci.image.manifest.v1+json")
    entry["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    files = {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json({"schemaVersion": 2, "manifests": [entry]}),
        **{f"blobs/sha256/{digest}": data for digest, data in blobs.items()},
    }
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def _layer(rootfs: str) -> bytes:
    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mtime = 0
        return info

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(os.listdir(rootfs)):
            tar.add(os.path.join(rootfs, name), arcname=name, filter=plain)
    return out.getvalue()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _add(blobs: dict[str, bytes], data: bytes, media_type: str) -> dict[str, object]:
    digest = _digest(data)
    blobs[digest.removeprefix("sha256:")] = data
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
