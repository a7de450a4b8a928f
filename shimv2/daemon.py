"""The shim's server: builds its parts, runs them, and stops them in order."""

import asyncio
import logging
import os
import signal
from typing import Any, Final

from shimv2 import log
from shimv2.aio import loop
from shimv2.aio.background import Background, Verbs
from shimv2.api.publisher import Publisher
from shimv2.api.status import to_status
from shimv2.api.task_service import TaskService
from shimv2.daemon_config import DaemonConfig
from shimv2.kernel import linux
from shimv2.kernel.reaper import Reaper
from shimv2.runtime.criu import CriuOption
from shimv2.task.container import Host
from shimv2.task.containers import Containers
from ttrpc import Registry, Server

LAST_EVENTS_LIMIT_S: Final = 5.0  # how long a stopping shim waits until its events are acknowledged
LAST_REPLIES_LIMIT_S: Final = 1.0

_log = logging.getLogger(__name__)


def serve(config: DaemonConfig) -> int:
    """Serve until Shutdown, SIGTERM or SIGINT; return the exit status.

    Raises:
        NoLog: the bundle has no FIFO `log`.
    """
    linux.set_child_subreaper()
    log.setup(config.identity.name, debug=config.identity.debug)
    # A handler that does nothing, not SIG_IGN: runc and the containers would inherit SIG_IGN.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, _drop)
    return loop.run(_Daemon(config).main())


def _drop(*_: object) -> None:
    pass


class _Daemon:
    def __init__(self, config: DaemonConfig) -> None:
        self._config = config
        self._stop = asyncio.Event()
        self._unlisted = False

    async def main(self) -> int:
        config, running = self._config, asyncio.get_running_loop()
        running.set_exception_handler(_report)
        background = Background()
        reaper = Reaper(running)
        publisher = Publisher(config.identity.ttrpc_address, config.identity.namespace)
        self._containers = Containers(
            Host(
                namespace=config.identity.namespace,
                reaper=reaper,
                events=publisher,
                background=background,
                settings=config.settings,
                criu_option=CriuOption(reaper),
            )
        )
        registry = Registry()
        TaskService(
            self._containers,
            verbs=Verbs(background),
            publisher=publisher,
            shutdown=self._shut_down,
        ).register(registry)
        self._server = Server(registry, to_status=to_status)
        reaper.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            running.add_signal_handler(number, self._terminate, number)
        running.add_signal_handler(signal.SIGUSR1, log.dump_stacks)
        background.start(publisher.run(), "publisher")
        self._server.listen(config.listener)
        if config.settings.self_exit_s:
            background.start(self._exit_when_idle(publisher), "self-exit")
        if config.idle_hook is not None and isinstance(running, loop.ShimLoop):
            running.before_sleep = config.idle_hook(running).before_sleep
        if os.geteuid() == 0:
            linux.set_dumpable(False)  # last: afterwards root owns the files of /proc/self
        await self._stop.wait()

        self._unlist()
        await publisher.drain(LAST_EVENTS_LIMIT_S)
        await self._server.shutdown(LAST_REPLIES_LIMIT_S)
        await background.stop()
        if config.exit is not None:
            config.exit(0)  # to close the loop first would take some 0.5 ms more
        reaper.stop()
        return 0

    async def _shut_down(self) -> None:
        # Before the reply: a following `start` must not find the socket of a stopping shim.
        self._unlist()
        self._begin_to_stop()

    def _terminate(self, number: int) -> None:
        """Stop the shim.  Its containers keep running."""
        _log.info("stopping: %s", signal.Signals(number).name)
        self._begin_to_stop()

    def _begin_to_stop(self) -> None:
        """Refuse new containers, and let `main` finish."""
        self._containers.close()
        self._stop.set()

    async def _exit_when_idle(self, publisher: Publisher) -> None:
        """Stop once two checks in a row, `self_exit_s` seconds apart, find the shim unused."""
        idle_checks = 0
        while idle_checks < 2:
            await asyncio.sleep(self._config.settings.self_exit_s)
            busy = self._containers or self._server.connections or publisher.pending
            idle_checks = 0 if busy else idle_checks + 1
        _log.info("stopping: no container and no connection")
        self._begin_to_stop()

    def _unlist(self) -> None:
        """Stop listening and remove the socket's name.  Idempotent."""
        if self._unlisted:
            return
        self._unlisted = True
        self._server.stop_listening()
        self._config.unlink_socket()


def _report(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    _log.error("%s", context.get("message"), exc_info=context.get("exception"))
