# Makes dom0 ready for domains: modules, daemons, a bridge. Sourced by the initramfs's init when the programs are there.
# Nothing here stops dom0 from coming up.
for module in loop bridge xen-blkback xen-netback; do
	modprobe -q $module
done
mkdir -p /run/xenstored /run/xenolith /var/log/xenolith /var/lib/xenolith

# The addresses that are on the first card go to a bridge in front of it.
ip link add xenbr0 type bridge 2>/dev/null || brctl addbr xenbr0
ip link set xenbr0 up
for nic in /sys/class/net/*; do
	nic=${nic##*/}
	[ -e /sys/class/net/"$nic"/device ] || continue
	ip addr flush dev "$nic"
	ip link set "$nic" master xenbr0 2>/dev/null || brctl addif xenbr0 "$nic"
	ip link set "$nic" up
	ip addr add 10.0.2.15/24 dev xenbr0
	ip route add default via 10.0.2.2
	break
done

# The demo domain's disk goes by its serial number.
mkdir -p /dev/disk/by-id
for disk in /sys/block/vd*; do
	serial=$(cat "$disk"/serial 2>/dev/null)
	[ -n "$serial" ] && ln -sf /dev/"${disk##*/}" /dev/disk/by-id/"virtio-$serial"
done

# A hypervisor without domains has no use for the daemons.
if lith info >/dev/null 2>&1; then
	for daemon in lith-xenstored lith-consoled; do
		[ -x /usr/sbin/$daemon ] || continue
		# As the units of systemd have it: one that ends is started again.
		setsid sh -c "while :; do /usr/sbin/$daemon; usleep 100000; done" </dev/null >/var/log/xenolith/$daemon.log 2>&1 &
		tries=100
		while [ $daemon = lith-xenstored ] && [ ! -S /run/xenstored/socket ] && [ $tries -gt 0 ]; do
			tries=$((tries - 1))
			usleep 50000
		done
	done
	lith prepare
fi
