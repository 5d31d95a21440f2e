# Makes dom0 ready for domains by Debian's Xen's own tools.
mkdir -p /run/xenstored /run/xen /run/lock /var/lib/xenstored
xenstored --pid-file /run/xenstored.pid
tries=100
while [ ! -S /run/xenstored/socket ] && [ $tries -gt 0 ]; do
	tries=$((tries - 1))
	usleep 50000
done
xen-init-dom0
# What guests write goes to files, as it always does with `lith`.
xenconsoled --pid-file=/run/xenconsoled.pid --log=guest --log-dir=/var/log/xen/console
