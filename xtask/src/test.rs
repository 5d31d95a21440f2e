//! `test`: everything that CI runs, cheapest first. The system tests come last, so that the last lines are a
//! test runner's summary.

use crate::{build, guests, paths, sh};
use anyhow::{Context, Result, bail, ensure};
use std::process::{Command, ExitCode};
use std::time::Instant;

/// Crates that only build for the hypervisor's target, or with the bootstrap switch.
const NOT_ON_HOST: &[&str] = &["xenolith", "hv-x86", "hv-firmware", "boot-entry", "claim-guests"];

/// A step: its name and what it does.
type Step = (&'static str, fn() -> Result<()>);

const STEPS: &[Step] = &[
    ("format", format),
    ("hypervisor", hypervisor),
    ("lint", lint),
    ("host", host),
    ("interleavings", interleavings),
    ("guests", claim_guests),
    ("processor", claim_guests_on_bochs),
    ("system", system),
];

/// The verb.
pub fn run(args: &[String]) -> Result<()> {
    let names: Vec<&str> = STEPS.iter().map(|(name, _)| *name).collect();
    if let Some(unknown) = args.iter().find(|arg| !names.contains(&arg.as_str())) {
        bail!("no step of `test` is called {unknown}; there are {}", names.join(", "));
    }
    for (name, step) in STEPS {
        if args.is_empty() || args.iter().any(|arg| arg == name) {
            let start = Instant::now();
            println!("=== {name}");
            step().with_context(|| format!("the step `{name}` failed; alone: cargo xtask test {name}"))?;
            // The system tests end with their runner's own summary.
            if *name != "system" {
                println!("=== {name} took {} s", start.elapsed().as_secs());
            }
        }
    }
    Ok(())
}

fn cargo(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::repo()).args(words);
    command
}

/// Adds the options that leave out what the host cannot build, and the system tests.
fn on_host(mut command: Command) -> Command {
    command.arg("--workspace");
    for name in NOT_ON_HOST {
        command.args(["--exclude", name]);
    }
    command
}

fn format() -> Result<()> {
    sh::visible(&mut cargo(&["fmt", "--all", "--check"]))
}

/// Builds the image and checks it: header, relocations, no vector instruction.
fn hypervisor() -> Result<()> {
    build::check(&build::build()?)
}

fn lint() -> Result<()> {
    let mut host = on_host(cargo(&["clippy", "--quiet", "--all-targets"]));
    sh::visible(host.args(["--", "-D", "warnings"]))?;
    let mut explored = cargo(&["clippy", "--quiet", "-p", "hv-core", "--all-targets", "--features", "loom"]);
    sh::visible(explored.args(["--", "-D", "warnings"]))?;
    let mut own = build::cargo("clippy");
    sh::visible(own.args(["--release", "--quiet", "--", "-D", "warnings"]))
}

fn host() -> Result<()> {
    sh::visible(on_host(cargo(&["test", "--quiet"])).args(["--exclude", "tests-system"]))?;
    // The `acpi` crate needs the bootstrap switch; a directory of its own keeps the others from being built again.
    let mut firmware = cargo(&["test", "--quiet", "-p", "hv-firmware", "--target-dir"]);
    sh::visible(firmware.arg(paths::target().join("bootstrap")).env("RUSTC_BOOTSTRAP", "1"))
}

/// What CPUs do at once, in all orders. Under another feature of the crate, so that its atomics are loom's.
fn interleavings() -> Result<()> {
    let mut core = cargo(&["test", "--quiet", "-p", "hv-core", "--lib"]);
    sh::visible(core.args(["--features", "loom", "interleavings"]))
}

/// The claim guests on Xenolith, against what they said on Debian's Xen.
fn claim_guests() -> Result<()> {
    run_guests(&[])?;
    // The machine has an HPET, which would always be taken.
    run_guests(&["--append", "clocksource=acpi", "timers"])?;
    run_guests(&["--append", "clocksource=pit", "timers"])
}

fn run_guests(args: &[&str]) -> Result<()> {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    ensure!(guests::run(&args)? == ExitCode::SUCCESS, "guests differ from Debian's Xen");
    Ok(())
}

/// Those that come near the processor, on one with what QEMU lacks: PCID, INVPCID, x2APIC, the TSC-deadline timer.
fn claim_guests_on_bochs() -> Result<()> {
    let near = ["mmu", "pin", "privop", "ptwr", "segments", "timers", "traps", "user", "vcpu"];
    run_guests(&[&["--bochs", "--append", "x2apic"][..], &near].concat())
}

/// Two machines at a time: each emulates one CPU at a time, mostly.
fn system() -> Result<()> {
    // The transcripts say more than where in the test a wait stands.
    let mut tests = cargo(&["test", "-p", "tests-system", "--", "--test-threads=2"]);
    sh::visible(tests.env("RUST_BACKTRACE", "0"))
}
