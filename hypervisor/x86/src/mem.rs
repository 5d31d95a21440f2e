//! Machine memory before and behind the frame table: the boot allocator, the hypervisor's own page tables, the
//! direct map, device mappings.
//!
//! W^X holds from [`take_over`] on: text is executable and read-only, everything else is not executable, and the
//! direct map leaves the image out, so that no second, writable view of it exists (I-HV-1).

use arrayvec::ArrayVec;
use spin::Mutex;

use crate::boot::{Info, Region, kind};
use crate::{cpu, layout};

/// Bytes of a page.
pub const PAGE: u64 = 4096;
const MIB2: u64 = 2 << 20;

/// Page-table entry bits.
pub mod pte {
    /// Present.
    pub const P: u64 = 1;
    /// Writable.
    pub const W: u64 = 2;
    /// Reachable from ring 3.
    pub const U: u64 = 4;
    /// Write-through.
    pub const PWT: u64 = 8;
    /// Cache disabled.
    pub const PCD: u64 = 16;
    /// Accessed.
    pub const A: u64 = 32;
    /// Dirty.
    pub const D: u64 = 64;
    /// Large page.
    pub const PS: u64 = 128;
    /// Survives a load of CR3.
    pub const G: u64 = 256;
    /// Not executable.
    pub const NX: u64 = 1 << 63;
    /// The frame's address.
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    /// A table one level down.
    pub const TABLE: u64 = P | W | A | D;
    /// The hypervisor's data.
    pub const DATA: u64 = P | W | A | D | G | NX;
    /// The hypervisor's constants.
    pub const CONST: u64 = P | A | D | G | NX;
    /// The hypervisor's code.
    pub const CODE: u64 = P | A | D | G;
    /// Device registers: uncached.
    pub const DEVICE: u64 = DATA | PCD | PWT;
}

unsafe extern "C" {
    static __image_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __image_end: u8;
}

/// Linear bounds of the image: start, end of text, end of constants, end.
pub fn image_bounds() -> [u64; 4] {
    [
        (&raw const __image_start) as u64,
        (&raw const __text_end) as u64,
        (&raw const __rodata_end) as u64,
        (&raw const __image_end) as u64,
    ]
}

/// The direct map's view of machine address `addr`. Meaningful for RAM only.
#[inline(always)]
pub fn phys_to_virt(addr: u64) -> *mut u8 {
    (layout::DIRECT + addr) as *mut u8
}

/// RAM not yet given to anybody, as sorted, disjoint, page-aligned ranges.
pub struct BootAllocator {
    free: ArrayVec<(u64, u64), 256>,
}

impl BootAllocator {
    const fn new() -> Self {
        Self { free: ArrayVec::new_const() }
    }

    fn fill(&mut self, memory: &[Region]) {
        for r in memory.iter().filter(|r| r.kind == kind::RAM) {
            let (start, end) = (r.start.next_multiple_of(PAGE), r.end & !(PAGE - 1));
            if start < end {
                let _ = self.free.try_push((start, end));
            }
        }
    }

    /// Takes a range out, wherever it overlaps what is free.
    pub fn reserve(&mut self, start: u64, end: u64) {
        let (start, end) = (start & !(PAGE - 1), end.next_multiple_of(PAGE));
        let mut i = 0;
        while let Some(&(s, e)) = self.free.get(i) {
            if e <= start || end <= s {
                i += 1;
                continue;
            }
            self.free.remove(i);
            if end < e {
                let _ = self.free.try_insert(i, (end, e));
            }
            if s < start {
                let _ = self.free.try_insert(i, (s, start));
                i += 1;
            }
        }
    }

    /// Highest `size` bytes below `limit`, aligned to `align`.
    pub fn take(&mut self, size: u64, align: u64, limit: u64) -> Option<u64> {
        let size = size.next_multiple_of(PAGE);
        let found = self.free.iter().rev().find_map(|&(s, e)| {
            let top = e.min(limit).checked_sub(size)? & !(align - 1);
            (top >= s).then_some(top)
        })?;
        self.reserve(found, found + size);
        Some(found)
    }

    /// Largest range that lies below `limit`.
    pub fn largest(&self, limit: u64) -> (u64, u64) {
        let below = self.free.iter().map(|&(s, e)| (s, e.min(limit))).filter(|r| r.0 < r.1);
        below.max_by_key(|r| r.1 - r.0).unwrap_or((0, 0))
    }

