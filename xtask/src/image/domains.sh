# Makes dom0 ready for domains by `lith`.
mkdir -p /run/xenstored /run/xenolith /var/log/xenolith /var/lib/xenolith

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
