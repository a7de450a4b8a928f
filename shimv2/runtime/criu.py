"""Whether a runtime has the option `--criu`: runc had it until 1.2 removed it."""

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
_REMOVED_IN: Final = (1, 2)


class CriuOption:
    """Remembers which runtimes have `--criu`.  One instance per shim: `--version` runs once."""

    def __init__(self, reaper: Reaper) -> None:
        self._reaper = reaper
        self._known: dict[str, bool] = {}
        self._asking = asyncio.Lock()

    async def is_supported_by(self, binary: str) -> bool:
        """Whether the runtime has `--criu`; False if it does not report its version."""
        program = binary or DEFAULT_BINARY
        async with self._asking:
            if program not in self._known:
                try:
                    version = await run(self._reaper, [program, "--version"], timeout_s=_LIMIT_S)
                except CommandFailed as error:
                    log.warning("criu_path is not used: %s", error)
                    return False
                self._known[program] = has_criu_option(version)
                if not self._known[program]:
                    log.warning("criu_path is not used: %s has no --criu", program)
            return self._known[program]


def has_criu_option(version: str) -> bool:
    """Whether the output of `--version` is that of runc before 1.2; crun never had `--criu`."""
    found = _RUNC.search(version)
    return found is not None and (int(found[1]), int(found[2])) < _REMOVED_IN