    /// Gives a range back; it is not merged with its neighbours.
    pub fn give(&mut self, start: u64, end: u64) {
        let at = self.free.iter().position(|r| r.0 > start).unwrap_or(self.free.len());
        let _ = self.free.try_insert(at, (start, end));
    }

    /// Hands over everything that is left.
    pub fn drain(&mut self) -> ArrayVec<(u64, u64), 256> {
        core::mem::take(&mut self.free)
    }
}

/// The boot allocator; empty once the frame table rules.
pub static BOOT: Mutex<BootAllocator> = Mutex::new(BootAllocator::new());

/// Where page tables for the hypervisor's own range come from once the boot allocator is empty.
static LATE: spin::Once<fn() -> Option<u64>> = spin::Once::new();

/// Names the allocator that follows the boot allocator.
pub fn set_late_allocator(f: fn() -> Option<u64>) {
    LATE.call_once(|| f);
}

const BELOW_4G: u64 = 1 << 32;

/// A zeroed frame for the hypervisor's own use; its machine address.
pub fn take_frame() -> Option<u64> {
    take_frame_filled(0)
}

fn take_frame_filled(fill: u8) -> Option<u64> {
    let addr = match LATE.get() {
        Some(late) => late()?,
        None => BOOT.lock().take(PAGE, PAGE, BELOW_4G)?,
    };
    // SAFETY: the frame was just taken, so nothing else refers to it; the direct map shows it.
    unsafe { core::ptr::write_bytes(phys_to_virt(addr), fill, PAGE as usize) };
    Some(addr)
}

/// The hypervisor's own root table; the template of slots 256..=271 of every guest's.
pub struct Root(u64);

/// Root table of the idle address space, set by [`take_over`].
static ROOT: Mutex<Option<Root>> = Mutex::new(None);

/// The page tables could not grow.
#[derive(Debug)]
pub struct NoMemory;

impl Root {
    /// Machine address of the table.
    pub fn address(&self) -> u64 {
        self.0
    }

    fn entry(table: u64, index: usize) -> *mut u64 {
        phys_to_virt(table + (index as u64) * 8).cast()
    }

    /// The table `index` points to, made if it is missing.
    fn descend(table: u64, index: usize, flags: u64) -> Result<u64, NoMemory> {
        let at = Self::entry(table, index);
        // SAFETY: `table` is a page table of ours and the root's lock is held.
        let old = unsafe { at.read() };
        if old & pte::P != 0 {
            return Ok(old & pte::ADDRESS);
        }
        let new = take_frame().ok_or(NoMemory)?;
        // SAFETY: as above; the entry was absent, so no CPU caches it.
        unsafe { at.write(new | flags) };
        Ok(new)
    }

    /// Maps `[pa, pa + size)` at `va`, with large pages where both are aligned. What was mapped there is replaced
    /// and must not be in any TLB.
    fn map(&mut self, va: u64, pa: u64, size: u64, flags: u64) -> Result<(), NoMemory> {
        let table_flags = pte::TABLE | flags & pte::U;
        let mut done = 0;
        while done < size {
            let (v, p) = (va + done, pa + done);
            let l3 = Self::descend(self.0, (v >> 39) as usize & 511, table_flags)?;
            let l2 = Self::descend(l3, (v >> 30) as usize & 511, table_flags)?;
            let i2 = (v >> 21) as usize & 511;
            if (v | p).is_multiple_of(MIB2) && size - done >= MIB2 {
                // SAFETY: an entry of our own table, under the root's lock.
                unsafe { Self::entry(l2, i2).write(p | flags | pte::PS) };
                done += MIB2;
                continue;
            }
            let l1 = Self::descend(l2, i2, table_flags)?;
            // SAFETY: an entry of our own table, under the root's lock.
            unsafe { Self::entry(l1, (v >> 12) as usize & 511).write(p | flags) };
            done += PAGE;
        }
        Ok(())
    }

    /// Maps fresh frames, every byte `fill`, over `[va, va + size)`; with 2 MiB frames where a whole one fits.
    fn map_fresh(&mut self, va: u64, size: u64, flags: u64, fill: u8) -> Result<(), NoMemory> {
        let mut done = 0;
        while done < size {
            let v = va + done;
            if v.is_multiple_of(MIB2) && size - done >= MIB2 && LATE.get().is_none() {
                let taken = BOOT.lock().take(MIB2, MIB2, BELOW_4G);
                if let Some(pa) = taken {
                    // SAFETY: just taken, so ours alone.
                    unsafe { core::ptr::write_bytes(phys_to_virt(pa), fill, MIB2 as usize) };
                    self.map(v, pa, MIB2, flags)?;
                    done += MIB2;
                    continue;
                }
            }
            let pa = take_frame_filled(fill).ok_or(NoMemory)?;
            self.map(v, pa, PAGE, flags)?;
            done += PAGE;
        }
        Ok(())
    }
}

