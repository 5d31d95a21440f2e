//! `bench`: one program, the first process of the same machine with no hypervisor, with Debian's Xen and with
//! Xenolith, in one go; a table of what each operation takes, and the ratios.

use crate::console::Console;
use crate::image::cpio::Archive;
use crate::machine::{Hypervisor, Kernel, Machine, Spec};
use crate::{paths, sh};
use anyhow::{Context, Result, bail, ensure};
use std::fmt::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const HELP: &str = "\
usage: cargo xtask bench [OPTION]...

Boots bench/'s program as the first process of one machine, without a hypervisor, on Debian's Xen 4.17 and on
Xenolith, and prints what each operation takes, in instructions (QEMU's -icount: one a nanosecond of virtual time),
and the ratios. Two runs agree to about 0.3 %.

  --on LIST       what to run below the kernel: bare,xen,xenolith (all three)
  --rows LIST     the operations to measure, by their names in the table (all)
  --kernel 6.1|6.12
  --cpu MODEL     QEMU's CPU model (qemu64: the one that all three run on)
  --memory MIB    of the machine (1024); dom0 gets half
  --json FILE     where to put the numbers as JSON (target/xenolith/bench.json)
  --verbose       print each serial line
";
const TARGET: &str = "x86_64-unknown-linux-gnu";
const TIME_LIMIT: Duration = Duration::from_secs(900);
const END: &str = "BENCH-END";

struct Options {
    on: Vec<Hypervisor>,
    spec: Spec,
    json: PathBuf,
    verbose: bool,
}

/// The verb.
pub fn run(args: &[String]) -> Result<()> {
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        print!("{HELP}");
        return Ok(());
    }
    let options = parse(args)?;
    let initrd = initramfs()?;
    let mut columns = Vec::new();
    let mut failures = Vec::new();
    for &hypervisor in &options.on {
        let spec = Spec { hypervisor, initrd: Some(initrd.clone()), ..options.spec.clone() };
        eprintln!("measuring on {}", name(hypervisor));
        match measure(&spec, options.verbose) {
            Ok(rows) => columns.push(Column { hypervisor, rows }),
            Err(error) => failures.push(format!("{}: {error:#}", name(hypervisor))),
        }
    }
    let table = Table::new(&columns);
    print!("{}", table.text());
    sh::write(&options.json, table.json().as_bytes())?;
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

fn parse(args: &[String]) -> Result<Options> {
    let spec = Spec {
        cpu: Some("qemu64".to_owned()),
        dom0_append: "quiet nokaslr norandmaps".to_owned(),
        icount: true,
        ..Spec::default()
    };
    let on = vec![Hypervisor::Bare, Hypervisor::Xen, Hypervisor::Xenolith];
    let mut options = Options { on, spec, json: paths::out().join("bench.json"), verbose: false };
    let mut args = args.iter();
    while let Some(option) = args.next() {
        let mut value = || args.next().with_context(|| format!("{option} needs a value"));
        match option.as_str() {
            "--on" => options.on = value()?.split(',').map(hypervisor).collect::<Result<_>>()?,
            // What follows `--` are the arguments of the first process.
            "--rows" => options.spec.dom0_append += &format!(" -- {}", value()?.replace(',', " ")),
            "--kernel" => options.spec.kernel = kernel(value()?)?,
            "--cpu" => options.spec.cpu = Some(value()?.clone()),
            "--memory" => options.spec.memory = value()?.parse().context("--memory needs a number")?,
            "--json" => options.json = value()?.into(),
            "--verbose" => options.verbose = true,
            _ => bail!("unknown option {option}\n{HELP}"),
        }
    }
    Ok(options)
}

fn hypervisor(text: &str) -> Result<Hypervisor> {
    [Hypervisor::Bare, Hypervisor::Xen, Hypervisor::Xenolith]
        .into_iter()
        .find(|&hypervisor| name(hypervisor) == text)
        .with_context(|| format!("{text} is not one of bare, xen, xenolith"))
}

fn kernel(text: &str) -> Result<Kernel> {
    match text {
        "6.1" => Ok(Kernel::V6_1),
        "6.12" => Ok(Kernel::V6_12),
        _ => bail!("{text} is not one of 6.1, 6.12"),
    }
}

fn name(hypervisor: Hypervisor) -> &'static str {
    match hypervisor {
        Hypervisor::Bare => "bare",
        Hypervisor::Xen => "xen",
        Hypervisor::Xenolith => "xenolith",
    }
}

