//! `physdev_op`: what a domain asks about interrupts, PCI devices and I/O privilege.
//!
//! [`decode`] turns number and argument into a [`Request`] without looking at any state; [`perform`] does it.
//! What the machine has to do stands in three narrow ports: [`Controller`], [`Routing`] and [`Messages`].

use guest_abi::Errno;
use guest_abi::physdev::*;
use hv_types::{DomId, Gfn, GuestVa, Pirq};

use crate::pirq::{Controller, Irq, Lines, Pirqs, Trigger};
use crate::port::{GuestSpace, Memory};
use crate::wire;

/// A PCI function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sbdf {
    /// Segment: which root complex.
    pub segment: u16,
    /// Bus.
    pub bus: u8,
    /// Device (upper five bits) and function.
    pub devfn: u8,
}

/// Which level of a line asserts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polarity {
    /// A high one.
    High,
    /// A low one.
    Low,
}

/// The messages that a device is to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// MSI: so many, a power of two up to 32.
    Msi {
        /// How many.
        count: u16,
    },
    /// One entry of the device's MSI-X table.
    MsiX {
        /// Index into the table.
        entry: u16,
        /// Where the guest says that the table's BAR is; to be compared with the device.
        bar: u64,
    },
}

/// How the machine's lines are wired and started.
pub trait Routing: Controller {
    /// GSIs of the machine: lines below this are pins of I/O APICs.
    fn gsi_count(&self) -> u32;
    /// How the line is triggered; `None` if no domain may have it.
    fn trigger(&self, irq: Irq) -> Option<Trigger>;
    /// Says how a pin is wired. `EEXIST`: that was said before; `EINVAL`: there is no such pin.
    fn setup_gsi(&self, gsi: u32, trigger: Trigger, polarity: Polarity) -> Result<(), Errno>;
    /// Gives the line a vector and lets it fire. `ENOSPC`: all vectors are used.
    fn start(&self, irq: Irq) -> Result<(), Errno>;
    /// Masks the line and takes its vector.
    fn stop(&self, irq: Irq);
    /// Reads a register of the I/O APIC at a machine address. `EINVAL`: there is none.
    fn apic_read(&self, address: u64, register: u32) -> Result<u32, Errno>;
    /// A write to such a register, as far as it describes how a pin is wired. `EINVAL`: there is no such I/O APIC.
    fn apic_write(&self, address: u64, register: u32, value: u32) -> Result<(), Errno>;
}

/// Interrupts that are messages of PCI devices.
pub trait Messages {
    /// Makes lines, masked, for a device's messages; they are numbered from the answer on.
    /// `ENODEV`: the device does not have the capability; `ENOSPC`: out of lines; `EEXIST`: the messages have lines.
    fn allocate(&self, device: Sbdf, kind: MessageKind) -> Result<Irq, Errno>;
    /// Takes a message's line apart. Of another line: nothing.
    fn release(&self, irq: Irq);
    /// Writes a device's messages again after a reset. `ENODEV`: it has none.
    fn restore(&self, device: Sbdf) -> Result<(), Errno>;
    /// A memory-mapped configuration space is usable.
    fn mmcfg_reserved(&self, address: u64, segment: u16, buses: (u8, u8)) -> Result<(), Errno>;
}

/// The vCPU and domain that call.
pub trait Caller {
    /// The domain.
    fn domain(&self) -> DomId;
    /// True for the domain that drives the machine.
    fn is_privileged(&self) -> bool;
    /// Sets the vCPU's virtual I/O privilege level, 0 to 3.
    fn set_iopl(&self, level: u8);
    /// Sets the vCPU's I/O permission bitmap: address in the guest (0: none) and ports covered, up to 65536.
    fn set_iobitmap(&self, bitmap: GuestVa, ports: u32);
    /// Takes a frame of the caller as a writable page for the "needs an end" bits.
    fn claim_eoi_frame(&self, gfn: Gfn) -> Result<hv_types::Mfn, Errno>;
    /// Gives such a frame back.
    fn release_eoi_frame(&self, frame: hv_types::Mfn);
}

