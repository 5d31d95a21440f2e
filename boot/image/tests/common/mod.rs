//! Kernel images made for the tests.
#![allow(dead_code)] // each test uses its part

/// What the files in `tests/data` decompress to: text, and calls for the x86 filter.
pub fn content() -> Vec<u8> {
    let mut out = Vec::new();
    let mut i = 0usize;
    while out.len() < 70_000 {
        out.extend_from_slice(format!("frame {:05} of {}\n", i * 7919 % 1000, i % 13).as_bytes());
        let target = (0x1000 + i * 5) as u32;
        let from = out.len() as u32;
        out.push(0xe8);
        out.extend_from_slice(&target.wrapping_sub(from).to_le_bytes());
        i += 1;
    }
    out.truncate(70_000);
    out
}

/// A bzImage of boot protocol 2.15 with this payload.
pub fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 3 * 512 + 0x40];
    file[0x1f1] = 2;
    file[0x1fe..0x200].copy_from_slice(&0xaa55u16.to_le_bytes());
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
    file[0x248..0x24c].copy_from_slice(&0x40u32.to_le_bytes());
    file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file.extend_from_slice(payload);
    file.extend_from_slice(b"what follows the payload");
    file
}

/// Data with the uncompressed length behind them, as the Linux build appends it.
pub fn with_length(data: &[u8], len: usize) -> Vec<u8> {
    let mut payload = data.to_vec();
    payload.extend_from_slice(&(len as u32).to_le_bytes());
    payload
}

/// Builds ELF files. Physical addresses are those of the guest, file offsets follow the headers.
#[derive(Clone, Debug)]
pub struct ElfBuilder {
    pub class: u8,
    pub machine: u16,
    pub entry: u64,
    /// Address, bytes in the file, bytes in memory.
    pub segments: Vec<(u64, Vec<u8>, u64)>,
    pub notes: Vec<u8>,
    pub notes_in_section: bool,
}

impl ElfBuilder {
    /// What a recent Linux says about itself.
    pub fn linux() -> Self {
        let mut elf = Self {
            class: 2,
            machine: 62,
            entry: 0,
            segments: vec![
                (0x100_0000, vec![0x90; 0x1800], 0x20_0000),
                (0x120_0000, vec![1; 0x1000], 0x1000),
            ],
            notes: Vec::new(),
            notes_in_section: false,
        };
        elf.number(1, 0xffff_ffff_8100_0100);
        elf.number(3, 0xffff_ffff_8000_0000);
        elf.text(5, "xen-3.0");
        elf.text(6, "linux");
        elf.text(8, "generic");
        elf.text(10, "!writable_page_tables|pae_pgdir_above_4gb");
        elf.number(15, 0x80_0000_0000);
        elf.note(16, &1u32.to_le_bytes());
        elf.note(17, &0x8801u32.to_le_bytes());
        elf
    }

    pub fn note(&mut self, kind: u32, desc: &[u8]) {
        add_note(&mut self.notes, b"Xen\0", kind, desc);
    }

    pub fn number(&mut self, kind: u32, value: u64) {
        self.note(kind, &value.to_le_bytes());
    }

    pub fn text(&mut self, kind: u32, value: &str) {
        self.note(kind, format!("{value}\0").as_bytes());
    }

    /// Removes the notes of a kind.
    pub fn without(mut self, kind: u32) -> Self {
        let mut rest = std::mem::take(&mut self.notes);
        while !rest.is_empty() {
            let word = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
            let len = 12 + (word(0).next_multiple_of(4) + word(4).next_multiple_of(4)) as usize;
            let tail = rest.split_off(len);
            if u32::from_le_bytes(rest[8..12].try_into().unwrap()) != kind {
                self.notes.extend(rest);
            }
            rest = tail;
        }
        self
    }

    pub fn build(&self) -> Vec<u8> {
        let programs = self.segments.len() + usize::from(!self.notes_in_section);
        let sections = usize::from(self.notes_in_section);
        let mut at = (64 + programs * 56 + sections * 64) as u64;
        let mut headers = Vec::new();
        let mut body = Vec::new();
        for (paddr, data, mem_len) in &self.segments {
            headers.extend(program(1, at, *paddr, data.len() as u64, *mem_len));
            body.extend_from_slice(data);
            at += data.len() as u64;
        }
        let len = self.notes.len() as u64;
        if self.notes_in_section {
            headers.extend(section(7, at, len));
        } else {
            headers.extend(program(4, at, 0, len, len));
        }
        body.extend_from_slice(&self.notes);

        let mut file = vec![0x7f, b'E', b'L', b'F', self.class, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        file.extend(2u16.to_le_bytes());
        file.extend(self.machine.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        file.extend(self.entry.to_le_bytes());
        file.extend(64u64.to_le_bytes());
        file.extend((64 + programs as u64 * 56).to_le_bytes());
        file.extend([0; 4]);
        for field in [64, 56, programs as u16, 64, sections as u16, 0] {
            file.extend(field.to_le_bytes());
        }
        file.extend(headers);
        file.extend(body);
        file
    }
}

/// Adds one note.
pub fn add_note(notes: &mut Vec<u8>, name: &[u8], kind: u32, desc: &[u8]) {
    for number in [name.len() as u32, desc.len() as u32, kind] {
        notes.extend(number.to_le_bytes());
    }
    for part in [name, desc] {
        notes.extend_from_slice(part);
        notes.resize(notes.len().next_multiple_of(4), 0);
    }
}

fn program(kind: u32, offset: u64, paddr: u64, file_len: u64, mem_len: u64) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(kind.to_le_bytes());
    header.extend(5u32.to_le_bytes());
    for field in [offset, 0, paddr, file_len, mem_len, 4096] {
        header.extend(field.to_le_bytes());
    }
    header
}

fn section(kind: u32, offset: u64, len: u64) -> Vec<u8> {
    let mut header = vec![0; 64];
    header[4..8].copy_from_slice(&kind.to_le_bytes());
    header[24..32].copy_from_slice(&offset.to_le_bytes());
    header[32..40].copy_from_slice(&len.to_le_bytes());
    header
}
