"""The settings file and the annotations of a container."""

import dataclasses
import json
from pathlib import Path

import pytest

from shimv2 import settings
from shimv2.settings import SettingsError
from shimv2.values.errors import InvalidArgument
from shimv2.values.settings import (
    BLOCK,
    GRACE_ANNOTATION,
    HANGUP_ANNOTATION,
    POLICY_ANNOTATION,
    IoPolicy,
    Settings,
    io_policy,
)


def write(folder: Path, text: str | bytes) -> str:
    path = folder / "shim.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_defaults_are_the_caps_of_the_design() -> None:
    """5 min for create, restore, checkpoint; 10 s for kill; 30 s for the rest."""
    caps = dataclasses.asdict(Settings())

    long = {name for name, value in caps.items() if value == 300.0}
    assert long == {"create_s", "restore_s", "checkpoint_s"}
    assert caps["kill_s"] == 10.0
    assert {
        caps[f"{verb}_s"] for verb in ("start", "exec", "delete", "update", "pause", "resume")
    } == {30.0}


def test_missing_usual_file_means_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(settings.ENVIRONMENT, raising=False)
    monkeypatch.setattr(settings, "DEFAULT_PATH", str(tmp_path / "none.toml"))

    assert settings.load() == Settings()


def test_every_setting_is_read(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        json_v3_reply = true
        drain_grace_s = 0
        drain_limit_s = 2
        exit_output_s = 0
        self_exit_s = 1.5
        logging_binaries = ["/usr/bin/logger"]
        create_s = 1
        restore_s = 2
        checkpoint_s = 3
        start_s = 4
        exec_s = 5
        delete_s = 6
        update_s = 7
        pause_s = 8
        resume_s = 9
        kill_s = 10
        """,
    )

    assert settings.load(path) == Settings(
        json_v3_reply=True,
        drain_grace_s=0.0,
        drain_limit_s=2.0,
        exit_output_s=0.0,
        self_exit_s=1.5,
        logging_binaries=("/usr/bin/logger",),
        create_s=1.0,
        restore_s=2.0,
        checkpoint_s=3.0,
        start_s=4.0,
        exec_s=5.0,
        delete_s=6.0,
        update_s=7.0,
        pause_s=8.0,
        resume_s=9.0,
        kill_s=10.0,
    )


def test_environment_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$PYRUNC_CONFIG."""
    monkeypatch.setenv(settings.ENVIRONMENT, write(tmp_path, "kill_s = 3\n"))

    assert settings.load().kill_s == 3.0


def test_file_that_was_asked_for_must_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong path in the variable must not lead to the defaults."""
    monkeypatch.setenv(settings.ENVIRONMENT, str(tmp_path / "typo.toml"))

    with pytest.raises(SettingsError, match=r"open .*typo.toml: no such file or directory"):
        settings.load()
    with pytest.raises(SettingsError, match="is a directory"):
        settings.load(str(tmp_path))


@pytest.mark.parametrize(
    ("setting", "variable", "expected"),
    [
        ("auto", None, True),
        ("off", None, False),
        ("auto", "", True),
        ("auto", "off", False),
        ("off", "auto", True),
    ],
)
def test_environment_decides_over_the_file_whether_memory_is_shared(
    setting: str,
    variable: str | None,
    expected: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(settings.SHARE_MEMORY_ENVIRONMENT, raising=False)
    if variable is not None:
        monkeypatch.setenv(settings.SHARE_MEMORY_ENVIRONMENT, variable)
    loaded = settings.load(write(tmp_path, f'share_memory = "{setting}"\n'))

    assert loaded.share_memory == setting
    assert settings.shares_memory(loaded) is expected


def test_unknown_value_of_the_environment_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.SHARE_MEMORY_ENVIRONMENT, "no")

    expected = r'\$PYRUNC_SHARE_MEMORY: expected "auto" or "off", not "no"'
    with pytest.raises(SettingsError, match=expected):
        settings.load()


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("kill_s = 10\nkil_s = 3\n", 2, 'unknown setting "kil_s"'),
        ("[limits]\nkill_s = 10\n", 1, 'unknown setting "limits"'),
        ("\n\nkill_s = = 3\n", 3, "Invalid value"),
        ("kill_s = 1\nkill_s = 2\n", 2, "Cannot overwrite a value"),
        ("x.y = 1\n", 1, 'unknown setting "x"'),
        ("a = '''\nkill_s = 1\n'''\nkill_s = true\n", 1, 'unknown setting "a"'),
        ("\nkill_s = true\n", 2, "kill_s: expected a number of seconds"),
        ('kill_s = "10"\n', 1, "kill_s: expected a number of seconds"),
        ("kill_s = 0\n", 1, "kill_s: expected more than 0 to 86400 seconds, not 0"),
        ("kill_s = -1.5\n", 1, "kill_s: expected more than 0 to 86400 seconds, not -1.5"),
        ("kill_s = nan\n", 1, "kill_s: expected more than 0 to 86400 seconds, not nan"),
        ("drain_grace_s = inf\n", 1, "drain_grace_s: expected 0 to 86400 seconds, not inf"),
        ("self_exit_s = 86401\n", 1, "self_exit_s: expected 0 to 86400 seconds, not 86401"),
        ("json_v3_reply = 1\n", 1, "json_v3_reply: expected true or false"),
        ('\nshare_memory = "on"\n', 2, 'share_memory: expected "auto" or "off", not "on"'),
        ("share_memory = true\n", 1, 'share_memory: expected "auto" or "off", not True'),
        ("logging_binaries = true\n", 1, "logging_binaries: expected a list of absolute paths"),
        ("logging_binaries = ['x']\n", 1, "logging_binaries: expected absolute paths, not 'x'"),
        ("# ok\nlogging_binaries = [1]\n", 2, "logging_binaries: expected absolute paths, not 1"),
    ],
)
def test_wrong_file_is_reported_with_its_line(
    tmp_path: Path, text: str, line: int, reason: str
) -> None:
    """A bad file fails `start` with its line."""
    path = write(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        settings.load(path)

    assert str(caught.value).startswith(f"{path}:{line}: {reason}")


def test_file_in_another_encoding_is_reported_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, b"kill_s = 1\n# \xff\n")

    with pytest.raises(SettingsError) as caught:
        settings.load(path)

    assert str(caught.value) == f"{path}:2: not UTF-8"


def test_file_without_end_is_refused(tmp_path: Path) -> None:
    """`start` must not read an endless file."""
    with pytest.raises(SettingsError, match="/dev/zero: longer than"):
        settings.load("/dev/zero")


def test_settings_are_plain_values() -> None:
    """They are passed to the server."""
    assert json.loads(json.dumps(dataclasses.asdict(Settings())))["kill_s"] == 10.0


# --- annotations -------------------------------------------------------------------------------


def test_container_without_annotations_follows_the_settings() -> None:
    """`block` is the default, as in the reference."""
    policy = io_policy({"other": "x"}, Settings(drain_grace_s=0.25))

    assert policy == IoPolicy(BLOCK, 0, drain_grace_s=0.25)


@pytest.mark.parametrize(
    ("text", "stdio_policy", "limit_bytes"),
    [
        ("block", "block", 0),
        ("buffer:1", "buffer", 1),
        ("buffer:67108864", "buffer", 67108864),
        ("drop-oldest:4096", "drop-oldest", 4096),
    ],
)
def test_policy_of_a_stalled_reader_is_read(text: str, stdio_policy: str, limit_bytes: int) -> None:
    policy = io_policy({POLICY_ANNOTATION: text}, Settings())

    assert (policy.stdio_policy, policy.limit_bytes) == (stdio_policy, limit_bytes)


@pytest.mark.parametrize("name", ["buffer", "drop-oldest"])
@pytest.mark.parametrize(
    "size", ["", ":", ":0", ":-1", ":1k", ":67108865", ":9999999999999", ":٣", ": 1", ":1:1"]
)
def test_bad_limit_of_a_policy_is_an_invalid_argument(name: str, size: str) -> None:
    """The buffer is in the shim's memory, so it is bounded."""
    with pytest.raises(InvalidArgument, match="at most 67108864: invalid argument"):
        io_policy({POLICY_ANNOTATION: name + size}, Settings())


@pytest.mark.parametrize("text", ["", "drop", "block:1", "BLOCK", "Buffer:1"])
def test_bad_policy_is_an_invalid_argument(text: str) -> None:
    with pytest.raises(InvalidArgument, match="expected block, buffer:BYTES or drop-oldest:BYTES"):
        io_policy({POLICY_ANNOTATION: text}, Settings())


def test_grace_time_is_read() -> None:
    policy = io_policy({GRACE_ANNOTATION: "1500"}, Settings())

    assert policy.drain_grace_s == 1.5


@pytest.mark.parametrize(("text", "hangup_s"), [("0", 0.0), ("30", 30.0), ("86400", 86400.0)])
def test_hangup_time_is_read(text: str, hangup_s: float) -> None:
    """Without the annotation the input never ends by itself, as in the reference."""
    policy = io_policy({HANGUP_ANNOTATION: text}, Settings())

    assert policy.stdin_hangup_s == hangup_s
    assert io_policy({}, Settings()).stdin_hangup_s is None


@pytest.mark.parametrize("name", [GRACE_ANNOTATION, HANGUP_ANNOTATION])
@pytest.mark.parametrize("text", ["", "-1", "1.5", "x", "100000", "1" * 5000])
def test_bad_time_is_an_invalid_argument(name: str, text: str) -> None:
    with pytest.raises(InvalidArgument, match=f"annotation {name}="):
        io_policy({name: text}, Settings())
