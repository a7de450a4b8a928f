#!/usr/bin/env bash
# Installs the Debian packages that are missing.
# $1: `venv` (the packages for a virtual environment) or `all` (also those for running and testing).
# PYTHON: the interpreter that the Makefile has chosen; empty if there is none.
set -euo pipefail

missing=()
if [ -z "${PYTHON:-}" ]; then
	missing+=(python3 python3-venv)
elif ! "$PYTHON" -c 'import ensurepip' 2>/dev/null; then
	missing+=(python3-venv) # Debian ships the standard library without it
fi
if [ "$1" = all ]; then
	PATH=$PATH:/usr/sbin:/sbin # runc is in /usr/sbin, which an ordinary user's PATH lacks
	for tool in runc crun containerd; do
		command -v "$tool" >/dev/null || missing+=("$tool")
	done
	# For the spawn library; without it the shim forks, which is slower.
	command -v cc >/dev/null || missing+=(gcc libc6-dev)
	# The plain busybox package needs a loader and a libc, which an empty root does not have.
	dpkg -s busybox-static >/dev/null 2>&1 || missing+=(busybox-static)
	# For the tests: a small FUSE filesystem and what mounts it.
	command -v bindfs >/dev/null || missing+=(bindfs)
	command -v mount.fuse3 >/dev/null || missing+=(fuse3)
fi
[ ${#missing[@]} -gt 0 ] || exit 0

echo "setup: missing: ${missing[*]}"
if ! command -v apt-get >/dev/null; then
	echo "setup: there is no apt-get here: install these, by the names your system has for them" >&2
	exit 1
fi
if [ "$(id -u)" != 0 ]; then
	echo "setup: not root: run 'sudo apt-get install ${missing[*]}', then this again" >&2
	exit 1
fi
install() {
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "setup: apt-get install"
if ! install >"$log" 2>&1; then
	echo "setup: apt-get update, and again"
	apt-get update -qq >>"$log" 2>&1 || true
	install >>"$log" 2>&1 || {
		cat "$log" >&2
		exit 1
	}
fi
echo "setup: done"
