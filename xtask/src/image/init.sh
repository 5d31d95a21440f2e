#!/bin/sh
# The first process of an initramfs made by `cargo xtask image`: mounts, modules, network; then a root disk's
# own init when the kernel was given root=, else one command (/exec/command) or a shell.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=linux

mount -t devtmpfs dev /dev 2>/dev/null
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o mode=0755 run /run
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
[ -e /dev/console ] || mknod /dev/console c 5 1

# Words of the kernel command line.
root=
for word in $(cat /proc/cmdline); do
	case $word in
	root=*) root=${word#root=} ;;
	esac
done

# Drivers for what is there. Each modprobe reads all that is said of modules, so there are few.
for bus in pci virtio; do
	modprobe -qa $(cat /sys/bus/$bus/devices/*/modalias 2>/dev/null | sort -u)
done
if [ -d /proc/xen ]; then
	modprobe -qa xenfs xen-evtchn xen-gntdev xen-privcmd xen-gntalloc
	# On a root disk it is a unit's business.
	[ -n "$root" ] || mount -t xenfs xenfs /proc/xen
fi

if [ -n "$root" ]; then
	modprobe -qa sd_mod crc32c-intel crc32c ext4
	tries=100
	case $root in
	LABEL=* | UUID=*)
		while ! device=$(findfs "$root" 2>/dev/null) && [ $tries -gt 0 ]; do
			tries=$((tries - 1))
			usleep 100000
		done
		;;
	*) device=$root ;;
	esac
	if mount -t ext4 -o ro "$device" /newroot; then
		# The disk fits any kernel: modules and the command travel with the initramfs.
		mkdir -p /run/xenolith
		cp -a /lib/modules /run/xenolith/modules
		cp /bin/busybox /run/xenolith/busybox
		[ -d /exec ] && cp -a /exec /run/xenolith/exec
		mount -o bind /run/xenolith/modules /newroot/lib/modules
		if [ -d /etc/xenolith/units ]; then
			# As a package would do it. QEMU keeps what is written until the machine goes off.
			mount -o remount,rw /newroot
			cp /usr/sbin/lith* /newroot/usr/sbin
			cp /boot/vmlinuz /boot/guest.img /newroot/boot
			cp /root/*.cfg /newroot/root
			cp /etc/xenolith/units/* /newroot/lib/systemd/system
			for unit in /etc/xenolith/units/*; do
				target=$(sed -n 's/^WantedBy=//p' "$unit")
				unit=${unit##*/}
				mkdir -p /newroot/etc/systemd/system/"$target".wants
				ln -sf /lib/systemd/system/"$unit" /newroot/etc/systemd/system/"$target".wants/"$unit"
			done
			mount -o remount,ro /newroot
		fi
		for dir in dev proc sys run; do
			mount -o move /$dir /newroot/$dir
		done
		exec switch_root /newroot /sbin/init
	fi
	echo "init: cannot mount root=$root"
	[ -f /exec/command ] && poweroff -f
	echo "init: a shell instead"
fi

hostname dom0
ip link set lo up
for nic in /sys/class/net/*; do
	nic=${nic##*/}
	[ -e /sys/class/net/"$nic"/device ] || continue
	# QEMU's user network gives everybody this address; asking for it would only take time.
	ip link set "$nic" up
	ip addr add 10.0.2.15/24 dev "$nic"
	ip route add default via 10.0.2.2
	break
done

if [ -x /etc/xenolith/start ] && [ -e /proc/xen/capabilities ]; then
	. /etc/xenolith/start
fi

if [ -f /exec/command ]; then
	. /exec/run
fi

echo
echo "This is dom0's root shell. The machine goes off when it ends."
cd /root
setsid cttyhack sh -l
sync
poweroff -f
# Not reached unless powering off failed.
exec sh
