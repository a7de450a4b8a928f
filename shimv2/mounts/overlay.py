"""The layers of an overlay, and shorter names for more of them than one page holds.

mount(2) takes one page of options.  Layers are first named relative to the directory they share.
If that is impossible or still too long, they are named by the numbers of open fds, relative to
`/proc/self/fd`: five bytes a layer, so that the kernel's limit of 500 layers is reached first.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from shimv2.mounts.place import working_directory

PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")  # mount(2)'s limit for data, its NUL included
_SHORTEN_FROM_BYTES: Final = PAGE_BYTES - 512  # the Go shim's margin
_OWN_FILES: Final = "/proc/self/fd"
_WORD: Final = "lowerdir="
_COLON: Final = re.compile(r"((?:[^:\\]|\\.?)*)(:|$)", re.DOTALL)  # a colon that is not escaped


@contextlib.contextmanager
def short_enough(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield the options, shortened to fit into a page if possible.

    Within the block the thread may have another working directory: the names are relative to it.
    """
    if sum(len(os.fsencode(word)) for word in words) < _SHORTEN_FROM_BYTES:
        yield tuple(words)
        return
    with contextlib.ExitStack() as stack:
        shared, short = compact_lowerdirs(words)
        if len(os.fsencode(",".join(short))) >= PAGE_BYTES:
            shared, short = _OWN_FILES, stack.enter_context(_opened(words))
        if shared:
            stack.enter_context(working_directory(shared))
        yield short


@contextlib.contextmanager
def _opened(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    with contextlib.ExitStack() as files:

        def number(layer: str) -> str:
            fd = os.open(layer, os.O_PATH | os.O_DIRECTORY)
            files.callback(os.close, fd)
            return str(fd)

        yield with_layers(words, number)


def with_layers(words: Sequence[str], rename: Callable[[str], str]) -> tuple[str, ...]:
    """Replace each layer's name; `rename` gets it unescaped and returns it escaped."""
    return tuple(
        _WORD + _renamed(word.removeprefix(_WORD), rename) if word.startswith(_WORD) else word
        for word in words
    )


def _renamed(layers: str, rename: Callable[[str], str]) -> str:
    done = []
    for found in _COLON.finditer(layers):
        # `::` separates data-only layers (Linux 6.5): an empty name stays empty.
        name = re.sub(r"\\(.)", r"\1", found[1], flags=re.DOTALL)
        done.append((rename(name) if name else "") + found[2])
    return "".join(done)


def compact_lowerdirs(words: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Name an overlay's layers relative to the directory they share; return it and the options.

    The options are returned unchanged, with an empty directory, if there is only one layer, if the
    layers share only `/`, or if a name is relative, is not canonical or has an escape.
    """
    for index, word in enumerate(words):
        if word.startswith(_WORD):
            layers = word.removeprefix(_WORD).split(":")
            named = [layer for layer in layers if layer]
            if len(named) < 2 or "\\" in word or any(map(_is_uncanonical, named)):
                break
            shared = os.path.commonpath([os.path.dirname(layer) for layer in named])
            if shared == "/":
                break
            short = ":".join(layer.removeprefix(shared + "/") for layer in layers)
            return shared, (*words[:index], f"{_WORD}{short}", *words[index + 1 :])
    return "", tuple(words)


def _is_uncanonical(path: str) -> bool:
    return not path.startswith("/") or os.path.normpath(path) != path
