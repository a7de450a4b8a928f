"""The root, the image and the bundle that the harness makes."""

import json
import os
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from shimv2.shimctl import spec
from shimv2.shimctl.bundle import Bundle, NoSuchContainer, mounts_below
from shimv2.shimctl.image import IMAGE, make_image
from shimv2.shimctl.reply import Reply
from shimv2.shimctl.rootfs import BUSYBOX, make_rootfs

needs_busybox = pytest.mark.skipif(not os.path.exists(BUSYBOX), reason="busybox-static is missing")


@needs_busybox
def test_root_holds_a_copy_of_busybox_and_a_link_per_applet(tmp_path: Path) -> None:
    """A container that writes to its busybox must not change that of the host."""
    make_rootfs(str(tmp_path / "root"))
    busybox = tmp_path / "root" / "bin" / "busybox"

    assert not busybox.samefile(BUSYBOX)
    assert os.readlink(tmp_path / "root" / "bin" / "sh") == "busybox"
    assert stat.S_IMODE((tmp_path / "root" / "tmp").stat().st_mode) == 0o1777
    done = subprocess.run(
        [tmp_path / "root" / "bin" / "echo", "hi"], check=True, capture_output=True, text=True
    )
    assert done.stdout == "hi\n"


def test_root_of_a_program_that_needs_a_loader_is_refused(tmp_path: Path) -> None:
    """An empty root has no loader for it."""
    with pytest.raises(ValueError, match="not statically linked"):
        make_rootfs(str(tmp_path), busybox=os.path.realpath("/usr/bin/env"))


@needs_busybox
def test_image_is_the_same_twice_and_whole(tmp_path: Path) -> None:
    """An OCI layout in which manifest, config and layer are stored under their digests."""
    for name in ("a", "b"):
        make_image(str(tmp_path / f"{name}.tar"), rootfs=str(tmp_path / name))

    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        index = _json(tar, "index.json")
        (entry,) = index["manifests"]
        assert entry["annotations"]["io.containerd.image.name"] == IMAGE
        manifest = _json(tar, f"blobs/{entry['digest'].replace(':', '/')}")
        for blob in (manifest["config"], *manifest["layers"]):
            assert tar.getmember(f"blobs/{blob['digest'].replace(':', '/')}").size == blob["size"]


def test_bundle_has_containerds_files_and_modes(tmp_path: Path) -> None:
    """Bundle 0700, rootfs 0711, config.json, the log FIFO, `work`."""
    bundle = Bundle(str(tmp_path), "ns", "c1")
    config = spec.config(spec.Wanted(["true"]), namespace="ns", container_id="c1")
    bundle.make(config)

    path = Path(bundle.path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((path / "rootfs").stat().st_mode) == 0o711
    assert stat.S_ISFIFO((path / "log").stat().st_mode)
    assert (path / "work").is_dir()
    assert json.loads((path / "config.json").read_text()) == config
    with pytest.raises(FileExistsError):
        bundle.make(config)


def test_bundle_removed_twice_leaves_nothing(tmp_path: Path) -> None:
    """Both folders are removed, with FIFOs of execs; a second removal does nothing."""
    bundle = Bundle(str(tmp_path), "ns", "c1")
    bundle.make({})
    bundle.make_fifos()
    bundle.make_fifos(exec_id="e1")
    bundle.remove_fifos(exec_id="e1")
    assert not os.path.exists(bundle.fifo("stdin", exec_id="e1"))
    bundle.remove()
    bundle.remove()

    assert os.listdir(tmp_path / "ns") == []


def test_second_client_finds_what_the_first_one_remembered(tmp_path: Path) -> None:
    """A restarted daemon has only the shim's path and reply."""
    bundle = Bundle(str(tmp_path), "ns", "c1")
    bundle.make({})
    with pytest.raises(NoSuchContainer, match="no container c1"):
        bundle.recall()
    bundle.remember("/shim", Reply("unix:///a", 3))

    assert bundle.recall() == ("/shim", Reply("unix:///a", 3, form="json"))


@pytest.mark.root
def test_mounts_left_in_a_bundle_are_unmounted_before_it_is_removed(tmp_path: Path) -> None:
    """The kernel escapes blanks in a path; the innermost mount is unmounted first."""
    bundle = Bundle(str(tmp_path), "ns", "c1")
    bundle.make({})
    outer = os.path.join(bundle.path, "rootfs")
    inner = os.path.join(outer, "with blank")
    for point in (outer, inner):
        os.makedirs(point, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", point], check=True)

    assert mounts_below(bundle.path) == [inner, outer]
    bundle.remove()
    assert mounts_below(bundle.path) == []
    assert not bundle.exists()


def test_config_asks_for_containerds_namespaces_and_cgroup() -> None:
    """What containerd's client library passes to runc for a plain container."""
    config = spec.config(
        spec.Wanted(["true"], host_namespaces=["pid"], memory_limit_bytes=2**20),
        namespace="ns",
        container_id="c1",
    )
    linux = config["linux"]

    assert isinstance(linux, dict)
    assert linux["cgroupsPath"] == "/ns/c1"
    assert [n["type"] for n in linux["namespaces"]] == ["ipc", "uts", "mount", "network"]
    assert linux["resources"]["memory"] == {"limit": 2**20}


def _json(tar: tarfile.TarFile, name: str) -> Any:
    file = tar.extractfile(name)
    assert file is not None
    return json.load(file)
