//! `guests`: boots the claim guests on a hypervisor and compares what they say with what they said on Debian's Xen.

use crate::console::Console;
use crate::image::{self, bootdisk};
use crate::{bochs, build, gdb, paths, sh, survey};
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(90);
/// One instruction at a time costs wall time.
const ICOUNT_LIMIT: Duration = Duration::from_secs(300);
// With Xen's isolation of page tables user mode reads what it does not read without.
const OPTIONS: &str = "com1=115200,8n1 console=com1 loglvl=none guest_loglvl=none xpti=no";
const HELP: &str = "\
usage: cargo xtask guests [--xen | --xenolith] [--bochs] [--record] [--cpu MODEL] [--memory MIB] [--append OPTIONS]
                          [--verbose] [NAME]...

Boots each guest of tests/guests (or those named) as the dom0 kernel and compares its lines with
tests/guests/expected/NAME.txt. With --xen --record, Debian's Xen 4.17 writes those files.
--bochs runs them in Bochs instead of QEMU, on a processor with PCID; expected/haswell has what differs there.
On Xenolith the guest `survey` is compared with the hypercall table instead; --record survey corrects the table.
The guest `control` is about what only Xenolith has; it records its own answers.
";

/// Where the guests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// This repository's hypervisor, loaded by GRUB.
    Xenolith,
    /// Debian's Xen 4.17, loaded by QEMU.
    Xen,
}

/// How the guests run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The hypervisor.
    pub on: On,
    /// Bochs instead of QEMU, for processor features that QEMU does not emulate.
    pub bochs: bool,
    /// QEMU's CPU model.
    pub cpu: String,
    /// Memory in MiB.
    pub memory: u32,
    /// Options for the hypervisor behind the usual ones.
    pub append: String,
    /// Virtual time is instructions executed, a nanosecond each: for measurements.
    pub icount: bool,
}

impl Default for Options {
    fn default() -> Self {
        // Answers may depend on the CPU: the expected ones are of this model.
        Options {
            on: On::Xenolith,
            bochs: false,
            cpu: "qemu64".to_owned(),
            memory: 512,
            append: String::new(),
            icount: false,
        }
    }
}

fn room() -> PathBuf {
    paths::repo().join("tests/guests")
}

fn expected(name: &str) -> PathBuf {
    room().join("expected").join(format!("{name}.txt"))
}

/// What a guest says on Bochs' processor, if it says something else there.
fn expected_on_bochs(name: &str) -> PathBuf {
    expected(&format!("haswell/{name}"))
}

/// Names of all guests, sorted.
pub fn names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(room().join("src/bin")).context("cannot list tests/guests/src/bin")? {
        let file = entry?.file_name();
        names.extend(file.to_string_lossy().strip_suffix(".rs").map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// Builds every guest for the hypervisor's target; returns the directory of their ELF files.
pub fn build() -> Result<PathBuf> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::repo()).env("RUSTC_BOOTSTRAP", "1").args([
        "build",
        "--release",
        "--quiet",
        "-p",
        "claim-guests",
        "--target",
        "x86_64-hv.json",
        "-Zbuild-std=core",
        "-Zbuild-std-features=compiler-builtins-mem",
        "-Zjson-target-spec",
    ]);
    sh::visible(&mut command)?;
    Ok(paths::target().join("x86_64-hv/release"))
}

/// What a guest said, and everything the serial line said.
pub struct Answer {
    /// The guest's lines.
    pub lines: String,
    /// The whole transcript.
    pub transcript: String,
    /// Whether the guest came to its end.
    pub whole: bool,
    /// The time-stamp counter at the hypervisor's first instruction, if time is instructions.
    pub entered: Option<u64>,
}

/// A hypervisor that is ready to boot guests.
pub struct Runner {
    options: Options,
    image: PathBuf,
    guests: PathBuf,
    dir: PathBuf,
}

impl Runner {
    /// Builds the guests, and builds or fetches the hypervisor.
    pub fn new(options: Options) -> Result<Runner> {
        let dir = paths::out().join("guests");
        std::fs::create_dir_all(&dir)?;
        let image = match options.on {
            On::Xenolith => build::build()?.elf,
            On::Xen => plain_xen(&dir)?,
        };
        Ok(Runner { options, image, guests: build()?, dir })
    }

    /// Boots one guest and listens until it ends.
    pub fn run(&self, name: &str) -> Result<Answer> {
        let kernel = self.guests.join(name);
        ensure!(kernel.exists(), "there is no guest called {name}");
        let disk = self.dir.join(format!("{name}.{}.img", std::process::id()));
        if self.options.bochs || self.options.on == On::Xenolith {
            self.write_disk(&disk, &kernel)?;
        }
        let answer = self.boot(&kernel, &disk);
        bochs::clean(&disk);
        answer
    }

