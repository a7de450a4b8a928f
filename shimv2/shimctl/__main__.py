"""`python -m shimv2.shimctl`, for a tree that is not installed."""

import sys

from shimv2.shimctl.cli import main

sys.exit(main())