/// What was asked, in the terms of `physdev.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The guest has served a pirq.
    Eoi(Pirq),
    /// Registers the page of "needs an end" bits; `unmasks`: version 1.
    EoiMap {
        /// The page.
        frame: Gfn,
        /// Ending also unmasks.
        unmasks: bool,
    },
    /// Must a pirq be ended?
    Status(Pirq),
    /// Sets the I/O privilege level.
    SetIopl(u32),
    /// Sets the I/O permission bitmap.
    SetIobitmap {
        /// Its address in the guest.
        bitmap: GuestVa,
        /// Ports it covers.
        ports: u32,
    },
    /// Reads a register of an I/O APIC.
    ApicRead {
        /// Machine address of the I/O APIC.
        address: u64,
        /// The register.
        register: u32,
    },
    /// Writes a register of an I/O APIC.
    ApicWrite {
        /// Machine address of the I/O APIC.
        address: u64,
        /// The register.
        register: u32,
        /// The value.
        value: u32,
    },
    /// Old: a vector for a line. Vectors are not the guest's business; the answer is the line's own number.
    AllocVector(u32),
    /// Old: gives it back.
    FreeVector(u32),
    /// Names a GSI.
    MapGsi {
        /// For whom.
        domain: DomId,
        /// The GSI.
        gsi: i32,
        /// The number wanted.
        wanted: Option<Pirq>,
    },
    /// Makes and names messages of a device.
    MapMessages {
        /// For whom.
        domain: DomId,
        /// The device.
        device: Sbdf,
        /// Which messages.
        kind: MessageKind,
        /// The number wanted.
        wanted: Option<Pirq>,
    },
    /// Forgets a name.
    Unmap {
        /// Whose.
        domain: DomId,
        /// The name.
        pirq: i32,
    },
    /// A device was found.
    AddDevice(Sbdf),
    /// A device has gone.
    RemoveDevice(Sbdf),
    /// A device was reset and needs its messages again.
    RestoreMessages(Sbdf),
    /// An MSI-X table will not move until further notice, or may again.
    MsixStays(Sbdf),
    /// How a GSI is wired.
    SetupGsi {
        /// The GSI.
        gsi: u32,
        /// Its trigger.
        trigger: Trigger,
        /// Its polarity.
        polarity: Polarity,
    },
    /// Reserves a number for a message.
    FreePirq(u32),
    /// A memory-mapped configuration space.
    Mmcfg {
        /// Machine address of bus 0.
        address: u64,
        /// Segment.
        segment: u16,
        /// First and last bus.
        buses: (u8, u8),
    },
    /// USB debug port: none is in use.
    DebugPort,
}

/// A result that goes back into the argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing.
    None,
    /// A 32-bit word at this offset.
    Word(u64, u32),
    /// Two 32-bit words.
    Words([(u64, u32); 2]),
    /// Nothing, and the event channel of this pirq is to be unmasked (`PHYSDEVOP_pirq_eoi_gmfn_v1` is in use).
    Unmask(Pirq),
}

impl Answer {
    /// Writes into the argument at `argument`.
    pub fn write(self, argument: GuestVa, space: &impl GuestSpace) -> Result<(), Errno> {
        let put = |(offset, value): (u64, u32)| {
            wire::write(space, GuestVa(argument.0.wrapping_add(offset)), &value)
        };
        match self {
            Answer::None | Answer::Unmask(_) => Ok(()),
            Answer::Word(offset, value) => put((offset, value)),
            Answer::Words(words) => words.into_iter().try_for_each(put),
        }
    }
}

fn device(segment: u16, bus: u8, devfn: u8) -> Sbdf {
    Sbdf { segment, bus, devfn }
}

