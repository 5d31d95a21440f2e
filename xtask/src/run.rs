//! `run`: a machine on this terminal, or one command in dom0.

use crate::console::Console;
use crate::machine::{Domains, Firmware, Hypervisor, Kernel, Machine, Root, Spec};
use crate::sh;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// The text of `--help`; scripts/run-qemu.sh shows the same file.
pub const HELP: &str = include_str!("run.help");
/// A command's time limit unless `--timeout` says otherwise.
const TIME_LIMIT: Duration = Duration::from_secs(600);

struct Options {
    spec: Spec,
    limit: Duration,
    verbose: bool,
}

/// The verb.
pub fn run(args: &[String]) -> Result<ExitCode> {
    if args.iter().take_while(|arg| *arg != "--exec").any(|arg| arg == "--help" || arg == "-h") {
        print!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    }
    let options = parse(args)?;
    let machine = Machine::prepare(&options.spec)?;
    eprintln!("{} -serial mon:stdio", machine.shown());
    if options.spec.command.is_some() {
        return execute(&machine, &options);
    }
    if options.spec.gdb {
        eprintln!("waiting for a debugger: gdb target/xenolith/xenolith -ex 'target remote :1234'");
    }
    sh::visible(&mut machine.command(true))?;
    Ok(ExitCode::SUCCESS)
}

fn execute(machine: &Machine, options: &Options) -> Result<ExitCode> {
    let mut console = Console::start(machine.command(false))?;
    let done = console.run_command(options.limit, |line| println!("{line}"));
    if options.verbose || done.is_err() {
        eprintln!("--- the serial line ---\n{}\n--- end ---", console.transcript().trim_end());
    }
    let status = done.context("the command did not run to its end; the serial line is above")?;
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(255)))
}

fn parse(args: &[String]) -> Result<Options> {
    let mut spec = Spec { domains: Domains::Tools, ..Spec::default() };
    let mut options = (TIME_LIMIT, false);
    let mut args = args.iter();
    while let Some(option) = args.next() {
        let mut value = || args.next().with_context(|| format!("{option} needs a value"));
        match option.as_str() {
            "--uefi" => spec.firmware = Firmware::Uefi,
            "--cpus" => spec.cpus = number(value()?)?,
            "--threads" => spec.threads = number(value()?)?,
            "--memory" => spec.memory = number(value()?)?,
            "--default-dom0-memory" => spec.default_dom0_memory = true,
            "--cpu" => spec.cpu = Some(value()?.clone()),
            "--machine" => spec.machine = one_of(value()?, &["pc", "q35"])?,
            "--nic" => spec.nic = nic(value()?)?,
            "--kernel" => spec.kernel = kernel(value()?)?,
            "--root" => spec.root = root(value()?)?,
            "--xen" => spec.hypervisor = Hypervisor::Xen,
            "--bare" => spec.hypervisor = Hypervisor::Bare,
            "--domains" => spec.domains = domains(value()?)?,
            "--gdb" => spec.gdb = true,
            "--icount" => spec.icount = true,
            "--program" => spec.programs.push(callers_file(value()?)?),
            "--exec" => spec.command = Some(value()?.clone()),
            "--timeout" => options.0 = Duration::from_secs(number(value()?)?.into()),
            "--verbose" => options.1 = true,
            "--append" => spec.append = value()?.clone(),
            "--dom0-append" => spec.dom0_append = value()?.clone(),
            _ => bail!("unknown option {option}; --help lists all"),
        }
    }
    Ok(Options { spec, limit: options.0, verbose: options.1 })
}

fn number(text: &str) -> Result<u32> {
    text.parse().ok().filter(|n| *n > 0).with_context(|| format!("{text} is not a positive number"))
}

fn one_of(text: &str, known: &[&str]) -> Result<String> {
    if known.contains(&text) {
        return Ok(text.to_owned());
    }
    bail!("{text} is not one of {}", known.join(", "))
}

fn domains(text: &str) -> Result<Domains> {
    Ok(match one_of(text, &["none", "tools", "debian"])?.as_str() {
        "none" => Domains::None,
        "tools" => Domains::Tools,
        _ => Domains::Debian,
    })
}

fn nic(text: &str) -> Result<String> {
    Ok(match text {
        "virtio" => "virtio-net-pci".to_owned(),
        _ => one_of(text, &["virtio", "e1000", "e1000e"])?,
    })
}

fn kernel(text: &str) -> Result<Kernel> {
    Ok(match text {
        "6.1" => Kernel::V6_1,
        "6.12" => Kernel::V6_12,
        "none" => Kernel::None,
        file => Kernel::File(callers_file(file)?),
    })
}

/// A file as the caller of scripts/run-qemu.sh named it.
fn callers_file(file: &str) -> Result<PathBuf> {
    let from = std::env::var_os("XENOLITH_FROM").map(PathBuf::from).unwrap_or_default();
    std::fs::canonicalize(from.join(file)).with_context(|| format!("no kernel file {file}"))
}

fn root(text: &str) -> Result<Root> {
    Ok(match one_of(text, &["initramfs", "virtio", "ahci"])?.as_str() {
        "virtio" => Root::Virtio,
        "ahci" => Root::Ahci,
        _ => Root::Initramfs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options> {
        parse(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_reach_the_machine() {
        let options =
            parsed("--xen --uefi --cpus 4 --memory 2048 --kernel 6.12 --root ahci --exec true").unwrap();
        let spec = options.spec;
        assert_eq!((spec.hypervisor, spec.firmware), (Hypervisor::Xen, Firmware::Uefi));
        assert_eq!((spec.cpus, spec.memory), (4, 2048));
        assert_eq!((spec.kernel, spec.root), (Kernel::V6_12, Root::Ahci));
        assert_eq!(spec.command.as_deref(), Some("true"));
    }

    #[test]
    fn a_wrong_option_is_named() {
        for (line, word) in [
            ("--fast", "--fast"),
            ("--cpus", "--cpus"),
            ("--cpus 0", "0"),
            ("--machine isa", "isa"),
            ("--kernel /nonexistent", "/nonexistent"),
        ] {
            let error = parsed(line).err().map(|e| format!("{e:#}")).unwrap_or_default();
            assert!(error.contains(word), "{line}: {error}");
        }
    }

    #[test]
    fn help_explains_every_option() {
        for option in include_str!("run.rs").lines().filter_map(|line| line.trim().strip_prefix("\"--")) {
            let name = option.split('"').next().unwrap();
            assert!(HELP.contains(&format!("--{name}")), "--{name} is not in the help");
        }
    }
}
