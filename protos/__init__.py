"""The messages of containerd's protocols: our own `.proto` texts and what protoc makes of them.

No logic lives here.  `make protos` (generate.py) rewrites the `*_pb2.py` and `*_pb2.pyi` beside the
texts; they are never edited by hand, and a test fails when they are older than the texts.
"""
