# Run in dom0 by `bench-data`: prints a line `BENCH NAME FIGURE` for each thing measured, in nanoseconds.
set -e
if [ -x /usr/sbin/lith ]; then
	tool=lith
	logs=/var/log/xenolith/console
	log_of() { echo "$logs/$1.log"; }
else
	tool=xl
	log_of() { echo "/var/log/xen/console/guest-$1.log"; }
fi
mib=64

# create NAME MIB EXTRA [LINE...]: a guest of the kernel that $kernel names, with more lines in its configuration.
create() {
	name=$1
	{
		printf "name = '%s'\nmemory = %s\nvcpus = 1\nkernel = '%s'\nextra = '%s'\n" "$1" "$2" "$kernel" "$3"
		shift 3
		for line in "$@"; do echo "$line"; done
	} >"/root/$name.cfg"
	$tool create "/root/$name.cfg" >/run/out 2>&1 || { cat /run/out; exit 1; }
}
# wait_for NAME TEXT: until the guest has written it, looking seldom, for looking takes time from the guest.
wait_for() {
	for try in $(seq 100); do
		grep -q "$2" "$(log_of "$1")" 2>/dev/null && return
		sleep 3
	done
	echo "no $2 from $1"
	tail -40 "$(log_of "$1")"
	exit 1
}
# figures NAME [PREFIX]: what the guest measured.
figures() { tr -d '\r' <"$(log_of "$1")" | sed -n "s/^BENCH /BENCH $2/p"; }
# domid NAME
domid() { $tool list | awk -v name="$1" '$1 == name { print $2 }'; }
gone() {
	for try in $(seq 60); do
		$tool list | grep -q "^$1 " || return 0
		sleep 1
	done
	echo "$1 is still there"
	exit 1
}

# The store, with one guest and with many.
kernel=/exec/bin/idle
create g1 16 ''
sleep 2
xenolith-data store store-read-1 3000
for n in $(seq 2 50); do create "g$n" 16 ''; done
sleep 5
xenolith-data store store-read-50 3000
for n in $(seq 50); do $tool destroy "g$n" >/dev/null 2>&1; done
sleep 5

# Two domains. Numbers are given in order.
create number 16 ''
first=$(($(domid number) + 1))
$tool destroy number >/dev/null 2>&1
kernel=/exec/bin/pair
create answers 16 "role=1 peer=$((first + 1))"
wait_for answers ready
create asks 16 "role=2 peer=$first"
wait_for asks event-round-trip
figures asks
gone asks
$tool destroy answers >/dev/null 2>&1
sleep 2

# A disk that is memory, and the network between guest and dom0.
kernel=/exec/bin/vmlinuz
dd if=/dev/urandom of=/run/disk.img bs=1M count=32 2>/dev/null
xenolith-data serve 5001 $mib >/run/served 2>&1 &
server=$!
create data 128 "console=hvc0 quiet nokaslr norandmaps MIB=$mib" \
	"ramdisk = '/exec/bin/data-guest.cpio'" "disk = ['/run/disk.img,raw,xvda,w']" "vif = ['mac=00:16:3e:00:00:17,bridge=xenbr0']"
wait_for data BENCH-END
figures data
wait $server || { cat /run/served; exit 1; }
cat /run/served
gone data

# dom0's own table, in dom0 and as the first process of a guest.
xenolith-bench | sed 's/^BENCH /BENCH dom0-/'
create first 256 "console=hvc0 quiet nokaslr norandmaps rdinit=/xenolith-bench" "ramdisk = '/exec/bin/data-guest.cpio'"
wait_for first BENCH-END
figures first domU-