/// Maps fresh zeroed frames in the hypervisor's range, for data.
pub fn map_fresh(va: u64, size: u64) -> Result<(), NoMemory> {
    ROOT.lock().as_mut().ok_or(NoMemory)?.map_fresh(va, size, pte::DATA, 0)
}

/// Maps machine memory in the hypervisor's range.
///
/// # Safety
/// `va..va + size` is unused so far, and the mapping breaks no invariant on `pa..pa + size` (I-HV-1).
pub unsafe fn map(va: u64, pa: u64, size: u64, flags: u64) -> Result<(), NoMemory> {
    ROOT.lock().as_mut().ok_or(NoMemory)?.map(va, pa, size, flags)
}

/// Machine address behind an address of the hypervisor's range.
pub fn translate(va: u64) -> Option<u64> {
    let root = ROOT.lock();
    let mut table = root.as_ref()?.0;
    for shift in [39, 30, 21, 12] {
        // SAFETY: reads our own tables under the root's lock.
        let entry = unsafe { Root::entry(table, (va >> shift) as usize & 511).read() };
        if entry & pte::P == 0 {
            return None;
        }
        let mask = (1u64 << shift) - 1;
        if shift == 12 || entry & pte::PS != 0 {
            return Some(entry & pte::ADDRESS & !mask | va & mask);
        }
        table = entry & pte::ADDRESS;
    }
    None
}

/// Entry `slot` of the hypervisor's root table.
pub fn root_entry(slot: usize) -> u64 {
    let root = ROOT.lock();
    let Some(root) = root.as_ref() else { return 0 };
    // SAFETY: reads our own root table.
    unsafe { Root::entry(root.0, slot & 511).read() }
}

/// Machine address of the hypervisor's root table, the address space of an idle CPU.
pub fn root_address() -> u64 {
    ROOT.lock().as_ref().map_or(0, Root::address)
}

static NEXT_IO: Mutex<u64> = Mutex::new(layout::IO);

/// Maps device registers for good, uncached; `None` if memory for tables is exhausted or the range is absurd.
pub fn map_io(phys: u64, len: usize) -> Option<*mut u8> {
    let start = phys & !(PAGE - 1);
    let size = phys.checked_add(len as u64)?.checked_next_multiple_of(PAGE)? - start;
    let mut next = NEXT_IO.lock();
    let va = *next;
    if va.checked_add(size)? > layout::IMAGE {
        return None;
    }
    // SAFETY: the window is handed out once; device registers are nobody's memory.
    unsafe { map(va, start, size, pte::DEVICE) }.ok()?;
    *next = va + size;
    Some((va + (phys - start)) as *mut u8)
}

/// Extent of the machine's RAM.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// One past the highest frame of RAM.
    pub max_mfn: u64,
    /// Frames of RAM.
    pub ram_frames: u64,
}

/// Copies of structures the boot allocator must leave alone.
fn reserve_what_is_in_use(boot: &mut BootAllocator, info: &Info, base: u64) {
    let [start, _, _, end] = image_bounds();
    boot.reserve(0, 1 << 20);
    boot.reserve(base, base + (end - start));
    for m in &info.modules {
        boot.reserve(m.start, m.end);
    }
}

/// Frames of RAM, and where RAM ends.
pub fn extent(info: &Info) -> Extent {
    let ram = || info.memory.iter().filter(|r| r.kind == kind::RAM);
    Extent {
        max_mfn: ram().map(|r| r.end / PAGE).max().unwrap_or(0),
        ram_frames: ram().map(|r| (r.end / PAGE).saturating_sub(r.start.div_ceil(PAGE))).sum(),
    }
}

/// Builds the final page tables and switches to them. From here on W^X holds.
///
/// # Safety
/// Called once, by the boot CPU, on the boot tables, with the image at machine address `base`.
pub unsafe fn take_over(info: &Info, base: u64) -> Result<Extent, NoMemory> {
    {
        let mut boot = BOOT.lock();
        boot.fill(&info.memory);
        reserve_what_is_in_use(&mut boot, info, base);
    }
    let mut root = Root(take_frame().ok_or(NoMemory)?);
    for slot in layout::FIRST_SLOT..layout::END_SLOT {
        if slot != layout::PER_DOMAIN_SLOT {
            let flags = if slot == layout::FIRST_SLOT { pte::TABLE | pte::U } else { pte::TABLE };
            Root::descend(root.0, slot, flags)?;
        }
    }
    map_image(&mut root, base)?;
    map_direct(&mut root, info, base)?;
    let extent = extent(info);
    map_m2p(&mut root, info, extent)?;
    map_covering(&mut root, info, extent, layout::FRAMES, 16, 0)?;
    let cr3 = root.0;
    *ROOT.lock() = Some(root);
    // SAFETY: the new tables map the image, the current stack (in it) and the direct map where they are now.
    unsafe { cpu::set_cr3(cr3) };
    Ok(extent)
}