/// The program as an initramfs.
fn initramfs() -> Result<Vec<u8>> {
    let flags = "-C target-feature=+crt-static -C relocation-model=static -C strip=symbols";
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(paths::repo()).env("RUSTFLAGS", flags);
    cargo.args(["build", "--quiet", "--release", "-p", "xenolith-bench", "--target", TARGET]);
    sh::visible(&mut cargo)?;
    let program = sh::read(&paths::target().join(TARGET).join("release/xenolith-bench"))?;
    let mut archive = Archive::new();
    archive.dir("dev");
    archive.device("dev/console", 5, 1);
    archive.dir("proc");
    archive.file("init", 0o755, &program);
    Ok(archive.finish())
}

/// One boot: the rows as the program printed them.
fn measure(spec: &Spec, verbose: bool) -> Result<Vec<(String, f64)>> {
    let machine = Machine::prepare(spec)?;
    eprintln!("{} -serial stdio", machine.shown());
    let mut console = Console::start(machine.command(false))?;
    let ended = console.wait_for(END, TIME_LIMIT);
    let transcript = console.transcript();
    if verbose || ended.is_err() {
        eprintln!("--- the serial line ---\n{}\n--- end ---", transcript.trim_end());
    }
    ended.context("the measurement did not end; the serial line is above")?;
    rows(&transcript)
}

fn rows(transcript: &str) -> Result<Vec<(String, f64)>> {
    if let Some(line) = transcript.lines().find(|line| line.starts_with("BENCH-FAILED")) {
        bail!("{line}");
    }
    let mut rows = Vec::new();
    for line in transcript.lines().filter_map(|line| line.strip_prefix("BENCH ")) {
        let (name, number) = line.trim().split_once(' ').with_context(|| format!("bad line {line}"))?;
        rows.push((name.to_owned(), number.parse().with_context(|| format!("bad line {line}"))?));
    }
    ensure!(!rows.is_empty(), "the program printed no row");
    // The firmware and GRUB are in this one: they are the same for all.
    let start = transcript.lines().find_map(|line| line.strip_prefix("BENCH-AT init "));
    if let Some(cycles) = start.and_then(|text| text.trim().parse().ok()) {
        rows.push(("power-on-to-init".to_owned(), cycles));
    }
    Ok(rows)
}

struct Column {
    hypervisor: Hypervisor,
    rows: Vec<(String, f64)>,
}

/// The columns, and the ratios between them.
struct Table<'a> {
    columns: &'a [Column],
    rows: Vec<&'a str>,
}

/// Each ratio: what is divided by what.
const RATIOS: [(Hypervisor, Hypervisor); 3] = [
    (Hypervisor::Xen, Hypervisor::Bare),
    (Hypervisor::Xenolith, Hypervisor::Bare),
    (Hypervisor::Xenolith, Hypervisor::Xen),
];

impl<'a> Table<'a> {
    fn new(columns: &'a [Column]) -> Self {
        let rows = columns
            .first()
            .map_or(Vec::new(), |column| column.rows.iter().map(|row| row.0.as_str()).collect());
        Self { columns, rows }
    }

    fn cell(&self, row: &str, hypervisor: Hypervisor) -> Option<f64> {
        let column = self.columns.iter().find(|column| column.hypervisor == hypervisor)?;
        column.rows.iter().find(|(name, _)| name == row).map(|(_, number)| *number)
    }

