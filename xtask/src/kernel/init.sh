#!/bin/sh
# The first process that the kernel starts, with busybox for a shell. Runs what the machine is for,
# says by the second serial port how that ended, and turns the machine off.
export PATH=/usr/bin:/bin
export TRUEPEER_BIN=/usr/bin/truepeer
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
# Where the kernel looks for the program that loads modules.
echo /bin/modprobe > /proc/sys/kernel/modprobe
# The kernel would load most of these when asked, but not always in time for two who ask at once.
modprobe -a 8021q bridge cls_bpf sch_ingress tun veth wireguard
# What comes beside those of a test that sends many at once isn't to be lost.
echo 100000 > /proc/sys/net/core/netdev_max_backlog
# Cards, if it has them: the drivers, and names that they keep wherever they are. The shell would
# take its own `ip`, which knows none.
for device in /sys/bus/pci/devices/*; do
    case $(cat "$device/class") in
        0x02*) modprobe -q "$(cat "$device/modalias")" ;;
    esac
done
# A virtio card's driver is that of a device of virtio's behind the one of PCI, which needs no module.
for device in /sys/bus/virtio/devices/*; do
    if [ -e "$device" ]; then modprobe "$(cat "$device/modalias")"; fi
done
for device in /sys/class/net/*; do
    case $(cat "$device/address") in
        52:54:00:12:34:0?)
            number=$(cut -d : -f 6 "$device/address")
            /usr/bin/ip link property add dev "${device##*/}" altname "card$number"
            # QEMU's e1000e splits what is to be split as IPv4 fragments, and makes rubbish of IPv6.
            /usr/bin/ip link set dev "${device##*/}" gso_max_segs 1
            ;;
    esac
done
echo "kernel $(uname -r), up for $(cut -d ' ' -f 1 /proc/uptime) s"
cd /tmp
set --
while read -r word; do
    set -- "$@" "$word"
done < /command
"$@"
echo "ended with $?" > /dev/ttyS1
poweroff -f
