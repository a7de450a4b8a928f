"""containerd's mount options, as flags and data.  Pure."""

import functools
import operator
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimv2.kernel import linux
from shimv2.mounts.idmap import escaped, parse_map
from shimv2.mounts.options import Options, parse_options
from shimv2.mounts.overlay import compact_lowerdirs, with_layers
from shimv2.values.errors import Refused

SETTERS = {
    "ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "sync": 16, "remount": 32, "mand": 64,
    "dirsync": 128, "noatime": 1024, "nodiratime": 2048, "bind": 4096, "rbind": 4096 | 16384,
    "relatime": 1 << 21, "strictatime": 1 << 24,
}  # fmt: skip
CLEARERS = {
    "rw": "ro", "suid": "nosuid", "dev": "nodev", "exec": "noexec", "async": "sync",
    "nomand": "mand", "atime": "noatime", "diratime": "nodiratime", "norelatime": "relatime",
    "nostrictatime": "strictatime",
}  # fmt: skip


@pytest.mark.rule("mounts.options.1")
@pytest.mark.parametrize(("word", "flag"), SETTERS.items())
def test_flag_word_sets_its_flag(word: str, flag: int) -> None:
    """The table of options; the numbers are the kernel's."""
    assert parse_options([word]) == Options(flags=flag)


@pytest.mark.rule("mounts.options.1")
@pytest.mark.parametrize(("word", "of"), CLEARERS.items())
def test_opposite_option_clears_the_flag_again(word: str, of: str) -> None:
    """The later option counts, in both orders."""
    assert parse_options([of, word]) == Options()
    assert parse_options([word, of]) == Options(flags=SETTERS[of])


@pytest.mark.rule("mounts.options.2")
@pytest.mark.parametrize(
    "word",
    ["defaults", "rprivate", "private", "rshared", "slave", "unbindable", "size=64m", "direct-io"],
)
def test_word_that_is_no_flag_is_data(word: str) -> None:
    """Propagation options and `defaults` are passed to the filesystem, as in containerd."""
    assert parse_options(["ro", word, "x=y"]) == Options(flags=1, data=(word, "x=y"))


@pytest.mark.rule("mounts.options.3")
def test_loop_and_its_direct_io_are_consumed() -> None:
    """Neither is an option of the filesystem; their order does not matter."""
    expected = Options(flags=1, data=("noload",), loop=True, direct_io=True)

    assert parse_options(["direct-io", "ro", "noload", "loop"]) == expected
    assert parse_options(["loop"]) == Options(loop=True)


@pytest.mark.rule("mounts.options.4")
def test_option_for_the_daemon_is_an_error() -> None:
    """X-containerd.*: the mount manager should have consumed it."""
    with pytest.raises(Refused) as caught:
        parse_options(["ro", 'X-containerd.mkdir.path=/a:"0755"'])

    assert str(caught.value) == (
        'internal mount option "X-containerd.mkdir.path=/a:\\"0755\\"" '
        "was not consumed by the mount manager"
    )


@pytest.mark.rule("mounts.options.3")
def test_both_id_maps_are_consumed() -> None:
    """Neither is an option of the filesystem."""
    words = ["uidmap=0:100000:65536", "ro", "gidmap=0:200000:65536", "x=y"]

    options = parse_options(words)

    assert options == Options(1, ("x=y",), uid_map="0:100000:65536", gid_map="0:200000:65536")


@pytest.mark.rule("mounts.mount.10")
@pytest.mark.parametrize("words", [["uidmap=0:1:1"], ["gidmap=0:1:1"], ["uidmap=", "gidmap=0:1:1"]])
def test_half_of_an_id_map_is_refused(words: list[str]) -> None:
    """An error, rather than a mount without the map."""
    with pytest.raises(Refused, match="needs both uidmap and gidmap"):
        parse_options(words)


@given(st.lists(st.sampled_from([*SETTERS, *CLEARERS, "loop", "a=b", ""])))
def test_every_word_ends_up_in_one_place(words: list[str]) -> None:
    """No option is lost or doubled, in any order."""
    options = parse_options(words)

    assert list(options.data) == [word for word in words if word in ("a=b", "")]
    assert options.loop == ("loop" in words)
    assert options.flags & ~functools.reduce(operator.or_, SETTERS.values()) == 0


ROOT = "/var/lib/containerd/snapshots"


