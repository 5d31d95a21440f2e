use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Machine memory that holds only what was put there.
#[derive(Default, Clone)]
struct Ram(BTreeMap<u64, Vec<u8>>);

impl Source for Ram {
    fn bytes(&self, address: u64, len: usize) -> Option<&[u8]> {
        let (start, block) = self.0.range(..=address).next_back()?;
        let at = (address - start) as usize;
        block.get(at..at.checked_add(len)?)
    }
}

fn fix_sum(bytes: &mut [u8], at: usize) {
    bytes[at] = 0;
    bytes[at] = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
}

fn sdt(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut table = signature.to_vec();
    table.extend((36 + body.len() as u32).to_le_bytes());
    table.extend([revision, 0]);
    table.extend(b"XENOLITHTEST\0\0");
    table.extend([1, 0, 0, 0, b'T', b'E', b'S', b'T', 1, 0, 0, 0]);
    table.truncate(36);
    table.extend(body);
    fix_sum(&mut table, 9);
    table
}

const MADT: u64 = 0x1000;
const FADT: u64 = 0x2000;
const HPET: u64 = 0x3000;
const MCFG: u64 = 0x4000;
const ROOT: u64 = 0x5000;

fn madt(entries: &[&[u8]]) -> Vec<u8> {
    let mut body = vec![0, 0, 0xe0, 0xfe, 1, 0, 0, 0];
    body.extend(entries.concat());
    sdt(b"APIC", 3, &body)
}

/// Two processors and an empty socket, an I/O APIC, the timer and the SCI rewired, an NMI pin.
fn usual_madt() -> Vec<u8> {
    madt(&[
        &[0, 8, 0, 0, 1, 0, 0, 0],
        &[0, 8, 1, 2, 1, 0, 0, 0],
        &[0, 8, 2, 0xff, 0, 0, 0, 0],
        &[9, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0],
        &[1, 12, 3, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
        &[2, 10, 0, 0, 2, 0, 0, 0, 0, 0],
        &[2, 10, 0, 9, 9, 0, 0, 0, 0xd, 0],
        &[4, 6, 0xff, 0, 0, 1],
        &[0x7f, 2],
    ])
}

fn usual_fadt(len: usize, revision: u8) -> Vec<u8> {
    let mut body = vec![0; len - 36];
    let mut put = |at: usize, bytes: &[u8]| body[at - 36..at - 36 + bytes.len()].copy_from_slice(bytes);
    put(46, &[9, 0]);
    put(56, &0x600u32.to_le_bytes());
    put(64, &0x604u32.to_le_bytes());
    put(76, &0x608u32.to_le_bytes());
    put(88, &[4, 2, 0, 4]);
    put(108, &[0x32]);
    put(109, &[4, 0]);
    put(112, &(1u32 << 10 | 1 << 8).to_le_bytes());
    if len >= 129 {
        put(116, &[1, 8, 0, 1, 0xf9, 0xc, 0, 0, 0, 0, 0, 0, 0xf]);
    }
    sdt(b"FACP", revision, &body)
}

fn usual() -> Ram {
    let mut ram = Ram::default();
    ram.0.insert(MADT, usual_madt());
    ram.0.insert(FADT, usual_fadt(276, 5));
    let hpet = [1, 0x82, 0x86, 0x80, 0, 64, 0, 0, 0, 0, 0xd0, 0xfe, 0, 0, 0, 0, 0, 0, 0, 0];
    ram.0.insert(HPET, sdt(b"HPET", 1, &hpet));
    let mcfg = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xb0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0, 0, 0];
    ram.0.insert(MCFG, sdt(b"MCFG", 1, &mcfg));
    let entries: Vec<u8> = [FADT, MADT, HPET, MCFG].iter().flat_map(|at| at.to_le_bytes()).collect();
    ram.0.insert(ROOT, sdt(b"XSDT", 1, &entries));
    ram
}

fn pointer(revision: u8) -> Vec<u8> {
    let mut rsdp = b"RSD PTR \0TEST  ".to_vec();
    rsdp.push(revision);
    rsdp.extend((if revision == 0 { ROOT as u32 } else { 0 }).to_le_bytes());
    fix_sum(&mut rsdp, 8);
    if revision > 0 {
        rsdp.extend(36u32.to_le_bytes());
        rsdp.extend(ROOT.to_le_bytes());
        rsdp.extend([0; 4]);
        fix_sum(&mut rsdp, 32);
    }
    rsdp
}

fn discover(rsdp: &[u8], ram: &Ram) -> Result<Platform, Error> {
    let mut platform = Platform::EMPTY;
    platform.discover(rsdp, ram).map(|()| platform)
}

