//! Finds what the firmware left: ACPI's tables and EFI's, in the machine's memory.

use arrayvec::ArrayVec;
use hv_core::platform::op::Efi;
use spin::{Mutex, MutexGuard, Once};

use super::acpi::{self, Platform, Source};
use super::efi;
use crate::boot::{Info, Region, kind};
use crate::mem;

/// Tables outside the direct map that were mapped to be read; mappings are for good.
static MAPPED: Mutex<ArrayVec<(u64, usize, usize), 128>> = Mutex::new(ArrayVec::new_const());

/// Filled in place and then never written again.
static STORE: Mutex<Platform> = Mutex::new(Platform::EMPTY);
static PLATFORM: Once<&'static Platform> = Once::new();
static EFI: Once<Option<Efi>> = Once::new();

/// The machine's memory, as far as the direct map shows it, and mappings of the rest.
#[derive(Clone, Copy)]
struct Machine<'i>(&'i [Region]);

impl Machine<'_> {
    /// Firmware's memory that the direct map shows.
    fn is_shown(&self, start: u64, end: u64) -> bool {
        let holds = |r: &Region| matches!(r.kind, kind::ACPI | kind::NVS) && r.start <= start && end <= r.end;
        end <= 1 << 20 || self.0.iter().any(holds)
    }
}

impl Source for Machine<'_> {
    fn bytes(&self, address: u64, len: usize) -> Option<&[u8]> {
        let end = address.checked_add(len as u64)?;
        if address == 0 || end > 1 << 46 {
            return None;
        }
        let at = if self.is_shown(address, end) { mem::phys_to_virt(address) } else { map(address, len)? };
        // SAFETY: mapped for good, and firmware's tables do not change any more.
        Some(unsafe { core::slice::from_raw_parts(at, len) })
    }
}

fn map(address: u64, len: usize) -> Option<*mut u8> {
    let mut mapped = MAPPED.lock();
    let holds = |&&(start, size, _): &&(u64, usize, usize)| {
        address >= start && address - start + len as u64 <= size as u64
    };
    if let Some((start, _, va)) = mapped.iter().find(holds) {
        return Some((va + (address - start) as usize) as *mut u8);
    }
    // Whole pages, and one more where a header is asked for, so that most tables need a single mapping.
    let start = address & !0xfff;
    let size = ((address - start) as usize + len).next_multiple_of(0x1000) + 0x1000;
    let va = mem::map_io(start, size)?;
    mapped.try_push((start, size, va as usize)).ok()?;
    Some(va.wrapping_add((address - start) as usize))
}

/// Reads what the firmware says, from the loader's information.
pub fn init(info: &Info) -> Result<&'static Platform, acpi::Error> {
    let machine = Machine(&info.memory);
    let efi = EFI.call_once(|| info.efi_system_table.and_then(|at| efi::read(at, &machine)));
    let found = efi.as_ref().filter(|_| info.rsdp.is_empty());
    let pointer = found.and_then(|efi| efi::root_pointer(efi, &machine));
    let rsdp = pointer.as_ref().map_or(info.rsdp.as_slice(), |bytes| bytes.as_slice());
    if let Some(platform) = PLATFORM.get() {
        return Ok(platform);
    }
    let mut store = STORE.lock();
    store.discover(rsdp, &machine)?;
    // The lock is never given back: what it held is read by everybody from now on.
    Ok(PLATFORM.call_once(|| MutexGuard::leak(store)))
}

/// What ACPI says, once read.
pub fn platform() -> Option<&'static Platform> {
    PLATFORM.get().copied()
}

/// What EFI says, on an EFI machine.
pub fn efi() -> Option<&'static Efi> {
    EFI.get()?.as_ref()
}
