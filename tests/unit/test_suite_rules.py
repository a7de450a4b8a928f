"""What holds for every file of the suite."""

import re
from pathlib import Path
from typing import Final

from tests.support.host import ROOT

_ROOT: Final = Path(ROOT)
_SUITE: Final = sorted(
    path for path in _ROOT.glob("tests/**/*.py") if path.name != Path(__file__).name
)
_CODE: Final = sorted(
    path for folder in ("shimv2", "ttrpc", "bench") for path in _ROOT.glob(f"{folder}/**/*.py")
)
# Texts outside of the repository that were once cited.  CVE numbers, "CRI 1.6" and UTF-8 are none.
_DANGLING: Final = re.compile(
    r"""\b(?:O|T|CLI|IO|EV|E)-\d+\b
      | \b(?:CLI|IO|EV|[Tt]ask[ -]API|[Dd]esign|[Oo]ptions|[Pp]rotos|[Ee]vents)\ §?\d+\.\d
      | \b[Dd]esign\ \d | \b[Pp]itfalls?\ \d | \b[Ff]aults?\ (?:rows?\ )?\d+[,:)]
      | §\ ?\d | "{3}\d\d[:,]\ | \(\d\.\d\)"{3}""",
    re.VERBOSE,
)


def _numbered(paths: list[Path]) -> list[tuple[str, str]]:
    return [
        (f"{path.relative_to(_ROOT)}:{number}", line)
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    ]


def test_no_text_cites_a_document_that_is_not_in_the_repository() -> None:
    """Rules have ids in tests/rules.toml; everything else is said in words."""
    found = [
        f"{place}: {line}" for place, line in _numbered(_SUITE + _CODE) if _DANGLING.search(line)
    ]

    assert found == []
