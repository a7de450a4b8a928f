#!/usr/bin/env bash
# Builds the programs of a Rust crate into a folder of the cache.
#
#   tools/cargo-tool.sh CRATE@VERSION FOLDER
#
# FOLDER appears complete or not at all; when it is there, nothing is done.  Needs cargo and a C compiler
# (exit status 3 and a text when one is missing) and crates.io.  Build scripts get Debian's protoc, which is
# unpacked into the cache if there is none on PATH.
set -euo pipefail

[ $# = 2 ] || { sed -n '2,8p' "$0" >&2 && exit 2; }
crate=$1 folder=$(realpath -m "$2") tools=$(realpath "$(dirname "$0")")
[ ! -e "$folder" ] || exit 0
for tool in cargo cc; do
	command -v "$tool" >/dev/null || { echo "cargo-tool: there is no $tool here to build $crate with" >&2 && exit 3; }
done

mkdir -p "$(dirname "$folder")"
exec 9>"$folder.lock"
flock 9
[ ! -e "$folder" ] || exit 0
echo "cargo-tool: $crate" >&2
work=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$work"' EXIT
if ! PROTOC=$(command -v protoc); then
	PROTOC=${folder%/*}/protoc-bookworm/protoc
	"$tools/patched.sh" bookworm "${PROTOC%/*}" protobuf-compiler usr/bin/protoc
fi
export PROTOC
# Locked: with the versions of its dependencies that its makers have built it with.
cargo install --quiet --locked --root "$work/root" --target-dir "$work/target" "$crate"
mv -T "$work/root/bin" "$folder"
