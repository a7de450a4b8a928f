"""`make vm`: the tests that cgroups matter to, in machines with cgroup v2 alone.

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

from tests.vm.image import TREE, CannotBuild, Image, image
from tests.vm.lines import Lines
from tests.vm.machine import Died, Hardware, Hung, run
from tests.vm.stages import Stages

_CACHE: Final = "/var/cache/containerd-shim-pyrunc"
_HUNG: Final = 124  # as timeout(1)
_DIED: Final = 125
_CANNOT: Final = 2
_NO_TESTS: Final = 5  # pytest's: a share may be empty, all of them may not
_RESULTS: Final = TREE / ".cache" / "vm"  # which rules were proven; make conformance adds them
_CHOSEN: Final = ("vm", "unified", "criu")  # markers


def main(args: list[str]) -> int:
    signal.signal(signal.SIGTERM, _stop)
    stages = Stages()
    hardware = Hardware(
        memory_mib=int(os.environ.get("VM_MEMORY_MIB", "768")),
        limit_s=float(os.environ.get("VM_LIMIT_S", "900")),
        silence_s=float(os.environ.get("VM_SILENCE_S", "300")),
    )
    try:
        made = image(Path(os.environ.get("VM_CACHE") or _CACHE), stages)
        with stages("machine"):
            if command := os.environ.get("VM_RUN"):
                return run(made, hardware, [command], lambda _, data: _write(data))[0]
            return _test(made, hardware, args)
    except CannotBuild as error:
        return _say(f"cannot make the machine: {error}", _CANNOT)
    except Hung as error:
        return _say(f"HUNG: {error}", _HUNG)
    except Died as error:
        return _say(str(error), _DIED)
    finally:
        stages.tell()


def _test(made: Image, hardware: Hardware, args: list[str]) -> int:
    machines = int(os.environ.get("VM_MACHINES") or min(2, os.cpu_count() or 1))
    lines = Lines(_write)
    commands = [_pytest(args, f"{number}/{machines}") for number in range(machines)]
    shutil.rmtree(_RESULTS, ignore_errors=True)
    statuses = run(made, hardware, commands, lines.write, results=_RESULTS)
    lines.end()
    failed = [status for status in statuses if status not in (0, _NO_TESTS)]
    return failed[0] if failed else min(statuses)


def _pytest(args: list[str], share: str) -> str:
    options = ["-v", "-p", "tests.vm.share", "-p", "no:cacheprovider"]
    strict = os.environ.get("SHIM_TEST_STRICT", "")
    env = ["PYTHONUNBUFFERED=1", f"VM_SHARE={share}", f"SHIM_TEST_STRICT={strict}"]
    env += ["SHIM_TEST_RULES=/results"]
    chosen = ["-m", "not soak"] if any(arg.startswith("tests/") for arg in args) else _chosen()
    words = ["python3", "-bb", "-m", "pytest", *options, *chosen, *args]
    return "exec env " + shlex.join([*env, *words])


def _chosen() -> list[str]:
    """Choose by marker, and name the files: to collect the others takes a machine a minute."""
    mark = re.compile(rf"\bmark\.({'|'.join(_CHOSEN)})\b")
    found = {path: mark.findall(path.read_text()) for path in TREE.glob("tests/*/test_*.py")}
    files = sorted(str(path.relative_to(TREE)) for path, marks in found.items() if marks)
    used = sorted({name for marks in found.values() for name in marks})
    return ["-m", f"({' or '.join(used)}) and not soak", *files]


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


def _say(text: str, status: int) -> int:
    print(f"vm: {text}", file=sys.stderr, flush=True)
    return status


def _stop(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
