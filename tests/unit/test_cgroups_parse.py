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


def test_memberships_of_a_hybrid_machine_are_reported_per_controller() -> None:
    """cgroups(7): a line names several controllers, a path may contain colons."""
    found = parse.memberships(HYBRID)

    assert found["cpu"] == found["cpuacct"] == found["pids"] == "/default/c1"
    assert found["name=systemd"] == "/system.slice/a:b.service"
    assert found[""] == "/init.scope"


def test_memberships_of_a_unified_machine_have_one_path() -> None:
    """Under cgroup v2 there is one line, without a controller."""
    assert parse.memberships("0::/kubepods/pod1/c1\n") == {"": "/kubepods/pod1/c1"}


def test_mountpoints_ignore_partial_mounts() -> None:
    """Paths are relative to a hierarchy's root, so a bind mount of a part would be wrong."""
    found = parse.mountpoints(MOUNTINFO)

    assert found["memory"] == "/sys/fs/cgroup/memory"
    assert found["cpuacct"] == "/sys/fs/cgroup/cpu,cpuacct"


def test_directory_is_the_first_controller_with_a_group_of_its_own() -> None:
    """A controller whose root has the process has no figures of the container."""
    member = {"pids": "/", "memory": "/default/c1"}
    mounts = {"pids": "/sys/fs/cgroup/pids", "memory": "/sys/fs/cgroup/memory"}

    assert parse.directory(member, mounts, ("pids", "memory")) == "/sys/fs/cgroup/memory/default/c1"
    assert parse.directory({"pids": "/"}, mounts, ("pids",)) == ""


def test_pids_leave_out_foreign_namespaces() -> None:
    """The kernel writes 0 for a process that the reader's pid namespace does not show."""
    assert parse.pids("17\n0\n23\n") == [17, 23]


def test_directories_leave_out_controllers_that_hold_the_process_in_their_root() -> None:
    """The root's files count the whole machine."""
    member = {"pids": "/", "memory": "/default/c1", "rdma": "/default/c1"}
    mounts = {"pids": "/sys/fs/cgroup/pids", "memory": "/sys/fs/cgroup/memory"}

    assert parse.directories(member, mounts) == {"memory": "/sys/fs/cgroup/memory/default/c1"}


def test_number_reads_max_as_the_given_value() -> None:
    """`max` is no number: for v2 it is 2^64 - 1, for v1 it is 0."""
    assert parse.number("4096\n") == 4096
    assert parse.number("max\n") == 2**64 - 1
    assert parse.number("max\n", unlimited=0) == 0


def test_flat_passes_over_what_is_no_counter() -> None:
    """A key of a later kernel in another form must not affect the others."""
    assert parse.flat("anon 1\nodd x\nempty\npair 1 2\nfile 3\n") == {"anon": 1, "file": 3}


def test_pressure_of_an_old_kernel_has_no_full_for_the_cpu() -> None:
    """`full` of cpu.pressure came with Linux 5.13."""
    found = parse.pressure("some avg10=1.25 avg60=0.50 avg300=0.10 total=123456\n")

    assert found == {"some": parse.Pressure(1.25, 0.5, 0.1, 123456)}


def test_io_of_a_device_without_numbers_is_left_out() -> None:
    """Unknown keys are ignored, with or without numbers."""
    text = "254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=5 cost.vrate=100.00\n7:0 \n1:1\n"

    assert parse.io_stat(text) == [parse.DeviceIo(254, 0, 4096, 8192, 1, 2)]


def test_rdma_max_is_the_largest_number_of_32_bits() -> None:
    """The message has 32 bits for it."""
    assert parse.rdma("mlx4_0 hca_handle=3 hca_object=max\nbroken\n") == [
        parse.Rdma("mlx4_0", 3, 2**32 - 1)
    ]


def test_blkio_keeps_each_devices_total_and_leaves_out_that_of_all() -> None:
    """A line without an operation comes from a file that does not distinguish operations."""
    assert parse.blkio("8:0 Read 4096\n8:0 Total 4096\n253:7 66\nTotal 4096\n") == [
        parse.BlockIo(8, 0, "Read", 4096),
        parse.BlockIo(8, 0, "Total", 4096),
        parse.BlockIo(253, 7, "", 66),
    ]


def test_page_sizes_are_named_as_the_files_of_hugetlb() -> None:
    """The kernel names them by the largest unit that fits."""
    names = ("hugepages-64kB", "hugepages-2048kB", "hugepages-1048576kB")

    assert [parse.page_size(name) for name in names] == ["64KB", "2MB", "1GB"]
