//! The guest's page tables: the bridge between the core's rules and this processor.

use hv_pv::emulate::port::RootSwitch;
use hv_pv::regs::Regs;
use hv_types::Mfn;

use crate::vcpu::Vcpu;

/// Makes another frame the kernel's root.
pub fn switch_root(_vcpu: &Vcpu, _root: Mfn) -> RootSwitch {
    RootSwitch::Refused
}

/// Fills a frame of the guest with the hypercall page.
pub fn write_hypercall_page(_vcpu: &Vcpu, _frame: u64) -> bool {
    false
}

/// Reads a descriptor of the tables that are loaded.
pub fn read_descriptor(_selector: u16) -> Option<u64> {
    None
}

/// A write to a page-table page that is mapped read-only. True if done.
pub fn page_table_write(_regs: &mut Regs, _vcpu: &Vcpu, _address: u64) -> bool {
    false
}
