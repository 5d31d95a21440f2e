#!/bin/sh
# The first process of the guest whose disk and network `bench-data` measures: prints a line `BENCH NAME FIGURE` for each row, and
# goes off.
export PATH=/sbin:/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
for module in xen-blkfront xen-netfront; do
	modprobe $module
done
tries=100
while [ ! -b /dev/xvda ] || [ ! -e /sys/class/net/eth0 ]; do
	tries=$((tries - 1))
	[ $tries -gt 0 ] || { echo "no disk, or no network"; poweroff -f; }
	usleep 100000
done
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.17/24 dev eth0
/xenolith-data disk block-read-4k /dev/xvda 4096 2000
/xenolith-data disk block-read-1m /dev/xvda 1048576 500
ping -c 1 -w 10 10.0.2.15 >/dev/null
/xenolith-data talk 10.0.2.15 5001 "$MIB"
echo BENCH-END
sleep 1
poweroff -f
