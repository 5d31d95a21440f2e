//! Root tables, and the translations that this processor remembers of them.

use core::sync::atomic::Ordering;

use hv_core::mmu::clock::{FlushClock, may_be_stale};
use hv_core::mmu::port::{CpuSet, Tlb};
use hv_types::GuestVa;

use crate::machine::Machine;
use crate::percpu::{Cpu, count, this_cpu};
use crate::{cpu, ipi, mem};

static CLOCK: FlushClock = FlushClock::new();

const CR4_PGE: u64 = 1 << 7;

/// Loads a root table. Translations that are not global are forgotten.
///
/// # Safety
/// `root` is a valid root table whose hypervisor slots are ours.
#[inline]
pub unsafe fn load_root(cpu: &Cpu, root: u64) {
    count(&cpu.root_loads);
    // SAFETY: the caller's duty.
    unsafe { cpu::set_cr3(root) };
}

/// Loads the hypervisor's own root.
pub fn load_own_root(cpu: &Cpu) {
    // SAFETY: its tables map all that is in use.
    unsafe { load_root(cpu, mem::root_address()) };
}

/// Loads a root table that its vCPU did not have before, and forgets every translation. What only the old root held may be
/// freed from here on.
///
/// # Safety
/// As for [`load_root`].
pub unsafe fn load_new_root(cpu: &Cpu, root: u64) {
    let began = tick();
    let cr4 = cpu::cr4();
    // SAFETY: PGE, and nothing else, is off while the root changes, so that no translation of the old one survives.
    unsafe {
        cpu::set_cr4(cr4 & !CR4_PGE);
        load_root(cpu, root);
        cpu::set_cr4(cr4);
    }
    cpu.flushed.store(began, Ordering::Release);
}

/// Forgets what is remembered of one page, in whichever tables.
pub fn flush_page(va: u64) {
    cpu::invlpg(va);
}

/// Flushes every translation on this CPU, global ones too, and remembers when.
fn flush_all(cpu: &Cpu) {
    let began = flush_and_date(cpu);
    cpu.flushed.store(began, Ordering::Release);
}

/// The flush clock's next time, for a flush that begins now.
fn tick() -> u32 {
    let (now, round) = CLOCK.tick();
    if round {
        ipi::flush_everywhere_soon();
    }
    now
}

/// Flushes every translation on this CPU; answers when that began, by the flush clock.
pub fn flush_and_date(cpu: &Cpu) -> u32 {
    let began = tick();
    count(&cpu.tlb_flushes);
    let cr4 = cpu::cr4();
    // SAFETY: PGE goes off and on again, or the root is loaded again, which drops all translations and changes nothing else.
    unsafe {
        if cr4 & CR4_PGE != 0 {
            cpu::set_cr4(cr4 & !CR4_PGE);
            cpu::set_cr4(cr4);
        } else {
            cpu::set_cr3(cpu::cr3());
        }
    }
    began
}

/// Flushes every translation on this CPU.
pub fn flush_this_cpu() {
    flush_all(this_cpu());
}

fn holds_this(cpus: &CpuSet) -> bool {
    cpus.contains(this_cpu().id)
}

impl Tlb for Machine {
    #[inline(always)]
    fn clock(&self) -> u32 {
        CLOCK.now()
    }

    fn flush_stale(&self, cpus: &CpuSet, stamp: u32) {
        let cpu = this_cpu();
        if cpus.contains(cpu.id) && may_be_stale(cpu.flushed.load(Ordering::Relaxed), stamp) {
            flush_all(cpu);
        }
        ipi::flush_others(cpus, stamp);
    }

    #[inline(always)]
    fn flush_local(&self) {
        flush_all(this_cpu());
    }

    #[inline(always)]
    fn flush_page_local(&self, va: GuestVa) {
        count(&this_cpu().tlb_flushes);
        flush_page(va.0);
    }

    fn flush(&self, cpus: &CpuSet) {
        ipi::flush_others(cpus, CLOCK.now());
        if holds_this(cpus) {
            flush_all(this_cpu());
        }
    }

    fn flush_page(&self, cpus: &CpuSet, va: GuestVa) {
        ipi::flush_page_of_others(cpus, va, CLOCK.now());
        if holds_this(cpus) {
            self.flush_page_local(va);
        }
    }

    fn relax(&self) {
        // Requests of other CPUs are served by NMI meanwhile.
        core::hint::spin_loop();
    }
}
