"""google.protobuf.Any in the form of containerd."""

import pytest

from protos import runc_pb2
from shimv2.gocompat.anyurl import pack, type_name


def test_packed_url_is_the_bare_full_name() -> None:
    """Go's UnmarshalTo compares the whole URL; a prefix or a slash breaks clients."""
    packed = pack(runc_pb2.ProcessDetails(exec_id="e1"))

    assert packed.type_url == "containerd.runc.v1.ProcessDetails"
    assert packed.value == b"\n\x02e1"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("containerd.runc.v1.Options", "containerd.runc.v1.Options"),
        ("type.googleapis.com/containerd.runc.v1.Options", "containerd.runc.v1.Options"),
        ("a/b/c.D", "c.D"),
        ("", ""),
    ],
)
def test_type_name_is_read_with_and_without_prefix(url: str, name: str) -> None:
    """Readers accept both `X` and `<prefix>/X`."""
    assert type_name(url) == name
