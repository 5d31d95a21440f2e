//! A kernel as small as one can be: an ELF file with the notes of a paravirtualised Linux, one segment of code, one of
//! data that does not begin on a page, and a p2m list at its own address if wanted.

/// Virtual address of guest-physical address 0.
pub const VIRT_BASE: u64 = 0xffff_ffff_8000_0000;
/// Where the kernel begins, physically.
pub const PHYS: u64 = 0x10_0000;
/// Where it wants its p2m list.
pub const P2M: u64 = 0x80_0000_0000;

/// Its code and data.
pub fn code() -> Vec<u8> {
    (0..0x2345_u32).map(|n| (n % 251) as u8 | 1).collect()
}

/// The second segment.
pub fn data() -> Vec<u8> {
    (0..0x1801_u32).map(|n| (n % 241) as u8 | 1).collect()
}

/// Offset of the second segment from the first.
pub const DATA_OFFSET: u64 = 0x2_0000 + 0x345;

/// The file.
pub fn elf(separate: bool) -> Vec<u8> {
    let mut notes = Vec::new();
    let number = |n: u64| n.to_le_bytes().to_vec();
    note(&mut notes, 6, b"linux\0");
    note(&mut notes, 5, b"xen-3.0\0");
    note(&mut notes, 8, b"generic\0");
    note(&mut notes, 3, &number(VIRT_BASE));
    note(&mut notes, 1, &number(VIRT_BASE + PHYS + 0x10));
    if separate {
        note(&mut notes, 15, &number(P2M));
        note(&mut notes, 16, &1_u32.to_le_bytes());
    }
    let (code, data) = (code(), data());
    let headers = 64 + 3 * 56;
    let (code_at, data_at) = (headers, headers + code.len());
    let notes_at = data_at + data.len();
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for half in [2_u16, 62] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes());
    for long in [VIRT_BASE + PHYS + 0x10, 64, 0] {
        file.extend(long.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 3, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    segment(&mut file, 1, code_at, PHYS, code.len(), code.len() + 0x5000);
    segment(&mut file, 1, data_at, PHYS + DATA_OFFSET, data.len(), data.len());
    segment(&mut file, 4, notes_at, 0, notes.len(), notes.len());
    file.extend(code);
    file.extend(data);
    file.extend(notes);
    file
}

fn segment(file: &mut Vec<u8>, kind: u32, offset: usize, paddr: u64, len: usize, mem: usize) {
    file.extend(kind.to_le_bytes());
    file.extend(7_u32.to_le_bytes());
    for long in [offset as u64, VIRT_BASE + paddr, paddr, len as u64, mem as u64, 0x1000] {
        file.extend(long.to_le_bytes());
    }
}

fn note(notes: &mut Vec<u8>, kind: u32, value: &[u8]) {
    notes.extend(4_u32.to_le_bytes());
    notes.extend((value.len() as u32).to_le_bytes());
    notes.extend(kind.to_le_bytes());
    notes.extend(b"Xen\0");
    notes.extend(value);
    notes.resize(notes.len().next_multiple_of(4), 0);
}
