//! `platform_op`: what dom0 asks about the machine, and asks of it.
//!
//! The argument is read once and completely; [`platform_op`] then answers by what the machine's port says. Anything
//! not named here is answered with `ENOSYS`, and Linux goes on without it: processor power states, microcode,
//! MTRR changes (dom0 uses the PAT), symbols, hot-adding. EFI's run-time services are not called: `EOPNOTSUPP`, as on
//! Xen with `efi=no-rs`.

use arrayvec::ArrayVec;
use guest_abi::Errno;
use guest_abi::platform::*;
use hv_types::GuestVa;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::memtype;
use crate::call::{CallError, Continuation};
use crate::port::GuestSpace;
use crate::wire;

/// What EFI said before the hypervisor took over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Efi {
    /// Revision of the system table: EFI's version.
    pub version: u32,
    /// Machine address of the configuration tables.
    pub tables: u64,
    /// How many there are.
    pub table_count: u32,
    /// The firmware's own revision.
    pub revision: u32,
    /// Who made it, in UTF-16, without the final zero.
    pub vendor: ArrayVec<u16, 100>,
}

/// One range of EFI's memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EfiMemory {
    /// First byte.
    pub address: u64,
    /// Bytes.
    pub size: u64,
    /// EFI's attributes.
    pub attributes: u64,
    /// EFI's memory type.
    pub kind: u32,
}

/// A physical processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor {
    /// Number in its local APIC.
    pub apic_id: u32,
    /// Number in the ACPI tables.
    pub acpi_id: u32,
    /// The hypervisor runs on it.
    pub online: bool,
    /// CPUID's vendor string.
    pub vendor: [u8; 12],
    /// CPUID's family, model and stepping.
    pub signature: [u32; 3],
}

/// A sleep state to enter, with the values that dom0's ACPI interpreter found for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sleep {
    /// S state, 3 or 5.
    pub state: u32,
    /// For PM1a control, or the sleep type for the sleep control register.
    pub a: u16,
    /// For PM1b control.
    pub b: u16,
    /// Use the sleep control register of hardware-reduced ACPI.
    pub extended: bool,
}

/// The machine, as dom0 asks about it.
pub trait Machine {
    /// From now on, it was `seconds.nanoseconds` after 1970 when system time was `system_time`.
    fn set_wall_clock(&self, seconds: u64, nanoseconds: u32, system_time: u64);
    /// System time in ns.
    fn system_time(&self) -> u64;
    /// The MTRR with this number; `None`: there is none.
    fn memory_type(&self, register: u32) -> Option<memtype::Range>;
    /// What EFI said; `None` on a BIOS machine.
    fn efi(&self) -> Option<&Efi>;
    /// EFI's memory map at an address.
    fn efi_memory(&self, address: u64) -> Option<EfiMemory>;
    /// The BIOS's keyboard flags; `None` without a BIOS.
    fn keyboard_flags(&self) -> Option<u8>;
    /// Enters a sleep state. `EPERM`: ACPI names no register for it; `EOPNOTSUPP`: the state is not supported.
    fn sleep(&self, sleep: Sleep) -> Result<(), Errno>;
    /// The highest number of a processor.
    fn last_processor(&self) -> u32;
    /// A processor; `None`: there is none.
    fn processor(&self, number: u32) -> Option<Processor>;
    /// Nanoseconds since boot for which a processor had nothing to do; `None`: it is not online.
    fn idle_time(&self, number: u32) -> Option<u64>;
    /// Takes a processor that there is, but not the first one, offline, or brings it back, as far as that goes without waiting. True
    /// once it is there; false: the same call again goes on. `EBUSY`: it cannot be done now, and the processor is where it was.
    fn set_online(&self, number: u32, online: bool) -> Result<bool, Errno>;
}

type Words = [u64; 16];

fn get<T: FromBytes + KnownLayout + Immutable>(words: &[u64]) -> Result<T, Errno> {
    T::read_from_prefix(words.as_bytes()).map(|(value, _)| value).map_err(|_| Errno::EINVAL)
}

fn put<T: IntoBytes + Immutable>(words: &mut [u64], value: &T) -> Result<(), Errno> {
    value.write_to_prefix(words.as_mut_bytes()).map_err(|_| Errno::EINVAL)
}

