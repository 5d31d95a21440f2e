# Builds a Debian 12 root disk. Arguments: image file, label, size, packages, mirror. Runs as root.
image=$1 label=$2 size=$3 packages=$4 mirror=$5
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include="$packages" bookworm "$root" "$mirror"

mkdir -p "$root/lib/modules"
echo dom0 >"$root/etc/hostname"
printf '127.0.0.1\tlocalhost dom0\n' >"$root/etc/hosts"
printf 'LABEL=%s / ext4 defaults 0 1\n' "$label" >"$root/etc/fstab"
echo 'nameserver 10.0.2.3' >"$root/etc/resolv.conf"
chroot "$root" passwd -d root
: >"$root/etc/machine-id"

# QEMU's user network gives everybody this address.
cat >"$root/etc/systemd/network/50-lan.network" <<'END'
[Match]
Type=ether
[Network]
Address=10.0.2.15/24
Gateway=10.0.2.2
LinkLocalAddressing=no
END
chroot "$root" systemctl enable systemd-networkd
chroot "$root" systemctl disable systemd-networkd-wait-online || true
chroot "$root" systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer

# Under emulation a device may take minutes to appear.
mkdir -p "$root/etc/systemd/system.conf.d"
cat >"$root/etc/systemd/system.conf.d/patience.conf" <<'END'
[Manager]
DefaultTimeoutStartSec=600s
DefaultDeviceTimeoutSec=600s
END

# A root shell on whatever serial console the kernel uses.
mkdir -p "$root/etc/systemd/system/serial-getty@.service.d"
cat >"$root/etc/systemd/system/serial-getty@.service.d/autologin.conf" <<'END'
[Unit]
ConditionPathExists=!/run/xenolith/exec/command
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --keep-baud 115200,57600,38400,9600 --noclear %I $TERM
END

# One command instead of a shell, when the initramfs brought one.
cat >"$root/etc/systemd/system/xenolith-exec.service" <<'END'
[Unit]
Description=The command given on the host's command line
ConditionPathExists=/run/xenolith/exec/command
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh /run/xenolith/exec/run
StandardInput=null
StandardOutput=file:/dev/console
StandardError=file:/dev/console
TimeoutStartSec=infinity
[Install]
WantedBy=default.target
END
chroot "$root" systemctl enable xenolith-exec.service

rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/* "$root"/usr/share/locale/*
mke2fs -q -t ext4 -L "$label" -d "$root" "$image" "$size"
