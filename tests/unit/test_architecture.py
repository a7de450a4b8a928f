"""Who may import whom.  The table below is the layout of the code; a new file gets its row.

Calls go down: a module imports only what its row names, and a row names only rows above it.  The
tables of protocol, tool and shim are apart, as none of them may know the one after it.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Values, texts and names: no I/O, no asyncio, no clock.  Every module below may use them.
PURE: Final = ("errors", "model", "lifecycle", "gotext", "gojson", "paths", "oci")

TTRPC: Final[Mapping[str, str]] = {
    "codes": "",
    "errors": "codes",
    "message": "codes errors",
    "_wire_pb2": "",
    "wire": "errors",
    "codec": "_wire_pb2 errors codes message",
    "events": "errors",
    "connection": "wire codec errors codes events",
    "call": "",
    "transport": "connection call errors",
    "inbox": "errors transport",
    "streams": "connection errors message transport inbox",
    "registry": "errors codes call message streams",
    "session": (
        "wire codec codes connection errors events message call transport inbox streams registry"
    ),
    "server": "codec codes errors call transport registry session",
    "client": "codec codes connection errors events message transport inbox streams",
    "blocking": "codec connection errors events message transport client",
}

SHIM: Final[Mapping[str, str]] = {
    **dict.fromkeys(PURE, "errors model gotext gojson"),
    "linux": "",
    "spawn": "linux",
    "reaper": "linux",
    "readiness": "",
    "poller": "",
    "loop": "poller linux",
    "settings": "",
    "background": "",
    "runtime": "",
    "runtime.runclog": "",
    "runtime.tree": "",
    "runtime.command": "spawn",
    "runtime.once": "runtime.command runtime.tree spawn",
    "runtime.run": "runtime.command runtime.tree reaper",
    "runtime.criu": "runtime.command runtime.run reaper",
    "runtime.runc": "runtime runtime.command runtime.criu runtime.run runtime.runclog reaper",
    "io": "",
    "io.uri": "",
    "io.process_io": "",
    "io.fifo": "linux",
    "io.unread": "linux io.fifo",
    "io.sinks": "linux io.fifo io.unread",
    "io.copy": "linux io.process_io io.fifo io.sinks",
    "io.stdin": "io.process_io io.fifo io.copy io.sinks",
    "io.relayed": "io.process_io io.fifo io.copy",
    "io.pipes": "linux io.uri io.process_io io.fifo io.sinks io.copy io.stdin io.relayed spawn",
    "io.logger": "readiness io.uri io.process_io io.fifo reaper spawn",
    "console": "linux readiness io.fifo",
    "io.console": (
        "console io.uri io.process_io io.fifo io.sinks io.copy io.stdin io.relayed io.logger"
    ),
    "io.stdio": (
        "linux io io.uri io.process_io io.fifo io.sinks io.copy io.pipes io.logger io.console"
    ),
    "unmounts": "linux",
    "mounts.options": "linux",
    "mounts.place": "linux",
    "mounts.thread": "linux",
    "mounts.loopdev": "linux",
    "mounts.overlay": "mounts.place",
    "mounts.idmap": "linux readiness reaper spawn unmounts mounts.options mounts.overlay",
    "mounts.kernel": (
        "linux unmounts mounts.idmap mounts.loopdev mounts.options mounts.overlay mounts.place"
    ),
    "mounts.fuse": (
        "reaper runtime.command runtime.tree unmounts mounts.options mounts.place mounts.thread"
    ),
    "mounts": (
        "reaper unmounts mounts.fuse mounts.idmap mounts.kernel mounts.options mounts.place "
        "mounts.thread"
    ),
    "cgroups": "",
    "cgroups.parse": "",
    "cgroups.files": "cgroups.parse cgroups",
    "cgroups.v1": "cgroups cgroups.files cgroups.parse",
    "cgroups.v2": "cgroups cgroups.files cgroups.parse",
    "cgroups.tree": "linux cgroups cgroups.parse cgroups.v1 cgroups.v2",
    "oom": "cgroups cgroups.tree cgroups.v1 cgroups.v2",
    "exits": "",
    "process": "background exits io.stdio reaper runtime settings",
    "checkpoints": "io.stdio mounts process reaper runtime unmounts",
    "init": "cgroups cgroups.tree checkpoints linux mounts process runtime",
    "exec": "process runtime",
    "anyurl": "",
    "options": "anyurl",
    "container": (
        "background cgroups cgroups.tree cgroups.v1 cgroups.v2 exec exits init io.stdio mounts oom "
        "options process reaper runtime.criu runtime.runc settings"
    ),
    "containers": "container",
    "metrics": "cgroups cgroups.v1 cgroups.v2",
    "status": "",
    "events": "anyurl",
    "publisher": "events",
    "service": "anyurl background containers events init metrics options publisher status",
    "log": "",
    "sockets": "",
    "handover": "settings sockets",
    "immortal": "",
    "specialized": "immortal",
    "memory": "immortal specialized",
    "daemon": (
        "background container containers handover linux log loop memory publisher reaper "
        "runtime.criu service settings sockets status cgroups"
    ),
    "running": "sockets daemon",
    "title": "linux",
    "detach": "cgroups cgroups.tree daemon handover linux settings sockets title",
    "parameters": "anyurl handover options",
    "bootstrap": "detach handover linux parameters running settings sockets",
    "cleanup": "exits log options runtime.command runtime.once sockets unmounts",
    "info": "anyurl options runtime.command runtime.once",
    "warm": (
        "bootstrap cleanup daemon detach handover info linux memory parameters running settings"
    ),
    "request": "",
    "likeness": "cgroups cgroups.parse cgroups.tree linux",
    "spare": "likeness memory request",
    "zygote": "request spare title warm",
    "cli": "bootstrap cleanup daemon handover info log request settings sockets zygote",
    "launched": "cli",
    "__main__": "cli",
}

# Beyond our own modules.  Everything else is the standard library's.
PROTOS: Final = _words(
    "options anyurl metrics events publisher service parameters cleanup info cli warm"
)
LIBRARIES: Final[Mapping[str, frozenset[str]]] = {
    "ttrpc": _words("status publisher service daemon warm"),
    "psutil": _words("exits cleanup"),
    "daemon": _words("detach"),  # python-daemon
    "setproctitle": _words("title"),
    "google": PROTOS,
}
# What makes a module impure.
WORLD: Final = _words(
    "asyncio ctypes os select shutil signal socket subprocess sys tempfile threading time"
)


def modules(package: str) -> dict[str, Path]:
    """Return every module of a package by its dotted name below it; the package itself is ''."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT / package).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """Yield the full dotted names a file imports, wherever in it, for both forms of import."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            module = node.module or ""
            for alias in node.names:
                # `from package import module` names the module, `from module import name` does not.
                inner = ROOT.joinpath(*module.split("."), f"{alias.name}.py")
                folder = ROOT.joinpath(*module.split("."), alias.name, "__init__.py")
                yield f"{module}.{alias.name}" if inner.exists() or folder.exists() else module


