//! Root tables, and the translations that this processor remembers of them: the rules of [`hv_core::mmu::tags`] with this
//! processor's instructions.

use hv_core::mmu::clock::FlushClock;
use hv_core::mmu::port::{CpuSet, Tlb};
use hv_core::mmu::tags::{Forget, Processor, Whose};
use hv_pv::regs::Mode;
use hv_types::GuestVa;

use crate::machine::Machine;
use crate::percpu::{Cpu, count, this_cpu};
use crate::{cpu, ipi, mem};

static CLOCK: FlushClock = FlushClock::new();

const CR4_PGE: u64 = 1 << 7;

/// This CPU, for those in this file only: whoever loads a root answers for it.
struct Here<'a>(&'a Cpu);

impl Processor for Here<'_> {
    #[inline(always)]
    fn cr3(&self) -> u64 {
        cpu::cr3()
    }

    #[inline(always)]
    fn set_cr3(&self, value: u64) {
        count(&self.0.root_loads);
        // SAFETY: a valid root table whose hypervisor slots are ours: the own one, that which is loaded, or one by the contract
        // of the unsafe functions below.
        unsafe { cpu::set_cr3(value) };
    }

    #[inline(always)]
    fn without_global(&self, what: impl FnOnce(&Self)) -> bool {
        let cr4 = cpu::cr4();
        let on = cr4 & CR4_PGE != 0;
        if on {
            // SAFETY: PGE changes what is remembered, and nothing else.
            unsafe { cpu::set_cr4(cr4 & !CR4_PGE) };
        }
        what(self);
        if on {
            // SAFETY: as it was.
            unsafe { cpu::set_cr4(cr4) };
        }
        on
    }

    #[inline(always)]
    fn invlpg(&self, va: u64) {
        cpu::invlpg(va);
    }

    fn invpcid(&self, what: Forget) {
        cpu::invpcid(what);
    }
}

const fn whose(mode: Mode) -> Whose {
    match mode {
        Mode::Kernel => Whose::Kernel,
        Mode::User => Whose::User,
    }
}

/// Goes to the root of the running vCPU's other mode.
///
/// # Safety
/// `root` is that vCPU's validated root for `mode`.
#[inline(always)]
pub unsafe fn change_mode(cpu: &Cpu, root: u64, mode: Mode) {
    cpu.tags.change_mode(&Here(cpu), root, whose(mode));
}

/// Loads a root of a vCPU that was not here just now. Of both its roots, translations that are not global are forgotten.
///
/// # Safety
/// `root` is the vCPU's validated root for `mode`.
pub unsafe fn enter(cpu: &Cpu, root: u64, mode: Mode) {
    cpu.tags.enter(&Here(cpu), root, whose(mode));
}

/// Loads the hypervisor's own root.
pub fn load_own_root(cpu: &Cpu) {
    cpu.tags.leave(&Here(cpu), mem::root_address());
}

/// Loads a root table that the running vCPU's kernel did not have before, and forgets every translation. What only the old root
/// held may be freed from here on.
///
/// # Safety
/// `root` is a validated root of the vCPU's domain.
pub unsafe fn load_kernel_root(cpu: &Cpu, root: u64) {
    let began = tick();
    cpu.tags.load_kernel_root(&Here(cpu), root);
    cpu.flushes.done(began);
}

/// The running vCPU, which is in kernel mode, has another root for user mode from here on.
pub fn forget_user_root() {
    let cpu = this_cpu();
    cpu.tags.forget_user_root(&Here(cpu));
}

/// Forgets what is remembered of one page, in whichever tables.
pub fn flush_page(va: u64) {
    let cpu = this_cpu();
    cpu.tags.flush_page(&Here(cpu), va);
}

/// Flushes every translation on this CPU, global ones too, and remembers when.
#[inline(always)]
fn flush_all(cpu: &Cpu) {
    let began = flush_and_date(cpu);
    cpu.flushes.done(began);
}

/// The flush clock's next time, for a flush that begins now.
#[inline(always)]
fn tick() -> u32 {
    let (now, round) = CLOCK.tick();
    if round {
        ipi::flush_everywhere_soon();
    }
    now
}

/// Flushes every translation on this CPU; answers when that began, by the flush clock.
#[inline(always)]
pub fn flush_and_date(cpu: &Cpu) -> u32 {
    let began = tick();
    count(&cpu.tlb_flushes);
    cpu.tags.flush_all(&Here(cpu));
    began
}

/// Flushes every translation on this CPU.
pub fn flush_this_cpu() {
    flush_all(this_cpu());
}

/// This CPU uses guests' tables again: flushes if it was told to meanwhile.
pub fn resume(cpu: &Cpu) {
    if cpu.flushes.resumes() {
        flush_all(cpu);
    }
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
        if cpus.contains(cpu.id) && cpu.flushes.is_stale_here(stamp) {
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
