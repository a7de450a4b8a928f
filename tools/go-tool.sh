#!/usr/bin/env bash
# Builds programs of a Go module into a folder of the cache, where tests/daemons looks for them.
#
#   tools/go-tool.sh MODULE@VERSION FOLDER PACKAGE...
#
# PACKAGE: a path in the module, such as `cmd/nerdctl`; its last part becomes the program's name.  If a package
# has no main function, its tests are built as a program.  FOLDER is made in one step, complete.  If it exists,
# nothing is done.  Needs the Go proxy and go; if there is no go, the exit status is 3, with a text.
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
# Built in the module's own folder, so that its go.sum and its replacements apply.
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
