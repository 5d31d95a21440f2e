#!/bin/sh
# The first process of a guest's initramfs: mounts, frontends; then a root disk's own init when the kernel was given
# root=, else the network and a shell.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=linux

mount -t devtmpfs dev /dev 2>/dev/null
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o mode=0755 run /run
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts

root= address= run=
for word in $(cat /proc/cmdline); do
	case $word in
	root=*) root=${word#root=} ;;
	address=*) address=${word#address=} ;;
	run=*) run=${word#run=} ;;
	esac
done
modprobe -qa xen-blkfront xen-netfront af_packet

if [ -n "$root" ]; then
	modprobe -qa crc32c-intel crc32c ext4
	tries=100
	while [ ! -b "$root" ] && [ $tries -gt 0 ]; do
		tries=$((tries - 1))
		usleep 100000
	done
	if mount -t ext4 -o ro "$root" /newroot; then
		mkdir -p /run/modules
		cp -a /lib/modules/. /run/modules
		mount -o bind /run/modules /newroot/lib/modules
		for dir in dev proc sys run; do
			mount -o move /$dir /newroot/$dir
		done
		exec switch_root /newroot /sbin/init
	fi
	echo "init: cannot mount root=$root; a shell instead"
fi

hostname guest
ip link set lo up
if [ -n "$address" ] && [ -e /sys/class/net/eth0 ]; then
	ip link set eth0 up
	ip addr add "$address" dev eth0
	ip route add default via 10.0.2.2
fi
echo
echo "This is a guest of Xenolith: $(uname -r) with $(nproc) CPUs. It goes off when the shell ends."
if [ -n "$run" ]; then
	# One word: `reboot`, `crash`, `poweroff`; what tests need a guest to do by itself.
	case $run in
	reboot) reboot -f ;;
	crash) echo c >/proc/sysrq-trigger ;;
	poweroff) poweroff -f ;;
	esac
fi
setsid cttyhack sh -l
sync
poweroff -f
