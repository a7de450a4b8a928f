"""Whether a cgroup is frozen, from its files."""

from pathlib import Path

import pytest

from shimv2.cgroups.tree import Cgroup


@pytest.mark.parametrize(
    ("state", "frozen"), [("THAWED\n", False), ("FREEZING\n", True), ("FROZEN\n", True)]
)
def test_v1_freezer_is_read(tmp_path: Path, state: str, frozen: bool) -> None:
    """A cgroup that is still freezing counts as frozen, because it needs a thaw too."""
    (tmp_path / "freezer.state").write_text(state)

    assert Cgroup("/no/such", {"freezer": str(tmp_path)}).is_frozen() is frozen


@pytest.mark.parametrize(("asked", "frozen"), [("0\n", False), ("1\n", True)])
def test_v2_freezer_is_read(tmp_path: Path, asked: str, frozen: bool) -> None:
    (tmp_path / "cgroup.freeze").write_text(asked)

    assert Cgroup(str(tmp_path)).is_frozen() is frozen


@pytest.mark.parametrize("controllers", [None, {}, {"freezer": "/no/such"}])
def test_cgroup_that_is_gone_is_not_frozen(controllers: dict[str, str] | None) -> None:
    assert Cgroup("/no/such", controllers).is_frozen() is False
