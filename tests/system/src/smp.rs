//! Many CPUs, many vCPUs, and vCPUs that come and go.

use crate::domains::run_with;
use crate::guest::{BOOT, assert_line, command, spec};
use anyhow::Result;
use xtask::machine::{Domains, Firmware, Spec};

/// Work on every vCPU while the others are taken out and put back; each worker says that it came to its end. `ROUNDS`
/// and `LOOPS` are put in front.
const HOTPLUG: &str = r#"
n=$(nproc)
echo vcpus $n
for i in $(seq 1 $((n * 2))); do
    (j=0; while [ $j -lt $LOOPS ]; do dd if=/dev/zero bs=64k count=8 2>/dev/null | md5sum; j=$((j + 1)); done |
        sort -u | wc -l >/tmp/sums.$i) &
done
for c in $(seq 1 $((n - 1))); do
    for k in $(seq 1 $ROUNDS); do
        echo 0 >/sys/devices/system/cpu/cpu$c/online || echo cannot unplug $c
        [ $(nproc) = $((n - 1)) ] || echo still $(nproc)
        echo 1 >/sys/devices/system/cpu/cpu$c/online || echo cannot plug $c
    done
done
wait
cat /tmp/sums.* | sort | uniq -c
echo vcpus again $(nproc)
dmesg -r | grep -E 'Call Trace|detected stall|soft lockup|BUG'
echo end
"#;

fn hotplug(spec: Spec, vcpus: u32, rounds: u32, loops: u32) -> Result<()> {
    let script = format!("ROUNDS={rounds}; LOOPS={loops}{HOTPLUG}");
    let output = command(spec, &script, BOOT)?;
    assert_line(&output, &format!("vcpus {vcpus}"));
    assert_line(&output, &format!("vcpus again {vcpus}"));
    // Every worker saw one checksum only.
    let sums = output.lines().find(|l| l.trim() == format!("{} 1", vcpus * 2));
    assert!(sums.is_some(), "{output}");
    for bad in ["cannot", "still", "Call Trace", "detected stall", "lockup", "BUG"] {
        assert!(!output.contains(bad), "{output}");
    }
    assert_line(&output, "end");
    Ok(())
}

#[test]
fn vcpus_of_four_cpus_come_and_go_under_load() -> Result<()> {
    hotplug(Spec { cpus: 4, ..spec() }, 4, 1, 10)
}

#[test]
fn three_vcpus_share_one_cpu() -> Result<()> {
    hotplug(Spec { append: "dom0_max_vcpus=3".to_owned(), ..spec() }, 3, 1, 10)
}

#[test]
fn maxcpus_and_uefi() -> Result<()> {
    let spec = Spec {
        cpus: 4,
        machine: "q35".to_owned(),
        firmware: Firmware::Uefi,
        append: "maxcpus=2".to_owned(),
        ..spec()
    };
    assert_line(&command(spec, "echo cpus $(nproc)", BOOT)?, "cpus 2");
    Ok(())
}

/// Each vCPU stays on the CPU of its number, and all the CPUs work.
#[test]
fn pinned_vcpus_work() -> Result<()> {
    let spec = Spec { cpus: 2, append: "dom0_vcpus_pin".to_owned(), ..spec() };
    hotplug(spec, 2, 1, 10)
}

/// dom0 moves its own vCPUs, also the one that asks, and each is soon where it may be.
#[test]
fn a_vcpu_moves_itself() -> Result<()> {
    let spec = Spec { cpus: 2, domains: Domains::Tools, ..spec() };
    let script = r#"
        for i in $(seq 10); do
            lith vcpu-pin 0 all $((i % 2))
            for vcpu in 0 1; do lith vcpu-pin 0 $vcpu $((1 - vcpu)); done
        done
        for n in 1 2; do (i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done) & done; wait
        lith vcpu-list | awk '$1 == "Domain-0" { print "vCPU", $3, "on", $4, "may", $8 }'
        echo end
    "#;
    let Some(output) = run_with(spec, script)? else { return Ok(()) };
    for line in ["vCPU 0 on 1 may 1", "vCPU 1 on 0 may 0", "end"] {
        assert_line(&output, line);
    }
    Ok(())
}

/// dom0's work, with its disk and its timers, while its processors are taken out and put back.
const OFFLINE: &str = r#"
P=/sys/devices/system/xen_cpu
turn() { echo $2 >$P/xen_cpu$1/online || echo "cannot turn $1 to $2"; }
on_cpu() { lith vcpu-list | awk -v cpu=$1 '$1 == "Domain-0" && $4 == cpu' | wc -l; }
once() { while [ ! -e /tmp/stop ]; do eval "$1"; done | sort -u | wc -l >/tmp/sums.$2; }
for i in 1 2 3; do once 'dd if=/dev/zero bs=64k count=8 2>/dev/null | md5sum' $i & done
once 'dd if=/dev/vda bs=64k count=4 iflag=direct 2>/dev/null | md5sum; sleep 0.05' disk &
(while [ ! -e /tmp/stop ]; do sleep 0.02; echo; done | wc -l >/tmp/naps) &
lith vcpu-pin 0 3 3
for round in $(seq 20); do
    for cpu in 1 2 3; do turn $cpu 0; done
    lith info | awk '$1 == "CPUs" && $2 != 1'
    [ "$(on_cpu 0)" = 4 ] || echo "somebody stayed: $(lith vcpu-list)"
    for cpu in 3 1 2; do turn $cpu 1; turn $cpu 1; done
done
turn 1 0; turn 1 0; turn 2 0
[ $(on_cpu 1) = 0 ] || echo "somebody stayed: $(lith vcpu-list)"
files() { cat $P/xen_cpu*/online | tr -d '\n'; }
n=0; while [ $n -lt 50 ] && [ $(files) != 001 ]; do sleep 0.2; n=$((n + 1)); done
echo files $(files)
turn 1 1; turn 2 1
touch /tmp/stop
wait
cat /tmp/sums.* | sort | uniq -c
[ $(cat /tmp/naps) -gt 20 ] && echo naps end
ls $P/xen_cpu0/online 2>/dev/null
lith vcpu-list | awk '$1 == "Domain-0" && $3 == 3 { print "pinned", $4, $8 }'
lith dmesg | sed 's/.*\] \(<.>\)*//' | grep -E '^CPU |affinity' | sort | uniq -c
lith dmesg | grep -E 'cannot|NMI|error status|stuck'
complaints
dmesg -r | grep -E 'clocksource.*unstable|nobody cared'
echo end
"#;

#[test]
fn processors_come_and_go_under_load() -> Result<()> {
    let spec = Spec { cpus: 4, domains: Domains::Tools, ..spec() };
    let Some(output) = run_with(spec, OFFLINE)? else { return Ok(()) };
    // Every worker saw one checksum only.
    let expected =
        ["4 1", "naps end", "files 001", "pinned 3 3", "21 CPU 1 is offline", "21 CPU 1 is online"];
    for line in expected {
        assert!(output.lines().any(|l| l.trim() == line), "{line}: {output}");
    }
    assert!(output.contains("20 d0v3: no CPU of its affinity is online"), "{output}");
    for bad in
        ["cannot", "stayed", "CPUs ", "Call Trace", "stall", "lockup", "BUG", "unstable", "nobody", "NMI"]
    {
        assert!(!output.contains(bad), "{bad}: {output}");
    }
    assert_line(&output, "end");
    Ok(())
}