def test_lowerdirs_are_named_relative_to_what_they_share() -> None:
    """Other options keep their places and their absolute paths."""
    words = ["index=off", f"lowerdir={ROOT}/3/fs:{ROOT}/2/fs:{ROOT}/1/fs", f"upperdir={ROOT}/4/fs"]

    parent, short = compact_lowerdirs(words)

    assert parent == ROOT
    assert short == ("index=off", "lowerdir=3/fs:2/fs:1/fs", f"upperdir={ROOT}/4/fs")


def test_layer_inside_of_another_keeps_a_name() -> None:
    """The shared directory is above all of them, never one of them."""
    assert compact_lowerdirs(["lowerdir=/a/b:/a/b/c"]) == ("/a", ("lowerdir=b:b/c",))


def test_data_only_layers_keep_their_separator() -> None:
    """`::` is part of overlay's syntax."""
    assert compact_lowerdirs(["lowerdir=/a/b::/a/c"]) == ("/a", ("lowerdir=b::c",))


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("0:100000:65536", "0 100000 65536\n"),
        ("0:1000:1,1:200000:65535", "0 1000 1\n1 200000 65535\n"),
        ("4294967294:0:1", "4294967294 0 1\n"),
    ],
)
def test_id_map_is_what_the_kernel_takes(text: str, lines: str) -> None:
    """One line a range: inside, outside, count."""
    assert parse_map("uidmap", text) == lines


@pytest.mark.parametrize(
    "text",
    ["", ":", "0", "0:1", "0:1:2:3", "0:1:0", "a:1:1", "-1:0:1", "0:1:1,", " 0:1:1",
     "4294967295:0:1", "0:4294967290:6", "0:0:4294967296", "²:1:1"],
)  # fmt: skip
def test_what_is_no_id_map_is_refused_with_its_name(text: str) -> None:
    """The text has the option, its value and the expected form."""
    with pytest.raises(Refused) as caught:
        parse_map("gidmap", text)

    assert str(caught.value) == f'mount option gidmap="{text}": expected CONTAINER:HOST:SIZE[,...]'


def test_layers_are_renamed_with_their_escapes_undone() -> None:
    """An escaped colon is part of a name; empty names before data-only layers stay empty."""
    words = ["index=off", "lowerdir=/a\\:b:/c::/d\\\\", "upperdir=/u"]
    seen = []

    def rename(layer: str) -> str:
        seen.append(layer)
        return str(len(seen))

    assert with_layers(words, rename) == ("index=off", "lowerdir=1:2::3", "upperdir=/u")
    assert seen == ["/a:b", "/c", "/d\\"]


@given(st.lists(st.text("ab:\\,/", min_size=1), min_size=1))
def test_every_name_of_a_layer_survives_escaping(names: list[str]) -> None:
    """The text of `escaped` is read back unchanged."""
    seen = []

    def rename(layer: str) -> str:
        seen.append(layer)
        return escaped(layer)

    word = "lowerdir=" + ":".join(map(escaped, names))
    assert with_layers([word], rename) == (word,)
    assert seen == names


@pytest.mark.parametrize(
    "word",
    [
        "lowerdir=/a/only",
        "lowerdir=/a/b:/c/d",
        "lowerdir=/a:/b",
        "lowerdir=a/b:a/c",
        "lowerdir=/a/b/../c:/a/d",
        "lowerdir=/a/b\\:c:/a/d",
        "lowerdir=/a/b:/a//c",
        "lowerdir=",
        "upperdir=/a/b:/a/c",
    ],
)
def test_options_that_cannot_be_shortened_safely_stay_as_they_are(word: str) -> None:
    """One layer, nothing shared but /, relative, not canonical, escaped."""
    assert compact_lowerdirs(["x", word]) == ("", ("x", word))


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=2, max_size=4), min_size=1, max_size=6))
def test_shortened_names_mean_the_same_directories(parts: list[list[str]]) -> None:
    """Joined with their directory, they are the original names."""
    layers = ["/" + "/".join(part) for part in parts]
    parent, (word,) = compact_lowerdirs(["lowerdir=" + ":".join(layers)])
    names = word.removeprefix("lowerdir=").split(":")

    assert [os.path.join(parent, name) for name in names] == layers


def test_numbers_are_the_kernels() -> None:
    """Numbers that Python's os module has under another name."""
    assert linux.MS_RDONLY == os.ST_RDONLY
    assert linux.MS_NOATIME == os.ST_NOATIME
