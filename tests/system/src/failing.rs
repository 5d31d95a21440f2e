//! Failing well: what an administrator can get wrong is said on the console, with what to do, and then the machine
//! restarts, or halts when told `noreboot`. Only Xenolith is asked; Xen has other words.

use crate::guest::{BOOT, Guest, REFUSAL, hypervisor, spec};
use anyhow::{Result, bail};
use std::path::PathBuf;
use xtask::image::apt::Suite;
use xtask::image::kernel;
use xtask::machine::{Hypervisor, Kernel, Spec};
use xtask::{paths, sh};

/// What stands before every reason.
const REASON: &str = "Xenolith cannot start: ";

/// Boots what cannot work; returns the reason given. The machine must restart by itself, which ends QEMU.
fn reason(spec: Spec) -> Result<String> {
    let mut guest = Guest::start(&spec)?;
    guest.wait_for(REASON, REFUSAL)?;
    let reason = guest.wait_for("\n", REFUSAL)?;
    guest.wait_end(REFUSAL)?;
    Ok(reason)
}

/// Asserts that the reason has all of the words.
#[track_caller]
fn assert_words(reason: &str, words: &[&str]) {
    let missing: Vec<_> = words.iter().filter(|word| !reason.contains(**word)).collect();
    assert!(missing.is_empty(), "{missing:?} missing in {reason:?}");
}

/// Debian's kernel with something done to it.
fn changed_kernel(name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Result<Kernel> {
    let mut bytes = sh::read(&kernel::debian(Suite::Bookworm)?.vmlinuz)?;
    change(&mut bytes);
    let file: PathBuf = paths::out().join("programs").join(name);
    sh::write(&file, &bytes)?;
    Ok(Kernel::File(file))
}

fn skip() -> bool {
    hypervisor() != Hypervisor::Xenolith
}

#[test]
fn no_kernel() -> Result<()> {
    if skip() {
        return Ok(());
    }
    assert_words(&reason(Spec { kernel: Kernel::None, ..spec() })?, &["kernel", "module2"]);
    Ok(())
}

#[test]
fn a_corrupt_kernel() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let kernel = changed_kernel("corrupt", |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle..middle + 64].fill(0x5a);
    })?;
    assert_words(&reason(Spec { kernel, ..spec() })?, &["kernel", "xz"]);
    Ok(())
}

#[test]
fn half_a_kernel() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let kernel = changed_kernel("half", |bytes| bytes.truncate(bytes.len() / 2))?;
    assert_words(&reason(Spec { kernel, ..spec() })?, &["kernel"]);
    Ok(())
}

#[test]
fn a_kernel_that_is_none() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let kernel = changed_kernel("text", |bytes| *bytes = b"This is no kernel.\n".repeat(200))?;
    assert_words(&reason(Spec { kernel, ..spec() })?, &["kernel", "use"]);
    Ok(())
}

#[test]
fn an_initramfs_that_does_not_fit() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let spec = Spec { memory: 512, padding: 200 << 20, append: "dom0_mem=128M".to_owned(), ..spec() };
    assert_words(&reason(spec)?, &["dom0_mem="]);
    Ok(())
}

#[test]
fn more_memory_for_dom0_than_there_is() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let spec = Spec { memory: 512, append: "dom0_mem=4096M,max:4096M".to_owned(), ..spec() };
    assert_words(&reason(spec)?, &["dom0_mem=4096", "MiB"]);
    Ok(())
}

#[test]
fn no_acpi() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let reason = reason(Spec { machine: "pc,acpi=off".to_owned(), ..spec() })?;
    assert_words(&reason, &["ACPI"]);
    Ok(())
}

/// Never ignored silently, and never a reason not to boot.
#[test]
fn unknown_options_are_named() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let mut guest = Guest::start(&Spec { append: "frobnicate=9 noreboot".to_owned(), ..spec() })?;
    guest.wait_for("unknown option `frobnicate`", REFUSAL)?;
    guest.wait_for("Linux version", BOOT)?;
    Ok(())
}

#[test]
fn noreboot_halts() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let mut guest = Guest::start(&Spec { kernel: Kernel::None, append: "noreboot".to_owned(), ..spec() })?;
    guest.wait_for(REASON, REFUSAL)?;
    match guest.wait_end(std::time::Duration::from_secs(5)) {
        Err(_) => Ok(()),
        Ok(()) => bail!("the machine restarted in spite of noreboot"),
    }
}

/// dom0's own panic: the hypervisor says so and restarts the machine.
#[test]
fn a_crashed_dom0() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let command = Some("echo c >/proc/sysrq-trigger".to_owned());
    let mut guest = Guest::start(&Spec { command, ..spec() })?;
    guest.wait_for("sysrq triggered crash", BOOT)?;
    guest.wait_for("(XL)", REFUSAL)?;
    guest.wait_for("dom0", REFUSAL)?;
    guest.wait_end(REFUSAL)
}

/// A CPU that hangs in the hypervisor is found by another one, and says where it is.
#[test]
fn a_stuck_cpu_is_found_by_the_watchdog() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let append = "watchdog selftest=hang dom0_max_vcpus=1".to_owned();
    let mut guest = Guest::start(&Spec { cpus: 2, append, ..spec() })?;
    guest.wait_for("the watchdog found this CPU stuck", BOOT)?;
    let report = guest.wait_for("please report", REFUSAL)?;
    guest.wait_end(REFUSAL)?;
    assert_words(&report, &["hang_on_purpose+0x"]);
    Ok(())
}

/// A fault of the hypervisor itself names the function that faulted and those that called it.
#[test]
fn a_hypervisor_fault_has_a_symbolised_backtrace() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let mut guest = Guest::start(&Spec { append: "selftest=fault".to_owned(), ..spec() })?;
    guest.wait_for("*** Xenolith panic: ", REFUSAL)?;
    let report = guest.wait_for("please report", REFUSAL)?;
    guest.wait_end(REFUSAL)?;
    assert_words(&report, &["fault_on_purpose+0x", "on_own_stack+0x", "CR2 ffff82ffdeadb000"]);
    Ok(())
}

/// What a hypervisor could not say: these tests tell a machine whose processor gave up from others that went off. Here Linux alone makes
/// it give up, to reboot.
#[test]
fn a_triple_fault_is_told() -> Result<()> {
    let dom0_append = "reboot=triple,force".to_owned();
    let spec =
        Spec { hypervisor: Hypervisor::Bare, dom0_append, command: Some("reboot -f".to_owned()), ..spec() };
    let mut guest = Guest::start(&spec)?;
    guest.wait_end(BOOT)?;
    assert!(guest.had_triple_fault(), "{}", guest.console.transcript());
    Ok(())
}
