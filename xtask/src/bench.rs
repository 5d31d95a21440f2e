//! `bench`: one program, the first process of the same machine with no hypervisor, with Debian's Xen and with
//! Xenolith, in one go; a table of what each operation takes, and the ratios.

use crate::bench_table::{Column, Flags, Row, Table, hypervisors, name};
use crate::console::Console;
use crate::guests::{self, On};
use crate::image::cpio::Archive;
use crate::machine::{self, Hypervisor, Kernel, Machine, Spec};
use crate::{build, gdb, paths, sh};
use anyhow::{Context, Result, bail, ensure};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

const HELP: &str = "\
usage: cargo xtask bench [OPTION]...

Boots bench/'s program as the first process of one machine, without a hypervisor, on Debian's Xen 4.17 and on
Xenolith, and prints what each operation takes, in instructions (QEMU's -icount: one a nanosecond of virtual time),
and the ratios; where the hypervisor counts them, also its root-table loads and TLB flushes for each operation. Two
runs agree to about 0.3 %. A `bar` is the ratio of Xenolith to Xen that must not be exceeded.

  --on LIST       what to run below the kernel: bare,xen,xenolith (all three)
  --rows LIST     the operations to measure, by their names in the table (all)
  --kernel 6.1|6.12
  --cpu MODEL     QEMU's CPU model (qemu64: the one that all three run on)
  --wall          wall time in nanoseconds instead of instructions: what they hide shows, and so does the load of
                  this machine
  --cpus N        of the machine (1); more need --wall
  --append LIST   more options for the hypervisor
  --memory MIB    of the machine (1024); dom0 gets half
  --check         fail if a ratio is above its bar
  --json FILE     where to put the numbers as JSON (target/xenolith/bench.json)
  --verbose       print each serial line
";
const TARGET: &str = "x86_64-unknown-linux-gnu";
const TIME_LIMIT: Duration = Duration::from_secs(900);
const END: &str = "BENCH-END";
/// Row of the time from the machine's start to its first process.
pub const POWER_ON: &str = "power-on-to-init";

struct Options {
    on: Vec<Hypervisor>,
    spec: Spec,
    json: PathBuf,
    flags: Flags,
}

/// The verb.
pub fn run(args: &[String]) -> Result<ExitCode> {
    let Some(options) = parse(args)? else { return Ok(ExitCode::SUCCESS) };
    let initrd = initramfs(&options.spec.kernel)?;
    let mut columns = Vec::new();
    let mut failures = Vec::new();
    for &hypervisor in &options.on {
        let spec = Spec { hypervisor, initrd: Some(initrd.clone()), ..options.spec.clone() };
        eprintln!("measuring on {}", name(hypervisor));
        match column(&spec, options.flags.verbose) {
            Ok(rows) => columns.push(Column { hypervisor, rows }),
            Err(error) => failures.push(format!("{}: {error:#}", name(hypervisor))),
        }
    }
    let table = Table::new(&columns);
    print!("{}", table.text());
    sh::write(&options.json, table.json().as_bytes())?;
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    let above = table.above();
    Ok(options.flags.verdict(&above))
}

fn parse(args: &[String]) -> Result<Option<Options>> {
    let mut spec = Spec {
        cpu: Some("qemu64".to_owned()),
        dom0_append: "quiet nokaslr norandmaps".to_owned(),
        icount: true,
        ..Spec::default()
    };
    let mut on = vec![Hypervisor::Bare, Hypervisor::Xen, Hypervisor::Xenolith];
    let mut json = paths::out().join("bench.json");
    let flags = Flags::parse(args, HELP, |option, value| {
        match option {
            "--on" => on = hypervisors(&value()?, &on)?,
            // What follows `--` are the arguments of the first process.
            "--rows" => spec.dom0_append += &format!(" -- {}", value()?.replace(',', " ")),
            "--kernel" => spec.kernel = kernel(&value()?)?,
            "--cpu" => spec.cpu = Some(value()?),
            "--wall" => spec.icount = false,
            "--cpus" => spec.cpus = value()?.parse().context("--cpus needs a number")?,
            "--append" => spec.append = value()?,
            "--memory" => spec.memory = value()?.parse().context("--memory needs a number")?,
            "--json" => json = value()?.into(),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(flags.map(|flags| Options { on, spec, json, flags }))
}

fn kernel(text: &str) -> Result<Kernel> {
    match text {
        "6.1" => Ok(Kernel::V6_1),
        "6.12" => Ok(Kernel::V6_12),
        _ => bail!("{text} is not one of 6.1, 6.12"),
    }
}

/// Builds the program, linked statically.
pub fn program() -> Result<PathBuf> {
    let flags = "-C target-feature=+crt-static -C relocation-model=static -C strip=symbols";
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(paths::repo()).env("RUSTFLAGS", flags);
    cargo.args(["build", "--quiet", "--release", "-p", "xenolith-bench", "--target", TARGET]);
    sh::visible(&mut cargo)?;
    Ok(paths::target().join(TARGET).join("release/xenolith-bench"))
}

/// The program as an initramfs, with the kernel's module for hypercalls of programs, for the hypervisor's counters.
pub fn initramfs(kernel: &Kernel) -> Result<Vec<u8>> {
    let program = sh::read(&program()?)?;
    let mut archive = Archive::new();
    archive.dir("dev");
    archive.device("dev/console", 5, 1);
    archive.dir("proc");
    archive.file("init", 0o755, &program);
    let kernel = machine::debian(kernel)?;
    archive.file("xen-privcmd.ko", 0o644, &kernel.module("xen-privcmd")?);
    Ok(archive.finish())
}

/// One boot: the rows as the program printed them.
pub fn measure(spec: &Spec, verbose: bool) -> Result<Vec<Row>> {
    rows(&boot(spec, verbose)?)
}

/// What the serial line said until the program came to its end.
fn boot(spec: &Spec, verbose: bool) -> Result<String> {
    let machine = Machine::prepare(spec)?;
    eprintln!("{} -serial stdio", machine.shown());
    let mut console = Console::start(machine.command(false))?;
    let ended = console.wait_for(END, TIME_LIMIT);
    let transcript = console.transcript();
    if verbose || ended.is_err() {
        eprintln!("--- the serial line ---\n{}\n--- end ---", transcript.trim_end());
    }
    ended.context("the measurement did not end; the serial line is above")?;
    Ok(transcript)
}

/// The program's rows, and what the way from the hypervisor's first instruction to the program's took.
fn column(spec: &Spec, verbose: bool) -> Result<Vec<Row>> {
    let transcript = boot(spec, verbose)?;
    let mut rows = rows(&transcript)?;
    let whole = rows.iter().find(|row| row.name == POWER_ON).map(|row| row.time);
    if let (Some(whole), true, Some(address)) = (whole, spec.icount, entry(spec.hypervisor, &transcript)?) {
        let name = "entry-to-init".to_owned();
        rows.push(Row { name, time: whole - entered(spec, address)? as f64, counted: None });
    }
    Ok(rows)
}

/// Machine address of the hypervisor's first instruction, if there is a hypervisor.
fn entry(hypervisor: Hypervisor, transcript: &str) -> Result<Option<u64>> {
    Ok(match hypervisor {
        Hypervisor::Bare => None,
        Hypervisor::Xenolith => Some(guests::entry(&build::build()?.elf, On::Xenolith)?),
        // GRUB loads it as high as it can.
        Hypervisor::Xen => {
            let said = transcript.lines().find_map(|line| line.split_once("image load base address: 0x"));
            let base = said.context("Xen does not say where it is")?.1.trim();
            let base = u64::from_str_radix(base, 16).with_context(|| format!("no address: {base}"))?;
            Some(base + guests::entry(&guests::plain_xen(&paths::out())?, On::Xen)?)
        }
    })
}

/// The time-stamp counter at the hypervisor's first instruction, which is the same at each boot. A boot of its own, so
/// that the debugger has no part in what is measured.
fn entered(spec: &Spec, address: u64) -> Result<u64> {
    let machine = Machine::prepare(spec)?;
    let socket = machine.dir().join("gdb");
    gdb::start(machine.command(false), &socket, address, TIME_LIMIT).map(|(_, entered)| entered)
}

fn rows(transcript: &str) -> Result<Vec<Row>> {
    if let Some(line) = transcript.lines().find(|line| line.starts_with("BENCH-FAILED")) {
        bail!("{line}");
    }
    let lines = transcript.lines().filter_map(|line| line.strip_prefix("BENCH "));
    let mut rows: Vec<Row> =
        lines.map(|line| row(line).with_context(|| format!("bad line {line}"))).collect::<Result<_>>()?;
    ensure!(!rows.is_empty(), "the program printed no row");
    // The firmware and GRUB are in this one: they are the same for all.
    let start = transcript.lines().find_map(|line| line.strip_prefix("BENCH-AT init "));
    if let Some(cycles) = start.and_then(|text| text.trim().parse().ok()) {
        rows.push(Row { name: POWER_ON.to_owned(), time: cycles, counted: None });
    }
    Ok(rows)
}

/// A name, nanoseconds, and what the hypervisor counted, if it counts.
fn row(line: &str) -> Option<Row> {
    let mut words = line.split_whitespace();
    let (name, time) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
    let counted = match (words.next(), words.next()) {
        (Some(loads), Some(flushes)) => Some([loads.parse().ok()?, flushes.parse().ok()?]),
        _ => None,
    };
    Some(Row { name, time, counted })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_told_from_the_kernels_lines() {
        let row = |name: &str, time, counted| Row { name: name.to_owned(), time, counted };
        let text = "[1.0] BENCH no\r\nBENCH getpid 322.5\r\n(XEN) BENCH no\r\nBENCH fork-exit 155000.0 2.50 7\r\nBENCH-END\r\n";
        let expected = [row("getpid", 322.5, None), row("fork-exit", 155_000.0, Some([2.5, 7.0]))];
        assert_eq!(rows(text).unwrap(), expected);
        assert!(rows("BENCH-END\n").is_err());
        let start = rows("BENCH-AT init 7000\r\nBENCH getpid 1\n").unwrap();
        assert_eq!(start.last(), Some(&row("power-on-to-init", 7000.0, None)));
        let error = rows("BENCH getpid 1\nBENCH-FAILED thread why\n").unwrap_err().to_string();
        assert!(error.contains("thread why"));
        assert!(rows("BENCH getpid x\n").is_err());
    }
}
