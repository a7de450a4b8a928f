#!/usr/bin/env bash
# Builds programs of a Go module into a folder of the cache, where tests/daemons looks for them.
#
#   tools/go-tool.sh MODULE@VERSION FOLDER PACKAGE...
#
# PACKAGE: a path in the module, as in `cmd/nerdctl`; the program has its last part for a name.  A package
# without a main function is built as a program of its tests.  FOLDER appears complete or not at all; when
# it is there, nothing is done.  Needs go (exit status 3 and a text when there is none) and its proxy.
set -euo pipefail

[ $# -ge 3 ] || { sed -n '2,8p' "$0" >&2 && exit 2; }
module=$1 folder=$(realpath -m "$2")
shift 2
[ ! -e "$folder" ] || exit 0
command -v go >/dev/null || { echo "go-tool: there is no go here to build $module with" >&2 && exit 3; }

mkdir -p "$(dirname "$folder")"
exec 9>"$folder.lock"
flock 9
[ ! -e "$folder" ] || exit 0
echo "go-tool: $module: $*" >&2
work=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$work"' EXIT
# From the module's own folder: its go.sum and replacements count, as for its makers.
cd "$(GOFLAGS=-mod=mod go mod download -json "$module" | sed -n 's/^\t"Dir": "\(.*\)",\?$/\1/p')"
export CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false"
for package in "$@"; do
	build=(go test -c)
	case $(go list -f '{{.Name}} {{len .GoFiles}}' "./$package") in
	"main 0") ;; # its main function is that of its tests
	"main "*) build=(go build) ;;
	esac
	"${build[@]}" -o "$work/bin/${package##*/}" "./$package"
done
chmod 0755 "$work/bin"
mv -T "$work/bin" "$folder"
