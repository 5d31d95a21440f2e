//! Guests: made by `lith`, unmodified kernels with a console, a network and a disk, and gone without a trace.

use crate::guest::{assert_line, command, hypervisor, spec};
use anyhow::Result;
use std::path::PathBuf;
use std::time::Duration;
use xtask::guests;
use xtask::image::{apt, guest, kernel};
use xtask::machine::{Domains, Hypervisor, Spec};

/// What a boot of dom0 and of its guests may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Shell functions for the scripts below.
const TOOLS: &str = r#"
cd /root
free_pages() { lith info --memory | sed -n 's/^ *free .*(\([0-9]*\) pages)/\1/p'; }
wait_for() { for i in $(seq 90); do lith logs "$1" 2>/dev/null | grep -q "$2" && return; sleep 1; done; echo "no $2 from $1"; lith logs "$1" | tail -20; }
# within GUEST COMMAND: has it do something for 20 seconds at most, and prints what it says. The console shows what came before, too, and the
# kernel's messages in between.
within() {
    mark=$(cat /proc/sys/kernel/random/uuid)
    (echo "echo 'be''gin' $mark; $2; echo 'e''nd' $mark"; for i in $(seq 200); do [ -e /run/$mark ] && break; usleep 100000; done) | lith console "$1" | tr -d '\r' | awk -v mark=$mark '$1 == "begin" && $2 == mark { on = 1; next } $1 == "end" && $2 == mark { on = 0; system("touch /run/" mark) } /^\[ *[0-9]/ { next } on'
    rm -f /run/$mark
}
inside() { within tiny "$@"; }
# same_memory BEFORE: free memory is what it was, at once or a moment later; or else where it is.
same_memory() { for i in $(seq 10); do after=$(free_pages); [ "$1" = "$after" ] && echo same memory && return; sleep 1; done; echo "memory: $1 then $after"; lith info --memory; }
# prompts N: waits until `tiny` has been at its shell so often.
prompts() { for i in $(seq 90); do [ "$(lith logs tiny 2>/dev/null | grep -o '/ #' | wc -l)" -ge "$1" ] && return; sleep 1; done; echo "no prompt $1"; }
# complaints: what dom0's kernel says when it is not well.
complaints() { dmesg -r | grep -E 'Call Trace|detected stall|soft lockup|BUG'; }
# rounds TIMES NAME: makes and destroys the domain of NAME.cfg so often.
rounds() { for i in $(seq $1); do lith create $2.cfg >/dev/null && lith destroy $2 || echo "round $i failed"; gone $2; done; }
gone() { for i in $(seq 60); do lith list | grep -q "^$1 " || return; sleep 1; done; echo "$1 is still there"; }
"#;

/// A machine whose dom0 has the tools and one of the guests beside the claims, in `/exec/bin`.
pub fn machine_with(guest: &str) -> Result<Spec> {
    let programs = vec![guests::build()?.join(guest)];
    Ok(Spec { cpus: 2, memory: 1536, domains: Domains::Tools, programs, ..spec() })
}

pub fn run(domains: Domains, cpus: u32, script: &str) -> Result<Option<String>> {
    run_with(Spec { cpus, memory: 1536, domains, ..spec() }, script)
}

pub fn run_with(spec: Spec, script: &str) -> Result<Option<String>> {
    if hypervisor() != Hypervisor::Xenolith {
        // `lith` speaks Xenolith's own control interface.
        return Ok(None);
    }
    command(spec, &format!("{TOOLS}{script}"), PATIENCE).map(Some)
}

/// A guest in memory with two vCPUs: console both ways, network, a clean end by its own supervisor, and free memory as it was, to
/// the page.
#[test]
fn a_guest_lives_and_leaves_nothing() -> Result<()> {
    let script = r#"
        before=$(free_pages)
        sed 's/^vcpus.*/vcpus = 2/' tiny.cfg >two.cfg; grep -q vcpus two.cfg || echo 'vcpus = 2' >>two.cfg
        lith create two.cfg || exit 1
        wait_for tiny '/ #'
        (echo 'echo answer $((6 * 7)) of $(nproc)'; sleep 5) | lith console tiny | tr -d '\r' | grep -a '^answer'
        ping -c 3 -w 20 10.0.2.17 | grep received
        lith list --format json | grep -q '"tiny"' && echo listed
        lith pause tiny && lith list | grep '^tiny' | grep -q paused && echo paused
        lith unpause tiny && echo unpaused
        lith shutdown --wait tiny && echo down
        gone tiny
        same_memory $before
        lith info --memory | tail -1
    "#;
    let Some(output) = run(Domains::Tools, 2, script)? else { return Ok(()) };
    for line in ["answer 42 of 2", "listed", "paused", "unpaused", "down", "same memory"] {
        assert_line(&output, line);
    }
    assert!(output.contains("3 packets received"), "{output}");
    assert!(output.contains("adds up") && output.contains("yes"), "{output}");
    Ok(())
}

