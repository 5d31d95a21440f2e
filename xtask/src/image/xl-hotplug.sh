#!/bin/sh
# `block` and `vif-bridge` for Debian's Xen's tools, as far as measurements need them: a raw file or a block device, an interface
# on a bridge. Debian's own need more programs than this dom0 has.
set -e
case ${0##*/} in
block)
	target=$(xenstore-read "$XENBUS_PATH/params")
	case $1 in
	add)
		device=$target
		if [ ! -b "$target" ]; then
			device=$(losetup -f)
			losetup "$device" "$target"
			xenstore-write "$XENBUS_PATH/node" "$device"
		fi
		number=$(stat -L -c %t:%T "$device")
		xenstore-write "$XENBUS_PATH/physical-device" "$number" "$XENBUS_PATH/hotplug-status" connected
		;;
	remove)
		device=$(xenstore-read "$XENBUS_PATH/node") && losetup -d "$device"
		;;
	esac
	;;
vif-bridge)
	if [ "$1" = online ]; then
		ip link set "$vif" master "$(xenstore-read "$XENBUS_PATH/bridge")"
		ip link set "$vif" up
		xenstore-write "$XENBUS_PATH/hotplug-status" connected
	fi
	;;
esac
