# sh -euc "$this" peers.sh DIRECTORY RELEASE MIRROR PACKAGE,...    as root, with mounts of its own

directory=$1
partial=$directory.partial
log=$directory.log

# Mounts that a run cut short has made went with it, so this is all files.
# An older root lacks something.
rm -rf --one-file-system "$partial" "$directory"

if ! debootstrap --variant=minbase --include="$4" "$2" "$partial" "$3" >"$log" 2>&1; then
	tail -n 20 "$log" >&2
	exit 1
fi
rm -rf --one-file-system "$partial/var/cache/apt"
mv "$partial" "$directory"
