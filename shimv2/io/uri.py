"""Parse the URIs in which a client names the targets of stdio.  Pure.

The Go shim parses stdout with Go's `net/url`, and clients see its error texts.  This module has
the rules of `net/url` that can fail for such a string, with their texts.  Only the scheme of stdout
selects the kind of streams.
"""

import re
from dataclasses import dataclass
from typing import Final

from shimv2.gocompat.gotext import quote
from shimv2.values.errors import Refused

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2}).{0,2}", re.DOTALL)
_PORT: Final = re.compile(r"[0-9]*")
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class StdioUri:
    scheme: str  # lower case; "" = the string is a plain path
    path: str  # percent-decoded
    query: str = ""  # as it was written

    def arguments(self) -> list[str]:
        """Return a logging binary's argv[1:]: each key of the query, followed by its first value.

        The keys keep their order.  A pair that cannot be decoded is left out.
        """
        values: dict[str, str] = {}
        for pair in self.query.split("&"):
            key, _, value = pair.partition("=")
            if pair and ";" not in pair and not _BAD_ESCAPE.search(pair):
                values.setdefault(_decoded(key), _decoded(value))
        return [word for item in values.items() for word in item]


def parse(text: str) -> StdioUri:
    """Parse stdout's string.

    Raises:
        Refused: with the text of Go's url.Parse.
    """
    text, _, fragment = text.partition("#")
    _check(not _CONTROL.search(text), text, "net/url: invalid control character in URL")
    _check(not text.startswith(":"), text, "missing protocol scheme")
    found = _SCHEME.match(text)
    scheme = found[1].lower() if found else ""
    rest, _, query = (text[found.end() :] if found else text).partition("?")
    if not rest.startswith("/"):
        if scheme:  # `scheme:word` has no path
            return StdioUri(scheme, "", query)
        colon_first = ":" in rest.partition("/")[0]
        _check(not colon_first, text, "first path segment in URL cannot contain colon")
    if rest.startswith("//") and (scheme or not rest.startswith("///")):
        host, slash, path = rest[2:].partition("/")
        rest = slash + path
        _check_host(host, text)
    _check_escapes(rest, text)
    _check_escapes(fragment, f"{text}#{fragment}")
    return StdioUri(scheme, _unquoted(rest), query)


def fifo_path(text: str) -> str:
    """The path in `text`, without a `fifo://`, on which the reference fails."""
    scheme = "fifo:"
    if text[: len(scheme)].lower() != scheme:
        return text
    return text[len(scheme) :].removeprefix("//")


def _decoded(word: str) -> str:
    return _unquoted(word.replace("+", " "))


def _unquoted(text: str) -> str:
    """Replace percent escapes by their bytes; what is not UTF-8 survives the way to the kernel.

    urllib.parse has this, but it imports `ipaddress`: 0.6 MiB for this one line.
    """
    data = _ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), text.encode())
    return data.decode("utf-8", "surrogateescape")


def _check(valid: bool, text: str, why: str) -> None:
    if not valid:
        raise Refused(f"unable to parse stdout uri: parse {quote(text)}: {why}")


def _check_escapes(part: str, text: str) -> None:
    bad = _BAD_ESCAPE.search(part)
    _check(bad is None, text, f"invalid URL escape {quote(bad[0]) if bad else ''}")


def _check_host(host: str, text: str) -> None:
    """The host is ignored, but a broken one is refused."""
    host = host.rpartition("@")[2]
    _check_escapes(host, text)
    _, colon, port = host.rpartition("]")[2].rpartition(":")
    valid = not colon or _PORT.fullmatch(port) is not None
    _check(valid, text, f"invalid port {quote(colon + port)} after host")
