//! Instructions of the guest that trap: the rules are in `hv-pv`, the effects here.

use hv_core::port::{Fault, GuestSpace};
use hv_pv::control::{Cr4Policy, xcr0_is_valid};
use hv_pv::descriptor::CodeSegment;
use hv_pv::emulate::port::{
    Base, Control, ControlState, Msrs, Ports, Processor, Reload, RootSwitch, VirtualPort,
};
use hv_pv::emulate::{self, Outcome};
use hv_pv::iret::NativeIret;
use hv_pv::msr::MsrPolicy;
use hv_pv::regs::{Mode, Regs};
use hv_pv::trap;
use hv_types::{GuestVa, Mfn};

use crate::cpu::msr::{FS_BASE, GS_BASE, KERNEL_GS_BASE, TSC_AUX};
use crate::guest::Caller;
use crate::vcpu::{Vcpu, load_task_switched};
use crate::{cpu, cpuid, deliver, features, ports};

/// The running vCPU, as the rules of emulation reach it.
struct Running<'a> {
    vcpu: &'static Vcpu,
    state: &'a mut ControlState,
}

impl GuestSpace for Running<'_> {
    #[inline(always)]
    fn read(&self, from: GuestVa, into: &mut [u8]) -> Result<(), Fault> {
        Caller.read(from, into)
    }

    #[inline(always)]
    fn write(&self, to: GuestVa, from: &[u8]) -> Result<(), Fault> {
        Caller.write(to, from)
    }
}

/// What a guest may choose in CR4.
pub fn cr4_policy() -> Cr4Policy {
    cpuid::policy().cr4_policy(features::hypervisor_cr4())
}

impl Control for Running<'_> {
    #[inline(always)]
    fn state(&mut self) -> &mut ControlState {
        self.state
    }

    fn cr0(&self) -> u64 {
        cpu::cr0()
    }

    fn cr4_policy(&self) -> Cr4Policy {
        cr4_policy()
    }

    fn reload(&mut self, what: Reload) {
        match what {
            Reload::TaskSwitched => load_task_switched(self.state.task_switched),
            Reload::Cr2 => self.vcpu.set_cr2(self.state.cr2),
            // SAFETY: the policy keeps every bit the hypervisor relies on.
            Reload::Cr4 => unsafe { cpu::set_cr4(cr4_policy().load(self.state.cr4, false)) },
            // SAFETY: the guest was offered the register, so it exists; the hypervisor does not use it.
            Reload::TscAux => unsafe { cpu::wrmsr(TSC_AUX, u64::from(self.state.tsc_aux)) },
            Reload::Debug => load_debug(self.state),
        }
    }

    fn root(&self) -> Mfn {
        self.vcpu.mmu.kernel_root().unwrap_or(Mfn::INVALID)
    }

    fn switch_root(&mut self, root: Mfn) -> RootSwitch {
        crate::paging::switch_root(self.vcpu, root)
    }
}

/// Loads the debug registers of a vCPU.
pub fn load_debug(state: &ControlState) {
    let (addresses, _, control) = state.debug.hardware();
    // SAFETY: the rules allow only breakpoints on the guest's addresses and no general detect; DR7 is off while the
    // addresses change.
    unsafe {
        cpu::set_dr7(0x400);
        cpu::set_dr0(addresses[0]);
        cpu::set_dr1(addresses[1]);
        cpu::set_dr2(addresses[2]);
        cpu::set_dr3(addresses[3]);
        cpu::set_dr7(control);
    }
}

impl Processor for Running<'_> {
    fn cpuid(&mut self, leaf: u32, subleaf: u32, mode: Mode, forced: bool) -> [u32; 4] {
        cpuid::guest(self.vcpu, self.state.cr4, leaf, subleaf, mode, forced)
    }

    #[inline(always)]
    fn tsc(&mut self) -> u64 {
        cpu::rdtsc()
    }

    fn set_xcr0(&mut self, value: u64) -> bool {
        let valid = xcr0_is_valid(value, features::features().xcr0);
        if valid {
            self.vcpu.xcr0.set(value);
            // SAFETY: checked against what the processor offers.
            unsafe { features::set_xcr0(value) };
        }
        valid
    }

    fn flush_caches(&mut self, _invalidate: bool) {
        // Only a domain with devices can have a reason.
        if self.vcpu.domain.privileged {
            cpu::wbinvd();
        }
    }
}

