"""Both ends of a connection through any sequence of steps, over a wire cut anywhere."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
)

from ttrpc import wire
from ttrpc.codes import Code
from ttrpc.connection import ClientConnection, ServerConnection
from ttrpc.errors import StatusError, StreamClosed
from ttrpc.events import (
    DataReceived,
    ErrorReply,
    HalfClosed,
    RequestReceived,
    ResponseReceived,
    StrayFrame,
)

payloads = st.binary(max_size=12)


class _Model:
    """The expected state of one call."""

    def __init__(self, *, sends: bool, receives: bool) -> None:
        self.sends = sends
        self.receives = receives
        self.up: list[bytes] = []  # sent by the client
        self.down: list[bytes] = []  # sent by the server
        self.got_up: list[bytes] = []
        self.got_down: list[bytes] = []
        self.sending = sends
        self.up_closed = not sends
        self.answered = False  # by the server
        self.ended: object = None  # at the client: an event
        self.forgotten = False
        self.seen = False  # by the server


class Wire(RuleBasedStateMachine):
    """A client and a server; the test moves the bytes, in order and in pieces of any size."""

    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.client = ClientConnection()
        self.server = ServerConnection()
        self.up = b""
        self.down = b""
        self.models: dict[int, _Model] = {}

    @rule(target=calls, sends=st.booleans(), receives=st.booleans(), payload=payloads)
    def request(self, sends: bool, receives: bool, payload: bytes) -> int:
        stream_id, frame = self.client.request(
            "s", "m", payload, sends_data=sends, receives_data=receives
        )
        self.up += frame
        self.models[stream_id] = _Model(sends=sends, receives=receives)
        return stream_id

    @rule(stream_id=calls, payload=payloads)
    def client_sends(self, stream_id: int, payload: bytes) -> None:
        model = self.models[stream_id]
        try:
            self.up += self.client.send(stream_id, payload)
        except StreamClosed:
            assert not model.sending or model.ended or model.forgotten
            return
        assert model.sending
        model.up.append(payload)

    @rule(stream_id=calls)
    def client_closes(self, stream_id: int) -> None:
        model = self.models[stream_id]
        try:
            self.up += self.client.close_send(stream_id)
        except StreamClosed:
            assert not model.sending or model.ended or model.forgotten
            return
        model.sending = False

    @rule(stream_id=consumes(calls))
    def client_forgets(self, stream_id: int) -> None:
        self.client.forget(stream_id)
        self.models[stream_id].forgotten = True

    @rule(stream_id=calls, payload=payloads)
    def server_sends(self, stream_id: int, payload: bytes) -> None:
        model = self.models[stream_id]
        if not model.receives:
            return
        try:
            self.down += self.server.send(stream_id, payload)
        except StreamClosed:
            assert not model.seen or model.answered
            return
        model.down.append(payload)

    @rule(stream_id=calls, payload=payloads, well=st.booleans())
    def server_answers(self, stream_id: int, payload: bytes, well: bool) -> None:
        model = self.models[stream_id]
        if not model.seen or model.answered:
            return
        if not well:
            self.down += self.server.fail(stream_id, StatusError(Code.ABORTED, "no"))
        elif model.receives:
            self.down += self.server.finish(stream_id, payload or None)
            model.down += [payload] if payload else []
        else:
            self.down += self.server.respond(stream_id, payload)
        model.answered = True

    @rule(length=st.integers(1, 200))
    def bytes_reach_the_server(self, length: int) -> None:
        self.server.feed(self.up[:length])
        self.up = self.up[length:]
        while (event := self.server.next_event()) is not None:
            model = self.models[event.stream_id]
            if isinstance(event, RequestReceived):
                model.seen = True
                if model.sends or model.receives:
                    self.server.open_stream(event.stream_id, half_closed=not model.sends)
            elif isinstance(event, DataReceived):
                model.got_up.append(event.payload)
            elif isinstance(event, HalfClosed):
                model.up_closed = True
            else:
                assert model.answered, "only data that crossed the answer is refused"
                self.down += self.server.refuse(event)

    @rule(length=st.integers(1, 200))
    def bytes_reach_the_client(self, length: int) -> None:
        self.client.feed(self.down[:length])
        self.down = self.down[length:]
        while (event := self.client.next_event()) is not None:
            model = self.models[event.stream_id]
            if isinstance(event, StrayFrame):
                assert model.ended or model.forgotten
            elif isinstance(event, DataReceived):
                model.got_down.append(event.payload)
            else:
                assert model.ended is None
                model.ended = event

    @rule()
    def stranger_frames_change_nothing(self) -> None:
        if not self.up:  # between two frames only
            before = self.server.calls
            if not self.server.mid_frame:
                self.server.feed(wire.encode_frame(2, wire.REQUEST, 0, b""))
                assert isinstance(self.server.next_event(), ErrorReply)
                assert self.server.calls == before

    @invariant()
    def messages_arrive_in_order_and_once(self) -> None:
        for model in self.models.values():
            assert model.got_up == model.up[: len(model.got_up)]
            if not model.ended or isinstance(model.ended, HalfClosed):
                assert model.got_down == model.down[: len(model.got_down)]
            if isinstance(model.ended, HalfClosed):
                assert model.got_down == model.down

    @invariant()
    def server_counts_its_calls(self) -> None:
        open_calls = [one for one in self.models.values() if one.seen and not one.answered]
        assert self.server.calls == len(open_calls)

    def teardown(self) -> None:
        """Deliver all bytes: each answered call has ended at the client with that answer."""
        self.bytes_reach_the_server(len(self.up) + 1)
        self.bytes_reach_the_client(len(self.down) + 1)
        for model in self.models.values():
            if model.answered and not model.forgotten:
                assert isinstance(model.ended, HalfClosed | ResponseReceived)
                assert model.got_down == model.down
            if not model.answered:
                assert model.got_up == model.up
                assert model.up_closed is not model.sending


Wire.TestCase.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
TestWire = Wire.TestCase
