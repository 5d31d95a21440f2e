//! `bench-data`: what goes between domains, and what a guest's own programs take, on Debian's Xen and on Xenolith, with the same dom0
//! and the same guests in one run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::bench_domains::{Bars, Rows, measure, print_table};
use crate::bench_table::{Flags, name};
use crate::image::cpio::Archive;
use crate::image::initramfs::{self, BUSYBOX};
use crate::image::{apt::Suite, kernel};
use crate::{bench, guests, paths, sh};

const HELP: &str = "\
usage: cargo xtask bench-data [OPTION]...

On a machine of one CPU and 2 GiB, of which dom0 has 512 MiB, on Debian's Xen 4.17 by `xl` and on Xenolith by `lith`, measures in
instructions (QEMU's -icount: one a nanosecond of virtual time):

  block-read-*          a guest's read of its disk around the cache; the disk is a file in dom0's memory behind a loop device
  tcp-*-guest           a MiB by TCP between a program of a guest and one of dom0
  grant-*               a page copied or mapped and unmapped by one guest from another, 16 a call and alone
  event-round-trip      an event to another guest that blocks, and its answer
  store-read-N          a read of the store over its socket, while there are N guests
  domU-*                the operations of `bench` in a guest, the program being its first process

Behind them stands what a guest's operations take beside the same in dom0. Guests have the hypervisor's defaults. A `bar` is the
ratio of Xenolith to Xen that must not be exceeded.

  --on LIST       xen, xenolith (both)
  --check         fail if a ratio is above its bar
  --verbose       print each serial line
";
const SCRIPT: &str = include_str!("bench_data.sh");
const GUEST_INIT: &str = include_str!("bench_data_guest.sh");
/// Modules of the guest, dependencies apart.
const MODULES: &[&str] = &["xen-blkfront", "xen-netfront"];
const BARS: Bars = Bars { rows: &[], others: 0.90, more_is_better: &[] };
/// Rows of the same program in a guest and in dom0.
const GUEST: &str = "domU-";
const DOM0: &str = "dom0-";

/// The verb.
pub fn run(args: &[String]) -> Result<ExitCode> {
    let Some((on, flags)) = Flags::parse_with_both(args, HELP)? else { return Ok(ExitCode::SUCCESS) };
    let programs = programs()?;
    let [mut between, mut guest, mut dom0]: [BTreeMap<&str, Rows>; 3] = Default::default();
    for hypervisor in on {
        let name = name(hypervisor);
        eprintln!("measuring on {name}");
        let all = measure(hypervisor, SCRIPT, programs.clone(), flags.verbose)?;
        guest.insert(name, with_prefix(&all, GUEST));
        dom0.insert(name, with_prefix(&all, DOM0));
        let other = |row: &&String| !row.starts_with(GUEST) && !row.starts_with(DOM0);
        between.insert(name, all.keys().filter(other).map(|row| (row.clone(), all[row])).collect());
    }
    let mut above = print_table("between domains", &between, &BARS);
    println!();
    above.extend(print_table("in a guest", &guest, &Bars { others: 1.0, ..BARS }));
    println!();
    print_ratios(&guest, &dom0);
    Ok(flags.verdict(&above))
}

/// The rows that begin so, without that beginning.
fn with_prefix(rows: &Rows, prefix: &str) -> Rows {
    rows.iter().filter_map(|(row, figure)| Some((row.strip_prefix(prefix)?.to_owned(), *figure))).collect()
}

/// A guest's figures beside dom0's, a pair of columns and their ratio for each hypervisor.
fn print_ratios(guest: &BTreeMap<&str, Rows>, dom0: &BTreeMap<&str, Rows>) {
    print!("{:20}", "guest beside dom0");
    guest.keys().for_each(|name| {
        print!("{:>15}{:>15}{:>7}", format!("{name}:dom0"), format!("{name}:guest"), "ratio")
    });
    println!();
    let Some(first) = guest.values().next() else { return };
    for row in first.keys() {
        print!("{row:20}");
        for (name, rows) in guest {
            if let (Some(own), Some(theirs)) = (rows.get(row), dom0.get(name).and_then(|rows| rows.get(row)))
            {
                print!("{theirs:15.0}{own:15.0}{:7.2}", own / theirs);
            }
        }
        println!();
    }
}

/// What dom0 needs in `/exec/bin`.
fn programs() -> Result<Vec<PathBuf>> {
    let bench = bench::program()?;
    let data = bench.with_file_name("xenolith-data");
    let kernel = kernel::debian(Suite::Bookworm)?;
    let image = paths::out().join("data-guest.cpio");
    sh::write(&image, &guest_image(&kernel, &[&bench, &data])?)?;
    let guests = guests::build()?;
    Ok(vec![guests.join("idle"), guests.join("pair"), kernel.vmlinuz, image, bench, data])
}

/// A guest's initramfs: busybox, the frontends, the programs.
fn guest_image(kernel: &kernel::Kernel, programs: &[&Path]) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    initramfs::userland(&mut archive, &sh::read(Path::new(BUSYBOX))?)?;
    archive.file("init", 0o755, GUEST_INIT.as_bytes());
    for program in programs {
        let name = program.file_name().context("a program has a name")?.to_string_lossy();
        archive.file(&name, 0o755, &sh::read(program)?);
    }
    kernel.modules(&mut archive, MODULES)?;
    Ok(archive.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_guest_are_told_from_others() {
        let rows = ["domU-a", "dom0-a", "a"].into_iter().zip([1.0, 2.0, 3.0]);
        let rows: Rows = rows.map(|(row, figure)| (row.to_owned(), figure)).collect();
        assert_eq!(with_prefix(&rows, GUEST), Rows::from([("a".to_owned(), 1.0)]));
        assert_eq!(with_prefix(&rows, DOM0), Rows::from([("a".to_owned(), 2.0)]));
    }
}
