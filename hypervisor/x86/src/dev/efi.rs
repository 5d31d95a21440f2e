//! What EFI left behind. Its run-time services are not called.

use arrayvec::ArrayVec;
use hv_core::platform::op::{Efi, EfiMemory};

use super::acpi::Source;
use crate::boot::{Region, kind};

const GUID_ACPI_20: [u8; 16] =
    [0x71, 0xe8, 0x68, 0x88, 0xf1, 0xe4, 0xd3, 0x11, 0xbc, 0x22, 0x00, 0x80, 0xc7, 0x3c, 0x88, 0x81];
const GUID_ACPI_10: [u8; 16] =
    [0x30, 0x2d, 0x9d, 0xeb, 0x88, 0x2d, 0xd3, 0x11, 0x9a, 0x16, 0x00, 0x90, 0x27, 0x3f, 0xc1, 0x4d];
/// A configuration table's entry: GUID and address.
const ENTRY: usize = 24;

fn word32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn word64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Reads the 64-bit system table at a machine address; `None` if there is none.
pub fn read(address: u64, source: &impl Source) -> Option<Efi> {
    let table = source.bytes(address, 120)?;
    if !table.starts_with(b"IBI SYST") {
        return None;
    }
    let efi = Efi {
        version: word32(table, 8),
        revision: word32(table, 32),
        table_count: u32::try_from(word64(table, 104)).ok().filter(|count| *count <= 1024)?,
        tables: word64(table, 112),
        vendor: vendor(word64(table, 24), source),
    };
    (efi.tables != 0).then_some(efi)
}

fn vendor(address: u64, source: &impl Source) -> ArrayVec<u16, 100> {
    let letters = (0..100u64).map(|n| {
        let bytes = source.bytes(address.checked_add(2 * n)?, 2)?;
        Some(u16::from_le_bytes([bytes[0], bytes[1]])).filter(|letter| *letter != 0)
    });
    letters.map_while(|letter| letter).collect()
}

/// The ACPI root pointer that EFI names, the newer one first.
pub fn root_pointer(efi: &Efi, source: &impl Source) -> Option<[u8; 36]> {
    let tables = source.bytes(efi.tables, efi.table_count as usize * ENTRY)?;
    let find = |guid: [u8; 16]| {
        let entry = tables.chunks_exact(ENTRY).find(|entry| entry[..16] == guid)?;
        source.bytes(word64(entry, 16), 36)?.try_into().ok()
    };
    find(GUID_ACPI_20).or_else(|| find(GUID_ACPI_10))
}

/// EFI's memory map at an address, as far as the loader's memory map tells it.
pub fn memory(regions: &[Region], address: u64) -> Option<EfiMemory> {
    const WRITE_BACK: u64 = 8;
    const RESERVED: u32 = 0;
    const CONVENTIONAL: u32 = 7;
    const ACPI_RECLAIM: u32 = 9;
    const ACPI_NVS: u32 = 10;
    let region = regions.iter().find(|r| (r.start..r.end).contains(&address))?;
    let kind = match region.kind {
        kind::RAM => CONVENTIONAL,
        kind::ACPI => ACPI_RECLAIM,
        kind::NVS => ACPI_NVS,
        _ => RESERVED,
    };
    let size = region.end - region.start;
    Some(EfiMemory { address: region.start, size, attributes: WRITE_BACK, kind })
}
