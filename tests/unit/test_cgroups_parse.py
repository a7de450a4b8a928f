"""The kernel's cgroup files, as captured on hybrid and unified machines."""

from shimv2.cgroups import parse

HYBRID = """\
12:pids:/default/c1
11:cpu,cpuacct:/default/c1
10:memory:/default/c1
1:name=systemd:/system.slice/a:b.service
0::/init.scope
"""
MOUNTINFO = """\
24 20 0:21 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
25 24 0:22 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw
27 24 0:24 /part /mnt/part rw - cgroup cgroup rw,memory
28 24 0:24 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
29 24 0:25 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:10 - cgroup cgroup rw,cpu,cpuacct
"""


def test_memberships_of_a_hybrid_machine_are_told_per_controller() -> None:
    """cgroups(7): a line names several controllers, a path may contain colons."""
    found = parse.memberships(HYBRID)

    assert found["cpu"] == found["cpuacct"] == found["pids"] == "/default/c1"
    assert found["name=systemd"] == "/system.slice/a:b.service"
    assert found[""] == "/init.scope"


def test_memberships_of_a_unified_machine_have_one_path() -> None:
    """Under cgroup v2 there is one line, without a controller."""
    assert parse.memberships("0::/kubepods/pod1/c1\n") == {"": "/kubepods/pod1/c1"}


def test_mountpoints_pass_over_partial_mounts() -> None:
    """Paths are relative to a hierarchy's root: a bind mount of a part would mislead."""
    found = parse.mountpoints(MOUNTINFO)

    assert found["memory"] == "/sys/fs/cgroup/memory"
    assert found["cpuacct"] == "/sys/fs/cgroup/cpu,cpuacct"


def test_directory_is_the_first_controller_with_a_group_of_its_own() -> None:
    """A controller that left the process in its root says nothing about the container."""
    member = {"pids": "/", "memory": "/default/c1"}
    mounts = {"pids": "/sys/fs/cgroup/pids", "memory": "/sys/fs/cgroup/memory"}

    assert parse.directory(member, mounts, ("pids", "memory")) == "/sys/fs/cgroup/memory/default/c1"
    assert parse.directory({"pids": "/"}, mounts, ("pids",)) == ""


def test_pids_leave_out_foreign_namespaces() -> None:
    """The kernel writes 0 for a process that the reader's pid namespace does not show."""
    assert parse.pids("17\n0\n23\n") == [17, 23]
