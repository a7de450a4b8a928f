"""One run of test machines: commands go in, their output and their status come out.

    tree.tar ──► second disk ──► /work and /command
    stdout   ◄── virtio port "output"      status ◄── virtio port "status"      console ──► a file
    results  ◄── virtio port "results", a tar of the guest's /results

The emulation is always in software, because an existing /dev/kvm may not work.  Each run begins
with the same disk: writes go to a temporary file.
"""

import contextlib
import os
import selectors
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import psutil

from shimv2.kernel import linux
from tests.vm.image import Image, loaded
from tests.vm.tree import pack

# norandmaps: the emulator caches translated code by address, so constant addresses of programs save
# a tenth of its CPU time.  qemu64 instead of max saves another tenth.
_KERNEL: Final = (
    "console=ttyS0 quiet panic=-1 reboot=t mitigations=off norandmaps cgroup_no_v1=all psi=1"
)
_CPU: Final = "qemu64"
# 2 ns for each instruction: a second of the machine is 500 million instructions, however slow the
# emulator is.  So the time limits of tests are the same as outside.
_CLOCK: Final = "shift=1"
_READ_BYTES: Final = 1 << 16
_LAST_LINES: Final = 60
_LAST_BYTES: Final = 4096
_ENDING_LIMIT_S: Final = 1.0
_STOP_LIMIT_S: Final = 10.0

Output = Callable[[int, bytes], None]  # number of the machine, bytes


class Hung(Exception):
    """A machine printed nothing for too long, or did not finish in time."""


class Died(Exception):
    """A machine ended without a status: its kernel or the emulator failed."""


@dataclass(frozen=True, slots=True)
class Hardware:
    memory_mib: int
    limit_s: float  # for the whole run
    silence_s: float  # without a byte of output


def run(
    image: Image,
    hardware: Hardware,
    commands: Sequence[str],
    output: Output,
    *,
    results: Path | None = None,
) -> list[int]:
    """Boot a machine for each command, which /bin/sh runs in a copy of this tree.

    Returns their status.  Their files of /results are in the folder `results` then.  Nothing else
    is left, also after an error.

    Raises:
        Hung, Died: the text has the state of the machine.
    """
    with contextlib.ExitStack() as machines, selectors.DefaultSelector() as selector:
        made = [
            machines.enter_context(_Machine(image, hardware, number, command))
            for number, command in enumerate(commands, 1)
        ]
        end = time.monotonic() + hardware.limit_s
        for number, machine in enumerate(made):
            selector.register(machine, selectors.EVENT_READ, number)
        while selector.get_map():
            _relay(selector, end, hardware, output)
        statuses = [machine.status() for machine in made]
        if results is not None:
            for machine in made:
                machine.take_results(results)
        return statuses


def _relay(
    selector: selectors.BaseSelector, end: float, hardware: Hardware, output: Output
) -> None:
    """Wait for output and pass it on; remove machines that have ended.

    Raises:
        Hung: a limit has passed.
    """
    now = time.monotonic()
    waiting = [_machine(key) for key in selector.get_map().values()]
    if now >= end:
        portraits = "\n".join(machine.portrait() for machine in waiting)
        raise Hung(f"not done after {hardware.limit_s:.0f} s: {portraits}")
    for machine in waiting:
        if now >= machine.heard_at + hardware.silence_s:
            raise Hung(f"no output for {hardware.silence_s:.0f} s: {machine.portrait()}")
    for key, _ in selector.select(1.0):
        machine = _machine(key)
        if data := machine.read():
            output(key.data, data)
        else:
            selector.unregister(machine)


def _machine(key: selectors.SelectorKey) -> "_Machine":
    assert isinstance(key.fileobj, _Machine)
    return key.fileobj


