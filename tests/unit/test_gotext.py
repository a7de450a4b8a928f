"""Go's texts for errors of the operating system."""

import errno

import pytest

from shimv2.gocompat.gotext import os_error, quote, strerror


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOENT, "no such file or directory"),
        (errno.EACCES, "permission denied"),
        (errno.EISDIR, "is a directory"),
        (errno.ENOSPC, "no space left on device"),
        (errno.EDOTDOT, "RFS specific error"),
        (errno.EIO, "input/output error"),
    ],
)
def test_errno_is_reported_as_go_does(number: int, text: str) -> None:
    """Clients compare these texts; Go's begin with a small letter."""
    assert strerror(number) == text


def test_error_with_a_path_names_the_call_and_the_path() -> None:
    """`open P: no such file or directory`."""
    error = OSError(errno.ENOENT, "No such file or directory", "/x/options.json")

    assert os_error(error) == "open /x/options.json: no such file or directory"
    assert os_error(error, op="stat") == "stat /x/options.json: no such file or directory"


def test_error_with_a_system_call_names_it() -> None:
    """Code that raises an OSError may name the call; that takes precedence over the argument."""
    error = OSError(errno.EEXIST, "File exists", b"/x")
    error.op = "mkdir"  # type: ignore[attr-defined]  # ours, on a builtin

    assert os_error(error) == "mkdir /x: file exists"


@pytest.mark.parametrize("path", [None, 7])
def test_error_without_a_path_is_the_reason_alone(path: int | None) -> None:
    """An fd number means nothing to a client."""
    assert os_error(OSError(errno.EPIPE, "Broken pipe", path)) == "broken pipe"


def test_error_without_errno_is_its_text() -> None:
    assert os_error(OSError("just a text")) == "just a text"


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("nosuchrunc", '"nosuchrunc"'),
        ('a"b\\c', r'"a\"b\\c"'),
        ("a\x01b\n\x7f", r'"a\x01b\n\x7f"'),
        ("Übung 🙂", '"Übung 🙂"'),
        ("\udcff", r'"\xff"'),
        ("\u2028\U000e0001", r'"\u2028\U000e0001"'),
    ],
)
def test_names_are_quoted_as_by_percent_q(text: str, quoted: str) -> None:
    """strconv.Quote: printable characters are unchanged, others escaped in the shortest form."""
    assert quote(text) == quoted