/// The largest guest that the builder promises: it comes up, sees its memory, and all of that comes back. By name, on a machine whose
/// memory is a file, for that takes 67 GiB of disk: `XENOLITH_MEMORY_FILE=FILE cargo test -p tests-system sixty_four_gib`.
#[test]
fn a_guest_of_sixty_four_gib() -> Result<()> {
    let Some(file) = std::env::var_os("XENOLITH_MEMORY_FILE").map(PathBuf::from) else { return Ok(()) };
    let spec = Spec {
        memory: 66 << 10,
        memory_file: Some(file.clone()),
        default_dom0_memory: true,
        append: "dom0_mem=512M".to_owned(),
        domains: Domains::Tools,
        ..spec()
    };
    let script = r#"
        before=$(free_pages)
        sed 's/^memory.*/memory = 65536/; /^vif/d' tiny.cfg >big.cfg
        lith create big.cfg || exit 1
        for i in $(seq 600); do lith logs tiny | grep -q '/ #' && break; sleep 1; done
        lith list tiny
        inside "awk '/MemTotal/ { print int(\$2 / 1048576) }' /proc/meminfo"
        lith destroy tiny; gone tiny
        same_memory $before
    "#;
    let output = command(spec, &format!("{TOOLS}{script}"), Duration::from_secs(1500));
    std::fs::remove_file(file)?;
    let output = output?;
    println!("{output}");
    assert!(output.lines().any(|line| line.starts_with("tiny") && line.contains("64 GiB")), "{output}");
    // GiB, less what Linux needs to count its pages.
    assert_line(&output, "62");
    assert_line(&output, "same memory");
    Ok(())
}

/// A hundred guests come and go, killed without being asked: ten that start a Linux, and others that do nothing, the last of them while
/// dom0 moves between CPUs, for the destruction of a guest is a call that comes again, then on another CPU than before. Free memory is
/// what it was, to the page.
#[test]
fn a_hundred_rounds_lose_nothing() -> Result<()> {
    let script = r#"
        printf "name = 'idle'\nmemory = 16\nkernel = '/exec/bin/idle'\n" >idle.cfg
        # What is made once stays.
        rounds 1 idle
        lith create tiny.cfg >/dev/null && sleep 2 && lith destroy tiny; gone tiny
        before=$(free_pages)
        rounds 10 tiny
        rounds 50 idle
        while :; do lith vcpu-pin 0 all 0; lith vcpu-pin 0 all 1; done & mover=$!
        rounds 40 idle
        kill $mover; wait $mover
        same_memory $before
        echo end
    "#;
    let Some(output) = run_with(machine_with("idle")?, script)? else { return Ok(()) };
    assert_line(&output, "same memory");
    assert_line(&output, "end");
    assert!(!output.contains("failed"), "{output}");
    Ok(())
}

/// A Debian with systemd on an ext4 disk of its own, to its login.
#[test]
fn debian_on_a_disk_reaches_its_login() -> Result<()> {
    let script = r#"
        lith create demo.cfg || exit 1
        wait_for demo 'demo login:'
        lith logs demo | tr -d '\r' | grep -a 'login:'
        ping -c 3 -w 20 10.0.2.16 | grep received
        lith block-list demo; lith network-list demo
        lith shutdown --wait demo && echo down
        gone demo
        lith info --memory | tail -1
    "#;
    let Some(output) = run(Domains::Debian, 2, script)? else { return Ok(()) };
    assert!(output.contains("demo login:"), "{output}");
    assert!(output.contains("3 packets received"), "{output}");
    assert_line(&output, "down");
    Ok(())
}

