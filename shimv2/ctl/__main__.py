"""`python -m shimv2.ctl`, for a tree that is not installed."""

import sys

from shimv2.ctl.cli import main

sys.exit(main())
