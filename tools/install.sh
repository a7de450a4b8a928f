#!/usr/bin/env bash
# Installs the shim and shimctl, or removes them.  $1: install | uninstall
# Environment: PREFIX, DESTDIR; PY (the tree's own interpreter), PYTHON (the one to install for).
#
#   PREFIX/lib/containerd-shim-pyrunc/build-…/   a virtual environment per build
#   PREFIX/lib/containerd-shim-pyrunc/current    -> build-…, switched by one rename
#   PREFIX/bin/containerd-shim-pyrunc-v2         -> through `current`
#   PREFIX/bin/shimctl                           -> through `current`
#
# A daemon that starts a shim meanwhile finds the old build or the new one, always complete.
set -euo pipefail

name=containerd-shim-pyrunc
final=$PREFIX/lib/$name
lib=$DESTDIR$final
bin=$DESTDIR$PREFIX/bin
programs=(containerd-shim-pyrunc-v2 shimctl)

link() { # target, link: replaces in one step
	ln -s "$1" "$2.new.$$"
	mv -fT "$2.new.$$" "$2"
}

pip() {
	"$PY" -m pip -q --disable-pip-version-check "$@"
}

# The launcher and its conf file; without a compiler, a Python script.
shim() {
	local program=$build/bin/containerd-shim-pyrunc-v2 python=$final/$build/bin/python package
	package=$("$lib/$build/bin/python" -Ic 'import shimv2; print(*shimv2.__path__)')
	if [ -x "$package/_bin/launcher" ]; then
		cp "$package/_bin/launcher" "$lib/$program"
		"$lib/$build/bin/python" -I -m shimv2.zygote.conf "$python" "${package/#$DESTDIR/}/cold_start.py" \
			"$DESTDIR" >"$lib/$program.conf"
	else
		PY=$python tools/script.sh "$lib/$program" shimv2.cli
	fi
}

install() {
	build=build-$(date +%Y%m%d%H%M%S)-$$
	wheels=$(mktemp -d)
	trap 'rm -rf "$wheels" "$lib/$build"' EXIT
	echo "install: the wheel"
	rm -rf build # setuptools would pack what an earlier build left there
	pip wheel --no-deps -w "$wheels" .
	rm -rf build ./*.egg-info
	pip install --root-user-action=ignore 'pip>=24' # older ones do not run in CPython 3.12 and newer
	echo "install: $lib/$build"
	mkdir -p "$lib" "$bin"
	"$PYTHON" -m venv --without-pip "$lib/$build"
	pip --python "$lib/$build/bin/python" install --root-user-action=ignore "$(echo "$wheels"/*.whl)[shimctl]"
	rm -f "$lib/$build"/bin/[Aa]ctivate*
	shim
	PY=$final/$build/bin/python tools/script.sh "$lib/$build/bin/shimctl" shimv2.shimctl.cli
	link "$build" "$lib/current"
	for program in "${programs[@]}"; do
		link "../lib/$name/current/bin/$program" "$bin/$program"
	done
	trap 'rm -rf "$wheels"' EXIT
	find "$lib" -mindepth 1 -maxdepth 1 -name 'build-*' ! -name "$build" -exec rm -rf {} +
	echo "install: ${programs[*]/#/$bin/}"
}

uninstall() {
	local program
	for program in "${programs[@]}"; do
		case "$(readlink "$bin/$program" || true)" in
		*/$name/current/bin/"$program") rm -f "$bin/$program" ;;
		esac
	done
	rm -rf "$lib"
	echo "uninstall: done"
}

"$1"
