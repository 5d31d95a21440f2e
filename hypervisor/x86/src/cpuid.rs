//! The guest's CPUID: policy from `hv-pv`, host values from the processor.

use hv_pv::cpuid::{Asker, CpuidPolicy, HypervisorLeaves, Leaf};
use hv_pv::regs::Mode;
use spin::Once;

use crate::dev::tsc;
use crate::vcpu::Vcpu;
use crate::{cpu, features};

static DOM0: Once<CpuidPolicy> = Once::new();
static GUESTS: Once<CpuidPolicy> = Once::new();
static SELF: Once<HypervisorLeaves> = Once::new();

/// The processor's own answer.
pub fn host(leaf: u32, subleaf: u32) -> Leaf {
    let r = cpu::cpuid(leaf, subleaf);
    [r.eax, r.ebx, r.ecx, r.edx]
}

const ARCH_CAPABILITIES: u32 = 0x10a;

fn any() -> CpuidPolicy {
    let has = cpu::cpuid(0, 0).eax >= 7 && cpu::cpuid(7, 0).edx & 1 << 29 != 0;
    let capabilities = if has { cpu::rdmsr_safe(ARCH_CAPABILITIES) } else { None };
    CpuidPolicy::pv(host, capabilities)
}

/// What dom0 is shown. In registers and MSRs others have the same.
#[inline]
pub fn policy() -> &'static CpuidPolicy {
    DOM0.call_once(|| any().for_dom0(host))
}

/// What another domain is shown.
fn policy_of_guests() -> &'static CpuidPolicy {
    GUESTS.call_once(any)
}

/// Fixes what the hypervisor says of itself.
pub fn init(leaves: HypervisorLeaves) {
    SELF.call_once(|| leaves);
}

/// Answers a leaf.
pub fn guest(vcpu: &Vcpu, cr4: u64, leaf: u32, subleaf: u32, mode: Mode, forced: bool) -> Leaf {
    let asker = Asker {
        mode,
        forced,
        hardware_domain: vcpu.domain.privileged,
        cr4,
        host_osxsave: features::features().xsave,
    };
    let own = SELF.get().copied().unwrap_or_default();
    let own = HypervisorLeaves { reliable_tsc: tsc::is_stable(), ..own };
    let policy = if vcpu.domain.privileged { policy() } else { policy_of_guests() };
    policy.answer(leaf, subleaf, &asker, &own, host)
}
