# sh -euc "$this" install.sh update|"" PACKAGE...    as root

update=$1
shift

# Tests start their own haproxy, nginx and sshd; Debian's must not take their ports on a
# developer's machine. 101 means "not allowed". An administrator's policy stays in force.
policy=/usr/sbin/policy-rc.d
if ! [ -e "$policy" ]; then
	trap 'rm -f "$policy"' EXIT
	trap 'exit 130' HUP INT TERM
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive

# Fails when any source is down, also one that has nothing to do with these packages.
if [ "$update" ]; then
	apt-get update -qq || echo 'warning: apt-get update failed, using the lists as they are' >&2
fi

# --no-remove: rustc-web conflicts with other packages of Rust that somebody may want to keep.
apt-get install -qq -y --no-install-recommends --no-remove \
	-o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold "$@"
