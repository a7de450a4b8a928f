#!/usr/bin/env bash
# Makes programs of another Debian release run here, with the loader and the libraries of that release.
#
#   tools/patched.sh SUITE FOLDER PACKAGE PROGRAM...
#
# Unpacks PACKAGE and its dependencies into FOLDER-root (tools/debs.sh), and puts a copy of each PROGRAM
# (a path in there, such as usr/sbin/runc) into FOLDER.  The copies have the paths of loader and libraries in
# their ELF headers.  A script that calls the loader is not enough, because runc executes /proc/self/exe again.
# FOLDER is made in one step, complete.  If it exists, nothing is done.
set -euo pipefail

[ $# -ge 4 ] || { sed -n '2,9p' "$0" >&2 && exit 2; }
suite=$1 folder=$2 package=$3
shift 3
[ ! -e "$folder" ] || exit 0
tools=$(dirname "$0") root=$folder-root patchelf=${folder%/*}/patchelf-bookworm
"$tools/debs.sh" bookworm "$patchelf" patchelf
"$tools/debs.sh" --closure "$suite" "$root" "$package"

exec 9>"$folder.lock"
flock 9
[ ! -e "$folder" ] || exit 0
work=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$work"' EXIT
loader=("$root"/usr/lib/*/ld-linux-*.so.*)
for program in "$@"; do
	copy=$work/${program##*/}
	cp "$root/$program" "$copy"
	# One that is linked statically names no loader, and needs none.
	if "$patchelf/usr/bin/patchelf" --print-interpreter "$copy" >/dev/null 2>&1; then
		"$patchelf/usr/bin/patchelf" --set-interpreter "${loader[0]}" \
			--force-rpath --set-rpath "${loader[0]%/*}" "$copy"
	fi
	"$copy" --version >/dev/null || { echo "patched: $program does not run" >&2 && exit 1; }
done
chmod 0755 "$work"
mv -T "$work" "$folder"
