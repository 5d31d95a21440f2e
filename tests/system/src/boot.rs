//! Unmodified kernels come up as dom0, on both firmwares, and go off and restart.

use crate::guest::{self, BOOT, Guest, assert_line, command, spec, timed};
use anyhow::{Context, Result};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};
use xtask::image::initramfs;
use xtask::machine::{Firmware, Kernel, Spec};
use xtask::{build, sh};

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
fn debian_13_on_uefi_with_two_cpus() -> Result<()> {
    let spec = Spec { kernel: Kernel::V6_12, firmware: Firmware::Uefi, cpus: 2, ..spec() };
    smoke(Spec { machine: "q35".to_owned(), ..spec }, "6.12.")
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

/// A person's use: a shell that echoes, edits, and keeps the hypervisor's log readable; a restart, and the end.
#[test]
fn a_shell_a_reboot_and_a_poweroff() -> Result<()> {
    let mut guest = Guest::start(&Spec { reboot: true, ..spec() })?;
    guest.wait_for("This is dom0's root shell", BOOT)?;
    guest.wait_for("# ", BOOT)?;
    guest.console.send("echo $((6 * 7))-${USER:-root}\n")?;
    guest.wait_for("42-root", Duration::from_secs(20))?;
    guest.wait_for("# ", BOOT)?;
    guest.console.send("reboot -f\n")?;
    // The firmware, GRUB, the hypervisor and the kernel once more.
    guest.wait_for("This is dom0's root shell", BOOT)?;
    guest.wait_for("# ", BOOT)?;
    guest.console.send("poweroff -f\n")?;
    guest.wait_end(Duration::from_secs(30))
}

/// The wall clock is the host's, and who sleeps is woken in time. Monotonic time goes as the host's does, which QEMU's platform clocks count: to 50 parts in a million, over
/// `XENOLITH_DRIFT_SECONDS`. A line takes its time to come: of many, the fastest counts, and a loaded host keeps even that for a while.
#[test]
fn clocks_are_right_and_do_not_drift() -> Result<()> {
    const DELAY: f64 = 0.02;
    let seconds: u64 = std::env::var("XENOLITH_DRIFT_SECONDS").ok().map_or(Ok(10), |n| n.parse())?;
    let marks = "for n in $(seq 100); do read up idle </proc/uptime; echo $up; done";
    let script = format!("date +%s; {marks}; sleep {seconds}; {marks}; date +%s");
    let before = now();
    let lines = timed(spec(), &script, BOOT + Duration::from_secs(seconds))?;
    let after = now();
    let [(begun, first), lines @ .., (_, last)] = &lines[..] else { panic!("nothing came") };
    let (first, last): (f64, f64) = (first.parse()?, last.parse()?);
    assert!(first >= before as f64 - 2.0 && last <= after as f64 + 2.0, "{before}..{after}: {first} {last}");
    let [(_, up), .., (_, later)] = lines else { panic!("nothing came") };
    let passed = later.parse::<f64>()? - up.parse::<f64>()?;
    assert!((last - first - passed).abs() < 2.0, "{first} to {last}, but {passed} s");
    let ahead = |marks: &[(Instant, String)]| -> Result<f64> {
        let offsets: Vec<f64> = marks
            .iter()
            .map(|(at, up)| Ok(at.duration_since(*begun).as_secs_f64() - up.parse::<f64>()?))
            .collect::<Result<_>>()?;
        offsets.into_iter().min_by(f64::total_cmp).context("no marks")
    };
    let (first, last) = lines.split_at(lines.len() / 2);
    let ([.., (_, up)], [(_, later), ..]) = (first, last) else { panic!("no marks") };
    let slept = later.parse::<f64>()? - up.parse::<f64>()? - seconds as f64;
    assert!((-0.1..3.0).contains(&slept), "slept {slept} s more than {seconds} s");
    let drift = ahead(last)? - ahead(first)?;
    println!("{:.1} ms in {seconds} s", drift * 1000.0);
    assert!(drift.abs() < seconds as f64 * 50e-6 + DELAY, "{drift} s in {seconds} s");
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

/// Debian's script for GRUB's menu, as it is installed but for the directory it looks into, lists the image.
#[test]
fn debians_boot_menu_lists_it() -> Result<()> {
    let boot = tempfile::tempdir()?;
    let place = |name: &str| boot.path().join(name);
    std::fs::copy(build::build()?.gz, place("xen-xenolith.gz"))?;
    sh::write(&place("vmlinuz-6.1.0-1-amd64"), b"kernel")?;
    sh::write(&place("initrd.img-6.1.0-1-amd64"), b"initramfs")?;
    sh::write(&place("config-6.1.0-1-amd64"), b"CONFIG_XEN_DOM0=y\n")?;
    let dir = boot.path().to_str().context("a name in UTF-8")?;
    let script = String::from_utf8(sh::read(Path::new("/etc/grub.d/20_linux_xen"))?)?.replace("/boot", dir);
    sh::write(&place("script"), script.as_bytes())?;
    let mut command = sh::cmd(&["sh".to_owned(), format!("{dir}/script")]);
    // What `grub-mkconfig` finds out of a machine's disks.
    let menu = sh::text(command.envs([
        ("pkgdatadir", "/usr/share/grub"),
        ("grub_probe", "true"),
        ("GRUB_DEVICE", "/dev/vda1"),
        ("GRUB_DEVICE_UUID", "0"),
        ("GRUB_DISTRIBUTOR", "Debian"),
    ]))?;
    let words: Vec<Vec<&str>> = menu.lines().map(|line| line.split_whitespace().collect()).collect();
    let loads = |what: &str, file: &str| {
        let file = format!("{dir}/{file}");
        words.iter().any(|words| words.first() == Some(&what) && words.contains(&file.as_str()))
    };
    assert!(loads("multiboot2", "xen-xenolith.gz"), "{menu}");
    assert!(loads("module2", "vmlinuz-6.1.0-1-amd64"), "{menu}");
    assert!(loads("module2", "initrd.img-6.1.0-1-amd64"), "{menu}");
    Ok(())
}
