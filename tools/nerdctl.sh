#!/usr/bin/env bash
# Builds the nerdctl for tests/daemons/nerdctl.py, once.  Exit status 3: there is no go.
set -euo pipefail

exec "$(dirname "$0")/go-tool.sh" github.com/containerd/nerdctl@v1.7.7 \
	/var/cache/containerd-shim-pyrunc/nerdctl-1.7.7 cmd/nerdctl
