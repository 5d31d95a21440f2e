//! What the verbs do.

mod create;
mod devices;
mod doctor;
mod life;
mod look;
mod manual;
pub mod top;
mod tune;
mod watch;

use crate::cli::{Cli, Verb};
use crate::config::{Parsed, parse};
use crate::domain::{self, Domain};
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::output::{Format, Record, Table, done};
use clap::Parser;
use std::ffi::OsString;
use std::io::{self, Write};

/// Opens the machine; not all verbs need one.
pub type Open<'a> = &'a dyn Fn() -> Result<&'a dyn Host>;

/// Where a verb's words go.
pub struct Streams<'a> {
    /// Standard output.
    pub out: &'a mut dyn Write,
    /// Standard error.
    pub err: &'a mut dyn Write,
    /// Standard error is a terminal.
    pub terminal: bool,
}

/// What a verb works with.
struct Context<'a, 'b> {
    host: &'a dyn Host,
    format: Format,
    quiet: bool,
    streams: &'a mut Streams<'b>,
}

/// Runs a command line; the answer is the exit code.
pub fn run(args: impl IntoIterator<Item = OsString>, open: Open<'_>, streams: &mut Streams) -> u8 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let text = error.render().to_string();
            let stream = if error.use_stderr() { &mut streams.err } else { &mut streams.out };
            // There is nobody to tell that a stream is closed.
            let _ = stream.write_all(text.as_bytes());
            return if error.use_stderr() { Kind::Usage as u8 } else { 0 };
        }
    };
    let format = cli.format;
    match dispatch(cli, open, streams) {
        Ok(()) => 0,
        Err(error) => {
            let _ = match format {
                Format::Table => writeln!(streams.err, "lith: {error}"),
                Format::Json => writeln!(streams.err, "{:#}", error.json()),
                Format::Jsonl => writeln!(streams.err, "{}", error.json()),
            };
            error.kind as u8
        }
    }
}

fn dispatch(cli: Cli, open: Open<'_>, streams: &mut Streams) -> Result<()> {
    match cli.verb {
        Verb::Completions { shell } => return manual::completions(shell, streams.out),
        Verb::Help { verb, man } => {
            return manual::help(verb.as_deref(), man.as_deref(), cli.format, streams.out);
        }
        Verb::Check { config } => {
            // The file is looked at before the machine is, which need not be there.
            let host = open();
            return create::check(&config, host.ok(), cli.format, streams);
        }
        Verb::Doctor => return doctor::doctor(open(), cli.format, streams.out),
        _ => {}
    }
    let host = open()?;
    let mut context = Context { host, format: cli.format, quiet: cli.quiet, streams };
    context.verb(cli.verb)
}

impl Context<'_, '_> {
    fn verb(&mut self, verb: Verb) -> Result<()> {
        match verb {
            Verb::Create { config, console, paused, wait } => self.create(&config, console, paused, wait),
            Verb::List { domains, watch } => self.list(&domains, watch),
            Verb::Show(one) => self.show(&one.domain),
            Verb::Console(one) => self.console(&one.domain),
            Verb::Logs { domain, follow } => self.logs(&domain, follow),
            Verb::Shutdown { domains, waiting, then_destroy } => {
                self.shutdown(&domains, &waiting, then_destroy)
            }
            Verb::Reboot { domains, waiting } => self.reboot(&domains, &waiting),
            Verb::Destroy(some) => self.destroy(&some),
            Verb::Pause(some) => self.each("pause", &some, |host, d| {
                d.complete()?;
                Ok(host.pause(d.id())?)
            }),
            Verb::Unpause(some) => self.each("unpause", &some, |host, d| {
                d.complete()?;
                Ok(host.unpause(d.id())?)
            }),
            Verb::Rename { domain, name } => self.rename(&domain, &name),
            Verb::Domid(one) => self.domid(&one.domain),
            Verb::Domname(one) => self.domname(&one.domain),
            Verb::VcpuList { domains } => self.vcpu_list(&domains),
            Verb::VcpuSet { domain, vcpus } => self.vcpu_set(&domain, vcpus),
            Verb::VcpuPin { domain, vcpu, hard, soft } => {
                self.vcpu_pin(&domain, &vcpu, &hard, soft.as_deref())
            }
            Verb::MemSet { domain, memory, timeout } => self.mem_set(&domain, &memory, timeout),
            Verb::MemMax { domain, memory } => self.mem_max(&domain, &memory),
            Verb::Sched { domain, weight, cap, priority } => {
                self.sched(domain.as_deref(), priority.map(|p| p.weight()).or(weight), cap)
            }
            Verb::BlockAttach { domain, disk } => self.block_attach(&domain, &disk),
            Verb::BlockList(one) => self.block_list(&one.domain),
            Verb::BlockDetach { domain, disk, force } => self.block_detach(&domain, &disk, force),
            Verb::NetworkAttach { domain, vif } => self.network_attach(&domain, &vif.join(",")),
            Verb::NetworkList(one) => self.network_list(&one.domain),
            Verb::NetworkDetach { domain, vif, force } => self.network_detach(&domain, &vif, force),
            Verb::Dmesg { follow, clear } => self.dmesg(follow, clear),
            Verb::Info { memory } => self.info(memory),
            Verb::Top { batch, delay, iterations } => self.top(batch, delay, iterations),
            Verb::Events { count, timeout } => self.events(count, timeout),
            Verb::Wait { domain, until, timeout } => self.wait_for(&domain, &until, timeout),
            Verb::Why { domain } => self.why(domain.as_deref()),
            Verb::Autostart { dir } => self.autostart(&dir),
            Verb::Prepare => self.prepare(),
            Verb::Supervise { domid } => self.supervise(domid),
            // Handled before there is a machine.
            Verb::Check { .. } | Verb::Doctor | Verb::Completions { .. } | Verb::Help { .. } => Ok(()),
        }
    }

    fn find(&self, word: &str) -> Result<Domain> {
        domain::find(self.host, word)
    }

    /// One that is not dom0.
    fn find_guest(&self, word: &str) -> Result<Domain> {
        let domain = self.find(word)?;
        guest(&domain)?;
        Ok(domain)
    }

    fn table(&mut self, table: &Table) -> Result<()> {
        Ok(table.print(self.format, self.streams.out)?)
    }

    fn record(&mut self, record: &Record) -> Result<()> {
        Ok(record.print(self.format, self.streams.out)?)
    }

    fn done(&mut self, verb: &str, domid: Option<u32>) -> Result<()> {
        Ok(done(verb, domid, self.format, self.streams.out)?)
    }

    /// A line for people who look on.
    fn remark(&mut self, text: &str) {
        if !self.quiet && self.format == Format::Table {
            // There is nobody to tell that the stream is closed.
            let _ = writeln!(self.streams.err, "{text}");
        }
    }
}

/// Whether it is one that something may be done to.
fn guest(domain: &Domain) -> Result<()> {
    match domain.id() {
        0 => Err(Error::new(Kind::WrongState, "this is not done to dom0, which runs the tools")),
        _ => Ok(()),
    }
}

/// Reads a configuration with a reader of files, and tells its warnings.
fn read_config(name: &str, text: &str, settings: &[String], err: &mut dyn Write) -> Result<Parsed> {
    let parsed = parse(name, text, settings)?;
    for warning in &parsed.warnings {
        let hint = warning.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        let _ = writeln!(err, "lith: warning: {warning}{hint}");
    }
    Ok(parsed)
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Error::new(Kind::Other, error.to_string())
    }
}
