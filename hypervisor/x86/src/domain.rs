//! A domain of this machine: the core's state of it, its vCPUs, and how it ends.

use core::fmt;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use guest_abi::errno::Errno;
use guest_abi::sched::SHUTDOWN_CRASH;
use hv_core::domain::Life;
use hv_core::event::{DomainEvents, Limits};
use hv_core::grant::GrantTable;
use hv_core::memory_op::MemoryMap;
use hv_core::mmu::DomainMemory;
use hv_core::pirq::Pirqs;
use hv_core::sched::{DEFAULT_WEIGHT, Shutdown};
use hv_core::time::Watchdogs;
use hv_pv::regs::{Mode, Regs};
use hv_types::{DomId, Mfn};
use spin::{Mutex, Once};

use crate::dev::time;
use crate::guest::Caller;
use crate::life::Teardown;
use crate::paging::Area;
use crate::vcpu::Vcpu;
use crate::{hub, panic, power, println};

/// Why a domain cannot go on. Everything here is the guest's own doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// An exception for which it has no handler.
    NoHandler(u8),
    /// Its kernel stack cannot take a frame, or holds none.
    KernelStack,
    /// An event arrived and no callback is registered.
    NoEventCallback,
    /// A return to user mode without a user page table.
    NoUserRoot,
    /// It asked for it (`SCHEDOP_shutdown` with reason crash).
    Asked,
    /// The core says so.
    Rule(&'static str),
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Crash::NoHandler(vector) => write!(f, "exception {vector} and no handler for it"),
            Crash::KernelStack => f.write_str("its kernel stack is not usable"),
            Crash::NoEventCallback => f.write_str("an event and no event callback"),
            Crash::NoUserRoot => f.write_str("a return to user mode without a user page table"),
            Crash::Asked => f.write_str("it reports that it crashed"),
            Crash::Rule(rule) => f.write_str(rule),
        }
    }
}

/// Frames that a grant table may have (`gnttab_max_frames=` of the reference).
const MAX_GRANT_FRAMES: u32 = 64;

/// One domain.
pub struct Domain {
    /// Its number.
    pub id: DomId,
    /// True for dom0.
    pub privileged: bool,
    /// Its memory, for the core.
    pub memory: DomainMemory,
    /// Its event channels.
    pub events: DomainEvents,
    /// How it ended.
    pub shutdown: Shutdown,
    /// Its watchdogs, once it has asked for some, and the CPU in whose queue they are.
    pub watchdogs: Mutex<Option<(Watchdogs, u32)>>,
    /// Held while a vCPU is given its context.
    pub initialising: Mutex<()>,
    /// Its physical interrupts.
    pub pirqs: Mutex<Pirqs>,
    /// Its grant table.
    pub grants: GrantTable,
    /// The map of its pseudo-physical memory that a tool gave it.
    pub memory_map: MemoryMap,
    /// Its own part of the hypervisor's range.
    pub area: Area,
    /// Frame of its shared page.
    pub shared_info: Mfn,
    /// Bits of `VMASST_TYPE_*` that are on.
    assists: AtomicU64,
    /// Where it stands between creation and end.
    pub life: Life,
    /// Its UUID.
    pub handle: [u8; 16],
    /// System time of its creation.
    pub created: u64,
    /// Its share of the CPUs.
    pub weight: AtomicU32,
    /// Per cent of a CPU that its vCPUs may use together; 0: no limit.
    pub cap: AtomicU32,
    /// Held by whoever changes its life; how far its destruction came.
    pub control: Mutex<Teardown>,
    vcpus: Once<&'static [&'static Vcpu]>,
    /// What it wrote to the PCI configuration address port.
    pub pci_address: AtomicU32,
    /// Unimplemented calls already logged, one bit a number.
    unknown: AtomicU64,
}

impl Domain {
    /// A domain without vCPUs.
    pub fn new(
        id: DomId,
        privileged: bool,
        shared_info: Mfn,
        area: Area,
        pirqs: Pirqs,
        limits: Limits,
        handle: [u8; 16],
    ) -> Result<Self, Errno> {
        Ok(Domain {
            events: DomainEvents::new(id, shared_info, limits)?,
            grants: GrantTable::new(MAX_GRANT_FRAMES)?,
            memory_map: MemoryMap::new(),
            shutdown: Shutdown::new(),
            watchdogs: Mutex::new(None),
            initialising: Mutex::new(()),
            pirqs: Mutex::new(pirqs),
            memory: DomainMemory::new(id, privileged),
            area,
            id,
            privileged,
            shared_info,
            assists: AtomicU64::new(0),
            life: if privileged { Life::running() } else { Life::paused() },
            handle,
            created: time::now(),
            weight: AtomicU32::new(DEFAULT_WEIGHT.into()),
            cap: AtomicU32::new(0),
            control: Mutex::new(Teardown::default()),
            vcpus: Once::new(),
            pci_address: AtomicU32::new(0),
            unknown: AtomicU64::new(0),
        })
    }