fn decode_map(op: &PhysdevMapPirq) -> Result<Request, Errno> {
    let wanted = u32::try_from(op.pirq).ok().map(Pirq);
    let domain = DomId(op.domid);
    let (segment, kind) = match op.kind {
        MAP_PIRQ_TYPE_GSI => return Ok(Request::MapGsi { domain, gsi: op.index, wanted }),
        MAP_PIRQ_TYPE_MSI => (0, single(op)?),
        MAP_PIRQ_TYPE_MSI_SEG => ((op.bus >> 16) as u16, single(op)?),
        MAP_PIRQ_TYPE_MULTI_MSI => {
            if op.entry_nr <= 0 || op.entry_nr > 32 {
                return Err(Errno::EDOM);
            }
            let count = (op.entry_nr as u16).next_power_of_two();
            ((op.bus >> 16) as u16, MessageKind::Msi { count })
        }
        _ => return Err(Errno::EINVAL),
    };
    let device = device(segment, op.bus as u8, op.devfn as u8);
    Ok(Request::MapMessages { domain, device, kind, wanted })
}

fn single(op: &PhysdevMapPirq) -> Result<MessageKind, Errno> {
    if op.table_base == 0 {
        return Ok(MessageKind::Msi { count: 1 });
    }
    let entry = u16::try_from(op.entry_nr).map_err(|_| Errno::EINVAL)?;
    Ok(MessageKind::MsiX { entry, bar: op.table_base })
}

/// Reads the argument of `PHYSDEVOP_*` number `command`. `ENOSYS`: there is no such operation; `EFAULT`: the
/// argument cannot be read; `EINVAL`: it means nothing.
pub fn decode(command: u32, argument: GuestVa, space: &impl GuestSpace) -> Result<Request, Errno> {
    let at = argument;
    Ok(match command {
        PHYSDEVOP_EOI => Request::Eoi(Pirq(wire::read::<PhysdevEoi>(space, at)?.irq)),
        PHYSDEVOP_PIRQ_EOI_GMFN_V1 | PHYSDEVOP_PIRQ_EOI_GMFN_V2 => {
            let op: PhysdevPirqEoiGmfn = wire::read(space, at)?;
            Request::EoiMap { frame: Gfn(op.gmfn), unmasks: command == PHYSDEVOP_PIRQ_EOI_GMFN_V1 }
        }
        PHYSDEVOP_IRQ_STATUS_QUERY => {
            Request::Status(Pirq(wire::read::<PhysdevIrqStatusQuery>(space, at)?.irq))
        }
        PHYSDEVOP_SET_IOPL => Request::SetIopl(wire::read::<PhysdevSetIopl>(space, at)?.iopl),
        PHYSDEVOP_SET_IOBITMAP => {
            let op: PhysdevSetIobitmap = wire::read(space, at)?;
            Request::SetIobitmap { bitmap: GuestVa(op.bitmap), ports: op.nr_ports }
        }
        PHYSDEVOP_APIC_READ => {
            let op: PhysdevApic = wire::read(space, at)?;
            Request::ApicRead { address: op.apic_physbase, register: op.reg }
        }
        PHYSDEVOP_APIC_WRITE => {
            let op: PhysdevApic = wire::read(space, at)?;
            Request::ApicWrite { address: op.apic_physbase, register: op.reg, value: op.value }
        }
        PHYSDEVOP_ALLOC_IRQ_VECTOR => Request::AllocVector(wire::read::<PhysdevIrq>(space, at)?.irq),
        PHYSDEVOP_FREE_IRQ_VECTOR => Request::FreeVector(wire::read::<PhysdevIrq>(space, at)?.irq),
        PHYSDEVOP_MAP_PIRQ => decode_map(&wire::read(space, at)?)?,
        PHYSDEVOP_UNMAP_PIRQ => {
            let op: PhysdevUnmapPirq = wire::read(space, at)?;
            Request::Unmap { domain: DomId(op.domid), pirq: op.pirq }
        }
        PHYSDEVOP_SETUP_GSI => decode_gsi(&wire::read(space, at)?)?,
        PHYSDEVOP_GET_FREE_PIRQ => Request::FreePirq(wire::read::<PhysdevGetFreePirq>(space, at)?.kind),
        PHYSDEVOP_DBGP_OP => Request::DebugPort,
        _ => return decode_pci(command, at, space),
    })
}

