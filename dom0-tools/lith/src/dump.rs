//! A domain's memory as a file: what `coredump-*` leaves behind.

use crate::domain::Domain;
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use guest_abi::xen::{ArchSharedInfo, SharedInfo};
use std::mem::offset_of;
use std::path::PathBuf;

/// Where dumps are.
const DIR: &str = "/var/lib/xenolith/dump";
/// Offsets in the shared page.
const MAX_PFN: usize = offset_of!(SharedInfo, arch) + offset_of!(ArchSharedInfo, max_pfn);
const FRAME_LIST_LIST: usize =
    offset_of!(SharedInfo, arch) + offset_of!(ArchSharedInfo, pfn_to_mfn_frame_list_list);
/// Frame numbers in a page.
const ENTRIES: usize = 512;
const INVALID: u64 = u64::MAX;

/// Writes a domain's memory, frame by frame in the order of its own numbering, holes as zeroes, and answers the file.
pub fn dump(host: &dyn Host, domain: &Domain) -> Result<PathBuf> {
    let memory = memory(host, domain)?;
    let file = PathBuf::from(format!("{DIR}/{}-{}.mem", domain.name, host.wall_clock()));
    host.write_file(&file, &memory)?;
    Ok(file)
}

fn memory(host: &dyn Host, domain: &Domain) -> Result<Vec<u8>> {
    let domid = domain.id();
    let shared = host.read_frame(domid, domain.info.shared_info_frame)?;
    let pages = word(&shared, MAX_PFN).min(domain.info.max_pages);
    let mut memory = Vec::new();
    for list_list in words(host, domid, word(&shared, FRAME_LIST_LIST))? {
        for list in words(host, domid, list_list)? {
            for mfn in words(host, domid, list)? {
                if (memory.len() / 4096) as u64 >= pages {
                    return Ok(memory);
                }
                let frame = if mfn == INVALID { None } else { host.read_frame(domid, mfn).ok() };
                memory.extend(frame.unwrap_or_else(|| vec![0; 4096]));
            }
        }
    }
    if memory.is_empty() {
        return Err(Error::new(Kind::Other, "it ended before it told where its memory is"));
    }
    Ok(memory)
}

/// The frame numbers in a frame; none of a frame that is not one.
fn words(host: &dyn Host, domid: u32, mfn: u64) -> Result<Vec<u64>> {
    if mfn == 0 || mfn == INVALID {
        return Ok(Vec::new());
    }
    let page = host.read_frame(domid, mfn)?;
    Ok((0..ENTRIES).map(|n| word(&page, n * 8)).collect())
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}
