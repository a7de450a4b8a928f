"""A registry on loopback with the images of a folder, for the names of any registry.

    python -m tests.daemons.registry FOLDER PORT

FOLDER has blobs/sha256 as an OCI layout, and names.json: "repository:tag" -> digest of a manifest.
It prints a line once it listens, and serves until it is killed.
"""

import json
import os
import re
import sys
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

READY: Final = "ready"
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_PATH: Final = re.compile(r"/v2/(?P<name>[^?]+)/(?P<kind>manifests|blobs)/(?P<what>[^/?]+)")


class Registry(ThreadingHTTPServer):
    """Serves what a daemon needs for a pull: manifests by tag or digest, and blobs."""

    daemon_threads = True

    def __init__(self, folder: str, port: int) -> None:
        with open(os.path.join(folder, "names.json"), encoding="utf-8") as file:
            self.names: Mapping[str, str] = json.load(file)
        self.blobs = os.path.join(folder, "blobs")
        super().__init__(("127.0.0.1", port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        if (path := self._answer()) is not None:
            with open(path, "rb") as file:
                self.wfile.write(file.read())

    def _answer(self) -> str | None:
        """Send the headers; return the path of the content, None if there is none."""
        if self.path.partition("?")[0] == "/v2/":
            self._head(200, {"Content-Length": "0"})
            return None
        digest = self._digest()
        path = self._blob(digest)
        if path is None:
            self._head(404, {"Content-Length": "0"})
            return None
        kind = _MANIFEST if "/manifests/" in self.path else "application/octet-stream"
        size = str(os.path.getsize(path))
        self._head(
            200, {"Content-Type": kind, "Content-Length": size, "Docker-Content-Digest": digest}
        )
        return path

    def _digest(self) -> str:
        """Return the digest of the requested content, "" if it is unknown."""
        asked = _PATH.match(self.path)
        if asked is None:
            return ""
        if asked["what"].startswith("sha256:"):
            return asked["what"]
        registry = self.server
        assert isinstance(registry, Registry)
        return registry.names.get(f"{asked['name']}:{asked['what']}", "")

    def _blob(self, digest: str) -> str | None:
        found = re.fullmatch(r"sha256:([0-9a-f]{64})", digest)
        registry = self.server
        assert isinstance(registry, Registry)
        path = os.path.join(registry.blobs, "sha256", found[1]) if found else ""
        return path if os.path.isfile(path) else None

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Log nothing: the daemon reports failed requests."""


if __name__ == "__main__":
    with Registry(sys.argv[1], int(sys.argv[2])) as registry:
        print(READY, flush=True)
        registry.serve_forever()
