"""Code is rewritten before there are forks, and not in them."""

import dis
import sys
from collections.abc import Callable
from types import FunctionType

import pytest

from shimv2.pagesharing import specialized
from tests.support.forks import in_fork

pytestmark = pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="only 3.11 is known")


class Thing:
    def __init__(self, value: int) -> None:
        self.value = value


def total(things: list[Thing]) -> int:
    found = 0
    for thing in things:
        found += thing.value
    return found


def either(left: object, right: object) -> object:
    return left + right  # type: ignore[operator]


def bytes_of(function: Callable[..., object]) -> bytes:
    code: bytes = function.__code__._co_code_adaptive  # type: ignore[attr-defined]
    return code


def instructions(function: Callable[..., object]) -> set[str]:
    return {each.opname for each in dis.get_instructions(function, adaptive=True)}


def copy_of(function: Callable[..., object]) -> Callable[..., object]:
    """As it was compiled: another test may have run the original."""
    code = function.__code__
    return FunctionType(code.replace(co_name=code.co_name), globals())


def test_code_that_never_ran_stays_as_it_was_compiled() -> None:
    def work() -> bool:
        function = copy_of(total)
        specialized.keep([function])
        for _ in range(100):
            assert function([Thing(1), Thing(2)]) == 3
        return bytes_of(function) == function.__code__.co_code

    assert in_fork(work) == 0


def test_hastened_code_becomes_special_in_two_runs() -> None:
    """The third changes not one byte, nor do a hundred: that is what forks share."""

    def work() -> bool:
        function = copy_of(total)
        specialized.hasten([function])
        for _ in range(2):
            assert function([Thing(1), Thing(2)]) == 3
        specialized.keep([function])
        kept = bytes_of(function)
        for _ in range(100):
            assert function([Thing(1), Thing(2)]) == 3
        assert {"LOAD_ATTR_INSTANCE_VALUE", "BINARY_OP_ADD_INT"} <= instructions(function)
        return bytes_of(function) == kept

    assert in_fork(work) == 0


def test_what_meets_several_kinds_of_things_is_left_as_it_was_compiled() -> None:
    """It would be rewritten again and again; the answer is right in any case."""

    def work() -> bool:
        function = copy_of(either)
        specialized.hasten([function])
        for left, right in ((1, 2), (1, 2), ("a", "b"), (1.5, 1)):
            assert function(left, right) == left + right  # type: ignore[operator]
        specialized.keep([function])
        kept = bytes_of(function)
        assert "BINARY_OP" in instructions(function)
        for _ in range(200):
            assert (function(1, 2), function("a", "b"), function(1.5, 1)) == (3, "ab", 2.5)
        return bytes_of(function) == kept

    assert in_fork(work) == 0


def test_special_code_still_takes_what_it_has_not_met() -> None:
    """Whatever comes later: another class, another type, an error."""

    def work() -> bool:
        function = copy_of(total)
        specialized.hasten([function])
        for _ in range(3):
            function([Thing(1)])
        specialized.keep([function])

        class Other:
            value = 1.5

        assert function([Thing(1), Other()]) == 2.5
        assert function([Other()] * 200) == 300
        with pytest.raises(AttributeError):
            function([object()])
        return function([Thing(2)] * 200) == 400

    assert in_fork(work) == 0


def test_nothing_is_left_adapting() -> None:
    """No instruction that looks at what it meets, each time: it writes that down."""

    def work() -> bool:
        function = copy_of(total)
        specialized.hasten([function])
        function([])  # the loop's body has not run
        assert any(name.endswith("_ADAPTIVE") for name in instructions(function))
        specialized.keep([function])
        return not any(name.endswith("_ADAPTIVE") for name in instructions(function))

    assert in_fork(work) == 0