/// Answers the call whose argument is at `argument`. `EACCES`: made for another version of the interface; `EPERM`:
/// the caller does not drive the machine; `EFAULT`; `ENOSYS`; else by operation as in `platform.h`.
pub fn platform_op(
    argument: GuestVa,
    privileged: bool,
    space: &impl GuestSpace,
    machine: &impl Machine,
) -> Result<(), CallError> {
    let mut op: XenPlatformOp = wire::read(space, argument)?;
    if op.interface_version != XENPF_INTERFACE_VERSION {
        return Err(Errno::EACCES.into());
    }
    if !privileged {
        return Err(Errno::EPERM.into());
    }
    if let XENPF_CPU_ONLINE | XENPF_CPU_OFFLINE = op.cmd {
        let done = set_online(&get(&op.u)?, op.cmd == XENPF_CPU_ONLINE, machine)?;
        let again = Continuation { args: [argument.0, 0, 0, 0] };
        return if done { Ok(()) } else { Err(CallError::Retry(again)) };
    }
    let before = op.u;
    answer(op.cmd, &mut op.u, space, machine)?;
    if op.u != before {
        wire::write(space, argument, &op)?;
    }
    Ok(())
}

fn answer(
    command: u32,
    words: &mut Words,
    space: &impl GuestSpace,
    machine: &impl Machine,
) -> Result<(), Errno> {
    match command {
        XENPF_SETTIME32 => {
            let op: XenpfSettime32 = get(words)?;
            machine.set_wall_clock(op.secs.into(), op.nsecs, op.system_time);
            Ok(())
        }
        XENPF_SETTIME64 => {
            let op: XenpfSettime64 = get(words)?;
            if op.mbz != 0 {
                return Err(Errno::EINVAL);
            }
            machine.set_wall_clock(op.secs, op.nsecs, op.system_time);
            Ok(())
        }
        XENPF_READ_MEMTYPE => read_memtype(words, machine),
        XENPF_FIRMWARE_INFO => firmware_info(words, space, machine),
        XENPF_EFI_RUNTIME_CALL => Err(Errno::EOPNOTSUPP),
        XENPF_ENTER_ACPI_SLEEP => machine.sleep(decode_sleep(&get(words)?)?),
        XENPF_GETIDLETIME => idle_times(words, space, machine),
        XENPF_GET_CPUINFO => cpu_info(words, machine),
        XENPF_GET_CPU_VERSION => cpu_version(words, machine),
        _ => Err(Errno::ENOSYS),
    }
}

/// Linux's driver offers no file for the first processor, which has tasks that no other can take over: `EOPNOTSUPP`, as on Xen. A
/// processor that is there already is a success, one that does not exist `EINVAL`.
fn set_online(op: &XenpfCpuOl, online: bool, machine: &impl Machine) -> Result<bool, Errno> {
    machine.processor(op.cpuid).ok_or(Errno::EINVAL)?;
    if op.cpuid == 0 {
        return if online { Ok(true) } else { Err(Errno::EOPNOTSUPP) };
    }
    machine.set_online(op.cpuid, online)
}

fn read_memtype(words: &mut Words, machine: &impl Machine) -> Result<(), Errno> {
    let mut op: XenpfReadMemtype = get(words)?;
    let range = machine.memory_type(op.reg).ok_or(Errno::EINVAL)?;
    (op.mfn, op.nr_mfns, op.kind) = (range.mfn, range.frames, range.kind);
    put(words, &op)
}

/// SLP_EN in a PM1 control register (ACPI 4.8.3.2.1).
const SLEEP_ENABLE: u16 = 1 << 13;

fn decode_sleep(op: &XenpfEnterAcpiSleep) -> Result<Sleep, Errno> {
    let extended = op.flags & XENPF_ACPI_SLEEP_EXTENDED != 0;
    let known = op.flags & !XENPF_ACPI_SLEEP_EXTENDED == 0 && matches!(op.sleep_state, 3 | 5);
    let fits = if extended { op.val_a <= 7 && op.val_b <= 7 } else { same_enable(op) };
    if !known || !fits {
        return Err(Errno::EINVAL);
    }
    Ok(Sleep { state: op.sleep_state, a: op.val_a, b: op.val_b, extended })
}

/// Both halves of PM1 control say the same about entering now; a machine without the second half passes 0.
fn same_enable(op: &XenpfEnterAcpiSleep) -> bool {
    op.val_b == 0 || (op.val_a ^ op.val_b) & SLEEP_ENABLE == 0
}

fn firmware_info(words: &mut Words, space: &impl GuestSpace, machine: &impl Machine) -> Result<(), Errno> {
    let mut op: XenpfFirmwareInfo = get(words)?;
    match op.kind {
        // The BIOS is not called, so that nothing is known of its disks and its monitor.
        XEN_FW_DISK_INFO | XEN_FW_DISK_MBR_SIGNATURE | XEN_FW_VBEDDC_INFO => return Err(Errno::ESRCH),
        XEN_FW_KBD_SHIFT_FLAGS if op.index == 0 => {
            op.u[0] = machine.keyboard_flags().ok_or(Errno::ESRCH)?.into();
        }
        XEN_FW_KBD_SHIFT_FLAGS => return Err(Errno::ESRCH),
        XEN_FW_EFI_INFO => efi_info(&mut op, space, machine)?,
        _ => return Err(Errno::EINVAL),
    }
    put(words, &op)
}

