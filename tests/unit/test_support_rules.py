"""The file of rules: its checks, and the page in docs/ that is made from it."""

import re
from pathlib import Path

import pytest

from tests.support.rules import BadRules, load

ROOT = Path(__file__).parents[2]
PARTS = '[parts]\ntask = "Tasks"\nio = "Streams"\n'
SECTION = '[[section]]\nid = "task.delete"\ntitle = "Delete"\n'
RULE = '[[section.rule]]\nid = "task.delete.1"\nsays = "It goes."\nsource = "OCI"\n'
SECOND = RULE.replace(".1", ".10")


def written(folder: Path, text: str) -> Path:
    path = folder / "rules.toml"
    path.write_text(text)
    return path


def test_rules_are_read_with_all_their_fields(tmp_path: Path) -> None:
    reason = 'crun = "n/a: it has none"\n'
    text = PARTS + SECTION + RULE + "runtime = false\n" + SECOND + reason

    rules = load(written(tmp_path, text))

    first, second = rules
    assert (first.id, first.says, first.source, first.runtime) == (
        "task.delete.1",
        "It goes.",
        "OCI",
        False,
    )
    assert (second.runtime, second.not_applicable) == (True, {"crun": "it has none"})
    assert rules.ids == {"task.delete.1", "task.delete.10"}
    assert (rules.sections[0].title, first.part) == ("Delete", "task")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[parts", "Expected"),
        (SECTION + RULE, "`parts` is missing"),
        (PARTS, "`section` is missing"),
        (PARTS + "x = 1\n", "`section` is missing"),
        ('y = 1\n[[section]]\n[parts]\na = "A"\n', "`y` is not known"),
        ('[parts]\ntask = ""\n' + SECTION + RULE, "part 'task' has no title"),
        (PARTS + SECTION, "`rule` is missing"),
        (PARTS + SECTION.replace("title", "name") + RULE, "`title` is missing"),
        (PARTS + SECTION.replace('"Delete"', '""') + RULE, "`title` is empty"),
        (PARTS + SECTION + "more = 1\n" + RULE, "`more` is not known"),
        (PARTS + SECTION.replace("task.delete", "task") + RULE, "an id is `part.name`"),
        (PARTS + SECTION.replace("task.delete", "task.Delete") + RULE, "an id is `part.name`"),
        (PARTS + (SECTION + RULE).replace("task.", "none."), "of no part"),
        (PARTS + SECTION + RULE + SECTION + SECOND, "is there twice"),
        (
            PARTS + (SECTION + RULE).replace("task.", "io.") + (SECTION + RULE),
            "among those of another part",
        ),
        (PARTS + SECTION + RULE.replace("says", "said"), "`says` is missing"),
        (PARTS + SECTION + RULE.replace("source", "by"), "`source` is missing"),
        (PARTS + SECTION + RULE + "why = 1\n", "`why` is not known"),
        (PARTS + SECTION + RULE + 'runtime = "no"\n', "`runtime` is empty or of the wrong type"),
        (PARTS + SECTION + RULE.replace('"It goes."', '"""a\nb"""'), "more than one line"),
        (PARTS + SECTION + RULE.replace('"It goes."', '" It"'), "more than one line"),
        (PARTS + SECTION + RULE.replace("OCI", "moby"), "its source is none of"),
        (PARTS + SECTION + RULE.replace("delete.1", "create.1"), "its id is not `task.delete.N`"),
        (PARTS + SECTION + RULE.replace("delete.1", "delete.01"), "its id is not"),
        (PARTS + SECTION + RULE + RULE, "ids rise within their section"),
        (PARTS + SECTION + SECOND + RULE, "ids rise within their section"),
        (PARTS + SECTION + RULE + 'crun = "later"\n', "the value of a runtime is a reason"),
        (PARTS + SECTION + RULE + 'crun = ""\n', "`crun` is empty"),
        (PARTS + SECTION + RULE + 'runtime = false\ncrun = "n/a: x"\n', "needs no reason for one"),
        (PARTS + SECTION + RULE + 'runc = "n/a: x"\ncrun = "n/a: x"\n', "to no runtime"),
    ],
)
def test_file_that_is_not_as_it_has_to_be_is_refused(tmp_path: Path, text: str, why: str) -> None:
    """No test could prove a rule that is not read, or read wrongly."""
    with pytest.raises(BadRules, match=re.escape(why)):
        load(written(tmp_path, text))


def test_page_shows_exactly_the_rules_of_the_tree() -> None:
    """`make conformance` makes it again after a change of tests/rules.toml."""
    page = (ROOT / "docs" / "conformance.md").read_text()

    shown = re.findall(r"^\| `([a-z0-9.]+)` \| (.*?) \| (\w+) \| ", page, re.MULTILINE)

    assert shown == [(rule.id, rule.says.replace("|", "\\|"), rule.source) for rule in load()]
