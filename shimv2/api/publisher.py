"""Sends events to containerd: in order, each until it has been acknowledged."""

import asyncio
import logging
from collections import deque
from typing import Final

from google.protobuf.empty_pb2 import Empty

from protos.ttrpc_events_pb2 import ForwardRequest
from protos.types_pb2 import Envelope
from shimv2.api.events import OOM_TOPIC, envelope
from shimv2.values.errors import ResourceExhausted
from shimv2.values.model import Event, Oom
from ttrpc import Client, Code, ConnectionClosed, StatusError

log = logging.getLogger(__name__)

SERVICE: Final = "containerd.services.events.ttrpc.v1.Events"
FORWARD_LIMIT_S: Final = 5.0  # containerd's own time limit for one Forward
DIAL_LIMIT_S: Final = 5.0
BACKOFF_FIRST_S: Final = 0.1
BACKOFF_LAST_S: Final = 5.0
MAX_PENDING: Final = 65_536
"""Events kept while containerd is away.  Beyond it no process is added; no event is dropped."""

_TRY_AGAIN: Final = (Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE)


class Publisher:
    """An ordered outbox with one sender.

    Each answer acknowledges an event, OK or error, except the codes in `_TRY_AGAIN`.  After such a
    code, and after a lost connection, the same event is sent again on a new connection, before any
    later event.  So an event may arrive twice (if only the answer was lost), never out of order.
    The sender waits for each answer, because containerd handles the requests of a connection
    concurrently.
    """

    def __init__(self, address: str, namespace: str) -> None:
        self._path = address.removeprefix("unix://")
        self._namespace = namespace
        self._pending: deque[Envelope] = deque()
        self._waiting_ooms: set[bytes] = set()  # containers whose OOM event is queued, unsent
        self._more = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._client: Client | None = None

    def emit(self, event: Event) -> None:
        """Append `event`; never blocks, never fails.  Without an address the event is dropped.

        If an OOM event of a container is pending, another one is dropped.  Reason: repeated OOM
        kills must not fill the outbox while containerd is away.
        """
        if not self._path:
            return
        message = envelope(event, self._namespace)
        if isinstance(event, Oom):
            if message.event.value in self._waiting_ooms:
                return
            self._waiting_ooms.add(message.event.value)
        self._pending.append(message)
        self._more.set()
        self._empty.clear()

    @property
    def pending(self) -> int:
        return len(self._pending)

    def check_room(self) -> None:
        """Check that the outbox is below its bound, before a call that makes more events.

        Raises:
            ResourceExhausted: MAX_PENDING events are not acknowledged.
        """
        if len(self._pending) >= MAX_PENDING:
            raise ResourceExhausted(f"{MAX_PENDING} events are not acknowledged by {self._path}")

    async def run(self) -> None:
        """Send what is emitted until cancelled."""
        try:
            while True:
                while self._pending:
                    if self._pending[0].topic == OOM_TOPIC:
                        self._waiting_ooms.discard(self._pending[0].event.value)
                    await self._deliver(self._pending[0])
                    self._pending.popleft()
                self._empty.set()
                self._more.clear()
                await self._more.wait()
        finally:
            await self._hang_up()

    async def drain(self, limit_s: float) -> None:
        """Wait until all events are acknowledged, at most `limit_s`; log those that are not."""
        try:
            async with asyncio.timeout(limit_s):
                await self._empty.wait()
        except TimeoutError:
            for left in self._pending:
                log.error("event %s was not acknowledged by %s", left.topic, self._path)

    async def _deliver(self, message: Envelope) -> None:
        pause_s, logged = BACKOFF_FIRST_S, False
        while True:
            try:
                await self._forward(message)
            except (OSError, TimeoutError, ConnectionClosed, StatusError) as error:
                if isinstance(error, StatusError) and error.code not in _TRY_AGAIN:
                    log.error("event %s was refused: %s", message.topic, error)
                    return
                if not logged:
                    log.warning("event %s waits: %s: %s", message.topic, self._path, error)
                    logged = True
                await self._hang_up()
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, BACKOFF_LAST_S)
            else:
                return

    async def _forward(self, message: Envelope) -> None:
        if self._client is None or self._client.closed:
            # After a restart of the daemon, the first attempt to send an event connects again,
            # without a pause.
            self._client = await Client.connect(self._path, timeout_s=DIAL_LIMIT_S)
        await self._client.call(
            SERVICE,
            "Forward",
            ForwardRequest(envelope=message),
            Empty,
            timeout_s=FORWARD_LIMIT_S,
            metadata=(("containerd-namespace-ttrpc", self._namespace),),
        )

    async def _hang_up(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()
