"""Programs that replace runc or a logging binary, each a few lines of shell."""

import os
from typing import Final

from google.protobuf import any_pb2

from protos import runc_pb2
from shimv2.shimctl.reply import OPTIONS_URL, pack

# Removes the global arguments from runc's command line; $VERB is the verb, $LOG the log.
_RUNTIME: Final = """#!/bin/sh
ALL="$*"
while [ $# -gt 0 ]; do
	case "$1" in
	--log) LOG="$2"; shift 2 ;;
	--root | --log-format) shift 2 ;;
	--*) shift ;;
	*) break ;;
	esac
done
VERB="$1"
{body}
exec runc $ALL
"""


def runtime(folder: str, name: str, body: str) -> any_pb2.Any:
    """Write a runtime that runs `body` and then executes runc; return the options that name it."""
    path = program(folder, name, _RUNTIME.format(body=body))
    return pack(OPTIONS_URL, runc_pb2.Options(binary_name=path).SerializeToString())


def program(folder: str, name: str, text: str) -> str:
    path = os.path.join(folder, name)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, 0o755)
    return path
