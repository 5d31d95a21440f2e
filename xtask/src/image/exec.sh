# Runs /exec/command, so that the reader of the console can tell its output from everything else there,
# then powers off. Sourced by the initramfs's init; run by a service on a root disk.
busybox=/bin/busybox
exec_dir=/exec
if [ -d /run/xenolith/exec ]; then
	busybox=/run/xenolith/busybox
	exec_dir=/run/xenolith/exec
fi
dmesg -n 1
PATH=$exec_dir/bin:$PATH
export PATH
cd /root || cd /
echo "@+"
{
	/bin/sh "$exec_dir/command" </dev/null 2>&1
	echo $? >/run/exec-status
} | $busybox awk '{ print "@|" $0; fflush() }'
echo "@=$(cat /run/exec-status)"
sync
$busybox poweroff -f