impl Ports for Running<'_> {
    fn granted(&self, port: u16, bytes: u8) -> bool {
        self.vcpu.domain.privileged && ports::dom0_may(port, bytes)
    }

    fn input(&mut self, port: u16, bytes: u8) -> u32 {
        // SAFETY: `granted`: the domain owns the port and what is behind it.
        unsafe {
            match bytes {
                1 => cpu::inb(port).into(),
                2 => cpu::inw(port).into(),
                _ => cpu::inl(port),
            }
        }
    }

    fn output(&mut self, port: u16, bytes: u8, value: u32) {
        // SAFETY: `granted`: the domain owns the port and what is behind it.
        unsafe {
            match bytes {
                1 => cpu::outb(port, value as u8),
                2 => cpu::outw(port, value as u16),
                _ => cpu::outl(port, value),
            }
        }
    }

    fn virtual_input(&mut self, port: VirtualPort, bytes: u8) -> u32 {
        ports::virtual_input(self.vcpu, port, bytes)
    }

    fn virtual_output(&mut self, port: VirtualPort, bytes: u8, value: u32) {
        ports::virtual_output(self.vcpu, port, bytes, value);
    }

    fn kernel_bytes(&mut self, at: GuestVa) -> [u8; 2] {
        let user = self.vcpu.mode.get() == Mode::User;
        if user {
            self.vcpu.toggle();
        }
        let byte = |n| Caller.read_u8(at.0.wrapping_add(n)).unwrap_or(0xff);
        let bytes = [byte(0), byte(1)];
        if user {
            self.vcpu.toggle();
        }
        bytes
    }
}

const fn base_msr(base: Base) -> u32 {
    match base {
        Base::Fs => FS_BASE,
        Base::Gs => GS_BASE,
        Base::InactiveGs => KERNEL_GS_BASE,
    }
}

impl Msrs for Running<'_> {
    fn policy(&self) -> MsrPolicy {
        let offered = cpuid::policy();
        MsrPolicy {
            vendor: offered.vendor(),
            hardware_domain: self.vcpu.domain.privileged,
            first_vcpu: self.vcpu.id == 0,
            tsc_aux: offered.offers_tsc_aux(),
            branch_barrier: offered.offers_branch_barrier(),
            arch_capabilities: offered.arch_capabilities(),
        }
    }

    fn handles_gp(&self) -> bool {
        self.vcpu.traps[usize::from(trap::GP)].get().handler().is_some()
    }

    fn host_read(&mut self, msr: u32) -> Option<u64> {
        cpu::rdmsr_safe(msr)
    }

    fn host_write(&mut self, msr: u32, value: u64) -> bool {
        // SAFETY: the policy names only registers whose value the guest may choose.
        unsafe { cpu::wrmsr_safe(msr, value) }
    }

    fn base(&mut self, base: Base) -> u64 {
        // SAFETY: the three registers exist on every x86-64 processor.
        unsafe { cpu::rdmsr(base_msr(base)) }
    }

    fn set_base(&mut self, base: Base, value: u64) {
        // SAFETY: the value is canonical, and the hypervisor uses neither FS nor GS.
        unsafe { cpu::wrmsr(base_msr(base), value) };
    }

    fn write_hypercall_page(&mut self, frame: u64) -> bool {
        crate::paging::write_hypercall_page(self.vcpu, frame)
    }
}

/// Runs a rule on the vCPU and does what it says. False if the processor's own exception is to be given.
#[inline(always)]
fn act(
    regs: &mut Regs,
    vcpu: &'static Vcpu,
    rule: impl FnOnce(&mut Regs, Mode, &mut Running) -> Outcome,
) -> bool {
    let mode = vcpu.mode.get();
    let outcome = vcpu.with_control(|state| rule(regs, mode, &mut Running { vcpu, state }));
    match outcome {
        Outcome::Done | Outcome::Retry => true,
        Outcome::Inject(event) => {
            deliver::event(regs, vcpu, event);
            true
        }
        Outcome::Unhandled => false,
    }
}

/// The segment that the guest's instruction runs in.
fn code_segment(regs: &Regs) -> Option<CodeSegment> {
    if regs.cs == u64::from(crate::desc::GUEST_CS) {
        return Some(CodeSegment::LONG);
    }
    crate::paging::read_descriptor(regs.cs()).and_then(CodeSegment::from_descriptor)
}

/// An instruction that raised #GP(0). True if done.
pub fn privileged(regs: &mut Regs, vcpu: &'static Vcpu) -> bool {
    let Some(code) = code_segment(regs) else { return false };
    act(regs, vcpu, |regs, mode, machine| emulate::general_protection(regs, mode, code, machine))
}

/// An instruction that raised #UD: the forced-emulation prefix. True if done.
pub fn forced(regs: &mut Regs, vcpu: &'static Vcpu) -> bool {
    act(regs, vcpu, |regs, mode, machine| emulate::invalid_opcode(regs, mode, machine))
}

/// A page fault that says "not from ring 3" although ring 3 ran: QEMU before 8 under an IRET of the guest, with SMAP on.
/// True if that was it and the instruction is done.
#[cold]
pub fn native_iret(regs: &mut Regs) -> bool {
    const IRETQ: [u8; 2] = [0x48, 0xcf];
    let mut code = [0; 2];
    if Caller.read(GuestVa(regs.rip), &mut code).is_err() || code != IRETQ {
        return false;
    }
    Caller.read_words::<5>(regs.rsp).is_ok_and(|words| NativeIret(words).apply(regs))
}
