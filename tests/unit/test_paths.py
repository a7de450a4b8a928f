"""Names that several programs have to compute in the same way."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimv2.values import paths

ids = st.text(st.characters(blacklist_characters="\0"), max_size=20)


@pytest.mark.rule("cli.socket.2")
@pytest.mark.parametrize(
    ("parts", "joined"),
    [
        (("/run/c.sock", "k8s.io", "abc"), "/run/c.sock/k8s.io/abc"),
        (("", "NS", "group"), "NS/group"),
        (("/a//b/", "./c", "..", "d"), "/a/b/d"),
        (("//a", "b"), "/a/b"),
        (("/..", "a"), "/a"),
        (("a", "..", "..", "b"), "../b"),
        (("a", ".."), "."),
        (("", ""), ""),
        (("/", ""), "/"),
    ],
)
def test_join_cleans_like_go(parts: tuple[str, ...], joined: str) -> None:
    """filepath.Join drops empty elements and resolves `//`, `.` and `..`."""
    assert paths.go_join(*parts) == joined


@pytest.mark.rule("cli.socket.2")
def test_socket_is_named_by_the_hash_of_address_namespace_and_group() -> None:
    """The daemon and every other `start` of the group find the same socket."""
    address = "/run/containerd/containerd.sock"

    assert paths.socket_path(address, "k8s.io", "abc") == (
        "/run/containerd/s/a99a1752d3a0fadfb1f869026f16760475df03a572e20f4ccea9e6c1e5470b72"
    )
    assert paths.socket_path("", "NS", "group", folder="/x").startswith("/x/")


@pytest.mark.parametrize(
    ("annotations", "group"),
    [
        ({}, "own"),
        ({"io.kubernetes.cri.sandbox-id": "pod"}, "pod"),
        ({"io.kubernetes.cri.sandbox-id": "pod", "io.containerd.runc.v2.group": "g"}, "g"),
        ({"io.kubernetes.cri.sandbox-id": "pod", "io.containerd.runc.v2.group": ""}, ""),
    ],
)
def test_group_is_the_first_annotation_that_is_present(
    annotations: dict[str, str], group: str
) -> None:
    """An annotation that is present but empty counts."""
    assert paths.group_id(annotations, "own") == group


def test_exec_pid_file_is_named_after_the_exec() -> None:
    """`<exec id>.pid`; the runtime refuses ids that are not possible."""
    assert paths.exec_pid_file("/b", "e1") == "/b/e1.pid"
    assert paths.exec_pid_file("/b", "") == "/b/.pid"
    assert paths.exec_pid_file("/b", "a/b") == "/b/a/b.pid"


@given(ids, ids)
def test_exec_pid_files_differ_and_stay_in_the_bundle(one: str, other: str) -> None:
    """Neither the init's pid file nor anything outside of the bundle is ever overwritten."""
    path = paths.exec_pid_file("/run/b", one)

    assert os.path.normpath(path).startswith("/run/b/")
    assert path != paths.init_pid_file("/run/b")
    if one.lstrip("/") != other.lstrip("/"):
        assert path != paths.exec_pid_file("/run/b", other)


def test_pid_file_of_an_id_that_would_leave_the_bundle_is_a_short_name() -> None:
    """For any length of the id the name is below the kernel's limit of 255 bytes."""
    folder, name = os.path.split(paths.exec_pid_file("/b", "../" * 500))

    assert folder == "/b"
    assert len(name) == len("exec-") + 32 + len(".pid-file")


def test_runtime_root_has_the_namespace_below_it() -> None:
    """Options.root or /run/containerd/runc, and the namespace."""
    assert paths.runtime_root("", "k8s.io") == "/run/containerd/runc/k8s.io"
    assert paths.runtime_root("/var/rr/", "moby") == "/var/rr/moby"


def test_bundle_for_delete_is_the_sibling_named_by_the_id() -> None:
    """dirname(cwd)/ID, whatever -bundle says; without an id the parent folder."""
    assert paths.bundle_for_delete("/run/x/ns/pause", "c1") == "/run/x/ns/c1"
    assert paths.bundle_for_delete("/run/x/ns/pause", "") == "/run/x/ns"


def test_files_of_a_bundle_have_the_names_daemons_and_runtimes_know() -> None:
    """Daemons and runtimes open them by name."""
    names = {
        paths.config_file: "config.json",
        paths.rootfs: "rootfs",
        paths.work_dir: "work",
        paths.address_file: "address",
        paths.socket_dir_link: "s",
        paths.options_file: "options.json",
        paths.runtime_file: "runtime",
        paths.runtime_log: "log.json",
        paths.criu_dump_log: "criu-dump.log",
        paths.init_pid_file: "init.pid",
    }

    assert {make: make("/b") for make in names} == {
        make: f"/b/{name}" for make, name in names.items()
    }


def test_address_is_the_url_of_the_socket() -> None:
    """Daemons connect to this address."""
    assert paths.address_of("/run/containerd/s/67") == "unix:///run/containerd/s/67"
