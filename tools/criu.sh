#!/usr/bin/env bash
# Provides a criu that works on this machine: the one on PATH, or else that of Debian sid with its own
# libraries, run by a script in the cache.  tests/support/criu.py looks in the same places.
set -euo pipefail

cache=/var/cache/containerd-shim-pyrunc
packages=$cache/criu-sid
works() { "$1" check >/dev/null 2>&1; }

if found=$(command -v criu) && works "$found"; then
	echo "criu: $found"
	exit 0
fi
found=$cache/criu/criu
if ! works "$found"; then
	"$(dirname "$0")/debs.sh" --closure sid "$packages" criu
	loader=("$packages"/usr/lib/*/ld-linux-*.so.*)
	mkdir -p "${found%/*}"
	# To lock a network namespace it runs iptables, which a machine need not have.
	echo "network-lock skip" >"$cache/criu/criu.conf"
	cat >"$found.new" <<-SCRIPT
		#!/bin/sh
		CRIU_CONFIG_FILE=$cache/criu/criu.conf
		export CRIU_CONFIG_FILE
		exec ${loader[0]} --library-path ${loader[0]%/*} $packages/usr/sbin/criu "\$@"
	SCRIPT
	chmod 0755 "$found.new"
	mv "$found.new" "$found"
fi
"$found" check >&2 || {
	echo "criu: $found does not work on this kernel" >&2
	exit 1
}
echo "criu: $found"
