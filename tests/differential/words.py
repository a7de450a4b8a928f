"""Replaces pids, times and paths, which differ from run to run, by constant names.

A pid becomes the name of its process, and a time the name of the process that exited then.  So it
is visible whether two answers agree.
"""

import re
import signal
from collections.abc import Mapping, Sequence
from typing import Final

from google.protobuf.any_pb2 import Any
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from protos import cgroups_v1_pb2, cgroups_v2_pb2, runc_pb2

_GO_ZERO_S: Final = -62135596800  # January 1 of the year 1: "has not ended"
_PIDS: Final = {"pid", "task_pid", "shim_pid"}
_PACKED: Final[Mapping[str, type[Message]]] = {
    "containerd.runc.v1.ProcessDetails": runc_pb2.ProcessDetails,
    "io.containerd.cgroups.v1.Metrics": cgroups_v1_pb2.Metrics,
    "io.containerd.cgroups.v2.Metrics": cgroups_v2_pb2.Metrics,
}
_VARYING: Final = (
    (re.compile(r"\b[0-9a-f]{64}\b"), "<hash>"),
    (re.compile(r'time="[^"]*"'), "time=<time>"),
    (re.compile(r'(\\*)"time\1":\1"[^"\\]*\1"'), "<time>"),
    (re.compile(r"\bpid=\d+"), "pid=<pid>"),
    (re.compile("\xa0"), " "),  # Go's protobuf uses one or the other blank at random
)
_IGNORED: Final = re.compile(r"(SigIgn:(?:\\t|\s))([0-9a-f]{16})")


def _inherited() -> int:
    """Return the signals that this run ignores, as make or a shell has set them.

    The Go shims pass them on to children, ours does not; the set does not depend on the shim.  The
    two that Python ignores are reset for children.
    """
    with open("/proc/self/status", encoding="utf-8") as file:
        found = _IGNORED.search(file.read())
    assert found is not None
    own = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1
    return int(found[2], 16) & ~own


class Words:
    """The names of one replay.  `places` maps texts, such as paths, to names."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self._inherited = _inherited()
        self._places = sorted(places.items(), key=lambda pair: -len(pair[0]))
        self._pids: dict[int, str] = {}
        self._times: dict[tuple[int, int], str] = {}
        self._ended: set[str] = set()

    def text(self, text: str) -> str:
        for place, name in self._places:
            text = text.replace(place, name)
        for pattern, name in _VARYING:
            text = pattern.sub(name, text)
        return _IGNORED.sub(self._ignored, text)

    def _ignored(self, found: re.Match[str]) -> str:
        return f"{found[1]}{int(found[2], 16) & ~self._inherited:016x}"

    def name(self, pid: int, who: str) -> None:
        """Give a pid the name of its process."""
        self._pids[pid] = who

    def forget(self, who: str) -> None:
        """Allow the name to be given to another process, with another pid and exit."""
        self._pids = {pid: f"former {who}" if n == who else n for pid, n in self._pids.items()}
        self._times = {at: f"former {who}" if n == who else n for at, n in self._times.items()}
        self._ended.discard(who)

    def pid(self, pid: int, who: str) -> str:
        if pid in {0, 2**32 - 1}:
            return str(pid)
        if pid not in self._pids and who not in self._pids.values():
            self._pids[pid] = who
        return f"<{self._pids.get(pid, 'another')}>"

    def time(self, stamp: Timestamp, who: str) -> str:
        if stamp.seconds == _GO_ZERO_S:
            return "zero"
        at = (stamp.seconds, stamp.nanos)
        if at not in self._times and who not in self._ended:
            self._times[at] = who
            self._ended.add(who)
        return f"<end of {self._times[at]}>" if at in self._times else "another"

    def message(self, message: Message, who: str) -> str:
        """Return the fields that are set, in the order of their numbers."""
        return " ".join(
            f"{field.name}={self._value(field, value, who)}"
            for field, value in message.ListFields()
        )

    def _value(self, field: FieldDescriptor, value: object, who: str) -> str:
        if isinstance(value, str | bytes | int | bool | float):
            return self._scalar(field, value, who)
        if isinstance(value, Message):
            return self._nested(value, who)
        # A repeated field: pids come in no particular order.
        assert isinstance(value, Sequence)
        return f"({', '.join(sorted(self._value(field, one, who) for one in value))})"

    def _scalar(self, field: FieldDescriptor, value: object, who: str) -> str:
        if field.name in _PIDS and isinstance(value, int):
            return self.pid(value, "shim" if field.name == "shim_pid" else who)
        if field.enum_type is not None and isinstance(value, int):
            return str(field.enum_type.values_by_number[value].name)
        return self.text(value.decode(errors="replace") if isinstance(value, bytes) else str(value))

    def _nested(self, value: Message, who: str) -> str:
        if isinstance(value, Timestamp):
            return self.time(value, who)
        if not isinstance(value, Any):
            return f"{{{self.message(value, who)}}}"
        kind = _PACKED.get(value.type_url)
        if kind is None:
            return f"{value.type_url} {value.value!r}"
        packed = kind.FromString(value.value)
        if kind is runc_pb2.ProcessDetails:
            return f"{value.type_url} {self.message(packed, who)}"
        # Numbers change all the time; the set of groups does not.
        return f"{value.type_url} {' '.join(field.name for field, _ in packed.ListFields())}"
