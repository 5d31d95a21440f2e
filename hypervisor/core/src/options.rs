//! The hypervisor's command line. Options keep the names they have for Xen, so that an administrator's
//! `GRUB_CMDLINE_XEN` moves over (documentation: `xen-command-line`).

use arrayvec::ArrayVec;

/// Longest list of names that are reported as unknown.
const MAX_UNKNOWN: usize = 16;

/// A size of dom0: absolute, or what is left of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Bytes.
    Bytes(u64),
    /// All but so many bytes.
    AllBut(u64),
}

/// `dom0_mem=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dom0Memory {
    /// What dom0 starts with.
    pub initial: Option<Size>,
    /// Least it accepts.
    pub min: Option<Size>,
    /// Most it may grow to.
    pub max: Option<Size>,
}

/// How much the log shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Only errors.
    Error,
    /// Warnings too.
    Warning,
    /// Information too.
    Info,
    /// Everything.
    All,
}

/// A counter that does not depend on the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlatformTimer {
    /// `hpet`
    Hpet,
    /// `acpi`
    Acpi,
    /// `pit`: the 8254.
    Pit,
}

/// What is to go wrong on purpose, to show what that looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selftest {
    /// `fault`: the hypervisor faults.
    Fault,
    /// `hang`: the second CPU hangs, for the watchdog to find.
    Hang,
    /// `tsc`: the TSC passes for invariant although the processor, of an emulator, does not say so.
    Tsc,
    /// `warp`: as `tsc`, and when the second CPU comes back its TSC is behind.
    Warp,
    /// `stay`: the second CPU does not park when it is to go offline.
    Stay,
    /// `deaf`: the second processor does not start.
    Deaf,
}

/// Options with their defaults.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// `dom0_mem=`.
    pub dom0_memory: Dom0Memory,
    /// `dom0_max_vcpus=`; nothing: one for each CPU.
    pub dom0_max_vcpus: Option<u32>,
    /// `dom0_vcpus_pin`: vCPU n of dom0 runs on CPU n only.
    pub dom0_vcpus_pin: bool,

    /// `com1=`, as written.
    pub com1: Option<&'a str>,
    /// `console=`, as written.
    pub console: Option<&'a str>,
    /// `console_to_ring`: the log's ring holds what dom0 writes on the console too.
    pub console_to_ring: bool,
    /// `loglvl=`.
    pub log_level: Level,
    /// `noreboot`.
    pub no_reboot: bool,
    /// `compat=MAJOR.MINOR`: the version of Xen that guests and tools are told.
    pub compat: (u16, u16),
    /// `maxcpus=`.
    pub max_cpus: Option<u32>,
    /// `clocksource=`: the platform timer; nothing: the best that there is.
    pub platform_timer: Option<PlatformTimer>,
    /// `x2apic`: use the x2APIC's registers though no processor's number needs it.
    pub x2apic: bool,
    /// `pcid=`: use address-space tags if the processor has them.
    pub pcid: bool,
    /// `vga=`, as written.
    pub vga: Option<&'a str>,
    /// `sched=null`: a CPU for each vCPU.
    pub alone: bool,
    /// `tsc=unstable`, `tsc=skewed`: guests are not told that the TSC is one on all CPUs, whatever it looks like.
    pub tsc_unstable: bool,
    /// `selftest=`.
    pub selftest: Option<Selftest>,
    /// `watchdog`: CPUs look after each other.
    pub watchdog: bool,
    /// Names nobody knows.
    pub unknown: ArrayVec<&'a str, MAX_UNKNOWN>,
    /// Values that could not be understood, with their names.
    pub bad: ArrayVec<&'a str, MAX_UNKNOWN>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options {
            dom0_memory: Dom0Memory::default(),
            dom0_max_vcpus: None,
            dom0_vcpus_pin: false,
            com1: None,
            console: None,
            console_to_ring: false,
            log_level: Level::Info,
            no_reboot: false,
            compat: (4, 17),
            max_cpus: None,
            platform_timer: None,
            x2apic: false,
            pcid: true,
            vga: None,
            alone: false,
            tsc_unstable: false,
            selftest: None,
            watchdog: false,
            unknown: ArrayVec::new(),
            bad: ArrayVec::new(),
        }
    }
}

/// Options of Xen that are accepted and have nothing to act on here.
const WITHOUT_EFFECT: &[&str] = &[
    "no-real-mode",
    "edd",
    "ucode",
    "xpti",
    "conring_size",
    "guest_loglvl",
    "placeholder",
    "iommu",
    "smt",
    "cpufreq",
    "dom0",
    "sync_console",
    "com2",
    "vga",
    "dom0_nodes",
    "crashkernel",
    "pv-l1tf",
    "spec-ctrl",
    "efi",
];

