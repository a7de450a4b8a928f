#!/usr/bin/env bash
# Writes one console script.  $1: the file, $2: the module with main(); PY: its interpreter.
# -I: the shim must not depend on the daemon's PYTHON* variables, nor on what lies beside the script.
set -euo pipefail
cat >"$1.new" <<END
#!$PY -I
import sys

from $2 import main

sys.exit(main())
END
chmod 0755 "$1.new"
mv -f "$1.new" "$1"
