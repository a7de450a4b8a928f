#!/usr/bin/env bash
# Prints the path of a CPython; downloads it if this machine has none of that version.
#
#   tools/python.sh VERSION      3.13, 3.14t (free-threaded), or the path of an interpreter
#
# It tries /usr/bin, then the package of the Debian release that has this version, then PATH and pyenv.  The
# package is unpacked with its own libc into a folder of the cache; nothing is installed.
# Exit status 3: there is none; standard error has the reason.  Debian's interpreters have no pip, so that
# virtual environments are made `--without-pip`.
set -euo pipefail

[ $# = 1 ] || { sed -n '2,9p' "$0" >&2 && exit 2; }
version=$1
tools=$(dirname "$0")
cache=/var/cache/containerd-shim-pyrunc
{ mkdir -p "$cache" && [ -w "$cache" ]; } 2>/dev/null || cache=$(cd "$tools/.." && pwd)/.cache

# A file of that name may not run: pyenv keeps a script on PATH for each version, also for removed ones.
runs() {
	[ -x "$1" ] && [ "$("$1" -Ic 'import ctypes, select, ssl, sys, sysconfig, venv
free_threaded = sysconfig.get_config_var("Py_GIL_DISABLED")
print("%d.%d" % sys.version_info[:2] + ("t" if free_threaded else ""))' 2>/dev/null)" = "$version" ]
}

suite() { # of Debian: the oldest release that has it
	case $version in
	3.11) echo bookworm ;;
	3.13) echo trixie ;;
	3.14 | 3.15) echo sid ;;
	esac
}

# The interpreter gets the paths of its loader and libraries as in tools/patched.sh, and its extension modules
# use the same libraries.  It stays in its tree, because it looks for its standard library there.
unpacked() { # prints its path
	local root=$cache/python$version-$1 patchelf=$cache/patchelf-bookworm
	local python=$root/usr/bin/python$version loader
	if ! runs "$python"; then
		"$tools/debs.sh" bookworm "$patchelf" patchelf &&
			"$tools/debs.sh" --closure "$1" "$root" "python$version" || return
		loader=("$root"/usr/lib/*/ld-linux-*.so.*)
		cp "$python" "$python.new.$$"
		"$patchelf/usr/bin/patchelf" --set-interpreter "${loader[0]}" \
			--force-rpath --set-rpath "${loader[0]%/*}" "$python.new.$$"
		mv -f "$python.new.$$" "$python"
		runs "$python" || { echo "python: $python does not run" >&2 && return 1; }
	fi
	echo "$python"
}

if [[ $version == */* ]]; then
	[ -x "$version" ] || { echo "python: there is no $version" >&2 && exit 3; }
	echo "$version"
	exit
fi
if runs "/usr/bin/python$version"; then
	echo "/usr/bin/python$version"
	exit
fi
suite=$(suite)
if [ "$suite" ] && unpacked "$suite"; then
	exit
fi
mapfile -t found < <(type -ap "python$version"; compgen -G "${PYENV_ROOT:-$HOME/.pyenv}/versions/*/bin/python$version")
for python in "${found[@]}"; do
	if runs "$python"; then
		echo "$python"
		exit
	fi
done
where=${suite:+"in Debian $suite"}
echo "python: there is no CPython $version ${where:-among the packages of Debian}, on PATH or in a pyenv" >&2
exit 3