def inner(package: str, path: Path) -> set[str]:
    """Return the modules of its own package that a file imports."""
    own = {name for name in imported(path) if name.split(".")[0] == package}
    return {name.removeprefix(package).removeprefix(".") for name in own} - {""}


@pytest.mark.parametrize(("package", "table"), [("ttrpc", TTRPC), ("shimv2", SHIM)])
def test_table_names_only_rows_above(package: str, table: Mapping[str, str]) -> None:
    """The table is an order: no row can lead back to itself."""
    above: set[str] = set()
    for name, allowed in table.items():
        if name not in PURE:
            assert set(allowed.split()) <= above, f"{package}: {name}"
        above.add(name)


@pytest.mark.parametrize(("package", "table"), [("ttrpc", TTRPC), ("shimv2", SHIM)])
def test_every_module_has_its_row_and_imports_only_what_it_names(
    package: str, table: Mapping[str, str]
) -> None:
    """Calls go down; nothing is imported that the layout does not show."""
    wrong = []
    for name, path in modules(package).items():
        if not name or name.split(".")[0] == "ctl":
            continue
        if name not in table:
            wrong.append(f"{name}: has no row")
            continue
        common = set(PURE) if package == "shimv2" and name not in PURE else set()
        allowed = {*table[name].split(), *common, "VERSION"}
        wrong += [f"{name} imports {other}" for other in sorted(inner(package, path) - allowed)]
    assert wrong == []


