"""Which package may import which.  The table below is the layout of the code.

A package imports only from itself and from the rows above its own.  Imports inside a package have
no circle.  The shim never imports the tool.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]

# Lowest first: a package or module of shimv2, and the third-party libraries it may import.
SHIM: Final[Mapping[str, str]] = {
    "gocompat": "google",
    "values": "",
    "settings": "",
    "log": "",
    "daemon_config": "",
    "kernel": "setproctitle",
    "aio": "",
    "cgroups": "",
    "runtime": "",
    "mounts": "",
    "io": "",
    "task": "",
    "api": "google protos ttrpc",
    "daemon": "ttrpc",
    "actions": "google protos daemon",  # `daemon` is python-daemon
    "pagesharing": "",
    "zygote": "google protos ttrpc",
    "lean_imports": "",
    "cli": "google",
    "cold_start": "",
    "__main__": "",
}
# The same for the protocol library, by layers; a module of a layer may import those beside it.
TTRPC: Final = (
    "codes",
    "errors _wire_pb2",
    "message events wire",
    "codec connection call",
    "transport",
    "inbox streams",
    "registry session",
    "client",
    "server blocking",
)
# Values and texts: no I/O, no asyncio, no clock, no environment.
PURE: Final = (
    "shimv2.values",
    "shimv2.gocompat",
    "ttrpc.codes",
    "ttrpc.wire",
    "ttrpc.codec",
    "ttrpc.connection",
)
LONGEST_FILE: Final = 400
LONGEST_FUNCTION: Final = 50
STILL_LONG: Final = {"tests/unit/test_memory.py"}
PURE_BUT: Final = {
    "shimv2.values.paths": {"os.path"},  # joins names
    "shimv2.gocompat.gotext": {"os", "time"},  # strerror, gmtime
}
WORLD: Final = frozenset(
    [
        "asyncio",
        "ctypes",
        "os",
        "os.path",
        "select",
        "shutil",
        "signal",
        "socket",
        "subprocess",
        "sys",
        "tempfile",
        "threading",
        "time",
    ]
)


def modules(package: str) -> dict[str, Path]:
    """Return every module of a package by its dotted name below it; the package itself is ''."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT / package).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """Yield the full dotted names that a file imports, at any place and with both forms of
    import."""
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


def owner(module: str) -> str:
    """Return the row of the table that a module of shimv2 belongs to."""
    return module.split(".", maxsplit=1)[0]


def package_imports() -> Iterator[tuple[str, str]]:
    """Yield (module below shimv2, full name of what it imports) for the shim without the tool."""
    for name, path in modules("shimv2").items():
        if name and name.split(".")[0] != "shimctl":
            yield from ((name, other) for other in imported(path))


def test_every_package_has_its_row() -> None:
    """A new package needs a row in the table, and a removed one must have none."""
    found = {owner(name) for name in modules("shimv2") if name and name.split(".")[0] != "shimctl"}
    assert found == set(SHIM)


def test_packages_import_only_from_rows_above() -> None:
    """Calls go down: all imports follow the table."""
    rows = list(SHIM)
    wrong = []
    for name, other in package_imports():
        top, _, inner = other.partition(".")
        if top != "shimv2" or not inner or inner in ("VERSION", "COMPILED_DIR"):
            continue
        own, theirs = owner(name), owner(inner)
        if own != theirs and (theirs not in rows or rows.index(theirs) > rows.index(own)):
            wrong.append(f"{name} imports {other}")
    assert wrong == []


def test_libraries_stay_where_they_belong() -> None:
    """A library has few users: below `api` no module handles a protobuf message."""
    libraries = {word for row in SHIM.values() for word in row.split()}
    wrong = []
    for name, other in package_imports():
        top = other.split(".")[0]
        if top in libraries and top not in SHIM[owner(name)].split():
            wrong.append(f"{name} imports {other}")
    assert wrong == []


def test_ttrpc_modules_import_only_their_layer_and_those_above() -> None:
    """The protocol library: pure bytes first, sockets last."""
    layer = {name: row for row, names in enumerate(TTRPC) for name in names.split()}
    found = modules("ttrpc")
    assert set(layer) == set(found) - {""}
    wrong = []
    for name, path in found.items():
        for other in imported(path):
            top, _, inner = other.partition(".")
            if name and top == "ttrpc" and inner and layer[inner] > layer[name]:
                wrong.append(f"{name} imports {inner}")
    assert wrong == []


@pytest.mark.parametrize("package", ["shimv2", "ttrpc"])
def test_no_chain_of_imports_is_a_circle(package: str) -> None:
    """Modules of one package may use each other, but never in a circle."""
    found = modules(package)
    needs = {
        name: {
            inner
            for other in imported(path)
            if (inner := other.removeprefix(f"{package}.")) in found and inner != name
        }
        for name, path in found.items()
    }
    while free := [name for name, others in needs.items() if not others & set(needs)]:
        for name in free:
            del needs[name]
    assert needs == {}


def test_ttrpc_and_protos_know_nothing_of_containers() -> None:
    """The protocol library is usable without the shim, and the messages without both."""
    for package, strangers in (("ttrpc", {"shimv2", "protos"}), ("protos", {"shimv2", "ttrpc"})):
        for path in modules(package).values():
            assert not {name.split(".")[0] for name in imported(path)} & strangers, path


def test_shim_never_imports_the_tool() -> None:
    """`shimctl` may use threads and asyncio's own children: the shim must not get them."""
    for name, other in package_imports():
        assert not other.startswith("shimv2.shimctl"), name


def test_tool_knows_the_protocol_and_the_values_only() -> None:
    """The harness acts as a daemon: it could not check code that it shares with the shim."""
    for name, path in modules("shimv2").items():
        if name.split(".")[0] == "shimctl":
            of_shim = {
                owner(inner)
                for other in imported(path)
                if (inner := other.removeprefix("shimv2.")) != other
                and inner.split(".")[0] != "shimctl"
            }
            assert of_shim <= {"values"}, name


def test_pure_modules_touch_nothing_of_the_world() -> None:
    """Values and texts need no clock, no file and no loop, so tests need only values."""
    found = {f"shimv2.{name}": path for name, path in modules("shimv2").items()}
    found |= {f"ttrpc.{name}": path for name, path in modules("ttrpc").items()}
    for name, path in found.items():
        if name.startswith(PURE):
            assert set(imported(path)) & WORLD <= PURE_BUT.get(name, set()), name


@pytest.mark.parametrize("package", ["shimv2", "ttrpc", "tests", "bench"])
def test_files_and_functions_are_short(package: str) -> None:
    """One noun a file, at most 400 lines; a function fits on a screen: at most 50.

    Generated modules are left out.
    """
    long = set[str]()
    for path in sorted((ROOT / package).rglob("*.py")):
        text, name = path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))
        if path.stem.endswith("_pb2"):
            continue
        if len(text.splitlines()) > LONGEST_FILE:
            long.add(name)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    long.add(f"{name}: {node.name}")
    assert long <= STILL_LONG


def test_there_is_no_util_module() -> None:
    """The name of a module says what it holds."""
    assert list(ROOT.glob("shimv2/**/util*.py")) + list(ROOT.glob("ttrpc/**/util*.py")) == []