fn decode_gsi(op: &PhysdevSetupGsi) -> Result<Request, Errno> {
    let gsi = u32::try_from(op.gsi).map_err(|_| Errno::EINVAL)?;
    let trigger = if op.triggering == 0 { Trigger::Edge } else { Trigger::Level };
    let polarity = if op.polarity == 0 { Polarity::High } else { Polarity::Low };
    Ok(Request::SetupGsi { gsi, trigger, polarity })
}

fn decode_pci(command: u32, at: GuestVa, space: &impl GuestSpace) -> Result<Request, Errno> {
    Ok(match command {
        PHYSDEVOP_MANAGE_PCI_ADD | PHYSDEVOP_MANAGE_PCI_REMOVE | PHYSDEVOP_RESTORE_MSI => {
            let op: PhysdevManagePci = wire::read(space, at)?;
            let device = device(0, op.bus, op.devfn);
            match command {
                PHYSDEVOP_MANAGE_PCI_ADD => Request::AddDevice(device),
                PHYSDEVOP_MANAGE_PCI_REMOVE => Request::RemoveDevice(device),
                _ => Request::RestoreMessages(device),
            }
        }
        PHYSDEVOP_MANAGE_PCI_ADD_EXT => {
            let op: PhysdevManagePciExt = wire::read(space, at)?;
            if op.is_extfn > 1 || op.is_virtfn > 1 {
                return Err(Errno::EINVAL);
            }
            Request::AddDevice(device(0, op.bus, op.devfn))
        }
        PHYSDEVOP_PCI_DEVICE_ADD => {
            let op: PhysdevPciDeviceAdd = wire::read(space, at)?;
            Request::AddDevice(device(op.seg, op.bus, op.devfn))
        }
        PHYSDEVOP_PCI_DEVICE_REMOVE
        | PHYSDEVOP_RESTORE_MSI_EXT
        | PHYSDEVOP_PREPARE_MSIX
        | PHYSDEVOP_RELEASE_MSIX => {
            let op: PhysdevPciDevice = wire::read(space, at)?;
            let device = device(op.seg, op.bus, op.devfn);
            match command {
                PHYSDEVOP_PCI_DEVICE_REMOVE => Request::RemoveDevice(device),
                PHYSDEVOP_RESTORE_MSI_EXT => Request::RestoreMessages(device),
                _ => Request::MsixStays(device),
            }
        }
        PHYSDEVOP_PCI_MMCFG_RESERVED => {
            let op: PhysdevPciMmcfgReserved = wire::read(space, at)?;
            Request::Mmcfg { address: op.address, segment: op.segment, buses: (op.start_bus, op.end_bus) }
        }
        _ => return Err(Errno::ENOSYS),
    })
}

/// Who may ask: an ordinary domain may only speak about its own pirqs and vCPUs.
fn is_allowed(request: &Request, caller: &impl Caller) -> bool {
    match request {
        Request::Eoi(_)
        | Request::EoiMap { .. }
        | Request::Status(_)
        | Request::SetIopl(_)
        | Request::SetIobitmap { .. }
        | Request::AllocVector(_)
        | Request::FreeVector(_)
        | Request::FreePirq(_) => true,
        _ => caller.is_privileged(),
    }
}

