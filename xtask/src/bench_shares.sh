# Run in dom0 by `bench-smp` and by the tests: three guests that spin share the second CPU by their weights; prints how far the
# worst of them is from its share, in thousandths of that.
set -e
cd /root
if [ -x /usr/sbin/lith ]; then
	tool=lith seconds=10
	# Both of one moment, each vCPU's: nothing depends on how long a look takes.
	ran() {
		lith vcpu-list --format jsonl | tr -d '{"}' | tr ':,' '  ' | awk '{
			for (i = 1; i < NF; i += 2) of[$i] = $(i + 1)
			age = of["cpu_time_ns"] + of["waited_ns"] + of["blocked_ns"] + of["offline_ns"]
			if (of["name"] ~ /^w/) printf "%s %.0f %.0f\n", substr(of["name"], 2), of["cpu_time_ns"], age
		}'
	}
else
	# It says tenths of a second: a longer while.
	tool=xl seconds=70
	ran() {
		xl list | awk -v up="$(cut -d' ' -f1 /proc/uptime)" '
			$1 ~ /^w/ { printf "%s %.0f %.0f\n", substr($1, 2), $NF * 1000000000, up * 1000000000 }'
	}
fi
for weight in 256 512 1024; do
	printf "name = 'w%s'\nmemory = 16\nkernel = '/exec/bin/idle'\nextra = 'spin=1'\ncpus = '1'\ncpu_weight = %s\n" $weight $weight >w.cfg
	$tool create w.cfg >/run/out 2>&1 || { cat /run/out; exit 1; }
done
# The last of them has its first slices.
sleep 2
ran >/run/before
sleep $seconds
ran >/run/after
cat /run/before /run/after
awk '
	NR == FNR { ran[$1] = $2; age[$1] = $3; next }
	{ share[$1] = ($2 - ran[$1]) / ($3 - age[$1]); sum += share[$1]; weights += $1 }
	END {
		for (weight in share) {
			due = sum * weight / weights
			error = (share[weight] - due) / due * 1000
			if (error < 0) error = -error
			if (error > worst) worst = error
		}
		printf "BENCH share-error %.3f\nBENCH shared-permille %.3f\n", worst, sum * 1000
	}
' /run/before /run/after
for weight in 256 512 1024; do $tool destroy w$weight; done