/// Two guests of different kernels and sizes at once: what they write to their disks is there for others, and what goes by TCP between
/// them, and between them and dom0, arrives as it was sent.
#[test]
fn two_kernels_share_a_machine() -> Result<()> {
    let kernel = kernel::debian(apt::Suite::Trixie)?;
    let programs = vec![kernel.vmlinuz.clone(), guest::initrd(&kernel)?];
    let initrd = programs[1].file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let script = format!(
        r#"
        before=$(free_pages)
        for n in 1 2; do
            dd if=/dev/urandom of=disk$n.img bs=1M count=4 2>/dev/null
            sed "s/tiny/guest$n/; s/10.0.2.17/10.0.2.2$n/; s/^vcpus.*/vcpus = $n/" tiny.cfg >guest$n.cfg
            echo "disk = ['/root/disk$n.img,,xvda,w']" >>guest$n.cfg
        done
        sed -i "s|/boot/vmlinuz|/exec/bin/vmlinuz|; s|/boot/guest.img|/exec/bin/{initrd}|" guest2.cfg
        lith create guest1.cfg >/dev/null && lith create guest2.cfg >/dev/null || exit 1
        for n in 1 2; do wait_for guest$n '/ #'; within guest$n 'echo $(uname -r | cut -d. -f1,2) with $(nproc)'; done
        for n in 1 2; do
            within guest$n 'dd if=/dev/urandom of=/dev/xvda bs=64k count=64 conv=fsync 2>/dev/null; echo 3 >/proc/sys/vm/drop_caches; md5sum </dev/xvda' >sum$n
            [ "$(md5sum <disk$n.img)" = "$(cat sum$n)" ] && echo "disk $n is as written"
        done
        within guest1 '(nc -l -p 5000 >/got; md5sum </got >/sum) & sleep 1'
        within guest2 'nc -w 20 10.0.2.21 5000 </dev/xvda'
        [ "$(within guest1 'until [ -s /sum ]; do usleep 100000; done; cat /sum')" = "$(cat sum2)" ] && echo guest to guest
        sleep 60 | nc -l -p 5001 >got & sleep 1
        within guest1 'nc -w 20 10.0.2.15 5001 </dev/xvda'
        [ "$(md5sum <got)" = "$(cat sum1)" ] && echo guest to dom0 || ls -l got
        killall sleep
        within guest2 '(nc -l -p 5002 >/got; md5sum </got >/sum) & sleep 1'
        nc -w 20 10.0.2.22 5002 <disk1.img
        [ "$(within guest2 'until [ -s /sum ]; do usleep 100000; done; cat /sum')" = "$(cat sum1)" ] && echo dom0 to guest
        lith destroy guest1 guest2; gone guest1; gone guest2
        same_memory $before
    "#
    );
    let spec = Spec { cpus: 2, memory: 1536, domains: Domains::Tools, programs, ..spec() };
    let Some(output) = run_with(spec, &script)? else { return Ok(()) };
    for line in [
        "6.1 with 1",
        "6.12 with 2",
        "disk 1 is as written",
        "disk 2 is as written",
        "guest to guest",
        "guest to dom0",
        "dom0 to guest",
        "same memory",
    ] {
        assert_line(&output, line);
    }
    Ok(())
}

/// Each daemon is killed three times, at any moment it happens to be in, and is there again: the guest's store and console go on, a
/// disk can be attached, and the guest ends when it is asked to.
#[test]
fn killed_daemons_come_back() -> Result<()> {
    let script = r#"
        before=$(free_pages)
        lith create tiny.cfg >/dev/null || exit 1
        wait_for tiny '/ #'
        for daemon in lith-xenstored lith-consoled; do
            for round in 1 2 3; do
                old=$(pidof $daemon)
                kill -9 $old
                for i in $(seq 100); do new=$(pidof $daemon) && [ "$new" != "$old" ] && break; usleep 100000; done
                [ -n "$new" ] && [ "$new" != "$old" ] || echo "$daemon did not come back"
                for i in $(seq 50); do lith list 2>/dev/null | grep -q '^tiny ' && break; usleep 100000; done
                lith list | grep -q '^tiny ' && [ "$(inside "echo round $round")" = "round $round" ] && echo "$daemon: alive $round"
            done
        done
        dd if=/dev/zero of=more.img bs=1M count=1 2>/dev/null
        lith block-attach tiny /root/more.img,,xvdb && echo attached
        lith shutdown --wait tiny && echo down
        gone tiny
        same_memory $before
        cat /var/log/xenolith/lith-*.log
    "#;
    let Some(output) = run(Domains::Tools, 2, script)? else { return Ok(()) };
    for daemon in ["lith-xenstored", "lith-consoled"] {
        (1..=3).for_each(|round| assert_line(&output, &format!("{daemon}: alive {round}")));
    }
    for line in ["attached", "down", "same memory"] {
        assert_line(&output, line);
    }
    Ok(())
}

/// A guest is destroyed while it writes to its disk and to its network as fast as it can.
#[test]
fn a_guest_ends_in_the_middle_of_its_io() -> Result<()> {
    let script = r#"
        dd if=/dev/zero of=disk.img bs=1M count=8 2>/dev/null
        cp tiny.cfg busy.cfg; echo "disk = ['/root/disk.img,,xvda,w']" >>busy.cfg
        round() {
            lith create busy.cfg >/dev/null || exit 1
            prompts $1
            inside '(while :; do dd if=/dev/zero of=/dev/xvda bs=64k count=128 conv=fsync 2>/dev/null; done) & (nc 10.0.2.15 5000 </dev/zero) & sleep 2'
            lith destroy tiny || echo "round $1 failed"
            gone tiny
        }
        (while :; do sleep 1000 | nc -l -p 5000; done) >/dev/null 2>&1 &
        round 1
        before=$(free_pages)
        for n in 3 5; do round $n; done
        same_memory $before
        losetup -a | grep disk.img && echo "a loop device stayed: failed"
        ls /sys/class/net | grep vif && echo "an interface stayed: failed"
        complaints && echo "dom0 failed"
        echo end
    "#;
    let Some(output) = run(Domains::Tools, 2, script)? else { return Ok(()) };
    assert_line(&output, "same memory");
    assert_line(&output, "end");
    assert!(!output.contains("failed") && !output.contains("no prompt"), "{output}");
    Ok(())
}
