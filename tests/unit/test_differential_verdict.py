"""The verdict of the differential suite: equal values, allowed differences, invalid rules."""

from pathlib import Path

import pytest

from tests.differential.verdict import (
    NO_STEP,
    Kind,
    Rule,
    idle,
    judge,
    load_rules,
    matches,
    rows,
    without_row,
)

_RULES = Path(__file__).parents[1] / "differential" / "allowed.toml"
_DIFFERENCES = Path(__file__).parents[2] / "docs" / "differences.md"


@pytest.mark.parametrize(
    ("ours", "theirs", "kinds"),
    [
        ("OK", ["OK", "OK"], [Kind.EQUAL, Kind.EQUAL]),
        ("OK", ["5 `x`", "OK"], [Kind.GO, Kind.EQUAL]),
        ("OK", ["OK", "5 `x`"], [Kind.EQUAL, Kind.DIFFERENT]),
        ("OK", ["5 `x`", "5 `y`"], [Kind.DIFFERENT, Kind.DIFFERENT]),
        ("OK", ["OK", "closed"], [Kind.EQUAL, Kind.GO]),
        ("OK", ["OK", "no reply"], [Kind.EQUAL, Kind.GO]),
        ("OK", ["closed", "closed"], [Kind.DIFFERENT, Kind.DIFFERENT]),
        ("closed", ["OK", "closed"], [Kind.DIFFERENT, Kind.EQUAL]),
        ("no reply", ["no reply", "no reply"], [Kind.EQUAL, Kind.EQUAL]),
    ],
)
def test_ours_is_to_be_like_the_newest_that_answers(
    ours: str, theirs: list[str], kinds: list[Kind]
) -> None:
    judged = judge("s", {"a": ours}, [{"a": answer} for answer in theirs], [])

    assert [steps[0].kind for steps in judged] == kinds


def test_step_that_only_one_side_has_is_a_difference() -> None:
    ((mine, other),) = judge("s", {"mine": "OK"}, [{"other": "OK"}], [])

    assert (mine.kind, mine.theirs) == (Kind.DIFFERENT, NO_STEP)
    assert (other.kind, other.ours) == (Kind.DIFFERENT, NO_STEP)


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [
        (Rule("s", "a", "OK", "row"), True),
        (Rule("*", "*", "*", "row"), True),
        (Rule("t", "a", "OK", "row"), False),
        (Rule("s", "b", "OK", "row"), False),
        (Rule("s", "a", "OK pid=*", "row"), False),
    ],
)
def test_rule_allows_by_scenario_step_and_our_outcome(rule: Rule, allowed: bool) -> None:
    ((step,),) = judge("s", {"a": "OK"}, [{"a": "5 `x`"}], [rule])

    assert step.kind is (Kind.ALLOWED if allowed else Kind.DIFFERENT)
    assert step.row == ("row" if allowed else "")


def test_rule_that_is_not_needed_is_idle_once_its_scenario_was_played() -> None:
    needed, idle_one, not_played = (Rule(s, "a", "*", "row") for s in ("s", "t", "u"))
    rules = [needed, idle_one, not_played]

    judge("s", {"a": "1"}, [{"a": "2"}], rules)
    judge("t", {"a": "1"}, [{"a": "1"}], rules)

    assert idle(rules, complete=False) == [idle_one]


def test_rule_of_many_scenarios_is_idle_after_a_complete_run_only() -> None:
    rule = Rule("*", "a", "*", "row")

    judge("s", {"a": "1"}, [{"a": "1"}], [rule])

    assert idle([rule], complete=False) == []
    assert idle([rule], complete=True) == [rule]


def test_rule_for_a_difference_between_go_shims_is_not_needed() -> None:
    rule = Rule("s", "a", "*", "row")

    judge("s", {"a": "1"}, [{"a": "2"}, {"a": "1"}], [rule])

    assert idle([rule], complete=True) == [rule]


def test_pattern_is_text_but_for_the_star() -> None:
    assert matches("a [b]? *.", "a [b]? x\ny.")
    assert not matches("a.c", "abc")


def test_rule_with_a_key_too_few_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text('[[allow]]\nscenario = "s"\nstep = "a"\nours = "*"\n')

    with pytest.raises(ValueError, match="a rule needs"):
        load_rules(path)


def test_several_steps_are_rules_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text('[[allow]]\nscenario = "s"\nstep = ["a", "b"]\nours = "*"\nrow = "r"\n')

    assert load_rules(path) == [Rule("s", "a", "*", "r"), Rule("s", "b", "*", "r")]


def test_every_rule_has_its_row() -> None:
    """Every allowed difference is documented for users."""
    assert without_row(load_rules(_RULES), _DIFFERENCES.read_text(encoding="utf-8")) == []


def test_rows_are_the_first_cells_of_the_table() -> None:
    text = "| Case | Go | Ours |\n|---|---|---|\n| `a` b | x | y |\n\n no | row |\n"

    assert rows(text) == {"`a` b"}
    assert without_row([Rule("*", "*", "*", "c")], text) == [Rule("*", "*", "*", "c")]