    /// Its vCPUs by number.
    pub fn vcpus(&self) -> &'static [&'static Vcpu] {
        self.vcpus.get().copied().unwrap_or(&[])
    }

    /// Names its vCPUs, once.
    pub fn set_vcpus(&self, vcpus: &'static [&'static Vcpu]) {
        self.vcpus.call_once(|| vcpus);
    }

    /// True the first time it is called with this number.
    pub fn first_unknown(&self, number: u32) -> bool {
        let bit = 1u64 << number.min(63);
        self.unknown.load(Ordering::Relaxed) & bit == 0
            && self.unknown.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    /// True if the assist is on.
    #[inline(always)]
    pub fn assists(&self, kind: u32) -> bool {
        self.assists.load(Ordering::Relaxed) >> kind & 1 != 0
    }

    /// All assists that are on.
    pub fn all_assists(&self) -> u64 {
        self.assists.load(Ordering::Relaxed)
    }

    /// Switches an assist.
    pub fn set_assist(&self, kind: u32, on: bool) {
        let bit = 1u64 << (kind & 63);
        if on {
            self.assists.fetch_or(bit, Ordering::Relaxed);
        } else {
            self.assists.fetch_and(!bit, Ordering::Relaxed);
        }
    }
}

/// Domains by the low bits of their numbers; two that exist never share a place. A record is freed only when no CPU can have
/// a reference to it (I-LF-1), so that a reference lasts until this CPU returns to a guest or idles.
static DOMAINS: [AtomicPtr<Domain>; MAX_DOMAINS] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_DOMAINS];

/// Domains that there can be at once.
pub const MAX_DOMAINS: usize = 1024;

fn place(id: DomId) -> &'static AtomicPtr<Domain> {
    &DOMAINS[usize::from(id.0) % MAX_DOMAINS]
}

/// True if a domain of that number could be registered.
pub fn has_place(id: DomId) -> bool {
    place(id).load(Ordering::Acquire).is_null()
}

/// Makes a domain known; false if its place is taken.
pub fn register(domain: &'static Domain) -> bool {
    let own = core::ptr::from_ref(domain).cast_mut();
    place(domain.id).compare_exchange(core::ptr::null_mut(), own, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

/// Nobody finds the domain any more; whoever has found it goes on for now.
pub fn forget(domain: &'static Domain) {
    let own = core::ptr::from_ref(domain).cast_mut();
    let null = core::ptr::null_mut();
    let _ = place(domain.id).compare_exchange(own, null, Ordering::AcqRel, Ordering::Acquire);
}

/// The domain of that number.
#[inline]
pub fn find(id: DomId) -> Option<&'static Domain> {
    at(id.0.into()).filter(|domain| domain.id == id)
}

/// The domain at a place of the table, from 0 to [`MAX_DOMAINS`].
#[inline]
pub fn at(place: usize) -> Option<&'static Domain> {
    // SAFETY: I-LF-1: a registered record lives, and goes on living while this CPU may use it.
    unsafe { DOMAINS.get(place)?.load(Ordering::Acquire).as_ref() }
}

/// All domains, in no order.
pub fn all() -> impl Iterator<Item = &'static Domain> {
    (0..MAX_DOMAINS).filter_map(at)
}

/// Prints what is known of a guest that cannot go on.
fn report(vcpu: &Vcpu, regs: &Regs, why: Crash) {
    log::error!("d{}v{} crashed: {why}", vcpu.domain.id.0, vcpu.id);
    panic::print_regs(regs);
    let mode = if vcpu.mode.get() == Mode::Kernel { "kernel" } else { "user" };
    println!("Guest mode: {mode}. Guest stack from rsp {:#x}:", regs.rsp);
    for line in 0..8u64 {
        let Ok(words) = Caller.read_words::<4>(regs.rsp.wrapping_add(line * 32)) else { break };
        println!("   {:016x} {:016x} {:016x} {:016x}", words[0], words[1], words[2], words[3]);
    }
}

/// Ends a domain that cannot go on. For dom0 that is the end of the machine's work.
#[cold]
pub fn crash(vcpu: &Vcpu, regs: &mut Regs, why: Crash) {
    report(vcpu, regs, why);
    if vcpu.domain.privileged {
        log::error!("dom0 crashed");
        power::after_fatal();
    }
    hub::shut_down_domain(vcpu.domain, SHUTDOWN_CRASH as u8);
    crate::work::leave(vcpu);
}
