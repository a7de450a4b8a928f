"""An image of redis, the first thing that a new user tries, made of Debian's packages."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shimv2.shimctl.image import make_image
from shimv2.shimctl.rootfs import make_rootfs
from shimv2.shimctl.testbed.releases import CACHE, tool
from shimv2.shimctl.testbed.until import until
from tests.daemons.prompt import Prompt

IMAGE: Final = "docker.io/library/redis:7"
_PROGRAMS: Final = ("/usr/bin/redis-server", "/usr/bin/redis-cli")
_LOADER: Final = "/lib64/ld-linux-x86-64.so.2"
_READY: Final = "Ready to accept connections"
# Below the range of ephemeral ports, so that no client takes the port before redis does.
_PORTS: Final = range(21_000, 29_000)


@dataclass(frozen=True, slots=True)
class Redis:
    """The image and the port of its server; `root` is the folder with the content of the image."""

    archive: str
    root: str
    port: int
    command: Sequence[str]

    def answers(self) -> bool:
        """Whether it answers a PING in its own protocol."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=10) as client:
                client.sendall(b"PING\r\n")
                return client.recv(64) == b"+PONG\r\n"
        except ConnectionRefusedError:
            return False

    def packed(self) -> bytes:
        """Return the content of the image as one tar file, for `docker import`."""
        return subprocess.run(
            ["tar", "-C", self.root, "-c", "."], check=True, capture_output=True
        ).stdout

    def install_cli(self, folder: str) -> None:
        """Put a redis-cli for that server into a folder of a PATH."""
        path = os.path.join(folder, "redis-cli")
        with open(path, "w", encoding="utf-8") as script:
            script.write(f'#!/bin/sh\nexec chroot {self.root} redis-cli -p {self.port} "$@"\n')
        os.chmod(path, 0o755)


def make_redis(folder: str) -> Redis:
    """Make the image in `folder`; the packages are downloaded once.

    The port is in the image, so that the commands are those for every redis image.

    Raises:
        ReleaseMissing: the packages are not available.
    """
    packages = os.path.join(CACHE, "redis-bookworm")
    tool("debs.sh", "--closure", "bookworm", packages, "redis-server")
    root, archive, port = f"{folder}/root", f"{folder}/redis.tar", _free_port()
    make_rootfs(root)
    for path in (*_PROGRAMS, *_libraries(packages), _LOADER):
        target = root + path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy(packages + path, target)
    command = (os.path.basename(_PROGRAMS[0]), "--port", str(port))
    make_image(archive, rootfs=root, name=IMAGE, command=command)
    return Redis(archive, root, port, command)


def try_redis(prompt: Prompt, redis: Redis, lines: str) -> None:
    """Run the commands of the pages for clients like docker: at the terminal, then in the
    background.

    Raises:
        AssertionError: a result is not the expected one.
    """
    terminal, run, ping, listed, logs, stop, remove = lines.splitlines()
    with prompt.terminal(terminal) as person:
        person.expect(_READY.encode())
        assert prompt.run(ping).stdout == "PONG\n"
        person.type(b"\x03")
        person.rest()  # not checked: clients lose the end now and then, with any shim
        assert person.wait() == 0
    prompt.run(run)
    until(redis.answers, "redis to answer")
    assert prompt.run(ping).stdout == "PONG\n"
    assert re.search(r"redis-server.* Up .* redis$", prompt.run(listed).stdout.rstrip())
    until(lambda: _READY in prompt.run(logs).stdout, "the log to say that it is ready")
    prompt.run(stop)
    assert prompt.run(ping, check=False).returncode != 0
    prompt.run(remove)


def _libraries(packages: str) -> list[str]:
    """Return the libraries that the loader loads for the programs, with their dependencies."""
    found: set[str] = set()
    for program in _PROGRAMS:
        listed = subprocess.run(
            ["chroot", packages, _LOADER, "--list", program],
            check=True,
            capture_output=True,
            text=True,
        )
        found.update(re.findall(r"=> (/\S+)", listed.stdout))
    return sorted(found)


def _free_port() -> int:
    """Return a port without a listener; simultaneous runs begin at different ports."""
    for step in range(len(_PORTS)):
        port = _PORTS[(os.getpid() + step) % len(_PORTS)]
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")
