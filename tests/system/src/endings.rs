//! How guests end by themselves, and what comes after: what `on_crash` and the others promise.

use crate::domains::{machine_with, run_with};
use crate::guest::assert_line;
use anyhow::Result;

/// Every action after a crash, and after ends that have another one by default: a domain whose kernel ends at once, and whose file says
/// no more that it shall before it is started again. It never told where its memory is, so there is no dump of it.
const ACTIONS: &str = r#"
# ends NAME REASON EVENT ACTION
ends() {
    printf "name = '$1'\nuuid = '$(cat /proc/sys/kernel/random/uuid)'\nmemory = 16\nkernel = '/exec/bin/idle'\n$3 = '$4'\nextra = 'end=$2'\n" >$1.cfg
    lith create --paused $1.cfg >/dev/null && lith domid $1 >$1.id && uuid $1 >$1.uuid || echo "$1: not made"
    sed -i /^extra/d $1.cfg
    lith unpause $1
}
uuid() { lith show $1 --format json | sed -n 's/.*"uuid": "\(.*\)".*/\1/p'; }
# state NAME: what became of it.
state() {
    lith domid $1 >now 2>/dev/null || { echo gone; return; }
    lith list $1 | grep -q crashed && state=crashed || state=runs
    cmp -s now $1.id && echo "the same $state" || echo "another $state"
}
# becomes NAME STATE
becomes() { for i in $(seq 60); do [ "$(state $1)" = "$2" ] && echo "$1: $2" && return; usleep 500000; done; echo "$1 is not '$2' but '$(state $1)'"; }

ends destroyed 3 on_crash destroy
ends restarted 3 on_crash restart
ends renamed 3 on_crash rename-restart
ends preserved 3 on_crash preserve
ends dumped 3 on_crash coredump-destroy
ends redumped 3 on_crash coredump-restart
ends on 0 on_poweroff restart
ends off 1 on_reboot destroy
ends watched 4 on_watchdog restart
for name in destroyed dumped off; do becomes $name gone; done
for name in restarted renamed redumped on watched; do becomes $name 'another runs'; done
for name in restarted redumped on watched; do [ "$(uuid $name)" = "$(cat $name.uuid)" ] && echo "$name: same UUID"; done
becomes preserved 'the same crashed'
[ "$(lith domid renamed-1)" = "$(cat renamed.id)" ] && lith list renamed-1 | grep -q crashed && echo renamed: the old one is kept
lith destroy restarted renamed renamed-1 redumped on watched preserved
"#;

/// A Linux crashes, reboots and goes off from inside. The file is read again before each restart, so that each end has an action of
/// its own. Its memory as dumped has the kernel's constants where the kernel has them, 14 MiB further than in its file.
const LINUX: &str = r#"
action() { sed "s/^memory.*/memory = 96/; /^vif/d" /root/tiny.cfg >linux.cfg; echo "on_crash = '$1'" >>linux.cfg; }
enter() { (echo "$1"; sleep 2) | lith console tiny >/dev/null; }
action coredump-restart
lith create linux.cfg >/dev/null
prompts 1
action rename-restart
enter 'echo c >/proc/sysrq-trigger'
prompts 2
kernel=$(ls -S /var/cache/xenolith/kernels/* | head -n 1) dump=$(ls /var/lib/xenolith/dump/tiny-*.mem)
at=$(($(dd if=$kernel bs=1M skip=16 count=8 2>/dev/null | strings -t d | awk '/ Linux version .*#1 SMP/ { print $1 }') + 16 * 1048576))
echo "dumped $(stat -c %s $dump)"
cmp -n 1048576 $kernel $dump $at $((at + 14 * 1048576)) && echo "the kernel's constants are in the dump"
enter 'echo c >/proc/sysrq-trigger'
# Before that the prompts in tiny's history are the old one's.
for i in $(seq 150); do lith logs tiny-1 2>/dev/null | grep -q 'sysrq: Trigger a crash' && echo "tiny: its history went with the old one" && break; usleep 200000; done
prompts 1
lith list tiny-1 | grep -q crashed && echo "tiny: the old one is kept"
old=$(lith domid tiny)
enter 'reboot -f'
prompts 2
[ "$(lith domid tiny)" != "$old" ] && echo "tiny: another after its reboot"
enter 'poweroff -f'
gone tiny
lith destroy tiny-1; gone tiny-1
"#;

/// What a configuration promises for the end of a domain is what happens, whatever ends it; and nothing is lost.
#[test]
fn guests_end_as_they_were_told_to() -> Result<()> {
    let script = format!(
        "before=$(free_pages)\n{ACTIONS}{LINUX}same_memory $before\ncat /var/log/xenolith/supervise.log\n"
    );
    let Some(output) = run_with(machine_with("idle")?, &script)? else { return Ok(()) };
    for name in ["destroyed", "dumped", "off"] {
        assert_line(&output, &format!("{name}: gone"));
    }
    for name in ["restarted", "renamed", "redumped", "on", "watched"] {
        assert_line(&output, &format!("{name}: another runs"));
    }
    for name in ["restarted", "redumped", "on", "watched"] {
        assert_line(&output, &format!("{name}: same UUID"));
    }
    // 96 MiB, and the one that Linux's ballooning may be off by.
    let dumped = format!("dumped {}", 97 << 20);
    for line in [
        "preserved: the same crashed",
        "renamed: the old one is kept",
        &dumped,
        "the kernel's constants are in the dump",
        "tiny: its history went with the old one",
        "tiny: the old one is kept",
        "tiny: another after its reboot",
        "same memory",
    ] {
        assert_line(&output, line);
    }
    Ok(())
}
