//! What emulation asks of the vCPU and the machine, by subject.

use hv_core::port::GuestSpace;
use hv_types::{GuestVa, Mfn};

use crate::control::Cr4Policy;
use crate::debug::DebugRegisters;
use crate::msr::MsrPolicy;
use crate::regs::Mode;

/// The vCPU's privileged registers, as its guest sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlState {
    /// CR2.
    pub cr2: u64,
    /// CR4 (a [`Cr4Policy::view`]).
    pub cr4: u64,
    /// CR0.TS.
    pub task_switched: bool,
    /// Virtual I/O privilege level, in its RFLAGS place.
    iopl: u64,
    /// The guest has `VMASST_TYPE_architectural_iopl`: its kernel is ring 0 for IOPL, instead of ring 1.
    pub architectural_iopl: bool,
    /// Guest kernel address of the I/O permission bitmap.
    io_bitmap: GuestVa,
    /// Ports that the bitmap covers.
    io_bitmap_ports: u32,
    /// TSC_AUX.
    pub tsc_aux: u32,
    /// Debug registers.
    pub debug: DebugRegisters,
}

/// More than 65536 ports, or a privilege level above 3: `-EINVAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange;

impl ControlState {
    /// A new vCPU's.
    pub fn new(policy: &Cr4Policy) -> ControlState {
        ControlState {
            cr2: 0,
            cr4: policy.view(0),
            task_switched: false,
            iopl: 0,
            architectural_iopl: false,
            io_bitmap: GuestVa(0),
            io_bitmap_ports: 0,
            tsc_aux: 0,
            debug: DebugRegisters::default(),
        }
    }

    /// `PHYSDEVOP_set_iopl`: 0 to 3.
    pub const fn set_iopl(&mut self, level: u32) -> Result<(), OutOfRange> {
        if level > 3 {
            return Err(OutOfRange);
        }
        self.iopl = (level as u64) << 12;
        Ok(())
    }

    /// The level that `iret` restores, in its RFLAGS place; only with the assist.
    #[inline(always)]
    pub const fn restore_iopl(&mut self, flags: u64) {
        if self.architectural_iopl {
            self.iopl = flags & crate::regs::flags::IOPL;
        }
    }

    /// The level that a bounce shows, in its RFLAGS place.
    #[inline(always)]
    pub const fn shown_iopl(&self) -> u64 {
        if self.architectural_iopl { self.iopl } else { 0 }
    }

    /// `PHYSDEVOP_set_iobitmap`.
    pub const fn set_io_bitmap(&mut self, at: GuestVa, ports: u32) -> Result<(), OutOfRange> {
        if ports > 0x1_0000 {
            return Err(OutOfRange);
        }
        self.io_bitmap = at;
        self.io_bitmap_ports = ports;
        Ok(())
    }

    /// True if the I/O privilege level alone permits I/O from `mode`.
    #[inline]
    pub const fn iopl_permits(&self, mode: Mode) -> bool {
        let level = match mode {
            Mode::Kernel if self.architectural_iopl => 0,
            Mode::Kernel => 1,
            Mode::User => 3,
        };
        level << 12 <= self.iopl
    }

    /// Where the bitmap has the bits of an access, if it covers it. The two bytes there are read, and the access is
    /// permitted if [`bitmap_permits`] says so.
    #[inline]
    pub const fn bitmap_bytes(&self, port: u16, bytes: u8) -> Option<GuestVa> {
        if port as u32 + bytes as u32 > self.io_bitmap_ports {
            return None;
        }
        Some(GuestVa(self.io_bitmap.0.wrapping_add(port as u64 >> 3)))
    }
}

/// True if `bitmap`, the two bytes from the one that has the bit of `port`, has no bit set for the access.
#[inline]
pub const fn bitmap_permits(bitmap: [u8; 2], port: u16, bytes: u8) -> bool {
    let mask = ((1u32 << bytes) - 1) << (port & 7);
    u16::from_le_bytes(bitmap) as u32 & mask == 0
}

