//! Changing the vCPU that this CPU runs.

use core::sync::atomic::Ordering;

use hv_pv::regs::Regs;

use crate::cpu::msr::{FS_BASE, GS_BASE, KERNEL_GS_BASE, TSC_AUX};
use crate::percpu::{self, Cpu};
use crate::vcpu::{Bases, Vcpu, current, load_task_switched};
use crate::{cpu, emulate, fpu, hub, paging};

/// Saves the running vCPU from `regs` and the processor, and loads `next` into both.
pub fn to(cpu: &'static Cpu, regs: &mut Regs, next: &'static Vcpu) {
    let before = current();
    before.saved.set(*regs);
    save(before);
    before.set_cpu(None);
    *regs = next.saved.get();
    load(cpu, next);
}

/// Keeps what only the processor knows: segment bases and selectors, the floating-point state.
fn save(vcpu: &Vcpu) {
    // SAFETY: the three registers exist on every x86-64 processor.
    let bases = unsafe {
        Bases { fs: cpu::rdmsr(FS_BASE), gs: cpu::rdmsr(GS_BASE), other_gs: cpu::rdmsr(KERNEL_GS_BASE) }
    };
    vcpu.bases.set(bases);
    vcpu.selectors.set(cpu::data_selectors());
    fpu::save(vcpu);
}

/// Makes this CPU run `vcpu`, whose registers the caller puts in their place.
pub fn load(cpu: &'static Cpu, vcpu: &'static Vcpu) {
    vcpu.domain.memory.dirty.insert(cpu.id);
    cpu.current.set(vcpu);
    vcpu.set_cpu(Some(cpu.id));
    let mode = vcpu.mode.get();
    // SAFETY: the root of a vCPU that may run is a validated table (I-PT-2). The flush comes with it: what the CPU
    // holds of the vCPU before belongs to other tables.
    unsafe { percpu::load_root(cpu, vcpu.root(mode)) };
    paging::flush_this_cpu();
    paging::map_own_page(cpu, vcpu);
    paging::load_gdt(cpu, vcpu);
    paging::load_ldt(cpu, vcpu);
    cpu::set_data_selectors(vcpu.selectors.get());
    let bases = vcpu.bases.get();
    // SAFETY: bases of a guest, canonical by the checks that let them in; the hypervisor uses neither FS nor GS.
    // An emulator may have let a base in that is not canonical; then it is lost, and nobody faults.
    unsafe {
        cpu::wrmsr_safe(FS_BASE, bases.fs);
        cpu::wrmsr_safe(GS_BASE, bases.gs);
        cpu::wrmsr_safe(KERNEL_GS_BASE, bases.other_gs);
    }
    vcpu.with_control(|c| {
        load_task_switched(c.task_switched);
        emulate::load_debug(c);
        // SAFETY: the policy keeps every bit the hypervisor relies on.
        unsafe { cpu::set_cr4(emulate::cr4_policy().load(c.cr4, false)) };
        if crate::cpuid::policy().offers_tsc_aux() {
            // SAFETY: offered, so it exists.
            unsafe { cpu::wrmsr(TSC_AUX, u64::from(c.tsc_aux)) };
        }
    });
    fpu::load(vcpu);
    hub::write_clock(vcpu);
    cpu.slices.store(cpu.slices.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}
