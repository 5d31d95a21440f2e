# Run in dom0 by `bench-domains`: prints a line `BENCH NAME FIGURE` for each thing measured. Times are nanoseconds.
set -e
bench=/exec/bin/xenolith-bench
if [ -x /usr/sbin/lith ]; then
	tool=lith
	free_kib() { echo $(($(lith info --memory | sed -n 's/^ *free .*(\([0-9]*\) pages)/\1/p') * 4)); }
else
	tool=xl
	# It says MiB.
	free_kib() { xl info | awk '/^free_memory/ { print $3 * 1024 }'; }
fi

# config NAME MIB VCPUS
config() { printf "name = '%s'\nmemory = %s\nvcpus = %s\nkernel = '/exec/bin/idle'\n" "$1" "$2" "$3" >"/root/$1.cfg"; }

config one 16 1
for round in 1 2 3 4 5 6 7; do
	$bench --time create-16M $tool create /root/one.cfg >/run/out 2>&1 || { cat /run/out; exit 1; }
	cat /run/out
	$bench --time list $tool list >/run/out 2>&1
	grep '^BENCH' /run/out
	$bench --time destroy-16M $tool destroy one >/run/out 2>&1 || { cat /run/out; exit 1; }
	grep '^BENCH' /run/out
	# A zombie's last pages, a daemon's last words.
	sleep 1
done

# What a guest costs beyond its own memory: over many, for Xen's tools count in MiB.
many=64
for vcpus in 1 8; do
	before=$(free_kib)
	for n in $(seq $many); do
		config g$n 16 $vcpus
		$tool create /root/g$n.cfg >/run/out 2>&1 || { cat /run/out; exit 1; }
	done
	after=$(free_kib)
	echo "BENCH overhead-$vcpus-kib $(((before - after) / many - 16 * 1024))"
	for n in $(seq $many); do $tool destroy g$n >/dev/null 2>&1; done
	sleep 2
done

count=0
while
	config h$count 32 1
	$tool create /root/h$count.cfg >/run/out 2>&1
do
	count=$((count + 1))
done
echo "BENCH guests-of-32M $count"
tail -3 /run/out
