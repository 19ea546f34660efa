#!/bin/sh
# Installs OpenSSH's server and sftp, for tests that start a server of their own. Needs Debian, as root.
set -eu
test -x /usr/sbin/sshd && command -v sftp >/dev/null && exit 0
apt-get update --quiet=2
apt-get install --quiet=2 --yes openssh-server openssh-client
