//! Changing the vCPU that this CPU runs.

use core::sync::atomic::Ordering;

use hv_pv::regs::Regs;

use crate::cpu::msr::{FS_BASE, GS_BASE, KERNEL_GS_BASE, TSC_AUX};
use crate::percpu::{self, Cpu};
use crate::vcpu::{Bases, Vcpu, load_task_switched};
use crate::{cpu, desc, emulate, fpu, hub, paging, tlb};

/// Saves the vCPU that ran here from `regs` and the processor. From here on another CPU may take it; what this one has loaded
/// stays, should it be the next.
pub fn save(regs: &Regs, vcpu: &Vcpu) {
    vcpu.saved.set(*regs);
    // SAFETY: the three registers exist on every x86-64 processor.
    let bases = unsafe {
        Bases { fs: cpu::rdmsr(FS_BASE), gs: cpu::rdmsr(GS_BASE), other_gs: cpu::rdmsr(KERNEL_GS_BASE) }
    };
    vcpu.bases.set(bases);
    vcpu.selectors.set(cpu::data_selectors());
    fpu::save(vcpu);
    vcpu.let_go();
}

/// Leaves the tables of whatever guest was here, so that they may go while this CPU idles.
pub fn rest(cpu: &Cpu) {
    // SAFETY: this CPU's own descriptors, by the direct map.
    unsafe { desc::load_gdt(cpu.gdt as u64 - u64::from(desc::RESERVED)) };
    tlb::load_own_root(cpu);
    cpu.flushes.rests();
}

/// Makes this CPU run `vcpu`, whose registers the caller puts in their place. `rested`: this CPU comes from [`rest`].
pub fn load(cpu: &'static Cpu, vcpu: &'static Vcpu, rested: bool) {
    let before = cpu.current.load(Ordering::Relaxed);
    if core::ptr::eq(before, vcpu) && vcpu.last_cpu() == Some(cpu.id) {
        resume(cpu, vcpu, rested);
    } else {
        if rested {
            tlb::resume(cpu);
        }
        // SAFETY: a vCPU that a CPU names is not freed.
        load_all(cpu, unsafe { before.as_ref() }, vcpu);
    }
    hub::write_clock(vcpu);
}

/// Nobody else was here, and the vCPU was nowhere else: its registers are still loaded.
fn resume(cpu: &'static Cpu, vcpu: &'static Vcpu, rested: bool) {
    vcpu.taken_by(cpu.id);
    if rested {
        let mode = vcpu.mode.get();
        // SAFETY: the root of a vCPU that may run is a validated table (I-PT-2). What the TLB still has of it was kept up
        // to date, or is flushed now.
        unsafe { tlb::enter(cpu, vcpu.root(mode), mode) };
        tlb::resume(cpu);
        paging::load_gdt(cpu, vcpu);
    }
}

fn load_all(cpu: &'static Cpu, before: Option<&'static Vcpu>, vcpu: &'static Vcpu) {
    vcpu.domain.memory.dirty.insert(cpu.id);
    cpu.current.store(core::ptr::from_ref(vcpu).cast_mut(), Ordering::Release);
    vcpu.taken_by(cpu.id);
    let mode = vcpu.mode.get();
    // An NMI may come at any instruction and needs descriptors: the old vCPU's window is not in the new one's tables.
    // SAFETY: this CPU's own page, through the direct map, which every table has.
    unsafe { desc::load_gdt(cpu.gdt as u64 - u64::from(desc::RESERVED)) };
    // SAFETY: the root of a vCPU that may run is a validated table (I-PT-2). The flush comes with it: what the CPU
    // holds of the vCPU before belongs to other tables.
    unsafe { tlb::enter(cpu, vcpu.root(mode), mode) };
    tlb::flush_this_cpu();
    if let Some(before) = before
        && !core::ptr::eq(before.domain, vcpu.domain)
    {
        before.domain.memory.dirty.remove(cpu.id);
    }
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
    hub::bring_timers(cpu, vcpu);
    percpu::count(&cpu.slices);
}
