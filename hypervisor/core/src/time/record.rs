//! Records of time in memory that guests read at any moment: odd version, fields, even version.

use super::Scale;
use crate::port::{Fault, GuestSpace, Memory};
use guest_abi::vcpu::{VcpuRunstateInfo, XEN_RUNSTATE_UPDATE};
use guest_abi::xen::{VcpuTimeInfo, XEN_PVCLOCK_TSC_STABLE_BIT, shared_offset, vcpu_offset};
use hv_types::{GuestVa, Mfn};
use zerocopy::IntoBytes;

/// A point of the paravirtual clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeRecord {
    /// TSC at the point.
    pub tsc: u64,
    /// System time at the point.
    pub system_time: u64,
    /// From TSC ticks to nanoseconds.
    pub scale: Scale,
    /// The TSCs of all CPUs agree (`XEN_PVCLOCK_TSC_STABLE_BIT`).
    pub stable: bool,
}

impl TimeRecord {
    /// What guests are told of a clock that reads 0 when the TSC shows `start`, at a moment when it shows `tsc`.
    ///
    /// While the TSCs agree a guest does not keep its own clock from going back, and each point is rounded: of two points the times
    /// could differ by a nanosecond or two. So then all vCPUs are told the same one, the clock's beginning.
    #[inline]
    pub fn of(start: u64, scale: Scale, tsc: u64, stable: bool) -> TimeRecord {
        let tsc = if stable { start } else { tsc };
        TimeRecord { tsc, system_time: scale.nanoseconds(tsc.wrapping_sub(start)), scale, stable }
    }

    fn flags(&self) -> u8 {
        if self.stable { XEN_PVCLOCK_TSC_STABLE_BIT } else { 0 }
    }

    /// `tsc_to_system_mul`, `tsc_shift` and `flags` as one word.
    fn scale_word(&self) -> u64 {
        u64::from(self.scale.multiplier)
            | u64::from(self.scale.shift as u8) << 32
            | u64::from(self.flags()) << 40
    }
}

/// Writes the clock of the `vcpu_info` at byte `offset` of `mfn`. Only its vCPU's CPU does so.
#[inline]
pub fn write_time<M: Memory>(mem: &M, (mfn, offset): (Mfn, usize), record: &TimeRecord) {
    let version = (offset + vcpu_offset::TIME_VERSION) / 4;
    let odd = mem.load32(mfn, version) | 1;
    mem.store32(mfn, version, odd);
    mem.store64(mfn, (offset + vcpu_offset::TIME_TSC) / 8, record.tsc);
    mem.store64(mfn, (offset + vcpu_offset::TIME_SYSTEM) / 8, record.system_time);
    mem.store64(mfn, (offset + vcpu_offset::TIME_MUL_SHIFT_FLAGS) / 8, record.scale_word());
    mem.store32(mfn, version, odd.wrapping_add(1));
}

/// Writes the copy that `VCPUOP_register_vcpu_time_memory_area` asked for, in the vCPU's own address space.
/// `version` is the last one written there and is advanced. On a fault the guest does without: try again when the vCPU
/// is next switched to.
pub fn write_time_area<G: GuestSpace>(
    space: &G,
    at: GuestVa,
    version: &mut u32,
    record: &TimeRecord,
) -> Result<(), Fault> {
    let odd = *version | 1;
    let info = VcpuTimeInfo {
        version: odd,
        tsc_timestamp: record.tsc,
        system_time: record.system_time,
        tsc_to_system_mul: record.scale.multiplier,
        tsc_shift: record.scale.shift,
        flags: record.flags(),
        ..Default::default()
    };
    space.write(at, odd.as_bytes())?;
    space.write(at, info.as_bytes())?;
    *version = odd.wrapping_add(1);
    space.write(at, version.as_bytes())
}

/// Writes the wall clock of a shared page: time since the Unix epoch when system time was 0. One writer at a time.
pub fn write_wall_clock<M: Memory>(mem: &M, shared: Mfn, seconds: u64, nanoseconds: u32) {
    let odd = mem.load32(shared, shared_offset::WC_VERSION / 4) | 1;
    mem.store32(shared, shared_offset::WC_VERSION / 4, odd);
    mem.store32(shared, shared_offset::WC_SEC / 4, seconds as u32);
    mem.store32(shared, shared_offset::WC_NSEC / 4, nanoseconds);
    mem.store32(shared, shared_offset::WC_SEC_HI / 4, (seconds >> 32) as u32);
    mem.store32(shared, shared_offset::WC_VERSION / 4, odd.wrapping_add(1));
}

/// Writes the area that `VCPUOP_register_runstate_memory_area` asked for, in the vCPU's own address space.
/// `marked`: the guest wants to see that a write is under way (`VMASST_TYPE_runstate_update_flag`).
pub fn write_runstate<G: GuestSpace>(
    space: &G,
    at: GuestVa,
    info: &VcpuRunstateInfo,
    marked: bool,
) -> Result<(), Fault> {
    if !marked {
        return space.write(at, info.as_bytes());
    }
    let place = core::mem::offset_of!(VcpuRunstateInfo, state_entry_time) as u64;
    let entry = GuestVa(at.0.checked_add(place).ok_or(Fault)?);
    let busy = VcpuRunstateInfo { state_entry_time: info.state_entry_time | XEN_RUNSTATE_UPDATE, ..*info };
    space.write(entry, busy.state_entry_time.as_bytes())?;
    space.write(at, busy.as_bytes())?;
    space.write(entry, info.state_entry_time.as_bytes())
}
