"""The Go shims of three Debian releases."""

from dataclasses import dataclass

from shimv2.shimctl.testbed.releases import RELEASES, find_release


@dataclass(frozen=True, slots=True)
class Peer:
    release: str
    path: str
    version: str

    def __str__(self) -> str:
        return self.version


def find_peers() -> list[Peer]:
    """Return the peers, the oldest first; missing ones are downloaded once.

    Raises:
        ReleaseMissing: with the release and the reason.
    """
    found = [find_release(name) for name in RELEASES]
    return [Peer(release.suite, release.shim, release.version) for release in found]
