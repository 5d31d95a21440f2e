//! The command line: one definition, from which help, completions and manual pages come.

use crate::output::Format;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Makes and manages domains on Xenolith.
///
/// A domain is named by its name, its number or its UUID; of a UUID the first eight digits will do when only one begins so.
#[derive(Debug, Parser)]
#[command(
    name = "lith",
    version,
    infer_subcommands = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
#[command(
    after_help = "Exit codes: 0 done, 1 other failure, 2 usage or configuration, 3 no such domain or device, \
4 exists or wrong state, 5 not permitted, 6 not enough memory or CPUs, 7 timed out, 8 the guest refused, \
9 hypervisor not Xenolith or too old, 130 interrupted."
)]
pub struct Cli {
    /// How to print: a table for people, one JSON document, or one a line.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        hide_possible_values = true,
        value_name = "table|json|jsonl"
    )]
    pub format: Format,
    /// Print nothing but what was asked for.
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// One domain.
#[derive(Args, Debug)]
pub struct OneDomain {
    /// Name, number or UUID.
    pub domain: String,
}

/// Some domains.
#[derive(Args, Debug)]
pub struct SomeDomains {
    /// Names, numbers or UUIDs.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub domains: Vec<String>,
    /// All but dom0.
    #[arg(short, long)]
    pub all: bool,
}

/// How to wait for the end of domains.
#[derive(Args, Debug)]
pub struct Waiting {
    /// Wait until it is done.
    #[arg(short, long)]
    pub wait: bool,
    /// Wait so long at most, in seconds.
    #[arg(long, default_value_t = 120)]
    pub timeout: u64,
}

