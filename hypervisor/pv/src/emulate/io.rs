//! IN, OUT, INS and OUTS: the guest's own permission, the administrator's grant, and the ports that the hypervisor
//! answers itself.
//!
//! A port that the guest's kernel permits and the administrator has not granted reads as ones and ignores writes.

use hv_types::GuestVa;

use super::decode::{PortOperand, Segment, StringIo};
use super::port::{Base, Machine, VirtualPort, bitmap_permits};
use super::{GP0, Outcome, Step, Stop};
use crate::regs::{Mode, Regs, flags};
use crate::trap::Event;

/// Items that one emulation of a repeated instruction moves before the guest is asked to go on.
const BATCH: u64 = 256;

/// Error-code bit of a page fault: a write.
const PF_WRITE: u32 = 1 << 1;

#[inline]
fn port_number(operand: PortOperand, regs: &Regs) -> u16 {
    match operand {
        PortOperand::Immediate(port) => u16::from(port),
        PortOperand::Dx => regs.rdx as u16,
    }
}

/// The guest's own permission: its I/O privilege level, else its bitmap.
#[inline]
fn check_permission<M: Machine>(port: u16, bytes: u8, mode: Mode, machine: &mut M) -> Result<(), Stop> {
    let state = machine.state();
    if state.iopl_permits(mode) {
        return Ok(());
    }
    let at = state.bitmap_bytes(port, bytes).ok_or(Outcome::Unhandled)?;
    if bitmap_permits(machine.kernel_bytes(at), port, bytes) { Ok(()) } else { Err(Outcome::Unhandled) }
}

/// IN.
#[inline]
pub fn input<M: Machine>(port: PortOperand, bytes: u8, regs: &mut Regs, mode: Mode, machine: &mut M) -> Step {
    let port = port_number(port, regs);
    check_permission(port, bytes, mode, machine)?;
    let value = read(port, bytes, machine);
    regs.set_gpr_sized(0, bytes, u64::from(value));
    Ok(machine.state().debug.io_matches(port, bytes))
}

/// OUT.
#[inline]
pub fn output<M: Machine>(port: PortOperand, bytes: u8, regs: &Regs, mode: Mode, machine: &mut M) -> Step {
    let port = port_number(port, regs);
    check_permission(port, bytes, mode, machine)?;
    write(port, bytes, regs.rax as u32, machine);
    Ok(machine.state().debug.io_matches(port, bytes))
}

/// Who answers a part of an access.
enum Route {
    Hardware(u8),
    Virtual(VirtualPort, u8),
    Nobody,
}

/// True if the access goes to the hardware in one piece.
#[inline]
fn is_plain<M: Machine>(port: u16, bytes: u8, machine: &M) -> bool {
    let clock = port <= 0x71 && u32::from(port) + u32::from(bytes) > 0x70;
    let pci_address = port == 0xcf8 && bytes == 4;
    !clock && !pci_address && machine.granted(port, bytes)
}

/// The owner of the first bytes of an access that is not plain.
fn route<M: Machine>(port: u16, bytes: u8, machine: &M) -> Route {
    match port {
        0x42 | 0x43 | 0x61 => Route::Virtual(VirtualPort::Timer(port), 1),
        0x70 | 0x71 => Route::Virtual(VirtualPort::Clock(port), 1),
        0xcf8 if bytes == 4 => Route::Virtual(VirtualPort::PciAddress, 4),
        0xcfc..=0xcff => {
            let offset = (port & 3) as u8;
            let size = match bytes.min(4 - offset) {
                3 => 2,
                size => size,
            };
            Route::Virtual(VirtualPort::PciData(offset), size)
        }
        _ if bytes > 1 && port & 1 == 0 && machine.granted(port, 2) => Route::Hardware(2),
        _ if machine.granted(port, 1) => Route::Hardware(1),
        _ => Route::Nobody,
    }
}

const fn low_bytes(value: u32, bytes: u8) -> u32 {
    if bytes >= 4 { value } else { value & ((1 << (8 * bytes)) - 1) }
}

/// `value` without its `bytes` lowest bytes.
const fn above(value: u32, bytes: u8) -> u32 {
    if bytes >= 4 { 0 } else { value >> (8 * bytes) }
}

fn read<M: Machine>(port: u16, bytes: u8, machine: &mut M) -> u32 {
    if is_plain(port, bytes, machine) {
        return machine.input(port, bytes);
    }
    let (mut value, mut done) = (0, 0);
    while done < bytes {
        let at = port.wrapping_add(u16::from(done));
        let (part, size) = match route(at, bytes - done, machine) {
            Route::Hardware(size) => (machine.input(at, size), size),
            Route::Virtual(device, size) => (machine.virtual_input(device, size), size),
            Route::Nobody => (u32::MAX, 1),
        };
        value |= low_bytes(part, size) << (8 * done);
        done += size;
    }
    value
}

