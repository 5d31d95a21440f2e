//! What GRUB says: command line, memory map, modules, tables. Copied out, because the original is reclaimed.

use arrayvec::{ArrayString, ArrayVec};
use multiboot2::{BootInformation, BootInformationHeader};

use crate::layout;

/// Kinds of memory, numbered as in the E820 interface.
pub mod kind {
    /// Usable RAM.
    pub const RAM: u32 = 1;
    /// ACPI tables, RAM once read.
    pub const ACPI: u32 = 3;
    /// Must survive sleep.
    pub const NVS: u32 = 4;
}

/// A range of machine memory and what it is (an E820 entry).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// E820 type: 1 RAM, 2 reserved, 3 ACPI data, 4 ACPI NVS, 5 unusable.
    pub kind: u32,
}

/// A file that GRUB loaded beside the hypervisor.
#[derive(Clone, Debug)]
pub struct Module {
    /// Machine address of the first byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// What stood behind the file's name, without Debian's leading `placeholder`.
    pub command_line: ArrayString<2048>,
}

/// A linear frame buffer that the firmware left lit.
#[derive(Clone, Copy, Debug)]
pub struct Framebuffer {
    /// Machine address.
    pub address: u64,
    /// Bytes a line.
    pub pitch: u32,
    /// Pixels a line.
    pub width: u32,
    /// Lines.
    pub height: u32,
    /// Bits a pixel.
    pub bpp: u8,
    /// True for EGA text, where width and height count characters.
    pub text: bool,
    /// (position, size) of red, green and blue, in bits.
    pub colours: [(u8, u8); 3],
}

/// Everything the loader told us.
pub struct Info {
    /// The hypervisor's own command line, without Debian's leading `placeholder`.
    pub command_line: ArrayString<2048>,
    /// Memory map, sorted.
    pub memory: ArrayVec<Region, 256>,
    /// Modules in order: kernel, initial RAM disk, others.
    pub modules: ArrayVec<Module, 8>,
    /// The ACPI root pointer structure as the loader copied it.
    pub rsdp: ArrayVec<u8, 64>,
    /// EFI system table, where firmware is EFI (64-bit).
    pub efi_system_table: Option<u64>,
    /// Screen.
    pub framebuffer: Option<Framebuffer>,
    /// Machine range of the loader's information structure.
    pub own: (u64, u64),
}

/// The loader's information could not be used.
#[derive(Debug)]
pub struct Unusable(pub &'static str);

/// Drops the word GRUB's scripts put first, and spaces around.
fn without_placeholder(line: &str) -> &str {
    let line = line.trim();
    match line.strip_prefix("placeholder") {
        Some(rest) if rest.is_empty() || rest.starts_with(' ') => rest.trim(),
        _ => line,
    }
}

fn copied(line: &str) -> ArrayString<2048> {
    let line = without_placeholder(line);
    let mut end = line.len().min(2048);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    ArrayString::from(&line[..end]).unwrap_or_default()
}

/// Reads the multiboot2 information at machine address `mbi`.
///
/// # Safety
/// `mbi` is what the loader passed, it lies below 4 GiB, and the first 4 GiB are mapped at [`layout::DIRECT`].
pub unsafe fn read(mbi: u64) -> Result<Info, Unusable> {
    let at = (layout::DIRECT + mbi) as *const BootInformationHeader;
    // SAFETY: by the caller's word this is the loader's structure, mapped and alive until reclaimed.
    let info =
        unsafe { BootInformation::load(at) }.map_err(|_| Unusable("multiboot2 information is malformed"))?;
    let mut out = Info {
        command_line: ArrayString::new(),
        memory: ArrayVec::new(),
        modules: ArrayVec::new(),
        rsdp: ArrayVec::new(),
        efi_system_table: info.efi_sdt64_tag().map(|t| t.sdt_address() as u64),
        framebuffer: None,
        own: (mbi, mbi + info.total_size() as u64),
    };
    if let Some(tag) = info.command_line_tag() {
        out.command_line = copied(tag.cmdline().unwrap_or(""));
    }
    let map = info.memory_map_tag().ok_or(Unusable("no memory map"))?;
    for area in map.memory_areas() {
        let kind = u32::from(area.typ());
        let region = Region { start: area.start_address(), end: area.end_address(), kind };
        if region.start < region.end && out.memory.try_push(region).is_err() {
            return Err(Unusable("memory map has more than 256 entries"));
        }
    }
    out.memory.sort_unstable_by_key(|r| r.start);
    for tag in info.module_tags() {
        let (start, end) = (u64::from(tag.start_address()), u64::from(tag.end_address()));
        let module = Module { start, end, command_line: copied(tag.cmdline().unwrap_or("")) };
        if out.modules.try_push(module).is_err() {
            break;
        }
    }
    // The old tag (14) holds 20 bytes, the new one (15) 36 or more; the structure starts behind the tag's head.
    for (id, len) in [(15, 36usize), (14, 20)] {
        if let Some(tag) = info.tags().find(|t| u32::from(t.header().typ) == id) {
            let bytes = tag.payload();
            out.rsdp.clear();
            let _ = out.rsdp.try_extend_from_slice(&bytes[..bytes.len().min(len)]);
            break;
        }
    }
    if let Some(Ok((tag, Ok(kind)))) = info.framebuffer_tag().map(|t| t.map(|t| (t, t.buffer_type()))) {
        let mut colours = [(0, 0); 3];
        if let multiboot2::FramebufferType::RGB { red, green, blue } = &kind {
            colours = [(red.position, red.size), (green.position, green.size), (blue.position, blue.size)];
        }
        out.framebuffer = Some(Framebuffer {
            address: tag.address(),
            pitch: tag.pitch(),
            width: tag.width(),
            height: tag.height(),
            bpp: tag.bpp(),
            text: matches!(kind, multiboot2::FramebufferType::Text),
            colours,
        });
    }
    Ok(out)
}