/// Does what was asked, for the caller's own domain. Results that belong in the argument are in the answer, which
/// the caller of this function writes.
///
/// Errors as the public header's users know them: `EPERM` for what only the hardware domain may do, `EINVAL` for a
/// number that names nothing, `ESRCH` for another domain than the caller's, else what the ports answer.
pub fn perform<M: Routing + Messages>(
    request: Request,
    caller: &impl Caller,
    pirqs: &mut Pirqs,
    lines: &Lines,
    machine: &M,
    memory: &impl Memory,
) -> Result<Answer, Errno> {
    if !is_allowed(&request, caller) {
        return Err(Errno::EPERM);
    }
    match request {
        Request::Eoi(pirq) => end(pirq, caller.domain(), pirqs, lines, machine),
        Request::EoiMap { frame, unmasks } => {
            let frame = caller.claim_eoi_frame(frame)?;
            let level = |irq| machine.trigger(irq) == Some(Trigger::Level);
            let map = crate::pirq::EoiMap { frame, unmasks };
            let set = pirqs.set_eoi_map(map, level, memory);
            set.inspect_err(|_| caller.release_eoi_frame(frame))?;
            Ok(Answer::None)
        }
        // A guest that asks has no page of bits: it must always end, which costs a call and nothing else.
        Request::Status(pirq) if pirq.0 < pirqs.limit() => Ok(Answer::Word(4, XENIRQSTAT_NEEDS_EOI)),
        Request::Status(_) => Err(Errno::EINVAL),
        Request::SetIopl(level @ 0..=3) => {
            caller.set_iopl(level as u8);
            Ok(Answer::None)
        }
        Request::SetIopl(_) => Err(Errno::EINVAL),
        Request::SetIobitmap { ports, .. } if ports > 65536 => Err(Errno::EINVAL),
        Request::SetIobitmap { bitmap, .. } if !bitmap.is_guest_range(8192) => Err(Errno::EINVAL),
        Request::SetIobitmap { bitmap, ports } => {
            caller.set_iobitmap(bitmap, ports);
            Ok(Answer::None)
        }
        Request::ApicRead { address, register } => {
            machine.apic_read(address, register).map(|value| Answer::Word(12, value))
        }
        Request::ApicWrite { address, register, value } => {
            machine.apic_write(address, register, value).map(|()| Answer::None)
        }
        Request::AllocVector(irq) if irq < machine.gsi_count() => Ok(Answer::Word(4, irq)),
        Request::AllocVector(_) => Err(Errno::EINVAL),
        Request::FreeVector(_) | Request::AddDevice(_) | Request::MsixStays(_) => Ok(Answer::None),
        Request::MapGsi { domain, gsi, wanted } => map_gsi(domain, gsi, wanted, caller, pirqs, machine),
        Request::MapMessages { domain, device, kind, wanted } => {
            is_self(domain, caller)?;
            map_messages(device, kind, wanted, pirqs, machine)
        }
        Request::Unmap { domain, pirq } => {
            is_self(domain, caller)?;
            unmap(pirq, pirqs, machine)
        }
        Request::RemoveDevice(_) => Ok(Answer::None),
        Request::RestoreMessages(device) => machine.restore(device).map(|()| Answer::None),
        Request::SetupGsi { gsi, trigger, polarity } => {
            machine.setup_gsi(gsi, trigger, polarity).map(|()| Answer::None)
        }
        Request::FreePirq(MAP_PIRQ_TYPE_MSI | MAP_PIRQ_TYPE_GSI) => {
            pirqs.free().map(|pirq| Answer::Word(4, pirq.0))
        }
        Request::FreePirq(_) => Err(Errno::EINVAL),
        Request::Mmcfg { address, segment, buses } => {
            machine.mmcfg_reserved(address, segment, buses).map(|()| Answer::None)
        }
        Request::DebugPort => Err(Errno::ENOSYS),
    }
}

fn is_self(domain: DomId, caller: &impl Caller) -> Result<(), Errno> {
    if domain == DomId::SELF || domain == caller.domain() { Ok(()) } else { Err(Errno::ESRCH) }
}

/// `PHYSDEVOP_eoi`, also for a fast path.
#[inline]
pub fn end(
    pirq: Pirq,
    domain: DomId,
    pirqs: &Pirqs,
    lines: &Lines,
    controller: &impl Controller,
) -> Result<Answer, Errno> {
    let irq = pirqs.irq(pirq)?;
    lines.end(irq, domain, controller);
    let unmasks = pirqs.eoi_map().is_some_and(|map| map.unmasks);
    Ok(if unmasks { Answer::Unmask(pirq) } else { Answer::None })
}