/// What changed in a [`ControlState`], for the processor to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// `task_switched`.
    TaskSwitched,
    /// `cr2` (also shown in the vCPU's shared page).
    Cr2,
    /// `cr4`.
    Cr4,
    /// `tsc_aux`.
    TscAux,
    /// `debug`.
    Debug,
}

/// How a write of CR3 ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootSwitch {
    /// The vCPU runs on the new root.
    Done,
    /// The frame cannot be a root table of the guest's.
    Refused,
    /// Validation was interrupted and goes on when the instruction runs again.
    Preempted,
}

/// Control and debug registers.
pub trait Control {
    /// The vCPU's state.
    fn state(&mut self) -> &mut ControlState;
    /// The processor's CR0.
    fn cr0(&self) -> u64;
    /// What the guest may choose in CR4.
    fn cr4_policy(&self) -> Cr4Policy;
    /// Makes the processor follow a change of the state.
    fn reload(&mut self, what: Reload);
    /// The frame of the kernel's root table.
    fn root(&self) -> Mfn;
    /// Makes another frame the kernel's root table.
    fn switch_root(&mut self, root: Mfn) -> RootSwitch;
}

/// Instructions that answer from the processor.
pub trait Processor {
    /// The guest's CPUID. `forced` says that it asked with the emulation prefix.
    fn cpuid(&mut self, leaf: u32, subleaf: u32, mode: Mode, forced: bool) -> [u32; 4];
    /// The guest's time stamp counter.
    fn tsc(&mut self) -> u64;
    /// Loads XCR0, if the value is one that the guest may have (see [`crate::control::xcr0_is_valid`]).
    fn set_xcr0(&mut self, value: u64) -> bool;
    /// Writes the caches back, if the domain may do that; else nothing.
    fn flush_caches(&mut self, invalidate: bool);
}

/// A port that the hypervisor answers itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VirtualPort {
    /// Timer channel 2 (0x42, 0x43) and its gate (0x61).
    Timer(u16),
    /// Index (0x70) and data (0x71) of the real-time clock.
    Clock(u16),
    /// The PCI configuration address, as a double word.
    PciAddress,
    /// PCI configuration data, at this offset (0 to 3).
    PciData(u8),
}

/// I/O ports.
pub trait Ports {
    /// True if the domain has been given all of these ports.
    fn granted(&self, port: u16, bytes: u8) -> bool;
    /// Reads the hardware.
    fn input(&mut self, port: u16, bytes: u8) -> u32;
    /// Writes the hardware.
    fn output(&mut self, port: u16, bytes: u8, value: u32);
    /// Reads a port of the hypervisor's.
    fn virtual_input(&mut self, port: VirtualPort, bytes: u8) -> u32;
    /// Writes a port of the hypervisor's.
    fn virtual_output(&mut self, port: VirtualPort, bytes: u8, value: u32);
    /// Two bytes on the guest kernel's page table, whatever mode the vCPU is in; a byte that cannot be read is 0xff.
    fn kernel_bytes(&mut self, at: GuestVa) -> [u8; 2];
}

/// A segment base that has an MSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// FS.
    Fs,
    /// GS as loaded.
    Gs,
    /// GS of the other mode.
    InactiveGs,
}

/// Model-specific registers.
pub trait Msrs {
    /// What the guest may see.
    fn policy(&self) -> MsrPolicy;
    /// True if the guest's own #GP handler would get a refusal.
    fn handles_gp(&self) -> bool;
    /// Reads the hardware. `None` if it has no such register.
    fn host_read(&mut self, msr: u32) -> Option<u64>;
    /// Writes the hardware. False if it refuses.
    fn host_write(&mut self, msr: u32, value: u64) -> bool;
    /// A segment base.
    fn base(&mut self, base: Base) -> u64;
    /// Loads a segment base; the value is canonical.
    fn set_base(&mut self, base: Base, value: u64);
    /// Writes the hypercall page in the guest's frame. False if the frame is not the guest's to write.
    fn write_hypercall_page(&mut self, frame: u64) -> bool;
}

/// Everything at once.
pub trait Machine: GuestSpace + Control + Processor + Ports + Msrs {}
impl<M: GuestSpace + Control + Processor + Ports + Msrs> Machine for M {}
