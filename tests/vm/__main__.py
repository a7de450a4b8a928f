"""`make vm`: the tests with containers, in machines with cgroup v2 alone.

The arguments are pytest's; README.md lists the variables.
"""

import os
import re
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import Final, NoReturn

from tests.vm import deal, stopwatch
from tests.vm.image import TREE, CannotBuild, Image, image
from tests.vm.lines import Lines
from tests.vm.machine import Died, Hardware, Hung, run
from tests.vm.stages import Stages

_CACHE: Final = "/var/cache/containerd-shim-pyrunc"
_HUNG: Final = 124  # as timeout(1)
_DIED: Final = 125
_CANNOT: Final = 2
_NO_TESTS: Final = 5  # pytest's: one share may be empty, but not all
_RESULTS: Final = TREE / ".cache" / "vm"  # the results of rules; make conformance adds them
_MARKED: Final = re.compile(r"\bmark\.(vm|unified|criu)\b")
_CHOSEN: Final = "(root or vm or unified or criu) and not soak"


def main(args: list[str]) -> int:
    signal.signal(signal.SIGTERM, _stop)
    stages = Stages()
    hardware = Hardware(
        memory_mib=int(os.environ.get("VM_MEMORY_MIB", "768")),
        limit_s=float(os.environ.get("VM_LIMIT_S", "1500")),
        silence_s=float(os.environ.get("VM_SILENCE_S", "600")),
    )
    try:
        made = image(Path(os.environ.get("VM_CACHE") or _CACHE), stages)
        with stages("machine"):
            if command := os.environ.get("VM_RUN"):
                return run(made, hardware, [command], lambda _, data: _write(data))[0]
            return _test(made, hardware, args)
    except CannotBuild as error:
        return _exit_with(f"cannot make the machine: {error}", _CANNOT)
    except Hung as error:
        return _exit_with(f"HUNG: {error}", _HUNG)
    except Died as error:
        return _exit_with(str(error), _DIED)
    finally:
        stages.print_all()


def _test(made: Image, hardware: Hardware, args: list[str]) -> int:
    machines = int(os.environ.get("VM_MACHINES") or min(2, os.cpu_count() or 1))
    named = [arg for arg in args if arg.startswith("tests/")]
    options = [arg for arg in args if arg not in named]
    tests = _files(named) if named else _chosen()
    options = ["-m", "not soak" if named else _CHOSEN, *options]
    shares = deal.deal(tests, deal.read([deal.MEASURED]), machines)
    commands = [_pytest(number, [*options, *share]) for number, share in enumerate(shares, 1)]
    lines = Lines(_write)
    shutil.rmtree(_RESULTS, ignore_errors=True)
    statuses = run(made, hardware, commands, lines.write, results=_RESULTS)
    lines.end()
    deal.write(_RESULTS / deal.MEASURED.name, deal.read(_RESULTS.glob(f"{stopwatch.NAME}-*.toml")))
    failed = [status for status in statuses if status not in (0, _NO_TESTS)]
    return failed[0] if failed else min(statuses)


def _pytest(number: int, args: list[str]) -> str:
    strict = os.environ.get("SHIM_TEST_STRICT", "")
    env = ["PYTHONUNBUFFERED=1", f"VM_MACHINE={number}", f"SHIM_TEST_STRICT={strict}"]
    env += ["SHIM_TEST_RULES=/results"]
    options = ["-v", "-p", "tests.vm.stopwatch", "-p", "no:cacheprovider"]
    words = ["python3", "-bb", "-m", "pytest", *options, *args]
    return "exec env " + shlex.join([*env, *words])


def _chosen() -> list[str]:
    """List all end-to-end tests, and the other files with tests that depend on cgroups."""
    found = _files(["tests/e2e"])
    for path in _files(["tests/unit", "tests/wire"]):
        if _MARKED.search((TREE / path).read_text()):
            found.append(path)
    return found


def _files(named: list[str]) -> list[str]:
    """List the files of tests in folders; other names are unchanged."""
    found: list[str] = []
    for name in named:
        inside = sorted((TREE / name).glob("**/test_*.py"))
        found += [str(path.relative_to(TREE)) for path in inside] or [name]
    return found


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


def _exit_with(text: str, status: int) -> int:
    print(f"vm: {text}", file=sys.stderr, flush=True)
    return status


def _stop(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
