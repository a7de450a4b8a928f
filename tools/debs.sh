#!/usr/bin/env bash
# Unpacks Debian packages of any release into a folder; nothing is installed, no maintainer script runs.
#
#   tools/debs.sh [--closure] SUITE FOLDER PACKAGE...
#
# --closure: with everything they depend on.  FOLDER appears complete or not at all; when it is there,
# nothing is done (it is named by who asks, so another list of packages means another folder).
# FOLDER.debs lists the files it was made of, with their sha256.  Needs apt, no root; apt's own lists
# and configuration are not touched.  The mirrors are those that this machine's own apt takes Debian's
# packages from; DEBS_MIRROR and DEBS_SECURITY name others.
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
# Origins first, for others name their releases as Debian does; without, where apt was never updated.
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

# An empty status makes the closure the whole one, whatever this machine has.
apt() {
	apt-get -qq -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null \
		-o Dir::Etc::preferencesparts=/dev/null -o Dir::State::lists="$work/lists" \
		-o Dir::State::status=/dev/null -o Dir::Cache="$work/cache" -o APT::Architecture=amd64 \
		-o APT::Install-Recommends=false -o APT::Sandbox::User="$(id -un)" \
		-o Acquire::Languages=none -o Acquire::Retries=3 "$@"
}
# A release's first update can meet a mirror in the middle of its own.
apt update || apt update
packages=("$@")
if [ "$closure" ]; then
	mapfile -t packages < <(apt -s install "$@" | awk '/^Inst /{ print $2 }')
fi
(cd "$work/debs" && apt download "${packages[@]}")

# A merged /usr first: packages of older releases still have files in /bin and /lib.
mkdir -p "$work"/root/usr/{bin,sbin,lib,lib64}
for name in bin sbin lib lib64; do ln -s "usr/$name" "$work/root/$name"; done
for deb in "$work"/debs/*.deb; do
	dpkg-deb --fsys-tarfile "$deb" | tar -C "$work/root" --keep-directory-symlink -xf -
done
(cd "$work/debs" && sha256sum -- *.deb) >"$folder.debs"
chmod 0755 "$work/root"
mv -T "$work/root" "$folder"
