#!/usr/bin/env bash
# Writes one console script.  $1: the file, $2: the module with main(); PY: its interpreter.
# -I: the shim must not depend on the daemon's PYTHON* variables, nor on files beside the script.
set -euo pipefail
# The kernel ends the interpreter's path at a blank, and reads at most 127 bytes of the first line (255 from
# Linux 5.1).  If the path does not fit, the script starts with sh, and its second line executes Python.  For
# Python these two lines are a string.
first="#!$PY -I"
case $PY in *[[:space:]]*) sh=yes ;; *) [ ${#first} -le 127 ] && sh= || sh=yes ;; esac
[ -z "$sh" ] || first="#!/bin/sh
'''exec' '${PY//\'/\'\\\'\'}' -I \"\$0\" \"\$@\"
' '''"
cat >"$1.new" <<END
$first
import sys

from $2 import main

sys.exit(main())
END
chmod 0755 "$1.new"
mv -f "$1.new" "$1"
