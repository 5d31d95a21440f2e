//! Guests that mean harm, beside one that works.

use crate::domains::{machine_with, run_with};
use crate::guest::assert_line;
use anyhow::Result;

/// A million hypercalls by chance and grammar, from ten guests one after the other, while a guest reads its disk over and over:
/// what it reads is always the same, dom0 goes on, and nothing is lost.
#[test]
fn a_million_hostile_hypercalls_disturb_nobody() -> Result<()> {
    let script = r#"
        printf "name = 'hostile'\nmemory = 16\nkernel = '/exec/bin/hostile'\n" >hostile.cfg
        for end in poweroff crash reboot watchdog; do echo "on_$end = 'preserve'" >>hostile.cfg; done
        dd if=/dev/urandom of=disk.img bs=1M count=8 2>/dev/null
        sum=$(md5sum <disk.img)
        sed "s/^vif.*//" tiny.cfg >worker.cfg; echo "disk = ['/root/disk.img,,xvda,w']" >>worker.cfg
        lith create hostile.cfg "extra='calls=1'" >/dev/null && lith wait hostile && lith destroy hostile
        before=$(free_pages)
        lith create worker.cfg >/dev/null || exit 1
        wait_for tiny '/ #'
        inside '(while :; do echo 3 >/proc/sys/vm/drop_caches; md5sum </dev/xvda; done >/sums) & true'
        for seed in $(seq 10); do
            lith create hostile.cfg "extra='seed=$seed calls=100000'" >/dev/null || echo "seed $seed: not created"
            lith wait hostile --timeout 60 || echo "seed $seed: goes on"
            lith show hostile --format json | sed -n 's/.*"shutdown_reason": "\(.*\)".*/ended by \1/p'
            lith destroy hostile || echo "seed $seed: not destroyed"
        done
        inside 'grep -c . /sums; sort -u /sums' >sums
        echo "sums: $(head -n 1 sums)"; [ "$(tail -n +2 sums)" = "$sum" ] && echo same sum || cat sums
        lith destroy tiny; gone tiny
        same_memory $before
        complaints
        echo end
    "#;
    let Some(output) = run_with(machine_with("hostile")?, script)? else { return Ok(()) };
    for line in ["same sum", "same memory", "end"] {
        assert_line(&output, line);
    }
    let sums = output.lines().find_map(|line| line.trim().strip_prefix("sums: ")?.parse::<u32>().ok());
    assert!(sums.is_some_and(|sums| sums >= 10), "the worker did not get on: {output}");
    // Those that leave their traps and events alone make all of their calls.
    assert!(output.matches("ended by poweroff").count() >= 5, "{output}");
    for bad in ["not created", "goes on", "not destroyed", "Call Trace", "lockup", "stall", "BUG"] {
        assert!(!output.contains(bad), "{output}");
    }
    Ok(())
}
