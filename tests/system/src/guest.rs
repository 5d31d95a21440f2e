//! What the tests share: machines with limits, and the whole serial line when one fails.

use anyhow::{Context, Error, Result, ensure};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use xtask::console::Console;
use xtask::machine::{Hypervisor, Machine, Spec};
use xtask::paths;

/// A boot with one command; several times what it takes on a machine of two emulated CPUs.
pub const BOOT: Duration = Duration::from_secs(300);
/// A boot of a Debian root disk by systemd.
pub const DEBIAN: Duration = Duration::from_secs(600);
/// From QEMU's start to what the hypervisor says when it cannot go on.
pub const REFUSAL: Duration = Duration::from_secs(120);

const PROMPT: &[u8] = b"(qemu) ";

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
        let newer_qemu = spec.cpus > 1 && spec.hypervisor == Hypervisor::Xenolith;
        let machine = Machine::prepare(&Spec { newer_qemu, ..spec.clone() })?;
        let mut console = Console::start(machine.command(false))?;
        console.record(record()?);
        Ok(Guest { console, machine })
    }

    /// Waits for a text on the serial line and returns what came before it.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<String> {
        let found = self.console.wait_for(text, limit).with_context(|| format!("waiting for {text:?}"));
        self.explain(found)
    }

    /// The directory of the machine's files.
    pub fn dir(&self) -> &Path {
        self.machine.dir()
    }

    /// True if a processor gave up.
    pub fn had_triple_fault(&self) -> bool {
        self.machine.had_triple_fault()
    }

    /// Gives QEMU's monitor a command; returns what it answers.
    pub fn monitor(&self, command: &str) -> Result<String> {
        let begun = Instant::now();
        let mut monitor = loop {
            match UnixStream::connect(self.machine.monitor()) {
                Ok(monitor) => break monitor,
                // QEMU has just been started.
                Err(_) if begun.elapsed() < Duration::from_secs(10) => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(error) => return Err(error).context("no monitor"),
            }
        };
        monitor.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut said = Vec::new();
        let mut prompts = |monitor: &mut UnixStream, count: usize| -> Result<usize> {
            while said.windows(PROMPT.len()).filter(|w| *w == PROMPT).count() < count {
                let mut bytes = [0; 4096];
                let len = monitor.read(&mut bytes).context("the monitor does not answer")?;
                ensure!(len > 0, "the monitor closed");
                said.extend_from_slice(&bytes[..len]);
            }
            Ok(said.len())
        };
        prompts(&mut monitor, 1)?;
        monitor.write_all(format!("{command}\n").as_bytes())?;
        let end = prompts(&mut monitor, 2)?;
        Ok(String::from_utf8_lossy(&said[..end]).into_owned())
    }

    /// Waits for QEMU to end.
    pub fn wait_end(&mut self, limit: Duration) -> Result<()> {
        let ended = self.console.wait_end(limit).context("waiting for the machine to go off");
        let status = self.explain(ended)?;
        if status.success() { Ok(()) } else { Err(self.console.failure("the machine was not switched off")) }
    }

    fn explain<T>(&self, result: Result<T>) -> Result<T> {
        result.with_context(|| {
            format!(
                "{}\n--- the serial line ---\n{}\n{}{}--- end ---",
                self.machine.shown(),
                self.console.transcript(),
                if self.machine.had_triple_fault() { "--- a triple fault ---\n" } else { "" },
                self.processors()
            )
        })
    }

    /// Where the processors of a machine are that still runs, twice within a second: who hangs may say nothing.
    fn processors(&self) -> String {
        let mut text = String::new();
        for _ in 0..2 {
            if UnixStream::connect(self.machine.monitor()).is_err() {
                break;
            }
            let registers =
                self.monitor("info registers -a").unwrap_or_else(|error| format!("CPU#?: {error:#}"));
            text += "--- the processors ---\n";
            let telling =
                |line: &&str| ["CPU#", "RIP=", "RSP=", "CR0="].iter().any(|word| line.contains(word));
            registers.lines().filter(telling).for_each(|line| text += &format!("{}\n", line.trim()));
            std::thread::sleep(Duration::from_millis(500));
        }
        text
    }
}

/// A file for the serial line of a machine of the test that calls, in `lines`: a run that is ended says nothing else.
fn record() -> Result<File> {
    static BEGUN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let dir = paths::out().join("lines");
    std::fs::create_dir_all(&dir)?;
    let file = dir.join(std::thread::current().name().unwrap_or("main").replace("::", "."));
    // One file for all machines of a test, begun anew by each run.
    let first = BEGUN.lock().expect("nobody panics with it").insert(file.clone());
    let opened = File::options().create(true).write(true).truncate(first).append(!first).open(&file);
    opened.with_context(|| format!("cannot write {}", file.display()))
}

/// Runs one command in dom0; returns its output. A status other than 0, a machine that does not go off by itself,
/// and a passed limit are errors with the whole serial line.
pub fn command(spec: Spec, script: &str, limit: Duration) -> Result<String> {
    Ok(timed(spec, script, limit)?.into_iter().map(|(_, line)| line + "\n").collect())
}

/// The same, line by line, each with the time when it came. If the emulator gives up, the machine is run once more.
pub fn timed(mut spec: Spec, script: &str, limit: Duration) -> Result<Vec<(Instant, String)>> {
    spec.command = Some(script.to_owned());
    let once = || {
        let mut guest = Guest::start(&spec)?;
        let mut lines = Vec::new();
        let done = guest.console.run_command(limit, |line| lines.push((Instant::now(), line.to_owned())));
        match guest.explain(done)? {
            0 => Ok(lines),
            status => guest.explain(Err(anyhow::anyhow!("the command ended with {status}"))),
        }
    };
    match once() {
        Err(error) if emulator_gave_up(&error) => {
            eprintln!("QEMU gave up (docs/debugging.md), so once more: {}", error.root_cause());
            once()
        }
        done => done,
    }
}

/// True if QEMU came upon what its version 10 does wrong where processors use devices while another one moves some.
fn emulator_gave_up(error: &Error) -> bool {
    let why = error.root_cause().to_string();
    why.contains("QEMU ended: signal: 6 (SIGABRT)") && why.contains("iotlb_to_section: Assertion")
}

/// Asserts that some line of the output is exactly this.
#[track_caller]
pub fn assert_line(output: &str, line: &str) {
    assert!(output.lines().any(|l| l == line), "no line {line:?} in\n{output}");
}
