#!/usr/bin/env bash
# Builds the programs of a Rust crate into a folder of the cache.
#
#   tools/cargo-tool.sh CRATE@VERSION FOLDER
#
# FOLDER is made in one step, complete.  If it exists, nothing is done.  Needs crates.io, cargo and a C compiler;
# if a program is missing, the exit status is 3, with a text.  If there is no protoc on PATH, Debian's protoc is
# unpacked into the cache for build scripts.
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
# --locked: with the dependencies in the crate's own Cargo.lock.
cargo install --quiet --locked --root "$work/root" --target-dir "$work/target" "$crate"
mv -T "$work/root/bin" "$folder"