impl<'a> Options<'a> {
    /// Reads a command line. Nothing on it is an error: what is not understood is listed.
    pub fn parse(line: &'a str) -> Self {
        let mut options = Options::default();
        for word in line.split_ascii_whitespace() {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            if options.apply(name, value).is_none() {
                let _ = options.bad.try_push(word);
            }
        }
        options
    }

    /// Applies one option; `None` if its value makes no sense.
    fn apply(&mut self, name: &'a str, value: &'a str) -> Option<()> {
        match name {
            "dom0_mem" => self.dom0_memory = dom0_memory(value)?,
            "dom0_max_vcpus" => {
                let most = value.split('-').next_back()?.parse().ok().filter(|n| *n > 0)?;
                self.dom0_max_vcpus = Some(most);
            }
            "dom0_vcpus_pin" => self.dom0_vcpus_pin = flag(value)?,
            "com1" => self.com1 = Some(value),
            "console" => self.console = Some(value),
            "console_to_ring" => self.console_to_ring = flag(value)?,
            "loglvl" => self.log_level = level(value)?,
            "noreboot" => self.no_reboot = flag(value)?,
            "compat" => self.compat = version(value)?,
            "maxcpus" => self.max_cpus = Some(value.parse().ok()?),
            "nosmp" => self.max_cpus = Some(1),
            // What time is counted by here in any case.
            "clocksource" if value == "tsc" => {}
            "clocksource" => self.platform_timer = Some(platform_timer(value)?),
            "x2apic" => self.x2apic = flag(value)?,
            "pcid" => self.pcid = pcid(value)?,
            "vga" => self.vga = Some(value),
            "watchdog" => self.watchdog = flag(value)?,
            "sched" => self.alone = sched(value)?,
            "tsc" => self.tsc_unstable = tsc(value)?,
            "selftest" => self.selftest = Some(selftest(value)?),
            _ if WITHOUT_EFFECT.contains(&name) => {}
            _ => {
                let _ = self.unknown.try_push(name);
            }
        }
        Some(())
    }
}

fn flag(value: &str) -> Option<bool> {
    match value {
        "" | "1" | "yes" | "on" | "true" | "enable" => Some(true),
        "0" | "no" | "off" | "false" | "disable" => Some(false),
        _ => None,
    }
}

/// Xen's other schedulers share CPUs, as ours does.
fn sched(value: &str) -> Option<bool> {
    match value {
        "null" => Some(true),
        "credit" | "credit2" | "rtds" | "arinc653" => Some(false),
        _ => None,
    }
}

/// Xen's third value says that the TSC may differ between sockets; whether it does is looked at anyway.
fn tsc(value: &str) -> Option<bool> {
    match value {
        "unstable" | "skewed" => Some(true),
        "stable:socket" => Some(false),
        _ => None,
    }
}

fn selftest(value: &str) -> Option<Selftest> {
    match value {
        "fault" => Some(Selftest::Fault),
        "hang" => Some(Selftest::Hang),
        "tsc" => Some(Selftest::Tsc),
        "warp" => Some(Selftest::Warp),
        "stay" => Some(Selftest::Stay),
        "deaf" => Some(Selftest::Deaf),
        _ => None,
    }
}

fn platform_timer(value: &str) -> Option<PlatformTimer> {
    match value {
        "hpet" => Some(PlatformTimer::Hpet),
        "acpi" => Some(PlatformTimer::Acpi),
        "pit" => Some(PlatformTimer::Pit),
        _ => None,
    }
}

/// Xen has two more values, for domains with and without its isolation of page tables; here all are alike.
fn pcid(value: &str) -> Option<bool> {
    match value {
        "xpti" | "noxpti" => Some(true),
        _ => flag(value),
    }
}

fn level(value: &str) -> Option<Level> {
    // `loglvl=guaranteed/ratelimited`: only the first half matters here.
    match value.split('/').next()? {
        "none" | "error" => Some(Level::Error),
        "warning" => Some(Level::Warning),
        "info" => Some(Level::Info),
        "debug" | "all" => Some(Level::All),
        _ => None,
    }
}

