#!/usr/bin/env bash
# Unpacks Debian packages of any release into a folder; nothing is installed, no maintainer script runs.
#
#   tools/debs.sh [--closure] SUITE FOLDER PACKAGE...
#
# --closure: also all packages that these depend on.  FOLDER is made in one step, complete.  If it exists,
# nothing is done: for another list of packages the caller has to name another folder.
# FOLDER.debs lists the package files with their sha256.  Needs apt, but no root; the lists and the
# configuration of apt are not changed.  The mirrors are those that this machine's apt is configured with;
# DEBS_MIRROR and DEBS_SECURITY name others.
set -euo pipefail

closure=
[ "${1:-}" != --closure ] || { closure=yes && shift; }
[ $# -ge 3 ] || { sed -n '2,10p' "$0" >&2 && exit 2; }
suite=$1 folder=$2
shift 2
[ ! -e "$folder" ] || exit 0
for tool in apt-get dpkg-deb tar; do
	command -v "$tool" >/dev/null || { echo "debs: there is no $tool here" >&2 && exit 1; }
done
# First with the origin, because other distributions use Debian's release names.  Then without it: before the
# first `apt-get update` the origin is not known.
configured() { # an expression over the names of releases; prints the first mirror
	local option
	for option in --release-info --no-release-info; do
		apt-get indextargets "$option" --format '$(ORIGIN)|$(COMPONENT)|$(RELEASE)|$(REPO_URI)' 'Created-By: Packages'
	done | awk -F '|' -v releases="^($1)\$" '
		!found && ($1 == "Debian" || $1 ~ /ORIGIN/) && $2 == "main" && $3 ~ releases { print $4; found = 1 }'
}
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-sid}")
mirror=${DEBS_MIRROR:-$(configured "$codename|oldstable|stable|testing|unstable|sid")}
security=${DEBS_SECURITY:-$(configured "($codename|oldstable|stable|testing)-security")}
[ "$mirror" ] || { echo "debs: apt takes no packages of Debian: name a mirror in DEBS_MIRROR" >&2 && exit 1; }
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

mkdir -p "$(dirname "$folder")"
exec 9>"$folder.lock"
flock 9
[ ! -e "$folder" ] || exit 0
echo "debs: $suite: $*" >&2
work=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{lists/partial,cache/archives/partial,debs,root}
{
	echo "deb [signed-by=$keyring] $mirror $suite main"
	[ "$suite" = sid ] || [ -z "$security" ] || echo "deb [signed-by=$keyring] $security $suite-security main"
} >"$work/sources.list"

# The empty status file: so the closure also has the packages that this machine has installed.
apt() {
	apt-get -qq -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null \
		-o Dir::Etc::preferencesparts=/dev/null -o Dir::State::lists="$work/lists" \
		-o Dir::State::status=/dev/null -o Dir::Cache="$work/cache" -o APT::Architecture=amd64 \
		-o APT::Install-Recommends=false -o APT::Sandbox::User="$(id -un)" \
		-o Acquire::Languages=none -o Acquire::Retries=3 "$@"
}
# A second attempt: the mirror may have changed during the first one.
apt update || apt update
packages=("$@")
if [ "$closure" ]; then
	mapfile -t packages < <(apt -s install "$@" | awk '/^Inst /{ print $2 }')
fi
(cd "$work/debs" && apt download "${packages[@]}")

# Make a merged /usr first: packages of older releases still have files in /bin and /lib.
mkdir -p "$work"/root/usr/{bin,sbin,lib,lib64}
for name in bin sbin lib lib64; do ln -s "usr/$name" "$work/root/$name"; done
for deb in "$work"/debs/*.deb; do
	dpkg-deb --fsys-tarfile "$deb" | tar -C "$work/root" --keep-directory-symlink -xf -
done
(cd "$work/debs" && sha256sum -- *.deb) >"$folder.debs"
chmod 0755 "$work/root"
mv -T "$work/root" "$folder"
