//! What the tests share: machines with limits, and the whole serial line when one fails.

use anyhow::{Context, Result, bail};
use std::time::Duration;
use xtask::console::Console;
use xtask::machine::{Hypervisor, Machine, Spec};

/// A boot with one command; several times what it takes on a machine of two emulated CPUs.
pub const BOOT: Duration = Duration::from_secs(300);
/// A boot of a Debian root disk by systemd.
pub const DEBIAN: Duration = Duration::from_secs(600);
/// From QEMU's start to what the hypervisor says when it cannot go on.
pub const REFUSAL: Duration = Duration::from_secs(120);

/// The hypervisor under test.
pub fn hypervisor() -> Hypervisor {
    match std::env::var("XENOLITH_HV").as_deref() {
        Ok("xen") => Hypervisor::Xen,
        Ok("xenolith") | Err(_) => Hypervisor::Xenolith,
        Ok(other) => panic!("XENOLITH_HV is {other:?}, not xen or xenolith"),
    }
}

/// A machine with the hypervisor under test.
pub fn spec() -> Spec {
    Spec { hypervisor: hypervisor(), ..Spec::default() }
}

/// A running machine that shows its serial line when the test that owns it fails.
pub struct Guest {
    /// The serial line.
    pub console: Console,
    // Its files last as long as QEMU uses them; fields are dropped in order.
    machine: Machine,
}

impl Guest {
    /// Starts a machine.
    pub fn start(spec: &Spec) -> Result<Guest> {
        let machine = Machine::prepare(spec)?;
        Ok(Guest { console: Console::start(machine.command(false))?, machine })
    }

    /// Waits for a text on the serial line and returns what came before it.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<String> {
        let found = self.console.wait_for(text, limit).with_context(|| format!("waiting for {text:?}"));
        self.explain(found)
    }

    /// Waits for QEMU to end.
    pub fn wait_end(&mut self, limit: Duration) -> Result<()> {
        let ended = self.console.wait_end(limit).context("waiting for the machine to go off");
        let status = self.explain(ended)?;
        if status.success() { Ok(()) } else { bail!("QEMU ended with {status}") }
    }

    fn explain<T>(&self, result: Result<T>) -> Result<T> {
        result.with_context(|| {
            format!(
                "{}\n--- the serial line ---\n{}\n--- end ---",
                self.machine.shown(),
                self.console.transcript()
            )
        })
    }
}

/// Runs one command in dom0; returns its output. A status other than 0, a machine that does not go off by itself,
/// and a passed limit are errors with the whole serial line.
pub fn command(mut spec: Spec, script: &str, limit: Duration) -> Result<String> {
    spec.command = Some(script.to_owned());
    let mut guest = Guest::start(&spec)?;
    let mut output = String::new();
    let done = guest.console.run_command(limit, |line| {
        output.push_str(line);
        output.push('\n');
    });
    match guest.explain(done)? {
        0 => Ok(output),
        status => guest.explain(Err(anyhow::anyhow!("the command ended with {status}"))),
    }
}

/// Asserts that some line of the output is exactly this.
#[track_caller]
pub fn assert_line(output: &str, line: &str) {
    assert!(output.lines().any(|l| l == line), "no line {line:?} in\n{output}");
}
