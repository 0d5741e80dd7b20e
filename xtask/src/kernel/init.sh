#!/bin/sh
# The first process that the kernel starts, with busybox for a shell. Runs the tests, says by the
# second serial port how they ended, and turns the machine off.
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
modprobe -a 8021q bridge cls_bpf sch_ingress tun veth
echo "kernel $(uname -r), up for $(cut -d ' ' -f 1 /proc/uptime) s"
cd /tmp
set --
while read -r argument; do
    set -- "$@" "$argument"
done < /arguments
# What other kernels may lack, this one has.
tests --include-ignored "$@"
echo "ended with $?" > /dev/ttyS1
poweroff -f
