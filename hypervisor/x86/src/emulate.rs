//! Instructions of the guest's kernel that trap: the rules are in `hv-pv`, the effects here.

use hv_pv::regs::Regs;

use crate::vcpu::Vcpu;

/// A write to a page-table page that is mapped read-only. True if done.
pub fn page_table_write(_regs: &mut Regs, _vcpu: &Vcpu, _address: u64) -> bool {
    false
}

/// A privileged instruction. True if done.
pub fn privileged(_regs: &mut Regs, _vcpu: &Vcpu) -> bool {
    false
}

/// The forced-emulation prefix. True if done.
pub fn forced(_regs: &mut Regs, _vcpu: &Vcpu) -> bool {
    false
}
