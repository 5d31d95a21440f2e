//! The meaning of settings.

use super::source::{ConfigError, Setting, Source, Value};
use super::units::{parse_memory, parse_number};
use super::{CpuSet, Disk, Parsed, Vif, keys};
use serde::{Serialize, Serializer};
use std::path::PathBuf;

/// The most vCPUs of a PV domain.
pub const MAX_VCPUS: u32 = 512;

/// What happens to a domain that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It is removed.
    Destroy,
    /// It is removed and made anew.
    Restart,
    /// It is kept under another name, and made anew.
    RenameRestart,
    /// It is kept as it is.
    Preserve,
    /// Its memory is written to a file, then as `Destroy`.
    CoredumpDestroy,
    /// Its memory is written to a file, then as `Restart`.
    CoredumpRestart,
    /// It is reset in place.
    SoftReset,
}

impl Action {
    const ALL: [(&str, Action); 7] = [
        ("destroy", Action::Destroy),
        ("restart", Action::Restart),
        ("rename-restart", Action::RenameRestart),
        ("preserve", Action::Preserve),
        ("coredump-destroy", Action::CoredumpDestroy),
        ("coredump-restart", Action::CoredumpRestart),
        ("soft-reset", Action::SoftReset),
    ];

    /// Its word.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, action)| *action == self).map_or("", |(word, _)| word)
    }
}

/// Whether reading the time-stamp counter is left to the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TscMode {
    /// The hypervisor's choice.
    Default,
    /// Every read is emulated.
    AlwaysEmulate,
    /// Reads are the processor's.
    Native,
}

/// Where vCPUs run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// All of them on one set.
    All(CpuSet),
    /// vCPU n on the nth set; those behind the last one anywhere.
    Each(Vec<CpuSet>),
}

impl Affinity {
    /// The set of a vCPU.
    pub fn of(&self, vcpu: u32) -> CpuSet {
        match self {
            Affinity::All(set) => set.clone(),
            Affinity::Each(sets) => sets.get(vcpu as usize).cloned().unwrap_or(CpuSet::ALL),
        }
    }
}

impl Serialize for Affinity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Affinity::All(set) => serializer.collect_str(set),
            Affinity::Each(sets) => serializer.collect_seq(sets.iter().map(CpuSet::to_string)),
        }
    }
}

/// A domain that somebody wants. Memory is in bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DomainConfig {
    /// Its name: unique on the host.
    pub name: String,
    /// Its UUID; made up when the domain is if absent.
    pub uuid: Option<String>,
    /// Memory that it starts with.
    pub memory: u64,
    /// Memory it may grow to.
    pub maxmem: u64,
    /// vCPUs that run from the start.
    pub vcpus: u32,
    /// vCPUs that it may have.
    pub maxvcpus: u32,
    /// Where its vCPUs run.
    pub cpus: Option<Affinity>,
    /// Where its vCPUs rather run.
    pub cpus_soft: Option<Affinity>,
    /// Its share of the CPUs; 256 is normal.
    pub cpu_weight: Option<u32>,
    /// The most CPU time it gets, in percent of one CPU.
    pub cap: Option<u32>,
    /// The kernel.
    pub kernel: PathBuf,
    /// The initial RAM disk.
    pub ramdisk: Option<PathBuf>,
    /// The kernel's command line.
    pub cmdline: String,
    /// Disks.
    pub disk: Vec<Disk>,
    /// Network interfaces.
    pub vif: Vec<Vif>,
    /// After it powered off.
    pub on_poweroff: Action,
    /// After it asked for a reboot.
    pub on_reboot: Action,
    /// After it crashed.
    pub on_crash: Action,
    /// After its watchdog barked.
    pub on_watchdog: Action,
    /// After it asked for a reset.
    pub on_soft_reset: Action,
    /// Frames of its grant table, at most.
    pub max_grant_frames: Option<u32>,
    /// Frames for its mappings of others' grants, at most.
    pub max_maptrack_frames: Option<u32>,
    /// Event channels, at most.
    pub max_event_channels: Option<u32>,
    /// Its time-stamp counter.
    pub tsc_mode: TscMode,
    /// Whether it is never saved or moved.
    pub nomigrate: bool,
    /// Whether it serves devices of others.
    pub driver_domain: bool,
}

