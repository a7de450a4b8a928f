"""README.md: the first commands of a new user, with docker."""

import json
import os

import pytest

from tests.daemons.docker import every_release
from tests.daemons.page import box
from tests.daemons.pairs import Pair
from tests.daemons.prompt import Prompt
from tests.daemons.redis import Redis, try_redis
from tests.support.dockerd import Dockerd
from tests.support.host import Host

pytestmark = pytest.mark.root


@every_release
def test_redis_by_docker(own_docker: Dockerd, pair: Pair, host: Host, redis: Redis) -> None:
    """At the terminal, and in the background with its log; 20.10 has no name for the shim."""
    docker = own_docker  # with the host's network it keeps a mount while it runs
    command = f"CMD {json.dumps(redis.command)}"
    docker.docker("import", "--change", command, "-", "redis:7", stdin=redis.packed())
    named = " --runtime io.containerd.pyrunc.v2"
    instead = {named: ""} if pair.release == "20.10" else None
    where = {"DOCKER_HOST": docker.host, "DOCKER_CONFIG": os.path.join(docker.folder, "client")}
    prompt = Prompt(where, path=[host.bin, os.path.dirname(docker.command()[0])])

    try_redis(prompt, redis, box("docker-redis", page="README.md", instead=instead))