    fn boot(&self, kernel: &Path, disk: &Path) -> Result<Answer> {
        if self.options.bochs {
            return listen(Console::start(bochs::command(disk, self.options.memory)?)?, LIMIT);
        }
        let mut command = self.qemu();
        match self.options.on {
            On::Xen => {
                command
                    .arg("-kernel")
                    .arg(&self.image)
                    .arg("-initrd")
                    .arg(kernel)
                    .args(["-append", &self.hypervisor_options()]);
            }
            On::Xenolith => {
                command.args(["-drive", &format!("format=raw,snapshot=on,file={}", disk.display())]);
            }
        }
        if self.options.icount { self.measure(command) } else { listen(Console::start(command)?, LIMIT) }
    }

    /// Under -icount a debugger notes when the hypervisor begins.
    fn measure(&self, command: Command) -> Result<Answer> {
        let socket = self.dir.join(format!("gdb.{}", std::process::id()));
        let entry = entry(&self.image, self.options.on)?;
        let (console, entered) = gdb::start(command, &socket, entry, ICOUNT_LIMIT)?;
        Ok(Answer { entered: Some(entered), ..listen(console, ICOUNT_LIMIT)? })
    }

    fn write_disk(&self, disk: &Path, kernel: &Path) -> Result<()> {
        bootdisk::write(
            disk,
            &bootdisk::Menu::Hypervisor {
                image: &self.image,
                title: "guest",
                options: &self.hypervisor_options(),
                kernel: Some((kernel, "")),
                initrd: &[],
                text_screen: false,
            },
        )
    }

    fn hypervisor_options(&self) -> String {
        format!("{OPTIONS} {}", self.options.append).trim_end().to_owned()
    }

    fn qemu(&self) -> Command {
        let qemu = std::env::var("XENOLITH_QEMU").unwrap_or_else(|_| "qemu-system-x86_64".to_owned());
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", &qemu]);
        command.args([
            "-machine",
            "pc,accel=tcg",
            "-cpu",
            &self.options.cpu,
            "-display",
            "none",
            "-no-reboot",
        ]);
        command.args(["-m", &self.options.memory.to_string(), "-serial", "stdio", "-net", "none"]);
        if self.options.icount {
            command.args(["-icount", "shift=0,sleep=off", "-rtc", "base=2026-01-01,clock=vm"]);
        }
        command
    }
}

/// Debian's Xen, unpacked into a directory.
pub fn plain_xen(dir: &Path) -> Result<PathBuf> {
    let packed = image::xen()?;
    let plain = dir.join("xen-4.17");
    sh::write(&plain, &sh::output(Command::new("gzip").args(["-d", "-c"]).arg(packed))?)?;
    Ok(plain)
}

/// Where our image is linked to be loaded, and the alignment of its linked address.
const LOAD_ADDRESS: u64 = 2 << 20;

/// The entry point in an ELF header: `len` bytes at `at`.
/// Machine address of the first instruction of a hypervisor that nobody moved: GRUB moves Xenolith only where its place is
/// taken.
pub fn entry(image: &Path, on: On) -> Result<u64> {
    let elf = sh::read(image)?;
    match on {
        On::Xen => entry_of(&elf, 0x18, 4),
        On::Xenolith => Ok(entry_of(&elf, 0x18, 8)? % LOAD_ADDRESS + LOAD_ADDRESS),
    }
}

fn entry_of(elf: &[u8], at: usize, len: usize) -> Result<u64> {
    let mut word = [0; 8];
    word[..len].copy_from_slice(elf.get(at..at + len).context("the hypervisor is no ELF file")?);
    Ok(u64::from_le_bytes(word))
}

fn listen(mut console: Console, limit: Duration) -> Result<Answer> {
    let whole = console.wait_for("| end", limit).is_ok();
    let transcript = console.transcript();
    Ok(Answer { lines: lines_of(&transcript), transcript, whole, entered: None })
}

/// The guest's lines, without their mark; the first and the last only frame them.
fn lines_of(transcript: &str) -> String {
    let marked = transcript.lines().filter_map(|line| line.trim_end_matches('\r').strip_prefix("| "));
    marked.filter(|line| *line != "begin" && *line != "end").flat_map(|line| [line, "\n"]).collect()
}

/// How the lines differ from the expected ones; nothing if they do not.
fn difference(runner: &Runner, name: &str, answer: &Answer) -> Result<Option<String>> {
    let mut wanted_file = expected(name);
    if runner.options.bochs && expected_on_bochs(name).exists() {
        wanted_file = expected_on_bochs(name);
    }
    let mut wanted = std::fs::read_to_string(&wanted_file).unwrap_or_default();
    if name == survey::GUEST && runner.options.on == On::Xenolith {
        wanted = survey::expected(&answer.lines);
        wanted_file = runner.dir.join("table.txt");
        sh::write(&wanted_file, wanted.as_bytes())?;
    }
    if answer.whole && wanted == answer.lines {
        return Ok(None);
    }
    let actual = runner.dir.join(format!("{name}.txt"));
    sh::write(&actual, answer.lines.as_bytes())?;
    sh::write(&runner.dir.join(format!("{name}.log")), answer.transcript.as_bytes())?;
    let mut diff = Command::new("diff");
    diff.args(["-u", "--label", "expected", "--label", name]).arg(&wanted_file).arg(&actual);
    let out = diff.output().context("cannot start diff")?;
    let mut text = String::from_utf8_lossy(&out.stdout).into_owned();
    if name == survey::GUEST {
        text += "if the hypervisor is right: cargo xtask guests --record survey\n";
    }
    if !answer.whole {
        let tail: Vec<&str> = answer.transcript.lines().collect();
        text += "the guest did not come to its end; the serial line ended with\n";
        text += &tail[tail.len().saturating_sub(25)..].join("\n");
    }
    Ok(Some(text))
}

