//! `memory_op`, the part that needs the machine's memory map; the rest is the core's.

use guest_abi::errno::Errno;
use guest_abi::memory::*;
use hv_core::port::GuestSpace;
use hv_types::GuestVa;

use crate::boot::Region;
use crate::guest::Caller;
use crate::hypercall::{Outcome, read};
use crate::vcpu::Vcpu;

/// Bytes of an E820 entry on the wire: address, size, type.
const ENTRY: usize = 20;

/// Performs the call.
pub fn memory_op(vcpu: &'static Vcpu, command: u32, argument: u64) -> Outcome {
    match command {
        XENMEM_MACHINE_MEMORY_MAP => {
            let regions = crate::start::boot_info().map_or(&[][..], |i| &i.memory);
            machine_memory_map(vcpu, regions, argument)
        }
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// `XENMEM_machine_memory_map`: fills the caller's buffer and says how many entries there are.
pub fn machine_memory_map(vcpu: &Vcpu, regions: &[Region], argument: u64) -> Outcome {
    if !vcpu.domain.privileged {
        return Err(Errno::EPERM.into());
    }
    let mut map: XenMemoryMap = read(argument)?;
    let room = map.nr_entries as usize;
    if room < regions.len() {
        return Err(Errno::EINVAL.into());
    }
    for (n, region) in regions.iter().enumerate() {
        let mut bytes = [0; ENTRY];
        bytes[..8].copy_from_slice(&region.start.to_le_bytes());
        bytes[8..16].copy_from_slice(&(region.end - region.start).to_le_bytes());
        bytes[16..].copy_from_slice(&region.kind.to_le_bytes());
        let at = map.buffer.wrapping_add((n * ENTRY) as u64);
        Caller.write(GuestVa(at), &bytes)?;
    }
    map.nr_entries = regions.len() as u32;
    Caller.write(GuestVa(argument), zerocopy::IntoBytes::as_bytes(&map))?;
    Ok(0)
}