fn map_image(root: &mut Root, base: u64) -> Result<(), NoMemory> {
    let [start, text, rodata, end] = image_bounds();
    root.map(start, base, text - start, pte::CODE)?;
    root.map(text, base + (text - start), rodata - text, pte::CONST)?;
    root.map(rodata, base + (rodata - start), end - rodata, pte::DATA)
}

/// All RAM, ACPI tables and the first MiB, without the image.
fn map_direct(root: &mut Root, info: &Info, base: u64) -> Result<(), NoMemory> {
    let [start, _, _, end] = image_bounds();
    let (image, image_end) = (base, base + (end - start));
    root.map(layout::DIRECT, 0, 1 << 20, pte::DATA)?;
    for r in info.memory.iter().filter(|r| matches!(r.kind, kind::RAM | kind::ACPI | kind::NVS)) {
        let (s, e) =
            (r.start.max(1 << 20) & !(PAGE - 1), r.end.next_multiple_of(PAGE).min(layout::DIRECT_SIZE));
        for (s, e) in [(s, e.min(image)), (s.max(image_end), e)] {
            if s < e {
                root.map(layout::DIRECT + s, s, e - s, pte::DATA)?;
            }
        }
    }
    Ok(())
}

/// Maps a table with `width` bytes a frame over all frames below the end of RAM. Where a whole 2 MiB of table
/// covers no RAM, one shared frame stands in: its records are never other than empty.
fn map_covering(
    root: &mut Root,
    info: &Info,
    ext: Extent,
    va: u64,
    width: u64,
    fill: u8,
) -> Result<(), NoMemory> {
    let size = (ext.max_mfn * width).next_multiple_of(PAGE);
    let mut hole = None;
    let mut at = 0;
    while at < size {
        let chunk = MIB2.min(size - at);
        let (first, last) = (at / width * PAGE, (at + chunk) / width * PAGE);
        if info.memory.iter().any(|r| r.kind == kind::RAM && r.start < last && r.end > first) {
            root.map_fresh(va + at, chunk, pte::DATA, fill)?;
        } else {
            let shared = match hole {
                Some(pa) => pa,
                None => *hole.insert(take_frame_filled(fill).ok_or(NoMemory)?),
            };
            for page in (0..chunk).step_by(PAGE as usize) {
                root.map(va + at + page, shared, PAGE, pte::DATA)?;
            }
        }
        at += chunk;
    }
    Ok(())
}

/// The M2P, writable for us, and the same frames read-only for guests.
fn map_m2p(root: &mut Root, info: &Info, ext: Extent) -> Result<(), NoMemory> {
    map_covering(root, info, ext, layout::M2P_RW, 8, 0xff)?;
    let size = (ext.max_mfn * 8).next_multiple_of(PAGE);
    let mut at = 0;
    while at < size {
        let l3 = Root::descend(root.0, (layout::M2P_RW + at) as usize >> 39 & 511, pte::TABLE)?;
        let l2 = Root::descend(l3, (layout::M2P_RW + at) as usize >> 30 & 511, pte::TABLE)?;
        // SAFETY: reads our own tables.
        let e2 = unsafe { Root::entry(l2, (layout::M2P_RW + at) as usize >> 21 & 511).read() };
        // Not global: a switch to user mode, whose roots do not show it, must take it away.
        let flags = pte::P | pte::U | pte::A | pte::NX;
        if e2 & pte::PS != 0 {
            root.map(layout::M2P_RO + at, e2 & pte::ADDRESS & !(MIB2 - 1), MIB2, flags)?;
            at += MIB2;
        } else {
            let l1 = e2 & pte::ADDRESS;
            // SAFETY: reads our own tables.
            let e1 = unsafe { Root::entry(l1, (layout::M2P_RW + at) as usize >> 12 & 511).read() };
            root.map(layout::M2P_RO + at, e1 & pte::ADDRESS, PAGE, flags)?;
            at += PAGE;
        }
    }
    Ok(())
}