class _Machine:
    """A running emulator and its files.  A context manager that ends and removes both."""

    def __init__(self, image: Image, hardware: Hardware, number: int, command: str) -> None:
        self._number = number
        self._last_output = b""
        self._undo = contextlib.ExitStack()
        with contextlib.ExitStack() as undo:
            self._folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="vm.")))
            pack(self._folder / "tree.tar", command)
            for name in ("status", "console", "results"):
                (self._folder / name).touch()
            self._process = _emulator(image, hardware, self._folder)
            undo.callback(self._end)
            self._undo = undo.pop_all()
        self._began_at = self.heard_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def fileno(self) -> int:
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def read(self) -> bytes:
        """Return the available output; empty at its end."""
        self.heard_at = time.monotonic()
        data = os.read(self.fileno(), _READ_BYTES)
        self._last_output = (self._last_output + data)[-_LAST_BYTES:]
        return data

    def status(self) -> int:
        """Return the command's status, after the end of the output.

        Raises:
            Died: there is none.
        """
        text = (self._folder / "status").read_text().strip()
        if not text:
            raise Died(f"ended without a status: {self.portrait()}")
        return int(text)

    def take_results(self, target: Path) -> None:
        """Extract the files of the guest's /results into `target`, without folders."""
        target.mkdir(parents=True, exist_ok=True)
        with tarfile.open(self._folder / "results") as tar:
            for member in tar:
                if (file := tar.extractfile(member)) is not None:
                    (target / Path(member.name).name).write_bytes(file.read())

    def portrait(self) -> str:
        """Describe the state of a failed machine."""
        output = self._last_output.decode(errors="replace").splitlines()[-_LAST_LINES:]
        console = (self._folder / "console").read_text(errors="replace").splitlines()
        lines = [
            f"machine {self._number}, {self._emulator_state()}",
            *("the end of its output:", *(f"  {line}" for line in output or ["(none)"])),
            *("the end of its console:", *(f"  {line}" for line in console[-_LAST_LINES:])),
        ]
        return "\n".join(lines)

    def _emulator_state(self) -> str:
        """Describe whether the emulator runs, and its CPU time, which shows whether it could
        work."""
        try:  # its output ends shortly before the process
            return f"whose emulator ended with {self._process.wait(timeout=_ENDING_LIMIT_S)}"
        except subprocess.TimeoutExpired:
            used = psutil.Process(self._process.pid).cpu_times()
            lived_s = time.monotonic() - self._began_at
            cpu_s = used.user + used.system
            return f"whose emulator runs: {cpu_s:.0f} s of CPU in {lived_s:.0f} s"

    def _end(self) -> None:
        """Wait for the exit of an emulator whose output has ended; kill any other."""
        assert self._process.stdout is not None
        running = not (self._folder / "status").read_text()
        self._process.stdout.close()
        if running:
            self._process.kill()
        try:
            self._process.wait(timeout=_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _emulator(image: Image, hardware: Hardware, folder: Path) -> "subprocess.Popen[bytes]":
    share = image.emulator / "usr/share"
    libraries = image.emulator / "usr/lib/x86_64-linux-gnu"
    args = [
        *loaded(image.emulator, "usr/bin/qemu-system-x86_64"),
        *("-L", str(share / "qemu"), "-L", str(share / "seabios")),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-M", "q35", "-accel", "tcg,thread=single", "-icount", _CLOCK, "-cpu", _CPU),
        *("-smp", "1", "-m", str(hardware.memory_mib)),
        *("-kernel", str(image.kernel), "-initrd", str(image.initramfs), "-append", _KERNEL),
        *("-serial", f"file:{folder}/console"),
        *_drive("root", image.disk, "snapshot=on"),
        *_drive("tree", folder / "tree.tar", "readonly=on"),
        *("-device", "virtio-serial-pci"),
        *_port("output", "/dev/stdout"),
        *_port("status", str(folder / "status")),
        *_port("results", str(folder / "results")),
    ]
    return subprocess.Popen(
        args,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, "QEMU_MODULE_DIR": str(libraries / "qemu"), "TMPDIR": str(folder)},
        preexec_fn=_die_with_parent,  # noqa: PLW1509 - there is one thread
    )


def _die_with_parent() -> None:
    linux.set_parent_death_signal(signal.SIGKILL)


def _drive(name: str, path: Path, how: str) -> Iterator[str]:
    yield from ("-drive", f"if=none,id={name},file={path},format=raw,{how}")
    yield from ("-device", f"virtio-blk-pci,drive={name}")


def _port(name: str, path: str) -> Iterator[str]:
    # append: the emulator must not truncate a file of its caller
    yield from ("-chardev", f"file,id={name},append=on,path={path}")
    yield from ("-device", f"virtserialport,chardev={name},name={name}")
