"""Texts of operating system errors, times and quoted names as Go writes them.  Pure.

Clients match and show these texts.
"""

import os
import time


def strerror(number: int) -> str:
    """Return Go's text for an errno (syscall.Errno.Error): the C library's, in lower case.

    An abbreviation at the start keeps its capitals (`RFS specific error`).
    """
    text = os.strerror(number)
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


def os_error(error: OSError, *, op: str = "open") -> str:
    """Return Go's text of an fs.PathError: `open P: no such file or directory`.

    If `error` has an attribute `op`, that is used instead of the argument.
    """
    if error.errno is None:  # raised with a text only
        return str(error)
    reason = strerror(error.errno)
    path = error.filename
    if path is None or isinstance(path, int):
        return reason
    named = os.fsdecode(path) if isinstance(path, bytes) else str(path)
    return f"{getattr(error, 'op', op)} {named}: {reason}"


def rfc3339(at_ns: int) -> str:
    """Format a time, in nanoseconds since 1970, in UTC with nine digits after the point."""
    seconds, nanoseconds = divmod(at_ns, 1_000_000_000)
    day = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{day}.{nanoseconds:09d}Z"


def quote(text: str) -> str:
    r"""Put `text` in double quotes as Go's %q does (strconv.Quote).

    Printable characters are unchanged; others become \n, \t, \xNN, \uNNNN or \UNNNNNNNN.
    """
    return '"' + "".join(map(_quoted, text)) + '"'


_SHORT = {'"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n"}
_SHORT |= {"\r": "\\r", "\t": "\\t", "\v": "\\v"}


def _quoted(char: str) -> str:
    if char in _SHORT:
        return _SHORT[char]
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8 (surrogateescape)
        return f"\\x{code - 0xDC00:02x}"
    if char.isprintable():
        return char
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
