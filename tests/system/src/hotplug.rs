//! What can be changed of a guest that runs, and a guest that starts again.

use crate::domains::run;
use crate::guest::assert_line;
use anyhow::Result;
use xtask::machine::Domains;

/// A domain named `tiny` with room to grow.
const ROOMY: &str = r#"
sed '/^vcpus\|^memory\|^maxmem/d' tiny.cfg >roomy.cfg
printf 'memory = 96\nmaxmem = 128\nvcpus = 1\nmaxvcpus = 3\n' >>roomy.cfg
# eventually WORD COMMAND: prints WORD once COMMAND, in the guest, prints it.
eventually() { for i in $(seq 20); do inside "$2" | grep -qx "$1" && echo "$1" && return; sleep 1; done; echo "not $1 but:"; inside "$2"; }
"#;

/// vCPUs, memory, disks and interfaces come and go, and the guest sees it.
#[test]
fn a_running_guest_is_resized() -> Result<()> {
    let script = format!(
        r#"{ROOMY}
        before=$(free_pages)
        lith create roomy.cfg || exit 1
        wait_for tiny '/ #'
        eventually cpus-1 'echo cpus-$(nproc)'
        lith vcpu-set tiny 3 && eventually present-0-2 'echo present-$(cat /sys/devices/system/cpu/present)'
        # What udev does where there is one.
        inside 'echo 1 >/sys/devices/system/cpu/cpu1/online; echo 1 >/sys/devices/system/cpu/cpu2/online'
        eventually cpus-3 'echo cpus-$(nproc)'
        lith vcpu-set tiny 2 && eventually cpus-2 'echo cpus-$(nproc)'
        lith mem-set tiny 88 && lith show tiny --format json | grep -q '"memory_bytes": 92274688' && echo smaller
        lith mem-set tiny 128 && lith show tiny --format json | grep -q '"memory_bytes": 134217728' && echo larger
        dd if=/dev/zero of=more.img bs=1M count=8 2>/dev/null
        printf 'from dom0\n' | dd of=more.img conv=notrunc 2>/dev/null
        lith block-attach tiny /root/more.img,,xvdc && eventually 'from dom0' 'head -n 1 /dev/xvdc'
        inside 'echo from the guest | dd of=/dev/xvdc bs=512 seek=1 conv=fsync 2>/dev/null' >/dev/null
        lith block-detach tiny xvdc && echo detached
        dd if=more.img bs=512 skip=1 count=1 2>/dev/null | head -n 1
        losetup -a | grep more.img
        lith network-attach tiny mac=00:16:3e:00:00:99 && eventually 00:16:3e:00:00:99 'cat /sys/class/net/eth1/address'
        lith network-detach tiny 00:16:3e:00:00:99 && eventually gone 'ls /sys/class/net/eth1 >/dev/null 2>&1 || echo gone'
        lith shutdown --wait tiny && echo down
        gone tiny
        same_memory $before
    "#
    );
    let Some(output) = run(Domains::Tools, 2, &script)? else { return Ok(()) };
    for line in [
        "cpus-1",
        "cpus-3",
        "cpus-2",
        "smaller",
        "larger",
        "from dom0",
        "detached",
        "from the guest",
        "00:16:3e:00:00:99",
        "gone",
        "down",
        "same memory",
    ] {
        assert_line(&output, line);
    }
    assert!(!output.contains("not "), "{output}");
    assert!(!output.contains("more.img"), "a loop device stayed: {output}");
    Ok(())
}

/// A guest that reboots is another domain of the same name and UUID; one that crashes does as it is told to.
#[test]
fn a_guest_starts_again() -> Result<()> {
    let script = r#"
        before=$(free_pages)
        lith create tiny.cfg || exit 1
        uuid() { lith show tiny --format json | sed -n 's/.*"uuid": "\(.*\)".*/\1/p'; }
        for round in 1 2 3; do
            prompts $round
            old=$(lith domid tiny) of=$(uuid)
            lith reboot tiny || echo "round $round failed"
            for i in $(seq 60); do new=$(lith domid tiny 2>/dev/null) && [ "$new" != "$old" ] && break; sleep 1; done
            [ "$new" != "$old" ] && [ "$(uuid)" = "$of" ] && echo "again $round"
            for i in $(seq 30); do lith show "$old" >/dev/null 2>&1 || break; sleep 1; done
            lith show "$old" 2>/dev/null
        done
        prompts 4
        (echo 'echo c >/proc/sysrq-trigger'; sleep 5) | lith console tiny >/dev/null
        gone tiny
        same_memory $before
    "#;
    let Some(output) = run(Domains::Tools, 2, script)? else { return Ok(()) };
    for line in ["again 1", "again 2", "again 3", "same memory"] {
        assert_line(&output, line);
    }
    assert!(!output.contains("failed"), "{output}");
    Ok(())
}