    /// The ratios that both columns exist for.
    fn ratios(&self) -> Vec<(Hypervisor, Hypervisor)> {
        let there = |hypervisor| self.columns.iter().any(|column| column.hypervisor == hypervisor);
        RATIOS.into_iter().filter(|&(above, below)| there(above) && there(below)).collect()
    }

    fn text(&self) -> String {
        let mut text = format!("{:<18}", "operation");
        for column in self.columns {
            let _ = write!(text, "{:>12}", name(column.hypervisor));
        }
        for (above, below) in self.ratios() {
            let _ = write!(text, "{:>16}", format!("{}/{}", name(above), name(below)));
        }
        text.push('\n');
        for row in &self.rows {
            let _ = write!(text, "{row:<18}");
            for column in self.columns {
                let cell =
                    self.cell(row, column.hypervisor).map_or("-".to_owned(), |number| format!("{number:.0}"));
                let _ = write!(text, "{cell:>12}");
            }
            for (above, below) in self.ratios() {
                let cell =
                    self.ratio(row, above, below).map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
                let _ = write!(text, "{cell:>16}");
            }
            text.push('\n');
        }
        text
    }

    fn ratio(&self, row: &str, above: Hypervisor, below: Hypervisor) -> Option<f64> {
        Some(self.cell(row, above)? / self.cell(row, below)?)
    }

    /// One object a row: the columns by name, then the ratios. All names are plain words.
    fn json(&self) -> String {
        let rows = self.rows.iter().map(|row| {
            let cells = self.columns.iter().filter_map(|column| {
                let number = self.cell(row, column.hypervisor)?;
                Some(format!("\"{}\": {number:.1}", name(column.hypervisor)))
            });
            let ratios = self.ratios().into_iter().filter_map(|(above, below)| {
                let ratio = self.ratio(row, above, below)?;
                Some(format!("\"{}/{}\": {ratio:.4}", name(above), name(below)))
            });
            format!("  \"{row}\": {{{}}}", cells.chain(ratios).collect::<Vec<_>>().join(", "))
        });
        format!("{{\n{}\n}}\n", rows.collect::<Vec<_>>().join(",\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_told_from_the_kernels_lines() {
        let text = "[1.0] BENCH no\r\nBENCH getpid 322.5\r\n(XEN) BENCH no\r\nBENCH fork-exit 155000.0\r\nBENCH-END\r\n";
        assert_eq!(rows(text).unwrap(), [("getpid".to_owned(), 322.5), ("fork-exit".to_owned(), 155_000.0)]);
        assert!(rows("BENCH-END\n").is_err());
        let start = rows("BENCH-AT init 7000\r\nBENCH getpid 1\n").unwrap();
        assert_eq!(start.last(), Some(&("power-on-to-init".to_owned(), 7000.0)));
        let error = rows("BENCH getpid 1\nBENCH-FAILED thread why\n").unwrap_err().to_string();
        assert!(error.contains("thread why"));
    }

    #[test]
    fn the_table_has_the_ratios_of_what_was_measured() {
        let column = |hypervisor, number| Column { hypervisor, rows: vec![("getpid".to_owned(), number)] };
        let columns = [column(Hypervisor::Bare, 200.0), column(Hypervisor::Xen, 500.0)];
        let table = Table::new(&columns);
        let lines: Vec<Vec<&str>> =
            ["operation bare xen xen/bare", "getpid 200 500 2.50"].map(|l| l.split(' ').collect()).into();
        let text = table.text();
        assert_eq!(
            text.lines().map(|line| line.split_whitespace().collect()).collect::<Vec<Vec<_>>>(),
            lines
        );
        assert_eq!(
            table.json(),
            "{\n  \"getpid\": {\"bare\": 200.0, \"xen\": 500.0, \"xen/bare\": 2.5000}\n}\n"
        );
    }
}
