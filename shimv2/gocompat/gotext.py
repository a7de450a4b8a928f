"""Go's words for what the operating system says: clients match and show these texts.  Pure."""

import os
import time


def strerror(number: int) -> str:
    """Say an errno as Go does: the C library's words, the first letter small.

    An abbreviation at the start stays as it is (`RFS specific error`).
    """
    text = os.strerror(number)
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


def os_error(error: OSError, *, op: str = "open") -> str:
    """Say `error` as Go's PathError does: `open P: no such file or directory`.

    Whoever raised it may have set an attribute `op` that names the call more exactly.
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
    """Say a time, in nanoseconds since 1970, in UTC with all nine digits."""
    seconds, nanoseconds = divmod(at_ns, 1_000_000_000)
    day = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{day}.{nanoseconds:09d}Z"


def quote(text: str) -> str:
    r"""Put `text` in double quotes as Go's %q does, for the characters that occur in names.

    Only what is printable stays as it is; the rest becomes \n, \t, \xNN, \uNNNN or \UNNNNNNNN.
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