def test_no_row_is_left_without_its_module() -> None:
    """A file that goes takes its row along."""
    assert set(TTRPC) - set(modules("ttrpc")) == set()
    assert set(SHIM) - set(modules("shimv2")) == set()


def test_ttrpc_and_protos_know_nothing_of_containers() -> None:
    """The protocol library is of use without the shim, the messages without either."""
    for package, strangers in (("ttrpc", {"shimv2", "protos"}), ("protos", {"shimv2", "ttrpc"})):
        for path in modules(package).values():
            assert not {name.split(".")[0] for name in imported(path)} & strangers, path


def test_shim_never_imports_the_tool() -> None:
    """`shimctl` may use threads and asyncio's own children: the shim must not get them."""
    for name, path in modules("shimv2").items():
        if name.split(".")[0] != "ctl":
            assert not any(other.startswith("shimv2.ctl") for other in imported(path)), name


def test_tool_knows_the_protocol_and_the_values_only() -> None:
    """The harness is a daemon's stand-in: what it shared with the shim it could not check."""
    for name, path in modules("shimv2").items():
        if name.split(".")[0] == "ctl":
            of_shim = {other for other in inner("shimv2", path) if other.split(".")[0] != "ctl"}
            assert of_shim <= {"model"}, name


def test_messages_and_libraries_stay_where_they_belong() -> None:
    """Behind service.py nobody sees a raw message; a dependency has few owners."""
    wrong = []
    for name, path in modules("shimv2").items():
        if name.split(".")[0] == "ctl":
            continue
        tops = {other.split(".")[0] for other in imported(path)}
        if "protos" in tops and name not in PROTOS:
            wrong.append(f"{name} imports protos")
        wrong += [
            f"{name} imports {library}"
            for library, owners in LIBRARIES.items()
            if library in tops and name not in owners
        ]
    assert wrong == []


def test_pure_modules_touch_nothing_of_the_world() -> None:
    """Values and texts need no clock, no file and no loop: they are tested with values alone."""
    # `paths` joins names with os.path, `gotext` asks os for the kernel's words.
    values = [name for name in PURE if name not in {"paths", "gotext"}]
    of = {f"shimv2.{name}": ROOT / "shimv2" / f"{name}.py" for name in values}
    of |= {
        f"ttrpc.{n}": ROOT / "ttrpc" / f"{n}.py" for n in ("codes", "wire", "codec", "connection")
    }
    for name, path in of.items():
        assert not {other.split(".")[0] for other in imported(path)} & WORLD, name


@pytest.mark.parametrize("package", ["shimv2", "ttrpc", "tests", "bench"])
def test_files_have_about_four_hundred_lines_at_most(package: str) -> None:
    """One noun a file; generated modules are nobody's reading."""
    for path in sorted((ROOT / package).rglob("*.py")):
        if not path.stem.endswith("_pb2"):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 450, path


def test_there_is_no_util_module() -> None:
    """A module is named for what it holds."""
    assert list(ROOT.glob("shimv2/**/util*.py")) + list(ROOT.glob("ttrpc/**/util*.py")) == []