/// The verb.
pub fn run(args: &[String]) -> Result<ExitCode> {
    let mut options = Options::default();
    let (mut record, mut verbose, mut wanted) = (false, false, Vec::new());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--xen" => options.on = On::Xen,
            "--xenolith" => options.on = On::Xenolith,
            "--bochs" => options.bochs = true,
            "--record" => record = true,
            "--verbose" => verbose = true,
            "--cpu" => options.cpu = args.next().context("--cpu needs a model")?.clone(),
            "--memory" => options.memory = args.next().context("--memory needs MiB")?.parse()?,
            "--append" => options.append = args.next().context("--append needs options")?.clone(),
            "--help" => {
                print!("{HELP}");
                return Ok(ExitCode::SUCCESS);
            }
            option if option.starts_with('-') => bail!("unknown option {option}\n{HELP}"),
            name => wanted.push(name.to_owned()),
        }
    }
    let of_xen = options.on == On::Xen || wanted == [survey::GUEST];
    let of_own = !wanted.is_empty() && wanted.iter().all(|name| OWN.contains(&name.as_str()));
    ensure!(!record || of_xen || of_own, "only Debian's Xen records what is expected");
    if wanted.is_empty() {
        wanted = names()?;
    }
    let runner = Runner::new(options)?;
    // Two at a time, as each is one CPU; but of two Bochses that look for a port for their screens one may end for want of one.
    let workers = if runner.options.bochs { 1 } else { 2 };
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || -> Result<()> {
        while let Some(name) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
            failed.fetch_add(usize::from(!one(&runner, name, record, verbose)?), Ordering::Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| anyhow!("a guest's runner panicked"))?)
    })?;
    let failed = failed.into_inner();
    println!("{} guests, {failed} failed", wanted.len());
    Ok(ExitCode::from(u8::from(failed != 0)))
}

/// Guests about what only Xenolith has: their expected lines are its own.
const OWN: &[&str] = &["control"];

/// Runs one guest and says how it went.
fn one(runner: &Runner, name: &str, record: bool, verbose: bool) -> Result<bool> {
    if runner.options.on == On::Xenolith
        && let Some(operation) = survey::lacks(name)
    {
        println!("later  {name}: {operation} is not implemented");
        return Ok(true);
    }
    let own = OWN.contains(&name);
    if own && runner.options.on == On::Xen {
        println!("only   {name}: Xen has nothing like it");
        return Ok(true);
    }
    let start = Instant::now();
    let answer = runner.run(name)?;
    if verbose {
        print!("{}", answer.transcript);
    }
    if record && answer.whole {
        match runner.options.on {
            On::Xen if runner.options.bochs => {
                if std::fs::read_to_string(expected(name)).unwrap_or_default() != answer.lines {
                    sh::write(&expected_on_bochs(name), answer.lines.as_bytes())?;
                }
            }
            On::Xen => sh::write(&expected(name), answer.lines.as_bytes())?,
            On::Xenolith if own => sh::write(&expected(name), answer.lines.as_bytes())?,
            On::Xenolith => {
                survey::record(&answer.lines)?;
                println!("the hypercall table is as the hypervisor answers ({name})");
                return Ok(true);
            }
        }
    }
    let difference = difference(runner, name, &answer)?;
    let seconds = start.elapsed().as_secs_f32();
    match &difference {
        None => println!("ok     {name} ({seconds:.1} s)"),
        Some(text) => println!("FAILED {name} ({seconds:.1} s)\n{text}"),
    }
    Ok(difference.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_guests_lines_count() {
        let transcript = "(XEN) log\r\n| begin\r\n| one: ok\r\n(XEN) more | two\r\n| three\r\n| end\r\n";
        assert_eq!(lines_of(transcript), "one: ok\nthree\n");
    }

    #[test]
    fn every_guest_has_its_expected_answer_and_no_other_is_there() {
        let names = names().unwrap();
        assert!(names.len() >= 12);
        let list = |dir: &str| -> Vec<String> {
            let all = std::fs::read_dir(room().join(dir)).unwrap();
            let names = all.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
            names.filter_map(|name| name.strip_suffix(".txt").map(str::to_owned)).collect()
        };
        assert!(list("expected/haswell").iter().all(|name| names.contains(name)));
        let mut files = list("expected");
        files.sort();
        assert_eq!(files, names);
    }
}