/// Gives settings their meaning.
pub(super) fn interpret(source: &Source, settings: Vec<Setting>) -> Result<Parsed, ConfigError> {
    let mut warnings = Vec::new();
    for setting in &settings {
        warnings.extend(unused(setting));
    }
    let reader = Reader { source, settings };
    let config = reader.domain(&mut warnings)?;
    Ok(Parsed { config, warnings })
}

fn unused(setting: &Setting) -> Option<ConfigError> {
    let key = setting.key.text.as_str();
    if keys::USED.contains(&key) {
        return None;
    }
    if keys::WITHOUT_EFFECT.contains(&key) {
        return Some(setting.key.place.error(format!("`{key}` has no effect on a PV guest here")));
    }
    let warning = setting.key.place.error(format!("no key is called `{key}`; it is ignored"));
    Some(match keys::nearest(key) {
        Some(near) => warning.hint(format!("did you mean `{near}`?")),
        None => warning,
    })
}

struct Reader<'a> {
    source: &'a Source,
    settings: Vec<Setting>,
}

impl Reader<'_> {
    fn domain(&self, warnings: &mut Vec<ConfigError>) -> Result<DomainConfig, ConfigError> {
        self.check_type()?;
        self.refuse_unsupported()?;
        let memory = self.memory("memory")?.unwrap_or(32 << 20);
        let maxmem = self.memory("maxmem")?.unwrap_or(memory);
        let vcpus = self.number("vcpus", 1..=MAX_VCPUS)?;
        let maxvcpus = self.number("maxvcpus", 1..=MAX_VCPUS)?;
        let action = |key, default| self.action(key, default);
        Ok(DomainConfig {
            name: self.name()?,
            uuid: self.uuid()?,
            memory,
            maxmem: self.at_least("maxmem", maxmem, memory, "less than `memory`")?,
            vcpus: vcpus.or(maxvcpus).unwrap_or(1),
            maxvcpus: {
                let vcpus = vcpus.unwrap_or(1);
                self.at_least("maxvcpus", maxvcpus.unwrap_or(vcpus), vcpus, "less than `vcpus`")?
            },
            cpus: self.affinity("cpus")?,
            cpus_soft: self.affinity("cpus_soft")?,
            cpu_weight: self.number("cpu_weight", 1..=65535)?,
            cap: self.number("cap", 0..=MAX_VCPUS * 100)?.or(self.number("cpu_cap", 0..=MAX_VCPUS * 100)?),
            kernel: self.kernel()?,
            ramdisk: self.text("ramdisk")?.map(PathBuf::from),
            cmdline: self.cmdline(warnings)?,
            disk: self.disks()?,
            vif: self.each("vif", Vif::from_value)?,
            on_poweroff: action("on_poweroff", Action::Destroy)?,
            on_reboot: action("on_reboot", Action::Restart)?,
            on_crash: action("on_crash", Action::Destroy)?,
            on_watchdog: action("on_watchdog", Action::Destroy)?,
            on_soft_reset: action("on_soft_reset", Action::SoftReset)?,
            max_grant_frames: self.number("max_grant_frames", 1..=1 << 20)?,
            max_maptrack_frames: self.number("max_maptrack_frames", 0..=1 << 20)?,
            max_event_channels: self.number("max_event_channels", 1..=1 << 17)?,
            tsc_mode: self.tsc_mode()?,
            nomigrate: self.boolean("nomigrate")?,
            driver_domain: self.boolean("driver_domain")?,
        })
    }

    fn get(&self, key: &str) -> Option<&Setting> {
        self.settings.iter().find(|s| s.key.text == key)
    }

    fn text(&self, key: &str) -> Result<Option<String>, ConfigError> {
        match self.get(key).map(|s| &s.value) {
            None => Ok(None),
            Some(Value::Atom(atom)) => Ok(Some(atom.text.clone())),
            Some(value) => Err(value.place().error(format!("`{key}` is one string, not a list"))),
        }
    }

    /// An error at a key's value.
    fn error(&self, key: &str, message: impl Into<String>) -> ConfigError {
        match self.get(key) {
            Some(setting) => setting.value.place().error(message),
            None => self.source.error(0, message),
        }
    }

    fn check_type(&self) -> Result<(), ConfigError> {
        for key in ["type", "builder"] {
            match self.text(key)?.as_deref() {
                None | Some("pv" | "linux" | "generic") => {}
                Some(other) => {
                    return Err(self.error(key, format!("a guest of {key} `{other}` cannot run here")).hint(
                        "use type=\"pv\" and a kernel of the host's: every Linux with CONFIG_XEN_PV is one",
                    ));
                }
            }
        }
        Ok(())
    }

    /// Keys whose effect is missed when they are ignored.
    fn refuse_unsupported(&self) -> Result<(), ConfigError> {
        for key in ["pci", "iomem", "ioports", "irqs"] {
            let empty =
                matches!(self.get(key).map(|s| &s.value), Some(Value::List(items, _)) if items.is_empty());
            if self.get(key).is_some() && !empty {
                return Err(self.error(key, format!("`{key}`: devices cannot be passed through yet")));
            }
        }
        if self.text("bootloader")?.is_some_and(|b| !b.is_empty()) {
            return Err(self
                .error("bootloader", "boot loaders are not run")
                .hint("name the kernel by `kernel` and `ramdisk`: a file of the host's needs no parser of guest disks"));
        }
        if self.text("pool")?.is_some_and(|p| p != "Pool-0") {
            return Err(self.error("pool", "there is one CPU pool, Pool-0"));
        }
        Ok(())
    }

    fn name(&self) -> Result<String, ConfigError> {
        let name = self
            .text("name")?
            .ok_or_else(|| self.error("name", "the domain has no name").hint("add a line: name = \"web\""))?;
        let fits = !name.is_empty()
            && name.len() <= 255
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+:@".contains(c))
            && !name.bytes().all(|b| b.is_ascii_digit());
        if fits {
            return Ok(name);
        }
        Err(self
            .error("name", format!("`{}` cannot be a domain's name", name.escape_debug()))
            .hint("letters, digits and -_.+:@, and not digits alone, which is a domid"))
    }

    fn uuid(&self) -> Result<Option<String>, ConfigError> {
        let Some(text) = self.text("uuid")? else { return Ok(None) };
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        if digits.len() != 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(self.error("uuid", format!("`{text}` is not a UUID")));
        }
        let d = digits.to_ascii_lowercase();
        Ok(Some(format!("{}-{}-{}-{}-{}", &d[..8], &d[8..12], &d[12..16], &d[16..20], &d[20..])))
    }

    fn memory(&self, key: &str) -> Result<Option<u64>, ConfigError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let bytes =
            parse_memory(&text).filter(|bytes| (1 << 20..=1 << 44).contains(bytes)).ok_or_else(|| {
                self.error(key, format!("`{text}` is not an amount of memory"))
                    .hint("a number counts MiB; 512M, 4G and 4GiB are understood too")
            })?;
        Ok(Some(bytes & !0xfff))
    }

    fn number(&self, key: &str, range: std::ops::RangeInclusive<u32>) -> Result<Option<u32>, ConfigError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let number = parse_number(&text).and_then(|n| u32::try_from(n).ok()).filter(|n| range.contains(n));
        let (low, high) = (range.start(), range.end());
        number
            .map(Some)
            .ok_or_else(|| self.error(key, format!("`{key}` is a number from {low} to {high}, not `{text}`")))
    }

    fn at_least<T: PartialOrd>(&self, key: &str, value: T, least: T, what: &str) -> Result<T, ConfigError> {
        if value < least { Err(self.error(key, format!("`{key}` is {what}"))) } else { Ok(value) }
    }

    fn boolean(&self, key: &str) -> Result<bool, ConfigError> {
        let Some(text) = self.text(key)? else { return Ok(false) };
        let number =
            parse_number(&text).ok_or_else(|| self.error(key, format!("`{key}` is 0 or 1, not `{text}`")))?;
        Ok(number != 0)
    }

    fn affinity(&self, key: &str) -> Result<Option<Affinity>, ConfigError> {
        let set = |value: &Value| match value {
            Value::Atom(atom) => CpuSet::parse(&atom.text).map_err(|message| atom.place.error(message)),
            other => Err(other.place().error("a set of CPUs is a string such as \"0-3,^1\"")),
        };
        match self.get(key).map(|s| &s.value) {
            None => Ok(None),
            Some(Value::List(items, _)) => {
                Ok(Some(Affinity::Each(items.iter().map(set).collect::<Result<_, _>>()?)))
            }
            Some(value) => Ok(Some(Affinity::All(set(value)?))),
        }
    }

    fn kernel(&self) -> Result<PathBuf, ConfigError> {
        let text = self.text("kernel")?.filter(|text| !text.is_empty()).ok_or_else(|| {
            self.error("kernel", "the domain has no kernel")
                .hint("add a line: kernel = \"/boot/vmlinuz-...\"; the host's own does")
        })?;
        Ok(PathBuf::from(text))
    }

    /// `cmdline`, or `root` and `extra` joined.
    fn cmdline(&self, warnings: &mut Vec<ConfigError>) -> Result<String, ConfigError> {
        let root = self.text("root")?.map(|root| format!("root={root}"));
        let extra = self.text("extra")?;
        if let Some(cmdline) = self.text("cmdline")? {
            for key in ["root", "extra"] {
                if let Some(setting) = self.get(key) {
                    let text = format!("`{key}` is ignored, since there is `cmdline`");
                    warnings.push(setting.key.place.error(text));
                }
            }
            return Ok(cmdline);
        }
        let line = [root, extra].into_iter().flatten().collect::<Vec<_>>().join(" ");
        if line.len() > 1023 {
            return Err(
                self.error("extra", "the command line is longer than the 1023 bytes that a kernel gets")
            );
        }
        Ok(line)
    }

    fn each<T>(&self, key: &str, read: impl Fn(&Value) -> Result<T, String>) -> Result<Vec<T>, ConfigError> {
        let Some(setting) = self.get(key) else { return Ok(Vec::new()) };
        let read = |value: &Value| read(value).map_err(|message| value.place().error(message));
        match &setting.value {
            Value::List(items, _) => items.iter().map(read).collect(),
            value => Err(value
                .place()
                .error(format!("`{key}` is a list"))
                .hint(format!("write it in brackets: {key} = [ \"...\" ]"))),
        }
    }

    fn disks(&self) -> Result<Vec<Disk>, ConfigError> {
        let disks = self.each("disk", Disk::from_value)?;
        for (index, disk) in disks.iter().enumerate() {
            if disks[..index].iter().any(|other| other.number() == disk.number()) {
                return Err(self.error("disk", format!("two disks are called {}", disk.vdev)));
            }
        }
        Ok(disks)
    }

    fn action(&self, key: &str, default: Action) -> Result<Action, ConfigError> {
        let Some(text) = self.text(key)? else { return Ok(default) };
        Action::ALL.iter().find(|(word, _)| *word == text).map(|(_, action)| *action).ok_or_else(|| {
            let words: Vec<_> = Action::ALL.iter().map(|(word, _)| *word).collect();
            self.error(key, format!("`{text}` is not an action"))
                .hint(format!("there are {}", words.join(", ")))
        })
    }

    fn tsc_mode(&self) -> Result<TscMode, ConfigError> {
        Ok(match self.text("tsc_mode")?.as_deref() {
            None | Some("default" | "0") => TscMode::Default,
            Some("always_emulate" | "1") => TscMode::AlwaysEmulate,
            Some("native" | "2") => TscMode::Native,
            Some(other) => {
                return Err(self
                    .error("tsc_mode", format!("`{other}` is not a mode"))
                    .hint("there are default, always_emulate and native"));
            }
        })
    }
}