fn write<M: Machine>(port: u16, bytes: u8, value: u32, machine: &mut M) {
    if is_plain(port, bytes, machine) {
        return machine.output(port, bytes, low_bytes(value, bytes));
    }
    let (mut value, mut done) = (value, 0);
    while done < bytes {
        let at = port.wrapping_add(u16::from(done));
        let size = match route(at, bytes - done, machine) {
            Route::Hardware(size) => {
                machine.output(at, size, low_bytes(value, size));
                size
            }
            Route::Virtual(device, size) => {
                machine.virtual_output(device, size, low_bytes(value, size));
                size
            }
            Route::Nobody => 1,
        };
        value = above(value, size);
        done += size;
    }
}

/// The registers of a string instruction: its count, its index, and how an item moves them.
struct Cursor {
    shape: StringIo,
    index: u8,
    base: u64,
}

const RCX: u8 = 1;
const RSI: u8 = 6;
const RDI: u8 = 7;

impl Cursor {
    fn mask(&self) -> u64 {
        if self.shape.short_address { 0xffff_ffff } else { u64::MAX }
    }

    fn remaining(&self, regs: &Regs) -> u64 {
        if self.shape.repeat { regs.gpr(RCX) & self.mask() } else { 1 }
    }

    /// Address of the next item, if all of it is the guest's.
    fn address(&self, regs: &Regs) -> Result<GuestVa, Stop> {
        let at = GuestVa(self.base.wrapping_add(regs.gpr(self.index) & self.mask()));
        if at.is_guest_range(u64::from(self.shape.bytes)) { Ok(at) } else { Err(GP0) }
    }

    fn advance(&self, regs: &mut Regs) {
        let step = u64::from(self.shape.bytes);
        let index = regs.gpr(self.index);
        let next =
            if regs.rflags & flags::DF != 0 { index.wrapping_sub(step) } else { index.wrapping_add(step) };
        *regs.gpr_mut(self.index) = next & self.mask();
        if self.shape.repeat {
            regs.rcx = regs.rcx.wrapping_sub(1) & self.mask();
        }
    }

    /// Moves items until the count is used up (done), the batch is (retry), a breakpoint is hit, or one fails.
    fn run(&self, regs: &mut Regs, hits: u64, mut item: impl FnMut(GuestVa) -> Result<(), Stop>) -> Step {
        let mut batch = BATCH;
        while self.remaining(regs) != 0 {
            if batch == 0 {
                return Err(Outcome::Retry);
            }
            item(self.address(regs)?)?;
            self.advance(regs);
            if !self.shape.repeat {
                break;
            }
            batch = if hits != 0 { 0 } else { batch - 1 };
        }
        Ok(hits)
    }
}

/// INS.
#[cold]
pub fn input_string<M: Machine>(shape: StringIo, regs: &mut Regs, mode: Mode, machine: &mut M) -> Step {
    let port = regs.rdx as u16;
    check_permission(port, shape.bytes, mode, machine)?;
    let hits = machine.state().debug.io_matches(port, shape.bytes);
    Cursor { shape, index: RDI, base: 0 }.run(regs, hits, |at| {
        let item = read(port, shape.bytes, machine).to_le_bytes();
        let item = item.get(..usize::from(shape.bytes)).unwrap_or(&item);
        machine
            .write(at, item)
            .map_err(|_| Outcome::Inject(Event::PageFault { address: at.0, error: PF_WRITE }))
    })
}

/// OUTS.
#[cold]
pub fn output_string<M: Machine>(shape: StringIo, regs: &mut Regs, mode: Mode, machine: &mut M) -> Step {
    let port = regs.rdx as u16;
    check_permission(port, shape.bytes, mode, machine)?;
    let hits = machine.state().debug.io_matches(port, shape.bytes);
    let base = match shape.segment {
        Segment::Flat => 0,
        Segment::Fs => machine.base(Base::Fs),
        Segment::Gs => machine.base(Base::Gs),
    };
    Cursor { shape, index: RSI, base }.run(regs, hits, |at| {
        let mut item = [0; 4];
        machine
            .read(at, &mut item[..usize::from(shape.bytes)])
            .map_err(|_| Outcome::Inject(Event::PageFault { address: at.0, error: 0 }))?;
        write(port, shape.bytes, u32::from_le_bytes(item), machine);
        Ok(())
    })
}
