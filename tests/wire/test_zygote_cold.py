"""Launchers that cannot ask a zygote: a cold start, and the reason in the log."""

import ctypes
import struct
from collections.abc import Iterator
from typing import Final

import pytest

from shimv2.shimctl.testbed import zygotes
from tests.support.boot import Boot
from tests.support.inherited import prctl
from tests.support.interposed import compile_launcher, needs_compiler
from tests.support.warm import booted, logged, no_zygote, started, warmed


@pytest.fixture
def boot() -> Iterator[Boot]:
    with booted() as made:
        yield made


def allow_all() -> None:
    """Turn a seccomp filter on that allows every call."""
    prctl(38, 1)  # PR_SET_NO_NEW_PRIVS
    instruction = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000))
    program = ctypes.create_string_buffer(struct.pack("@HP", 1, ctypes.addressof(instruction)))
    prctl(22, 2, ctypes.addressof(program))  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def test_seccomp_filter_is_a_cold_start_with_its_reason_in_the_log(boot: Boot) -> None:
    """A filter belongs to one process."""
    warmed(boot)
    waiting = zygotes.spare(boot.shim)

    pid = started(boot, "c1", setup=allow_all)

    assert pid != waiting
    assert "level=info" in logged(boot, "c1", "cold start: a seccomp filter is on")


def test_missing_file_of_the_installation_is_a_cold_start(boot: Boot) -> None:
    """Its replacement could not be noticed.  The log has its name, and what to do."""
    conf = boot.shim.with_name(f"{boot.shim.name}.conf")
    library = f"/no/such/{'folder/' * 60}library.so"
    conf.write_text(f"{conf.read_text()}{library}\n")

    no_zygote(boot, "c1")

    line = logged(boot, "c1", "cold start")
    assert f"cold start: {library}: No such file or directory" in line
    assert "install the shim again" in line
    assert zygotes.zygotes(boot.shim) == []


# The kernel makes no file in memory: there is no memory, or a security module forbids it.
_REFUSED_FILE: Final = """
static int refused(const char *name, unsigned int flags)
{
    if (!strcmp(name, "%s")) {
        errno = ENOMEM;
        return -1;
    }
    return memfd_create(name, flags);
}
#define memfd_create(name, flags) refused(name, flags)
"""


@needs_compiler
def test_launcher_that_cannot_describe_a_zygote_makes_a_cold_start(boot: Boot) -> None:
    compile_launcher(boot.shim, _REFUSED_FILE % "new-zygote")

    no_zygote(boot, "c1")

    logged(boot, "c1", "cold start: a file in memory: Cannot allocate memory")
    assert zygotes.zygotes(boot.shim) == []


@needs_compiler
def test_launcher_that_cannot_write_its_request_makes_a_cold_start(boot: Boot) -> None:
    """The zygote is there for launchers that can."""
    compile_launcher(boot.shim, _REFUSED_FILE % "request")
    zygote = warmed(boot)
    waiting = zygotes.spare(boot.shim)

    pid = started(boot, "c1")

    assert pid != waiting
    logged(boot, "c1", "cold start: a file in memory: Cannot allocate memory")
    assert zygotes.zygote(boot.shim) == zygote
