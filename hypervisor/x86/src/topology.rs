//! Which CPUs are threads of one core, and which share a cache. See [`hv_core::platform::topology`].

use core::sync::atomic::{AtomicBool, Ordering};

use hv_core::mmu::{CpuSet, SharedCpuSet};
use hv_core::platform::topology::{Counts, Place, Topology};
use spin::Once;

use crate::percpu::{Cpu, cpu_record};
use crate::{cpuid, parking};

static TOPOLOGY: Once<Topology> = Once::new();

fn topology() -> &'static Topology {
    TOPOLOGY.call_once(|| Topology::read(cpuid::host))
}

/// CPUs that are close to one CPU, itself among them; offline ones stay in.
pub struct Neighbours {
    /// The threads of its core.
    core: SharedCpuSet,
    /// Those that share its largest cache.
    cache: SharedCpuSet,
    siblings: AtomicBool,
}

impl Neighbours {
    /// Of a CPU that has not been introduced.
    pub const fn none() -> Self {
        Neighbours { core: SharedCpuSet::new(), cache: SharedCpuSet::new(), siblings: AtomicBool::new(false) }
    }

    /// The threads of its core.
    pub fn core(&self) -> CpuSet {
        self.core.snapshot()
    }

    /// True if its core has other threads.
    #[inline]
    pub fn has_siblings(&self) -> bool {
        self.siblings.load(Ordering::Relaxed)
    }

    /// The CPUs that share its cache.
    pub fn cache(&self) -> CpuSet {
        self.cache.snapshot()
    }

    /// True if another CPU does.
    #[inline]
    pub fn share_cache(&self, other: &Cpu) -> bool {
        self.cache.contains(other.id)
    }
}

/// A CPU that has come up: it and those before it learn of each other.
pub fn introduce(cpu: &Cpu) {
    let place = place(cpu);
    for other in (0..=cpu.id).filter_map(|id| cpu_record(id as usize)) {
        let theirs = self::place(other);
        if (theirs.socket, theirs.core) == (place.socket, place.core) {
            cpu.neighbours.core.insert(other.id);
            other.neighbours.core.insert(cpu.id);
            if other.id != cpu.id {
                [cpu, other]
                    .iter()
                    .for_each(|thread| thread.neighbours.siblings.store(true, Ordering::Relaxed));
            }
        }
        if theirs.cache == place.cache {
            cpu.neighbours.cache.insert(other.id);
            other.neighbours.cache.insert(cpu.id);
        }
    }
}

/// Where a CPU is.
pub fn place(cpu: &Cpu) -> Place {
    topology().place(cpu.apic_id)
}

/// Counts what the CPUs that have ever come up are in.
pub fn counts() -> Counts {
    topology().count(parking::present().map(|cpu| cpu.apic_id))
}

/// Says what there is, once all CPUs have come.
pub fn report() {
    let Counts { sockets, caches, cores, threads, .. } = counts();
    log::info!("sockets {sockets}, caches {caches}, cores {cores}, threads {threads}");
}
