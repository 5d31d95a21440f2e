# What guests need of dom0, whosever tools make them: backends, a bridge, names of disks. Stands before the tools' own script; both
# are sourced by the initramfs's init. Nothing here stops dom0 from coming up.
modprobe -qa loop bridge xen-blkback xen-netback

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