/// A configuration file and settings that win over it.
#[derive(Args, Debug)]
pub struct ConfigArgs {
    /// The configuration: xl's format, or TOML if it ends in .toml.
    pub file: PathBuf,
    /// Further settings, such as memory=512.
    #[arg(value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a domain and start it.
    Create {
        /// The configuration.
        #[command(flatten)]
        config: ConfigArgs,
        /// Then go to its console; ^] leaves it.
        #[arg(short, long)]
        console: bool,
        /// Leave it paused.
        #[arg(short, long)]
        paused: bool,
        /// Wait until its devices are connected.
        #[arg(short, long)]
        wait: bool,
    },
    /// Read a configuration, and say what is wrong with it.
    Check {
        /// The configuration.
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// List the domains.
    List {
        /// Only these.
        domains: Vec<String>,
        /// Again and again, every second.
        #[arg(long)]
        watch: bool,
    },
    /// All about one domain.
    Show(OneDomain),
    /// Go to a domain's console; ^] leaves it.
    Console(OneDomain),
    /// Print what a domain wrote on its console, also of one that is gone.
    Logs {
        /// Name, number or UUID.
        domain: String,
        /// Go on as it writes more.
        #[arg(short, long)]
        follow: bool,
    },
    /// Ask domains to power off.
    Shutdown {
        /// Which.
        #[command(flatten)]
        domains: SomeDomains,
        /// Whether to wait.
        #[command(flatten)]
        waiting: Waiting,
        /// Destroy those that did not in time.
        #[arg(long)]
        then_destroy: bool,
    },
    /// Ask domains to reboot.
    Reboot {
        /// Which.
        #[command(flatten)]
        domains: SomeDomains,
        /// Whether to wait.
        #[command(flatten)]
        waiting: Waiting,
    },
    /// End domains at once.
    Destroy(SomeDomains),
    /// Stop domains.
    Pause(SomeDomains),
    /// Let paused domains go on.
    Unpause(SomeDomains),
    /// Give a domain another name.
    Rename {
        /// Which.
        domain: String,
        /// Its name from now on.
        name: String,
    },
    /// Print a domain's number.
    Domid(OneDomain),
    /// Print a domain's name.
    Domname(OneDomain),
    /// List vCPUs.
    VcpuList {
        /// Only of these.
        domains: Vec<String>,
    },
    /// Set how many of a domain's vCPUs shall be up.
    VcpuSet {
        /// Which.
        domain: String,
        /// How many.
        vcpus: u32,
    },
    /// Set where a vCPU runs.
    VcpuPin {
        /// Which domain.
        domain: String,
        /// Which vCPU, or `all`.
        vcpu: String,
        /// CPUs that it may run on: 0-3,^1, all, or - to leave them.
        hard: String,
        /// CPUs that it prefers.
        soft: Option<String>,
    },
    /// Set how much memory a domain has.
    MemSet {
        /// Which.
        domain: String,
        /// How much: MiB, or with a unit.
        memory: String,
        /// Wait so long for the guest, in seconds.
        #[arg(long, default_value_t = 30)]
        timeout: u64,
    },
    /// Set how much memory a domain may have.
    MemMax {
        /// Which.
        domain: String,
        /// How much: MiB, or with a unit.
        memory: String,
    },
    /// Show or set shares of the CPUs.
    Sched {
        /// Which; all if none.
        domain: Option<String>,
        /// Its share, relative to others': 256 is usual.
        #[arg(short, long, requires = "domain")]
        weight: Option<u32>,
        /// The most it gets, in per cent of one CPU; 0 for no limit.
        #[arg(short, long, requires = "domain")]
        cap: Option<u32>,
        /// A weight by a word.
        #[arg(short, long, requires = "domain", conflicts_with = "weight")]
        priority: Option<Priority>,
    },
    /// Give a running domain a disk.
    BlockAttach {
        /// Which.
        domain: String,
        /// The disk, as in a configuration.
        disk: String,
    },
    /// List disks.
    BlockList(OneDomain),
    /// Take a disk away.
    BlockDetach {
        /// Which domain.
        domain: String,
        /// Which disk: xvdb, or its number.
        disk: String,
        /// Even if the guest does not let go.
        #[arg(short, long)]
        force: bool,
    },
    /// Give a running domain a network interface.
    NetworkAttach {
        /// Which.
        domain: String,
        /// The interface, as in a configuration.
        #[arg(default_value = "")]
        vif: Vec<String>,
    },
    /// List network interfaces.
    NetworkList(OneDomain),
    /// Take a network interface away.
    NetworkDetach {
        /// Which domain.
        domain: String,
        /// Which interface: its number or its MAC address.
        vif: String,
        /// Even if the guest does not let go.
        #[arg(short, long)]
        force: bool,
    },
    /// Print the hypervisor's log.
    Dmesg {
        /// Go on as there is more.
        #[arg(short, long)]
        follow: bool,
        /// Forget what was printed.
        #[arg(short, long)]
        clear: bool,
    },
    /// About the machine and the hypervisor.
    Info {
        /// Only where the memory is.
        #[arg(long)]
        memory: bool,
    },
    /// Who uses the CPUs, again and again.
    #[cfg_attr(feature = "tui", command(after_long_help = crate::verb::top::keys_text()))]
    Top {
        /// One table below the other instead of a screen.
        #[arg(short, long)]
        batch: bool,
        /// Seconds between.
        #[arg(short, long, default_value_t = 2)]
        delay: u64,
        /// How many looks; for ever if not given.
        #[arg(short = 'n', long)]
        iterations: Option<u64>,
    },
    /// Print what happens to domains, as it happens.
    Events {
        /// End after so many.
        #[arg(short = 'n', long)]
        count: Option<u64>,
        /// End after so many seconds.
        #[arg(long)]
        timeout: Option<u64>,
    },
    /// Wait until something is so.
    Wait {
        /// Which domain.
        domain: String,
        /// Until it is running, stopped (ended, or gone), gone, connected (its devices), or console=TEXT (it wrote that).
        #[arg(long = "for", default_value = "stopped", value_name = "WHAT")]
        until: String,
        /// So many seconds at most.
        #[arg(long, default_value_t = 120)]
        timeout: u64,
    },
    /// Why control operations failed, in the hypervisor's words.
    Why {
        /// Only about this domain.
        domain: Option<String>,
    },
    /// Look whether everything that domains need is there.
    Doctor,
    /// Print a completion script for a shell.
    Completions {
        /// For which.
        shell: clap_complete::Shell,
    },
    /// Print help, or write the manual.
    Help {
        /// About this verb.
        verb: Option<String>,
        /// Write manual pages into this directory.
        #[arg(long, value_name = "DIR")]
        man: Option<PathBuf>,
    },
    /// Start the domains of /etc/xenolith/auto, in the order of the files' names.
    Autostart {
        /// Another directory.
        #[arg(default_value = "/etc/xenolith/auto")]
        dir: PathBuf,
    },
    /// Tell the store of dom0, after its daemon started for the first time.
    #[command(hide = true)]
    Prepare,
    /// Stay with a domain and do as its configuration says when it ends. `create` starts this.
    #[command(hide = true)]
    Supervise {
        /// Which.
        domid: u32,
    },
}

/// A weight by a word.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Priority {
    /// A quarter of the usual.
    Low,
    /// The usual.
    Normal,
    /// Four times the usual.
    High,
}

impl Priority {
    /// The weight.
    pub fn weight(self) -> u32 {
        match self {
            Priority::Low => 64,
            Priority::Normal => 256,
            Priority::High => 1024,
        }
    }
}
