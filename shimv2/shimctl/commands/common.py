"""Shared by the commands for an existing container."""

import argparse
import os

from shimv2.shimctl.foreground import sink_name
from shimv2.shimctl.harness import Setup


def setup_of(options: argparse.Namespace) -> Setup:
    """Return the harness's setup for the container named on the command line."""
    return Setup(
        shim="",  # it is stored in the bundle
        state=os.path.abspath(options.state),
        namespace=options.namespace,
        sink=sink_name(options.namespace, options.id),
    )
