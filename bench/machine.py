"""Describes the machine that the figures are from."""

import os
import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from bench.peers import ROOT


def described(interpreter: str) -> dict[str, str]:
    """Describe the machine, and the Python that our shim runs with."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": _output("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} CPUs",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "?"),
        "python": _output(interpreter, "-V").removeprefix("Python "),
        "cgroups": "v2" if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else "v1",
        # With autogroups each session gets the same share of a busy machine; each of our shims is a
        # session.
        "autogroup": _setting("sched_autogroup_enabled"),
        "runc": _output("runc", "--version").removeprefix("runc version "),
        "crun": _output("crun", "--version").removeprefix("crun version "),
        "load at the start": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


def _setting(name: str) -> str:
    try:
        return Path("/proc/sys/kernel", name).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return "no"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _output(*command: str) -> str:
    """Return the first line a program prints, or a question mark."""
    return _first_line(command) or "?"


def _first_line(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=10)
    except OSError:
        return ""
    return done.stdout.partition("\n")[0].strip()
