//! Unmodified kernels come up as dom0, on both firmwares, and go off and restart.

use crate::guest::{self, BOOT, Guest, assert_line, command, spec};
use anyhow::Result;
use std::time::{Duration, SystemTime};
use xtask::image::initramfs;
use xtask::machine::{Firmware, Kernel, Spec};

/// What every dom0 must see, whatever its kernel and firmware.
const SMOKE: &str = "
uname -r
echo type $(cat /sys/hypervisor/type)
echo version $(cat /sys/hypervisor/version/major).$(cat /sys/hypervisor/version/minor)
echo capabilities $(cat /proc/xen/capabilities)
echo uuid $(cat /sys/hypervisor/uuid)
echo clocksource $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)
echo cpus $(nproc)
ls -l /dev/xen
dmesg -r | grep '^<[0-3]>' | head -20
";

fn smoke(spec: Spec, release: &str) -> Result<()> {
    let cpus = spec.cpus;
    let output = command(spec, SMOKE, BOOT)?;
    assert!(output.starts_with(release), "{output}");
    assert_line(&output, "type xen");
    assert_line(&output, "version 4.17");
    assert_line(&output, "capabilities control_d");
    assert_line(&output, "uuid 00000000-0000-0000-0000-000000000000");
    assert_line(&output, &format!("cpus {cpus}"));
    assert!(output.contains("clocksource xen") || output.contains("clocksource tsc"), "{output}");
    for device in ["evtchn", "gntdev", "privcmd", "xenbus"] {
        assert!(output.contains(device), "no /dev/xen/{device}:\n{output}");
    }
    Ok(())
}

#[test]
fn debian_12_on_bios() -> Result<()> {
    smoke(spec(), "6.1.")
}

#[test]
fn debian_13_on_bios() -> Result<()> {
    smoke(Spec { kernel: Kernel::V6_12, machine: "q35".to_owned(), ..spec() }, "6.12.")
}

#[test]
fn debian_13_on_uefi() -> Result<()> {
    smoke(
        Spec { kernel: Kernel::V6_12, firmware: Firmware::Uefi, machine: "q35".to_owned(), ..spec() },
        "6.12.",
    )
}

#[test]
fn two_cpus() -> Result<()> {
    smoke(Spec { cpus: 2, ..spec() }, "6.1.")
}

/// Every page of a large initramfs arrives, in order.
#[test]
fn initramfs_of_100_mib() -> Result<()> {
    let padding = 100 << 20;
    let output = command(Spec { memory: 2048, padding, ..spec() }, "md5sum /padding", BOOT)?;
    assert_eq!(output.split_whitespace().next(), Some(initramfs::padding_md5(padding)?.as_str()));
    Ok(())
}

/// Without `dom0_mem=` dom0 gets nearly all there is: what unpacking its kernel took is its own again.
#[test]
fn dom0_gets_nearly_all_memory_by_default() -> Result<()> {
    let spec = Spec { memory: 512, default_dom0_memory: true, ..spec() };
    let held = "cat /sys/devices/system/xen_memory/xen_memory0/info/current_kb";
    let kib: u64 = command(spec, held, BOOT)?.trim().parse()?;
    assert!(kib >= 450 << 10, "dom0 has {kib} KiB of 512 MiB");
    Ok(())
}

/// A person's use: a shell that echoes, edits, and keeps the hypervisor's log readable.
#[test]
fn shell_then_poweroff_ends_the_machine() -> Result<()> {
    let mut guest = Guest::start(&spec())?;
    guest.wait_for("This is dom0's root shell", BOOT)?;
    guest.wait_for("# ", BOOT)?;
    guest.console.send("echo $((6 * 7))-${USER:-root}\n")?;
    guest.wait_for("42-root", Duration::from_secs(20))?;
    guest.console.send("poweroff -f\n")?;
    guest.wait_end(Duration::from_secs(30))
}

#[test]
fn reboot_restarts_the_machine() -> Result<()> {
    let mut guest = Guest::start(&Spec { reboot: true, ..spec() })?;
    guest.wait_for("This is dom0's root shell", BOOT)?;
    guest.wait_for("# ", BOOT)?;
    guest.console.send("reboot -f\n")?;
    // The firmware, GRUB, the hypervisor and the kernel once more.
    guest.wait_for("This is dom0's root shell", BOOT)?;
    guest.wait_for("# ", BOOT)?;
    guest.console.send("poweroff -f\n")?;
    guest.wait_end(Duration::from_secs(30))
}

/// The wall clock is the host's, and a second takes a second.
#[test]
fn clocks_are_right() -> Result<()> {
    let before = now();
    let script = "date +%s; read a b </proc/uptime; sleep 5; read c d </proc/uptime; echo $a $c; date +%s";
    let output = command(spec(), script, BOOT)?;
    let after = now();
    let numbers: Vec<f64> = output.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let [first, up_before, up_after, last] = numbers[..] else { panic!("{output}") };
    assert!(first >= before as f64 - 2.0 && last <= after as f64 + 2.0, "{before}..{after}: {output}");
    let slept = up_after - up_before;
    assert!((4.9..8.0).contains(&slept), "{output}");
    assert!((last - first - slept).abs() < 2.0, "{output}");
    Ok(())
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// The hypervisor's log ring, through the tools' way: dom0 sees that there is one, and what it said at boot was
/// on the serial line.
#[test]
fn the_log_is_on_the_serial_line() -> Result<()> {
    let mut guest = Guest::start(&spec())?;
    let name = match guest::hypervisor() {
        xtask::machine::Hypervisor::Xenolith => "Xenolith",
        _ => "Xen version 4.17",
    };
    guest.wait_for(name, guest::REFUSAL)?;
    guest.wait_for("Linux version 6.1.", BOOT)?;
    Ok(())
}
