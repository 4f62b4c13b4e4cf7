#!/bin/sh
# What a stub board runs in place of the kernel, the initramfs and the system that it has loaded: their words on the
# console, the ticket and the layers over HTTP as firmware/initramfs/init has them, and then the lab's real agent.
# $1 holds what was loaded. Beside this file, ADDRESS.sh of a board's address plants what is wrong with its software.
exec 2> /dev/null
here=${0%/*}
cd "$1" || exit 1
address=$(cat address)

say() { printf '%s\r\n' "$*"; }
panic() {
	say "[    1.234567] Kernel panic - not syncing: $*"
	say "[    1.234890] ---[ end Kernel panic - not syncing: $* ]---"
	exec sleep 100000
}
init_dies() { panic "Attempted to kill init! exitcode=0x00000100"; }

exchange() {
	curl -s -m 20 -o identity.tar -w '%{http_code}' --data-binary "$ticket" "$url/v1/ticket"
}
layer() {
	curl -s -m 60 -o layer "$url/v1/layer/$1" || return 1
	[ "$(sha256sum < layer)" = "$1  -" ]
}
agent() {
	say "pilab: agent started"
	"$here/agent" --identity-dir "$PWD/identity" --state-dir "$PWD/state" --podman-socket "$PWD/none" > /dev/null &
}
services() { agent; }

[ ! -e "$here/$address.sh" ] || . "$here/$address.sh"

say "[    0.000000] Booting Linux on physical CPU 0x0000000000 [0x410fd083]"
say "[    0.000000] Linux version 6.12.0-stub (nobody@nowhere)"
for argument in $(cat cmdline); do
	case $argument in
	rdinit=/nothing) panic "VFS: Unable to mount root fs on unknown-block(0,0)" ;;
	pilab.url=*) url=${argument#*=} ;;
	pilab.ticket=*) ticket=${argument#*=} ;;
	pilab.layer=*) layers="$layers ${argument#*=}" ;;
	esac
done
[ "$(cat initramfs)" = "an initramfs" ] || panic "VFS: Unable to mount root fs on unknown-block(0,0)"
say "pilab: initramfs"
say "pilab: network $address"
n=0
until code=$(exchange) && [ "$code" = 200 ]; do
	say "pilab: error the ticket was refused: $code"
	case $code in 4*) init_dies ;; esac
	n=$((n + 1))
	[ $n -lt 30 ] || init_dies
	sleep 1
done
mkdir -p identity
tar -x -f identity.tar -C identity
say "pilab: ticket ok $(sed -n 's/.*"device" *: *"\([a-z0-9-]*\)".*/\1/p' identity/identity.json) $(cat identity/mark)"
for layer in $layers; do
	n=0
	until layer "${layer%%:*}"; do
		say "pilab: error layer ${layer%%:*} does not have its SHA-256"
		n=$((n + 1))
		[ $n -lt 5 ] || init_dies
		sleep 1
	done
done
say "pilab: switch-root"
say "[    2.000000] systemd[1]: systemd 257 running in system mode"
services
# What is typed is read by nobody.
cat > /dev/null