#[test]
fn a_usual_machine_is_read() {
    let p = discover(&pointer(2), &usual()).unwrap();
    assert_eq!((p.local_apic, p.has_pic), (0xfee0_0000, true));
    let cpus: Vec<_> = p.processors.iter().map(|c| (c.apic_id, c.acpi_id, c.usable)).collect();
    assert_eq!(cpus, [(0, 0, true), (2, 1, true), (256, 7, true)]);
    assert_eq!(p.io_apics.as_slice(), [IoApic { id: 3, address: 0xfec0_0000, gsi_base: 0 }]);
    assert_eq!(p.isa(0), (2, Trigger::Edge, Polarity::High));
    assert_eq!(p.isa(9), (9, Trigger::Level, Polarity::High));
    assert_eq!(p.isa(4), (4, Trigger::Edge, Polarity::High));
    assert_eq!(p.default_wiring(16), (Trigger::Level, Polarity::Low));
    assert_eq!(p.local_nmis[0].acpi_id, u32::MAX);
    assert_eq!(p.pm_timer, Some((Register::Port(0x608), true)));
    assert_eq!(p.pm1_control, [Some(Register::Port(0x604)), None]);
    assert_eq!(p.reset, Some((Register::Port(0xcf9), 0xf)));
    assert_eq!((p.sci, p.century, p.no_vga), (9, Some(0x32), true));
    assert_eq!(p.hpet, Some(0xfed0_0000));
    let config = MmConfig { address: 0xb000_0000, segment: 0, first: 0, last: 255 };
    assert_eq!(p.mm_configs.as_slice(), [config]);
}

#[test]
fn tables_of_the_first_version_are_read() {
    let mut ram = usual();
    ram.0.insert(FADT, usual_fadt(116, 1));
    let entries: Vec<u8> = [MADT as u32, FADT as u32].iter().flat_map(|at| at.to_le_bytes()).collect();
    ram.0.insert(ROOT, sdt(b"RSDT", 1, &entries));
    let p = discover(&pointer(0), &ram).unwrap();
    assert_eq!((p.processors.len(), p.hpet, p.no_vga), (3, None, false));
    assert_eq!(p.pm_timer, Some((Register::Port(0x608), true)));
}

#[test]
fn the_bios_area_is_searched() {
    let mut ram = usual();
    assert_eq!(discover(&[], &ram), Err(Error::NoRootPointer));
    let mut bios = vec![0; 0x2_0000];
    bios[0x1_0100..0x1_0124].copy_from_slice(&pointer(2));
    ram.0.insert(0xe_0000, bios);
    assert!(discover(&[], &ram).is_ok());
    ram.0.get_mut(&0xe_0000).unwrap()[0x1_0100..0x1_0124].fill(0);
    assert_eq!(discover(&[], &ram), Err(Error::NoRootPointer));
    let mut ebda = vec![0; 1024];
    ebda[0x40..0x64].copy_from_slice(&pointer(2));
    ram.0.insert(0x9_fc00, ebda);
    ram.0.insert(0x40e, vec![0xc0, 0x9f]);
    assert!(discover(&[], &ram).is_ok());
}

#[test]
fn a_damaged_table_is_passed_over() {
    let mut ram = usual();
    ram.0.get_mut(&HPET).unwrap()[50] ^= 1;
    ram.0.remove(&MCFG);
    let p = discover(&pointer(2), &ram).unwrap();
    assert_eq!((p.hpet, p.mm_configs.len(), p.processors.len()), (None, 0, 3));
}

#[test]
fn what_cannot_be_done_without_is_missed() {
    let mut ram = usual();
    ram.0.get_mut(&MADT).unwrap()[60] ^= 1;
    assert_eq!(discover(&pointer(2), &ram), Err(Error::NoMadt));
    ram.0.get_mut(&ROOT).unwrap()[20] ^= 1;
    assert_eq!(discover(&pointer(2), &ram), Err(Error::BadRootTable));
    let mut rsdp = pointer(2);
    rsdp[33] ^= 1;
    assert_eq!(discover(&rsdp, &ram), Err(Error::BadRootPointer));
    assert_eq!(discover(&rsdp[..12], &ram), Err(Error::BadRootPointer));
}

#[test]
fn entries_that_do_not_fit_spoil_the_madt() {
    for entries in [
        &[&[0u8, 0][..]][..],
        &[&[0, 7, 0, 0, 1, 0, 0]],
        &[&[1, 12, 3, 0, 0]],
        &[&[0, 8, 0, 0, 1, 0, 0, 0], &[0]],
    ] {
        let mut ram = usual();
        ram.0.insert(MADT, madt(entries));
        assert_eq!(discover(&pointer(2), &ram), Err(Error::NoMadt), "{entries:?}");
    }
}

proptest! {
    /// Whatever firmware writes, with right checksums so that it is looked at: an answer, never a fault.
    #[test]
    fn nothing_in_a_table_is_believed_blindly(
        table in prop::sample::select(vec![MADT, FADT, HPET, MCFG, ROOT]),
        len in 36usize..300,
        changes in prop::collection::vec((8usize..300, any::<u8>()), 0..24),
    ) {
        let mut ram = usual();
        let bytes = ram.0.get_mut(&table).unwrap();
        bytes.resize(len, 0);
        bytes[4..8].copy_from_slice(&(len as u32).to_le_bytes());
        for (at, value) in changes {
            if at < len {
                bytes[at] = value;
            }
        }
        fix_sum(bytes, 9);
        let _ = discover(&pointer(2), &ram);
    }

    #[test]
    fn a_root_pointer_of_any_bytes_is_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..48)) {
        let _ = discover(&bytes, &usual());
    }

    #[test]
    fn a_madt_of_any_bytes_is_refused_or_read(body in prop::collection::vec(0u8..20, 0..200)) {
        let mut ram = usual();
        ram.0.insert(MADT, sdt(b"APIC", 3, &body));
        let _ = discover(&pointer(2), &ram);
    }
}
