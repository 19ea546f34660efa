#!/bin/sh
# Builds the Git of Debian's development branch into a folder: FOLDER/bin/git. Takes some minutes.
#
#   tests/services/newer-git.sh FOLDER
#
# Hooks by configuration need Git 2.54, which released systems do not have yet. Needs apt (as root), a C compiler, make.
set -eu

folder=${1:?usage: newer-git.sh FOLDER}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
if test -x "$folder/bin/git"; then
    exec "$folder/bin/git" version
fi

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
chmod 755 "$build"
mkdir -p "$build/lists/partial" "$build/cache/archives/partial"

# The mirror that this machine uses already, with the sources of one more branch, and in lists of its own.
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
    sed -n -e 's/^URIs:[ ]*\([^ ]*\).*/\1/p' -e 's/^deb \(\[.*\] \)*\([^ ]*\) .*/\2/p' | head -n 1)
keys=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb-src [signed-by=$keys] $mirror sid main" >"$build/sources.list"
cat >"$build/apt.conf" <<CONF
Dir::Etc::sourcelist "$build/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "$build/lists";
Dir::Cache "$build/cache";
APT::Sandbox::User "root";
CONF
cd "$build"
APT_CONFIG="$build/apt.conf" apt-get -qq update
APT_CONFIG="$build/apt.conf" apt-get -qq source --download-only git
apt-get -qq update
apt-get -qq install -y --no-install-recommends zlib1g-dev libcurl4-openssl-dev libexpat1-dev xz-utils >/dev/null

mkdir source
tar -x -f git_*.orig.tar.xz -C source --strip-components 1
without="NO_TCLTK=1 NO_GETTEXT=1 NO_PERL=1 NO_PYTHON=1 NO_RUST=1"
# shellcheck disable=SC2086 # several words
make -s -C source -j "$(nproc)" prefix="$folder" $without all install >"$build/log" 2>&1 || {
    tail -n 20 "$build/log" >&2
    exit 1
}
"$folder/bin/git" version
