//! `create`, `check`, `autostart`, `supervise`.

use super::{Context, Streams, read_config};
use crate::cli::ConfigArgs;
use crate::config::to_json;
use crate::create::{Created, Progress, create, preflight, wait_devices};
use crate::domain;
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::output::{Format, document};
use crate::supervise::{Recipe, supervise};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// From this many pages on there is a bar: 256 MiB.
const BAR_FROM: u64 = 64 << 10;

impl Context<'_, '_> {
    pub(super) fn create(
        &mut self,
        args: &ConfigArgs,
        console: bool,
        paused: bool,
        wait: bool,
    ) -> Result<()> {
        let recipe = recipe(self.host, &args.file, &args.settings)?;
        let created = self.make(&recipe)?;
        let domid = created.domid;
        let name = recipe.config()?.name;
        let ran = self.run_created(domid, paused);
        if ran.is_err() && !paused {
            // A domain whose supervisor or first step failed is not left half alive.
            domain::teardown(self.host, domid)?;
            Recipe::forget(self.host, domid)?;
        }
        ran?;
        self.report(&created, &name)?;
        if wait && !paused {
            wait_devices(self.host, domid)?;
        }
        if console {
            self.host.console(domid, &name)?;
        }
        Ok(())
    }

    fn run_created(&mut self, domid: u32, paused: bool) -> Result<()> {
        self.host.start_supervisor(domid)?;
        if !paused {
            self.host.unpause(domid)?;
        }
        Ok(())
    }

    fn make(&mut self, recipe: &Recipe) -> Result<Created> {
        let config = read_config(&recipe.file, &recipe.text, &recipe.overrides, self.streams.err)?.config;
        let mut bar = Bar::new(self.streams.terminal && !self.quiet && self.format == Format::Table);
        let created = create(self.host, &config, &mut bar);
        bar.end();
        let created = created?;
        recipe.save(self.host, created.domid)?;
        Ok(created)
    }

    fn report(&mut self, created: &Created, name: &str) -> Result<()> {
        if self.format != Format::Table {
            let phases: Map<String, Value> = created
                .phases
                .iter()
                .map(|(phase, time)| {
                    ((*phase).to_owned(), u64::try_from(time.as_nanos()).unwrap_or(0).into())
                })
                .collect();
            let value = json!({
                "schema": "create/1", "domid": created.domid, "name": name, "uuid": created.uuid, "phases_ns": phases,
            });
            return Ok(document(value, self.format, self.streams.out)?);
        }
        let phases: Vec<_> =
            created.phases.iter().map(|(phase, time)| format!("{phase} {}", short(*time))).collect();
        self.remark(&format!("{name} is domain {}: {}", created.domid, phases.join(" · ")));
        Ok(())
    }

    pub(super) fn autostart(&mut self, dir: &Path) -> Result<()> {
        let mut files: Vec<_> = std::fs::read_dir(dir)
            .map_err(|e| Error::new(Kind::NotFound, format!("{}: {e}", dir.display())))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "cfg" || e == "toml"))
            .collect();
        files.sort();
        let mut failed = 0;
        for file in &files {
            let args = ConfigArgs { file: file.clone(), settings: Vec::new() };
            let made = self.create(&args, false, false, false);
            // One that runs already is as it should be.
            if let Err(error) = made.or_else(|e| if e.kind == Kind::WrongState { Ok(()) } else { Err(e) }) {
                failed += 1;
                writeln!(self.streams.err, "lith: {}: {error}", file.display())?;
            }
        }
        if failed == 0 {
            return Ok(());
        }
        Err(Error::new(Kind::Other, format!("{failed} of {} domains did not start", files.len())))
    }

    pub(super) fn prepare(&mut self) -> Result<()> {
        domain::write_dom0(self.host)?;
        self.done("prepare", Some(0))
    }

    pub(super) fn supervise(&mut self, domid: u32) -> Result<()> {
        let out = &mut *self.streams.out;
        supervise(self.host, domid, &mut |line| {
            // A closed log is no reason to leave the domain alone.
            let _ = writeln!(out, "{line}").and_then(|()| out.flush());
        })
    }
}

fn recipe(host: &dyn Host, file: &Path, settings: &[String]) -> Result<Recipe> {
    let bytes = host.read_file(file).map_err(|e| Error { kind: Kind::Usage, ..Error::from(e) })?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::new(Kind::Usage, format!("{} is not text in UTF-8", file.display())))?;
    let whole = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let name = if file.is_absolute() { file } else { whole.as_path() };
    Ok(Recipe { file: name.to_string_lossy().into_owned(), text, overrides: settings.to_vec() })
}

/// The verb `check`: the file by itself, then, with a machine, whether the domain could be made there.
pub(super) fn check(
    args: &ConfigArgs,
    host: Option<&dyn Host>,
    format: Format,
    streams: &mut Streams,
) -> Result<()> {
    let bytes = match host {
        Some(host) => {
            host.read_file(&args.file).map_err(|e| Error { kind: Kind::Usage, ..Error::from(e) })?
        }
        None => std::fs::read(&args.file)
            .map_err(|e| Error::new(Kind::Usage, format!("{}: {e}", args.file.display())))?,
    };
    let text = String::from_utf8_lossy(&bytes);
    let mut ignored = std::io::sink();
    let err: &mut dyn Write = if format == Format::Table { streams.err } else { &mut ignored };
    let parsed = read_config(&args.file.to_string_lossy(), &text, &args.settings, err)?;
    let config = &parsed.config;
    if let Some(host) = host {
        preflight(host, config)?;
        for (key, path) in [("kernel", Some(&config.kernel)), ("ramdisk", config.ramdisk.as_ref())] {
            let read = path.map(|path| host.read_file(path)).transpose();
            read.map_err(|e| Error { kind: Kind::Usage, ..Error::from(e) }.context(format!("`{key}`")))?;
        }
        for disk in config.disk.iter().filter(|disk| !disk.target.is_empty()) {
            host.block_device(Path::new(&disk.target)).map_err(|e| {
                Error { kind: Kind::Usage, ..Error::from(e) }.context(format!("disk {}", disk.vdev))
            })?;
        }
    }
    if format == Format::Table {
        return Ok(writeln!(streams.out, "{}: {} is well", args.file.display(), config.name)?);
    }
    let warnings: Vec<_> = parsed
        .warnings
        .iter()
        .map(|w| json!({"location": w.location(), "message": w.message, "hint": w.hint}))
        .collect();
    let value = json!({"schema": "check/1", "config": to_json(config), "warnings": warnings});
    Ok(document(value, format, streams.out)?)
}

fn short(time: Duration) -> String {
    match time.as_micros() {
        0..1000 => format!("{} µs", time.as_micros()),
        1000..10_000_000 => format!("{} ms", time.as_millis()),
        _ => format!("{} s", time.as_secs()),
    }
}

/// The phase on the terminal, and a bar when there is much memory.
struct Bar {
    bar: ProgressBar,
}

impl Bar {
    fn new(visible: bool) -> Bar {
        let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(ProgressStyle::default_spinner());
        Bar { bar }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for Bar {
    fn phase(&mut self, name: &'static str) {
        self.bar.set_message(name);
        self.bar.tick();
    }

    fn amount(&mut self, done: u64, total: u64) {
        if total >= BAR_FROM {
            self.bar.set_style(ProgressStyle::default_bar());
            self.bar.set_length(total / 256);
            self.bar.set_position(done / 256);
        }
    }
}