fn map_gsi(
    domain: DomId,
    gsi: i32,
    wanted: Option<Pirq>,
    caller: &impl Caller,
    pirqs: &mut Pirqs,
    routing: &impl Routing,
) -> Result<Answer, Errno> {
    is_self(domain, caller)?;
    let gsi = u16::try_from(gsi).map_err(|_| Errno::EINVAL)?;
    if u32::from(gsi) >= routing.gsi_count() {
        return Err(Errno::EINVAL);
    }
    let pirq = pirqs.map(Irq(gsi), wanted)?;
    Ok(Answer::Word(PIRQ_OFFSET, pirq.0))
}

const PIRQ_OFFSET: u64 = core::mem::offset_of!(PhysdevMapPirq, pirq) as u64;
const ENTRY_NR_OFFSET: u64 = core::mem::offset_of!(PhysdevMapPirq, entry_nr) as u64;

fn map_messages(
    device: Sbdf,
    kind: MessageKind,
    wanted: Option<Pirq>,
    pirqs: &mut Pirqs,
    messages: &impl Messages,
) -> Result<Answer, Errno> {
    let count = match kind {
        MessageKind::Msi { count } => count,
        MessageKind::MsiX { .. } => 1,
    };
    let first = match wanted {
        Some(pirq) => pirq,
        None => pirqs.free_run(count)?,
    };
    let irq = messages.allocate(device, kind)?;
    for n in 0..count {
        let named = pirqs.map(Irq(irq.0 + n), Some(Pirq(first.0.saturating_add(u32::from(n)))));
        if let Err(errno) = named {
            forget(first, n, pirqs);
            (0..count).for_each(|n| messages.release(Irq(irq.0 + n)));
            return Err(errno);
        }
    }
    let pirq = (PIRQ_OFFSET, first.0);
    Ok(match kind {
        MessageKind::Msi { count } if count > 1 => Answer::Words([pirq, (ENTRY_NR_OFFSET, count.into())]),
        _ => Answer::Word(PIRQ_OFFSET, first.0),
    })
}

fn forget(first: Pirq, count: u16, pirqs: &mut Pirqs) {
    for n in 0..u32::from(count) {
        // Just named by this very call, and nothing could be bound to it since.
        let _ = pirqs.unmap(Pirq(first.0 + n));
    }
}

fn unmap<M: Routing + Messages>(pirq: i32, pirqs: &mut Pirqs, machine: &M) -> Result<Answer, Errno> {
    let pirq = Pirq(u32::try_from(pirq).map_err(|_| Errno::EINVAL)?);
    let irq = pirqs.irq(pirq)?;
    // A GSI keeps its name: it means itself, and the guest may map it again.
    if u32::from(irq.0) < machine.gsi_count() {
        return if pirqs.is_bound(pirq) { Err(Errno::EBUSY) } else { Ok(Answer::None) };
    }
    pirqs.unmap(pirq)?;
    machine.release(irq);
    Ok(Answer::None)
}

/// Lets a pirq's interrupts come to its domain: what `EVTCHNOP_bind_pirq` does besides making the port.
/// `EINVAL`: the pirq names nothing; `EBUSY`: it is bound, or the line is another's or the hypervisor's own.
pub fn bind(
    pirq: Pirq,
    domain: DomId,
    pirqs: &mut Pirqs,
    lines: &Lines,
    routing: &impl Routing,
    memory: &impl Memory,
) -> Result<(), Errno> {
    let irq = pirqs.irq(pirq)?;
    let trigger = routing.trigger(irq).ok_or(Errno::EBUSY)?;
    lines.bind(irq, domain, pirq, trigger)?;
    if let Err(errno) = routing.start(irq) {
        lines.unbind(irq, routing);
        return Err(errno);
    }
    pirqs.set_bound(pirq, trigger, memory)
}

/// Undoes [`bind`]: what closing the port does.
pub fn unbind(pirq: Pirq, pirqs: &mut Pirqs, lines: &Lines, routing: &impl Routing, memory: &impl Memory) {
    let Ok(irq) = pirqs.irq(pirq) else { return };
    if !pirqs.is_bound(pirq) {
        return;
    }
    lines.unbind(irq, routing);
    routing.stop(irq);
    pirqs.clear_bound(pirq, memory);
}

#[cfg(test)]
mod tests;
