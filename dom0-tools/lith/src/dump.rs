//! A domain's memory as a file: what `coredump-*` leaves behind.

use crate::domain::Domain;
use crate::error::{Error, Kind, Result};
use crate::host::{self, Host};
use guest_abi::xen::{ArchSharedInfo, SharedInfo};
use std::borrow::Cow;
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

/// Writes a domain's memory in the order of its own numbering, holes as zeroes, and answers the file.
pub fn dump(host: &dyn Host, domain: &Domain) -> Result<PathBuf> {
    let domid = domain.id();
    let (lists, mut left) = lists(host, domain)?;
    // What a list names at a time: a domain may have more memory than dom0.
    let mut parts = lists.iter().map_while(|list| {
        let mut mfns = match words(host, domid, *list) {
            Ok(mfns) => mfns,
            Err(error) => return Some(Err(error)),
        };
        mfns.truncate(left);
        left -= mfns.len();
        Some(host.read_frames(domid, &mfns).map(Cow::Owned))
    });
    let file = PathBuf::from(format!("{DIR}/{}-{}.mem", domain.name, host.wall_clock()));
    host.write_parts(&file, &mut parts)?;
    Ok(file)
}

/// The frames in which a domain has told where its memory is, and how many pages it says that it has: no more than it may.
fn lists(host: &dyn Host, domain: &Domain) -> Result<(Vec<u64>, usize)> {
    let domid = domain.id();
    let shared = host.read_frame(domid, domain.info.shared_info_frame)?;
    let pages = word(&shared, MAX_PFN).min(domain.info.max_pages);
    let list_lists = word(&shared, FRAME_LIST_LIST);
    if pages == 0 || !is_frame(list_lists) {
        return Err(Error::new(Kind::Other, "it ended before it told where its memory is"));
    }
    let needed = pages.div_ceil(ENTRIES as u64) as usize;
    let mut lists = Vec::new();
    for list_list in words(host, domid, list_lists)? {
        if lists.len() >= needed {
            break;
        }
        lists.extend(words(host, domid, list_list)?);
    }
    lists.truncate(needed);
    Ok((lists, pages as usize))
}

fn is_frame(mfn: u64) -> bool {
    mfn != 0 && mfn != INVALID
}

/// The frame numbers in a frame; where there is none, as many that are none.
fn words(host: &dyn Host, domid: u32, mfn: u64) -> host::Result<Vec<u64>> {
    if !is_frame(mfn) {
        return Ok(vec![INVALID; ENTRIES]);
    }
    let page = host.read_frame(domid, mfn)?;
    Ok((0..ENTRIES).map(|n| word(&page, n * 8)).collect())
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::Fake;
    use crate::host::{Hypervisor, NewDomain, System};

    /// A domain whose frames of this many pages hold their own number, with a hole in it and a list that is missing.
    #[test]
    fn a_dump_has_the_order_of_the_domain_and_zeroes_for_holes() {
        let host = Fake::new();
        let domid =
            host.create(&NewDomain { max_vcpus: 1, max_pages: 5000, ..NewDomain::default() }).unwrap();
        let mfns = host.populate(domid, 0, 0, 1700).unwrap();
        let put = |mfn: u64, words: &[u64]| {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            host.write_frames(domid, &[mfn], 0, &bytes).unwrap();
        };
        for mfn in &mfns {
            put(*mfn, &[*mfn]);
        }
        let tables = host.populate(domid, 0, 0, 6).unwrap();
        let (shared, list_lists, list_list) = (tables[5], tables[0], tables[1]);
        let mut shared_page = vec![0; 512];
        shared_page[MAX_PFN / 8] = 1600;
        shared_page[FRAME_LIST_LIST / 8] = list_lists;
        put(shared, &shared_page);
        put(list_lists, &[list_list]);
        // The second list is missing, and the last one goes on behind the end.
        put(list_list, &[tables[2], INVALID, tables[3], tables[4]]);
        for (list, first) in [(tables[2], 0), (tables[3], 1024), (tables[4], 1536)] {
            let mut list_page: Vec<u64> =
                (first..(first + 512).min(1700)).map(|pfn: usize| mfns[pfn]).collect();
            if first == 1024 {
                list_page[3] = INVALID;
            }
            put(list, &list_page);
        }
        let mut domain = crate::domain::by_id(&host, domid).unwrap().unwrap();
        domain.info.shared_info_frame = shared;
        let file = dump(&host, &domain).unwrap();
        let bytes = host.read_file(&file).unwrap();
        let seen: Vec<u64> = bytes.chunks(4096).map(|page| word(page, 0)).collect();
        let expected: Vec<u64> = (0..1600)
            .map(|pfn| if (512..1024).contains(&pfn) || pfn == 1027 { 0 } else { mfns[pfn] })
            .collect();
        assert_eq!(seen, expected);
        // It never told.
        put(shared, &[0; 512]);
        assert!(dump(&host, &domain).unwrap_err().message.contains("before it told"));
    }
}
