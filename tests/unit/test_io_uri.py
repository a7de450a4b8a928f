"""The names of stdio: schemes, paths, arguments, and Go's error texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimv2.io.uri import StdioUri, fifo_path, parse
from shimv2.values.errors import Refused


@pytest.mark.parametrize(
    ("text", "scheme", "path"),
    [
        ("", "", ""),
        ("/run/c1/stdout", "", "/run/c1/stdout"),
        ("relative/name", "", "relative/name"),
        ("///run/x", "", "///run/x"),
        ("file:///var/log/c1.log", "file", "/var/log/c1.log"),
        ("FILE:///x", "file", "/x"),
        ("file:/x", "file", "/x"),
        ("file:x", "file", ""),
        ("file://host:80/x?a=b#c", "file", "/x"),
        ("file://u:p@[::1]:80/x", "file", "/x"),
        ("file:///a%20b", "file", "/a b"),
        ("file:///a%ffb", "file", "/a\udcffb"),
        ("fifo:///run/x", "fifo", "/run/x"),
        ("binary-v2:///bin/log?k=v", "binary-v2", "/bin/log"),
        ("grpc+vsock://4:1024", "grpc+vsock", ""),
    ],
)
def test_uri_well_formed_gives_scheme_and_path(text: str, scheme: str, path: str) -> None:
    """The scheme selects the kind; host, query and fragment are no part of the path."""
    found = parse(text)

    assert (found.scheme, found.path) == (scheme, path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("%zz:/x", 'parse "%zz:/x": first path segment in URL cannot contain colon'),
        ("a\x01b", 'parse "a\\x01b": net/url: invalid control character in URL'),
        ("a\x7fb#c", 'parse "a\\x7fb": net/url: invalid control character in URL'),
        (":/x", 'parse ":/x": missing protocol scheme'),
        ("1a:b", 'parse "1a:b": first path segment in URL cannot contain colon'),
        ("/a%zzb", 'parse "/a%zzb": invalid URL escape "%zz"'),
        ("/a%2", 'parse "/a%2": invalid URL escape "%2"'),
        ("/a#%2", 'parse "/a#%2": invalid URL escape "%2"'),
        ("file://h:x/y", 'parse "file://h:x/y": invalid port ":x" after host'),
        ("file://%zz/y", 'parse "file://%zz/y": invalid URL escape "%zz"'),
    ],
)
def test_malformed_uri_is_refused_with_the_text_of_go(text: str, why: str) -> None:
    """Clients get the texts of Go's url.Parse."""
    with pytest.raises(Refused) as caught:
        parse(text)

    assert str(caught.value) == f"unable to parse stdout uri: {why}"


def test_uri_arguments_are_keys_with_their_first_values_in_order() -> None:
    """argv[1:] of a logging binary; order kept, the empty value included."""
    found = parse("binary:///bin/log?b=2&a=1&c&a=9&mode=x%20y&p=q+r")

    assert found.arguments() == ["b", "2", "a", "1", "c", "", "mode", "x y", "p", "q r"]


def test_uri_arguments_leave_out_what_cannot_be_decoded() -> None:
    """Go's Query() ignores such pairs."""
    assert StdioUri("binary", "/x", "a=%zz&b;c=1&&d=1").arguments() == ["d", "1"]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/run/x", "/run/x"),
        ("fifo:///run/x", "/run/x"),
        ("FIFO:/run/x", "/run/x"),
        ("fifo:///a%20b", "/a%20b"),
        ("fifox", "fifox"),
    ],
)
def test_scheme_of_a_fifo_path_is_removed(text: str, path: str) -> None:
    """The reference opens the raw string and fails."""
    assert fifo_path(text) == path


@given(st.text())
def test_uri_any_text_is_parsed_or_refused(text: str) -> None:
    """Any text gives a URI or a Refused."""
    try:
        found = parse(text)
    except Refused:
        return

    assert found.scheme == found.scheme.lower()
    found.arguments()


@given(st.from_regex(r"/[a-z0-9/._-]*", fullmatch=True).filter(lambda p: not p.startswith("//")))
def test_uri_plain_path_is_itself(path: str) -> None:
    """An absolute path has no scheme and is unchanged."""
    assert parse(path) == StdioUri("", path)
