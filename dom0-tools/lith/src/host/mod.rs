//! The machine as the command sees it: the hypervisor's control interface, the store, and dom0's own devices.
//!
//! Three narrow traits, so that everything above them is tested with [`fake::Fake`], which behaves as the real ones do.

pub mod fake;
mod real;
mod terminal;

pub use real::Dom0;

use guest_abi::control::{DomainInfo, Failure, Holder, HostInfo, VcpuInfo, Version};
use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

/// Why the machine refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// An operation answered an error.
    #[error("{what}: {}", errno_text(*errno))]
    Errno {
        /// What was tried.
        what: String,
        /// The error's number, positive.
        errno: i32,
    },
    /// The hypervisor is not Xenolith, or there is none.
    #[error("{0}")]
    NotXenolith(String),
    /// Something of dom0's.
    #[error("{0}")]
    System(String),
}

impl HostError {
    /// An errno of an operation.
    pub fn errno(what: impl Into<String>, errno: i32) -> Self {
        Self::Errno { what: what.into(), errno }
    }

    /// The errno, if it is one.
    pub fn number(&self) -> Option<i32> {
        match self {
            Self::Errno { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

/// Words for the errors that the interfaces answer.
pub fn errno_text(errno: i32) -> String {
    let words = match errno {
        1 => "not permitted",
        2 => "it does not exist",
        3 => "no such domain",
        7 => "the hypervisor is older than this command",
        11 => "to be tried again",
        12 => "not enough memory",
        13 => "permission denied",
        14 => "bad address",
        16 => "busy",
        17 => "it exists already",
        19 => "no such device",
        22 => "not valid",
        28 => "no room left",
        38 => "the hypervisor does not know this operation",
        95 => "not supported",
        110 => "timed out",
        _ => return format!("error {errno}"),
    };
    words.to_owned()
}

/// An answer.
pub type Result<T> = std::result::Result<T, HostError>;

/// A file's content, piece by piece.
pub type Parts<'a, 'p> = &'a mut dyn Iterator<Item = Result<Cow<'p, [u8]>>>;

/// A new domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewDomain {
    /// Its UUID.
    pub uuid: [u8; 16],
    /// vCPUs that it may have.
    pub max_vcpus: u32,
    /// Pages that it may have.
    pub max_pages: u64,
    /// Frames of its grant table; 0 for the default.
    pub max_grant_frames: u32,
    /// Grants of others that it may have mapped; 0 for the default.
    pub max_maptrack: u32,
    /// Event channels; 0 for all.
    pub max_evtchns: u32,
}

/// A vCPU's first registers. The rest of its context is what `xen.h` says of the start of day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartRegisters {
    /// Entry point.
    pub rip: u64,
    /// Stack, of which it uses what is below.
    pub rsp: u64,
    /// `start_info`, in `rsi`.
    pub start_info: u64,
    /// Frame of the root page table.
    pub root_mfn: u64,
}

/// The hypervisor.
pub trait Hypervisor {
    /// What it is.
    fn version(&self) -> Result<Version>;
    /// The machine.
    fn host_info(&self) -> Result<HostInfo>;
    /// The domain with this number.
    fn domain(&self, domid: u32) -> Result<Option<DomainInfo>>;
    /// All domains, in the order of their numbers.
    fn domains(&self) -> Result<Vec<DomainInfo>>;
    /// A vCPU.
    fn vcpu(&self, domid: u32, vcpu: u32) -> Result<VcpuInfo>;
    /// Makes a domain, paused.
    fn create(&self, new: &NewDomain) -> Result<u32>;
    /// Ends one; the answer is how many of its pages others hold.
    fn destroy(&self, domid: u32) -> Result<u64>;
    /// Stops its vCPUs.
    fn pause(&self, domid: u32) -> Result<()>;
    /// Lets them go on.
    fn unpause(&self, domid: u32) -> Result<()>;
    /// Shuts it down as if by itself.
    fn shutdown(&self, domid: u32, reason: u32) -> Result<()>;
    /// How many pages it may have.
    fn set_max_pages(&self, domid: u32, pages: u64) -> Result<()>;
    /// Promises it so many pages in all.
    fn claim(&self, domid: u32, pages: u64) -> Result<()>;
    /// Gives it vCPUs.
    fn set_vcpus(&self, domid: u32, vcpus: u32) -> Result<()>;
    /// Gives vCPU 0 its context.
    fn start_registers(&self, domid: u32, registers: &StartRegisters) -> Result<()>;
    /// Sets where a vCPU may run, and where it likes to.
    fn set_affinity(&self, domid: u32, vcpu: u32, hard: Option<&[u64]>, soft: Option<&[u64]>) -> Result<()>;
    /// Where a vCPU may run, and where it likes to.
    fn affinity(&self, domid: u32, vcpu: u32) -> Result<(Vec<u64>, Vec<u64>)>;
    /// Sets its share of the CPUs.
    fn set_sched(&self, domid: u32, weight: Option<u32>, cap: Option<u32>) -> Result<()>;
    /// Its share of the CPUs: weight and cap.
    fn sched(&self, domid: u32) -> Result<(u32, u32)>;
    /// Which domains hold pages of it, and how many pages are held.
    fn holders(&self, domid: u32) -> Result<(Vec<Holder>, u64)>;
    /// Control operations that failed, from a number on.
    fn failures(&self, from: u64) -> Result<Vec<Failure>>;
    /// The log from an index on, or from its oldest byte; the second value is where to go on.
    fn read_log(&self, from: Option<u64>, clear: bool) -> Result<(Vec<u8>, u64)>;

    /// Gives it `extents` pieces of `1 << order` pages for its frames from `pfn` on; the answer is the first machine
    /// frame of each piece that there was memory for.
    fn populate(&self, domid: u32, pfn: u64, order: u32, extents: u64) -> Result<Vec<u64>>;
    /// Writes bytes into frames of it, from an offset into the first one on.
    fn write_frames(&self, domid: u32, mfns: &[u64], offset: usize, bytes: &[u8]) -> Result<()>;
    /// Reads one frame of it.
    fn read_frame(&self, domid: u32, mfn: u64) -> Result<Vec<u8>>;
    /// Reads frames, one after the other; zeroes for those that cannot be read.
    fn read_frames(&self, domid: u32, mfns: &[u64]) -> Result<Vec<u8>>;
    /// Tells it up to where its memory may grow, where the hypervisor keeps that.
    fn set_memory_map(&self, domid: u32, pages: u64) -> Result<()>;
    /// Makes a frame a root page table for good.
    fn pin_root(&self, domid: u32, mfn: u64) -> Result<()>;
    /// Grants dom0 a frame of it, by a reference of its table.
    fn grant_to_dom0(&self, domid: u32, reference: u32, mfn: u64) -> Result<()>;
    /// An event channel of it that dom0 may bind.
    fn unbound_port(&self, domid: u32) -> Result<u32>;
}

/// Who may read and write a node: the first entry names its owner and what all others may; the rest exceptions.
pub type Permissions = Vec<(u32, char)>;

/// The store.
pub trait Store {
    /// A node's value.
    fn read(&self, path: &str) -> Result<Option<String>>;
    /// Sets a node, and makes it and its parents if need be.
    fn write(&self, path: &str, value: &str) -> Result<()>;
    /// Removes a node with all below.
    fn remove(&self, path: &str) -> Result<()>;
    /// Names of a node's children; none if there is no node.
    fn list(&self, path: &str) -> Result<Vec<String>>;
    /// Makes changes in their order; of several that fail the first is told, and the others may have been made.
    fn change(&self, changes: Changes) -> Result<()>;
    /// Tells the store of a new domain and its ring.
    fn introduce(&self, domid: u32, mfn: u64, port: u32) -> Result<()>;
    /// Tells it that a domain is gone.
    fn release(&self, domid: u32) -> Result<()>;
    /// Waits until something at or below a path changes, or the time is over. It may return early.
    fn wait(&self, paths: &[String], timeout: Duration) -> Result<()>;
}

/// Changes of the store that are made together.
#[derive(Debug, Default)]
pub struct Changes(Vec<Change>);

#[derive(Debug)]
enum Change {
    Write(String, String),
    Permissions(String, Vec<(u32, char)>),
}

impl Changes {
    /// Sets a node.
    pub fn write(&mut self, path: String, value: impl Into<String>) {
        self.0.push(Change::Write(path, value.into()));
    }

    /// Makes an empty node with permissions.
    pub fn make_dir(&mut self, path: &str, permissions: &[(u32, char)]) {
        self.write(path.to_owned(), "");
        self.0.push(Change::Permissions(path.to_owned(), permissions.to_vec()));
    }
}

/// A device of dom0's that a disk stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockDevice {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// dom0 itself.
pub trait System {
    /// Monotonic time.
    fn now(&self) -> Duration;
    /// Time of day in seconds since 1970.
    fn wall_clock(&self) -> u64;
    /// Waits.
    fn sleep(&self, time: Duration);
    /// Sixteen random bytes.
    fn random(&self) -> Result<[u8; 16]>;
    /// A file's content.
    fn read_file(&self, path: &Path) -> Result<Vec<u8>>;
    /// Writes a file, whole or not at all.
    fn write_file(&self, path: &Path, content: &[u8]) -> Result<()> {
        self.write_parts(path, &mut std::iter::once(Ok(content.into())))
    }
    /// The same for a file that is too long to be in memory. After an error, one of a part's too, there is no file.
    fn write_parts(&self, path: &Path, parts: Parts<'_, '_>) -> Result<()>;
    /// A word that changes when a file's content does; `None` if there is no telling.
    fn file_version(&self, path: &Path) -> Option<String>;
    /// Names of the files in a directory; none if there is no directory.
    fn files(&self, dir: &Path) -> Vec<String>;
    /// Removes a file, if there is one.
    fn remove_file(&self, path: &Path) -> Result<()>;
    /// The numbers of a block device; `None` for a regular file.
    fn block_device(&self, path: &Path) -> Result<Option<BlockDevice>>;
    /// Makes a file a block device by a loop device, whose path is the answer.
    fn attach_loop(&self, file: &Path, read_only: bool) -> Result<String>;
    /// Gives a loop device back.
    fn detach_loop(&self, device: &str) -> Result<()>;
    /// Whether there is a network interface.
    fn has_interface(&self, name: &str) -> bool;
    /// Brings an interface up on a bridge, under another name if one is given.
    fn join_bridge(&self, interface: &str, bridge: &str, rename: Option<&str>) -> Result<()>;
    /// Runs a hotplug script of the administrator's.
    fn run_script(&self, script: &str, action: &str, environment: &[(String, String)]) -> Result<()>;
    /// Starts `lith supervise` for a domain, which outlives this process.
    fn start_supervisor(&self, domid: u32) -> Result<()>;
    /// Puts this terminal on a domain's console until it is left; the history before, if there is one.
    fn console(&self, domid: u32, name: &str) -> Result<()>;
    /// What a domain wrote on its console; `name` finds that of one that is gone.
    fn console_log(&self, domid: Option<u32>, name: &str) -> Result<Vec<u8>>;
}

/// All of it.
pub trait Host: Hypervisor + Store + System {}

impl<T: Hypervisor + Store + System> Host for T {}
