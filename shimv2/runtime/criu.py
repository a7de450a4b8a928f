"""Whether a runtime can be told which criu to use: runc could, until 1.2 took the option away."""

import asyncio
import logging
import re
from typing import Final

from shimv2.kernel.reaper import Reaper
from shimv2.runtime.command import DEFAULT_BINARY, CommandFailed
from shimv2.runtime.run import run

log = logging.getLogger(__name__)

_LIMIT_S: Final = 10.0
_RUNC: Final = re.compile(r"^runc version v?(\d+)\.(\d+)", re.MULTILINE)
_GONE_SINCE: Final = (1, 2)


class CriuOption:
    """Knows of each runtime whether it has `--criu`.  One for a shim: each is asked once."""

    def __init__(self, reaper: Reaper) -> None:
        self._reaper = reaper
        self._known: dict[str, bool] = {}
        self._asking = asyncio.Lock()

    async def is_known_to(self, binary: str) -> bool:
        """Ask for the runtime's version, the first time; without an answer the option is no."""
        program = binary or DEFAULT_BINARY
        async with self._asking:
            if program not in self._known:
                try:
                    said = await run(self._reaper, [program, "--version"], timeout_s=_LIMIT_S)
                except CommandFailed as error:
                    log.warning("criu_path is not used: %s", error)
                    return False
                self._known[program] = takes_criu_option(said)
                if not self._known[program]:
                    log.warning("criu_path is not used: %s has no --criu", program)
            return self._known[program]


def takes_criu_option(version: str) -> bool:
    """Say it from what `--version` prints: runc before 1.2; crun never had the option."""
    found = _RUNC.search(version)
    return found is not None and (int(found[1]), int(found[2])) < _GONE_SINCE
