//! A machine of vectors for the tests.

use std::cell::RefCell;
use std::collections::BTreeMap;

use hv_core::port::{Fault, GuestSpace};
use hv_types::{GuestVa, Mfn};

use super::port::*;
use crate::control::{CR4_DE, CR4_OSXSAVE, CR4_TSD, Cr4Policy, xcr0_is_valid};
use crate::msr::{MsrPolicy, Vendor};
use crate::regs::Mode;

/// What the emulation did to the machine, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Did {
    Reload(Reload),
    In(u16, u8),
    Out(u16, u8, u32),
    VirtualIn(VirtualPort, u8),
    VirtualOut(VirtualPort, u8, u32),
    HostWrite(u32, u64),
    SetBase(Base, u64),
    HypercallPage(u64),
    Flush(bool),
    Xcr0(u64),
    Root(Mfn),
}

pub struct Fake {
    pub memory: RefCell<BTreeMap<u64, Vec<u8>>>,
    pub state: ControlState,
    pub did: Vec<Did>,
    pub granted: std::ops::Range<u32>,
    pub msrs: BTreeMap<u32, u64>,
    pub handles_gp: bool,
    pub root_switch: RootSwitch,
    pub io_bitmap: Vec<u8>,
}

pub const CR0: u64 = 0x8005_0033;
const CR4: Cr4Policy = Cr4Policy { hardware: 0x3706f0, offered: CR4_DE | CR4_OSXSAVE | CR4_TSD };
pub const BITMAP: u64 = 0xffff_c900_0000_0000;

impl Fake {
    pub fn new() -> Fake {
        Fake {
            memory: RefCell::default(),
            state: ControlState::new(&CR4),
            did: Vec::new(),
            granted: 0x300..0x400,
            msrs: BTreeMap::new(),
            handles_gp: true,
            root_switch: RootSwitch::Done,
            io_bitmap: Vec::new(),
        }
    }

    /// Maps a page and writes `bytes` at `at`, which may run into pages that are mapped already.
    pub fn map(&mut self, at: u64, bytes: &[u8]) {
        self.memory.borrow_mut().entry(at >> 12).or_insert_with(|| vec![0; 4096]);
        for (n, byte) in (0u64..).zip(bytes) {
            if let Some(page) = self.memory.borrow_mut().get_mut(&((at + n) >> 12)) {
                page[((at + n) & 0xfff) as usize] = *byte;
            }
        }
    }
}

impl GuestSpace for Fake {
    fn read(&self, from: GuestVa, into: &mut [u8]) -> Result<(), Fault> {
        for (n, byte) in (0u64..).zip(into) {
            let at = from.0.checked_add(n).ok_or(Fault)?;
            *byte = self.memory.borrow().get(&(at >> 12)).ok_or(Fault)?[(at & 0xfff) as usize];
        }
        Ok(())
    }

    fn write(&self, to: GuestVa, from: &[u8]) -> Result<(), Fault> {
        for (n, byte) in (0u64..).zip(from) {
            let at = to.0.checked_add(n).ok_or(Fault)?;
            self.memory.borrow_mut().get_mut(&(at >> 12)).ok_or(Fault)?[(at & 0xfff) as usize] = *byte;
        }
        Ok(())
    }
}

impl Control for Fake {
    fn state(&mut self) -> &mut ControlState {
        &mut self.state
    }
    fn cr0(&self) -> u64 {
        CR0
    }
    fn cr4_policy(&self) -> Cr4Policy {
        CR4
    }
    fn reload(&mut self, what: Reload) {
        self.did.push(Did::Reload(what));
    }
    fn root(&self) -> Mfn {
        Mfn(0x1234)
    }
    fn switch_root(&mut self, root: Mfn) -> RootSwitch {
        self.did.push(Did::Root(root));
        self.root_switch
    }
}

impl Processor for Fake {
    fn cpuid(&mut self, leaf: u32, subleaf: u32, mode: Mode, forced: bool) -> [u32; 4] {
        [leaf, subleaf, u32::from(mode == Mode::Kernel), u32::from(forced)]
    }
    fn tsc(&mut self) -> u64 {
        0x1122_3344_5566_7788
    }
    fn set_xcr0(&mut self, value: u64) -> bool {
        self.did.push(Did::Xcr0(value));
        xcr0_is_valid(value, 7)
    }
    fn flush_caches(&mut self, invalidate: bool) {
        self.did.push(Did::Flush(invalidate));
    }
}

impl Ports for Fake {
    fn granted(&self, port: u16, bytes: u8) -> bool {
        self.granted.contains(&u32::from(port)) && u32::from(port) + u32::from(bytes) <= self.granted.end
    }
    fn input(&mut self, port: u16, bytes: u8) -> u32 {
        self.did.push(Did::In(port, bytes));
        0xa4a3_a2a1
    }
    fn output(&mut self, port: u16, bytes: u8, value: u32) {
        self.did.push(Did::Out(port, bytes, value));
    }
    fn virtual_input(&mut self, port: VirtualPort, bytes: u8) -> u32 {
        self.did.push(Did::VirtualIn(port, bytes));
        0xb4b3_b2b1
    }
    fn virtual_output(&mut self, port: VirtualPort, bytes: u8, value: u32) {
        self.did.push(Did::VirtualOut(port, bytes, value));
    }
    fn kernel_bytes(&mut self, at: GuestVa) -> [u8; 2] {
        let at = at.0.wrapping_sub(BITMAP) as usize;
        [at, at.wrapping_add(1)].map(|at| self.io_bitmap.get(at).copied().unwrap_or(0xff))
    }
}

impl Msrs for Fake {
    fn policy(&self) -> MsrPolicy {
        MsrPolicy {
            vendor: Vendor::Intel,
            hardware_domain: true,
            first_vcpu: true,
            tsc_aux: true,
            branch_barrier: true,
            arch_capabilities: None,
        }
    }
    fn handles_gp(&self) -> bool {
        self.handles_gp
    }
    fn host_read(&mut self, msr: u32) -> Option<u64> {
        self.msrs.get(&msr).copied()
    }
    fn host_write(&mut self, msr: u32, value: u64) -> bool {
        self.did.push(Did::HostWrite(msr, value));
        self.msrs.contains_key(&msr)
    }
    fn base(&mut self, base: Base) -> u64 {
        match base {
            Base::Fs => 0xf000,
            Base::Gs => 0x6000,
            Base::InactiveGs => 0x7000,
        }
    }
    fn set_base(&mut self, base: Base, value: u64) {
        self.did.push(Did::SetBase(base, value));
    }
    fn write_hypercall_page(&mut self, frame: u64) -> bool {
        self.did.push(Did::HypercallPage(frame));
        frame < 0x100
    }
}
