"""The launcher's cold start: `python -I cold_start.py NEW_ZYGOTE ARGV0 ARGS...`."""

import sys

from shimv2.cli import launched
from shimv2.lean_imports import hide_unused

hide_unused()
launched(sys.argv[1], sys.argv[2:])
