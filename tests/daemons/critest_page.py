"""The results of critest as a page: each spec with each shim, and the failures.  Pure."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final
from xml.etree import ElementTree

GO: Final = "containerd's shim"
OURS: Final = "this shim"
Outcomes = Mapping[str, str]  # spec -> passed, failed, skipped, or another word of the reporter
Found = Mapping[str, Mapping[str, Outcomes]]  # version of containerd -> shim -> outcomes

PASSED: Final = "passed"
SKIPPED: Final = "skipped"
# Why a spec fails with both shims: a part of its name, and what this machine lacks.
REASONS: Final[Mapping[str, str]] = {
    "port mapping with host port": "the kernel has no packet filter, so CNI's portmap cannot work",
    "should support MaskedPaths": "Debian's busybox runs its own ls, even if the file is masked",
}
_NAME: Final = re.compile(r"\[It\] (?:\[k8s\.io\] )?(.*)")
_HEAD: Final = """# critest

The results of critest (cri-tools 1.36), Kubernetes' own tests of container runtimes.  Each
containerd is tested twice: with this shim, and with its own shim.  `make critest` makes this page;
it fails if a spec passes with containerd's shim and not with this one.

The tests pull no images from the network.  A registry on loopback has images made of busybox, with
the names that critest pulls.  critest pulls one image by its digest: in a copy of the program that
digest is replaced by the one of the busybox image.
"""


def read(junit: str) -> Outcomes:
    """Return the specs of a report that were selected, with their outcomes."""
    found = {}
    for case in ElementTree.fromstring(junit).iter("testcase"):
        name = _NAME.fullmatch(case.get("name", ""))
        if name is not None and (status := case.get("status", "")) != "pending":
            found[name[1]] = status
    return found


def verdict(found: Found) -> list[str]:
    """List the specs that pass with containerd's shim only, and other faults."""
    wrong = []
    for version, shims in found.items():
        go, ours = shims[GO], shims[OURS]
        if not ours or go.keys() != ours.keys():
            wrong.append(f"containerd {version}: not the same specs were run with both")
        for spec in sorted(go):
            mine = ours.get(spec, "not run")
            as_well = mine == go[spec] and (mine == SKIPPED or reason(spec))
            if mine != PASSED and not as_well:
                wrong.append(f"containerd {version}: {spec}: {mine}, with {GO}: {go[spec]}")
    return wrong


def reason(spec: str) -> str:
    return next((why for words, why in REASONS.items() if words in spec), "")


def render(found: Found) -> str:
    """Return the page."""
    lines = [*_HEAD.splitlines(), "", "| containerd | shim | passed | failed | skipped |"]
    lines.append("|---|---|---|---|---|")
    for version, shims in found.items():
        for shim in (GO, OURS):
            counts = Counter(shims[shim].values())
            other = sum(counts.values()) - counts[PASSED] - counts[SKIPPED]
            row = (version, shim, str(counts[PASSED]), str(other), str(counts[SKIPPED]))
            lines.append(_row(row))
    for version, shims in found.items():
        lines += ["", f"## containerd {version}", "", _row(("spec", GO, OURS)), "|---|---|---|"]
        lines += [_row(row) for row in _rows(shims)]
    failed = sorted(
        {
            f"* {spec}: {reason(spec)}"
            for shims in found.values()
            for spec, outcome in shims[OURS].items()
            if outcome not in {PASSED, SKIPPED} and reason(spec)
        }
    )
    if failed:
        lines += ["", "## Why some fail with both", "", *failed]
    return "\n".join(lines) + "\n"


def _rows(shims: Mapping[str, Outcomes]) -> list[Sequence[str]]:
    specs = sorted({*shims[GO], *shims[OURS]})
    return [(spec, *(shims[shim].get(spec, "-") for shim in (GO, OURS))) for spec in specs]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