fn version(value: &str) -> Option<(u16, u16)> {
    let (major, minor) = value.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// A number with an optional unit; without one it counts KiB, as Xen has it.
pub fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'T' | b't' => (text.get(..text.len().checked_sub(1)?)?, 40),
        b'G' | b'g' => (text.get(..text.len().checked_sub(1)?)?, 30),
        b'M' | b'm' => (text.get(..text.len().checked_sub(1)?)?, 20),
        b'K' | b'k' => (text.get(..text.len().checked_sub(1)?)?, 10),
        b'B' | b'b' => (text.get(..text.len().checked_sub(1)?)?, 0),
        _ => (text, 10),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn amount(text: &str) -> Option<Size> {
    match text.strip_prefix('-') {
        Some(rest) => size(rest).map(Size::AllBut),
        None => size(text).map(Size::Bytes),
    }
}

/// `dom0_mem=[min:]SIZE[,max:SIZE][,SIZE]`.
fn dom0_memory(value: &str) -> Option<Dom0Memory> {
    let mut out = Dom0Memory::default();
    for part in value.split(',') {
        match part.split_once(':') {
            Some(("min", s)) => out.min = Some(amount(s)?),
            Some(("max", s)) => out.max = Some(amount(s)?),
            Some(_) => return None,
            None => out.initial = Some(amount(part)?),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_administrators_line_moves_over() {
        let line = "placeholder dom0_mem=512M,max:1G com1=115200,8n1 console=com1,vga loglvl=all noreboot no-real-mode edd=off";
        let o = Options::parse(line);
        assert_eq!(o.dom0_memory.initial, Some(Size::Bytes(512 << 20)));
        assert_eq!(o.dom0_memory.max, Some(Size::Bytes(1 << 30)));
        assert_eq!((o.com1, o.console), (Some("115200,8n1"), Some("com1,vga")));
        assert_eq!((o.log_level, o.no_reboot), (Level::All, true));
        assert!(o.unknown.is_empty() && o.bad.is_empty());
    }

    #[test]
    fn tags_are_used_unless_told_otherwise() {
        let pcid = |line| Options::parse(line).pcid;
        assert_eq!(
            ["", "pcid", "pcid=xpti", "pcid=no", "pcid=maybe"].map(pcid),
            [true, true, true, false, true]
        );
        assert_eq!(Options::parse("pcid=maybe").bad.as_slice(), ["pcid=maybe"]);
        assert_eq!(["", "x2apic", "x2apic=0"].map(|line| Options::parse(line).x2apic), [false, true, false]);
    }

    #[test]
    fn a_platform_timer_can_be_chosen() {
        let timer = |line| Options::parse(line).platform_timer;
        assert_eq!(timer("clocksource=pit"), Some(PlatformTimer::Pit));
        assert_eq!(timer("clocksource=sundial"), None);
    }

    #[test]
    fn the_tsc_can_be_distrusted_and_not_trusted_more() {
        let distrusted = |line| Options::parse(line).tsc_unstable;
        assert_eq!(
            ["", "tsc=unstable", "tsc=skewed", "tsc=stable:socket"].map(distrusted),
            [false, true, true, false]
        );
        let o = Options::parse("tsc=stable clocksource=tsc");
        assert_eq!((o.bad.as_slice(), o.tsc_unstable, o.platform_timer), (&["tsc=stable"][..], false, None));
    }

    #[test]
    fn one_other_scheduler_can_be_chosen() {
        let alone = |line| Options::parse(line).alone;
        assert_eq!(["", "sched=credit2", "sched=null"].map(alone), [false, false, true]);
        assert_eq!(Options::parse("sched=fair").bad.as_slice(), ["sched=fair"]);
    }

    #[test]
    fn what_goes_wrong_on_purpose_is_asked_for_by_name() {
        let test = |what| Options::parse(&format!("selftest={what}")).selftest;
        assert_eq!(
            ["fault", "hang", "tsc", "warp", "stay", "deaf", "luck"].map(test),
            [
                Some(Selftest::Fault),
                Some(Selftest::Hang),
                Some(Selftest::Tsc),
                Some(Selftest::Warp),
                Some(Selftest::Stay),
                Some(Selftest::Deaf),
                None
            ]
        );
        assert_eq!(Options::parse("").selftest, None);
    }

    #[test]
    fn what_is_not_known_is_named() {
        let o = Options::parse("frobnicate=1 dom0_mem=much loglvl=loud");
        assert_eq!(o.unknown.as_slice(), ["frobnicate"]);
        assert_eq!(o.bad.as_slice(), ["dom0_mem=much", "loglvl=loud"]);
    }

    #[test]
    fn sizes_have_xens_units() {
        assert_eq!(size("1024"), Some(1 << 20));
        assert_eq!(size("2G"), Some(2 << 30));
        assert_eq!(size("7B"), Some(7));
        assert_eq!(size(""), None);
        assert_eq!(size("99999999999999G"), None);
        assert_eq!(amount("-256M"), Some(Size::AllBut(256 << 20)));
    }
}