fn efi_info(
    op: &mut XenpfFirmwareInfo,
    space: &impl GuestSpace,
    machine: &impl Machine,
) -> Result<(), Errno> {
    let efi = machine.efi().ok_or(Errno::EOPNOTSUPP)?;
    match op.index {
        XEN_FW_EFI_VERSION => op.u[0] = efi.version.into(),
        XEN_FW_EFI_CONFIG_TABLE => {
            let table = FwEfiConfigTable { addr: efi.tables, nent: efi.table_count, _pad: 0 };
            put(&mut op.u, &table)?;
        }
        XEN_FW_EFI_VENDOR => {
            let mut out: FwEfiVendor = get(&op.u)?;
            write_vendor(&out, &efi.vendor, space)?;
            out.revision = efi.revision;
            put(&mut op.u, &out)?;
        }
        XEN_FW_EFI_MEM_INFO => {
            let range = machine.efi_memory(op.u[0]).ok_or(Errno::ESRCH)?;
            let out = FwEfiMemInfo {
                addr: range.address,
                size: range.size,
                attr: range.attributes,
                kind: range.kind,
                _pad: 0,
            };
            put(&mut op.u, &out)?;
        }
        XEN_FW_EFI_RT_VERSION => return Err(Errno::EOPNOTSUPP),
        XEN_FW_EFI_PCI_ROM => return Err(Errno::ESRCH),
        XEN_FW_EFI_APPLE_PROPERTIES => return Err(Errno::ENODATA),
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

/// As much of the vendor's name as the guest has room for, ended by a zero.
fn write_vendor(op: &FwEfiVendor, vendor: &[u16], space: &impl GuestSpace) -> Result<(), Errno> {
    let room = (op.bufsz / 2) as usize;
    let Some(letters) = room.checked_sub(1) else { return Ok(()) };
    let mut text = ArrayVec::<u16, 101>::new();
    text.extend(vendor.iter().copied().take(letters.min(100)));
    text.push(0);
    space.write(GuestVa(op.name), text.as_slice().as_bytes()).map_err(|_| Errno::EFAULT)
}

fn idle_times(words: &mut Words, space: &impl GuestSpace, machine: &impl Machine) -> Result<(), Errno> {
    let mut op: XenpfGetidletime = get(words)?;
    op.now = machine.system_time();
    let cpus = u64::from(op.cpumap_nr_cpus.min(machine.last_processor().saturating_add(1)));
    for first in (0..cpus).step_by(8) {
        let at = op.cpumap_bitmap.wrapping_add(first / 8);
        let mut map: u8 = wire::read(space, GuestVa(at))?;
        for bit in 0..8 {
            if map & 1 << bit == 0 {
                continue;
            }
            let cpu = first + bit;
            let time = if cpu < cpus { machine.idle_time(cpu as u32) } else { None };
            if time.is_none() {
                map &= !(1 << bit);
            }
            if cpu < cpus {
                let to = op.idletime.wrapping_add(cpu * 8);
                wire::write(space, GuestVa(to), &time.unwrap_or(0))?;
            }
        }
        wire::write(space, GuestVa(at), &map)?;
    }
    put(words, &op)
}

fn cpu_info(words: &mut Words, machine: &impl Machine) -> Result<(), Errno> {
    let mut op: XenpfPcpuinfo = get(words)?;
    op.max_present = machine.last_processor();
    match machine.processor(op.xen_cpuid) {
        None => op.flags = XEN_PCPU_FLAGS_INVALID,
        Some(cpu) => {
            op.flags = if cpu.online { XEN_PCPU_FLAGS_ONLINE } else { 0 };
            (op.apic_id, op.acpi_id) = (cpu.apic_id, cpu.acpi_id);
        }
    }
    put(words, &op)
}

fn cpu_version(words: &mut Words, machine: &impl Machine) -> Result<(), Errno> {
    let mut op: XenpfPcpuVersion = get(words)?;
    op.max_present = machine.last_processor();
    let cpu = machine.processor(op.xen_cpuid).filter(|cpu| cpu.online);
    let (vendor, signature) = cpu.map_or(([0; 12], [0; 3]), |cpu| (cpu.vendor, cpu.signature));
    op.vendor_id = vendor;
    [op.family, op.model, op.stepping] = signature;
    put(words, &op)
}

#[cfg(test)]
mod tests;
