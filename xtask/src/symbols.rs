//! The table by which the hypervisor names functions in a backtrace.
//!
//! The image reserves a section between `__symbols_start` and `__symbols_end`; this fills it after linking, so that no
//! second link is needed and no address changes. One line a function: offset from the image's start in hexadecimal,
//! a space, the name; ascending; NULs behind.

use crate::sh;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;

/// Fills the table of the image in `elf`, the bytes of the file `path`.
pub fn embed(path: &Path, elf: &mut [u8]) -> Result<()> {
    let listing = sh::text(Command::new("nm").args(["-C", "--defined-only"]).arg(path))?;
    let address = |name: &str| {
        let line = listing.lines().find(|l| l.ends_with(&format!(" {name}")));
        let digits =
            line.and_then(|l| l.split(' ').next()).with_context(|| format!("the image has no {name}"))?;
        u64::from_str_radix(digits, 16).context("nm's address")
    };
    let (base, start, end) =
        (address("__image_start")?, address("__symbols_start")?, address("__symbols_end")?);
    let room = usize::try_from(end - start)?;
    let table = table(&listing, base);
    ensure!(
        table.len() <= room,
        "the symbol table needs {} bytes and has {room}: enlarge it in panic.rs",
        table.len()
    );
    let offset = file_offset(elf, start).context("the symbol section is in no segment")?;
    let place = elf.get_mut(offset..offset + room).context("the symbol section lies outside the file")?;
    place.fill(0);
    place[..table.len()].copy_from_slice(table.as_bytes());
    Ok(())
}

fn table(listing: &str, base: u64) -> String {
    let mut functions: Vec<(u64, &str)> = listing.lines().filter_map(function).collect();
    functions.sort_unstable();
    functions.dedup_by_key(|f| f.0);
    let line = |(at, name): &(u64, &str)| Some(format!("{:x} {name}\n", at.checked_sub(base)?));
    functions.iter().filter_map(line).collect()
}

/// Address and name of a function in a line of nm.
fn function(line: &str) -> Option<(u64, &str)> {
    let mut parts = line.splitn(3, ' ');
    let at = u64::from_str_radix(parts.next()?, 16).ok()?;
    let kind = parts.next()?;
    let name = parts.next()?;
    (kind.eq_ignore_ascii_case("t") && !name.starts_with("__")).then_some((at, name))
}

/// Where a linear address lies in an ELF64 file.
fn file_offset(elf: &[u8], address: u64) -> Option<usize> {
    let word = |at: usize, len: usize| {
        let bytes = elf.get(at..at + len)?;
        Some(bytes.iter().rev().fold(0u64, |all, b| all << 8 | u64::from(*b)))
    };
    let (table, size, count) = (word(32, 8)? as usize, word(54, 2)? as usize, word(56, 2)? as usize);
    (0..count).find_map(|n| {
        let at = table + n * size;
        let (kind, offset, va, len) = (word(at, 4)?, word(at + 8, 8)?, word(at + 16, 8)?, word(at + 32, 8)?);
        let within = address.checked_sub(va)?;
        (kind == 1 && within < len).then_some((offset + within) as usize)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "\
ffff82d040000000 T __image_start
ffff82d040001000 t <hv_x86::domain::Domain>::assists
ffff82d040000100 T trap_entry
ffff82d040009000 r some_constant
ffff82d040001000 t an_alias
";

    #[test]
    fn functions_come_in_order_and_once() {
        let table = table(LISTING, 0xffff_82d0_4000_0000);
        assert_eq!(table, "100 trap_entry\n1000 <hv_x86::domain::Domain>::assists\n");
    }

    #[test]
    fn an_address_outside_all_segments_has_no_place() {
        let mut elf = vec![0u8; 64 + 56];
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = 1;
        elf[64] = 1;
        elf[64 + 9] = 0x10;
        elf[64 + 17] = 0x20;
        elf[64 + 32] = 0x40;
        assert_eq!(file_offset(&elf, 0x2001), Some(0x1001));
        assert_eq!(file_offset(&elf, 0x2040), None);
        assert_eq!(file_offset(&elf, 0x1fff), None);
    }
}
