"""The launcher's cold start: `python -I cold_start.py NEW_ZYGOTE ARGV0 ARGS...`."""

import sys

from shimv2.cli import launched

launched(sys.argv[1], sys.argv[2:])
