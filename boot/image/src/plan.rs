//! Where everything goes in a new domain's memory (`xen.h`, "Start-of-day memory layout").
//!
//! ```text
//! virt_base                                                                       v_end (4 MiB aligned)
//!   | (hole) | kernel | initrd | p2m | start_info | xenstore | console | page tables | stack | padding |
//!                       ^ unless    ^ unless         ^ domU only
//!                         MOD_START_PFN  INIT_P2M
//! ```
//!
//! This region is mapped one to one to the first frames: pfn 0 is at `virt_base`. Behind it, unmapped, an initial RAM
//! disk that the kernel takes by frame number; behind that the p2m list that the kernel wants at its own
//! address, preceded by the page tables that map it there.

use core::fmt;

use crate::kernel::KernelInfo;
use crate::page_tables::{PageTableEntries, Tables};

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;

/// The bootstrap region ends at a multiple of this.
const REGION_ALIGN: u64 = 4 << 20;
/// The least padding behind the boot stack.
const MIN_PADDING: u64 = 512 << 10;
/// Bytes of a p2m entry.
const P2M_ENTRY: u64 = 8;
/// Page-table slots of the root that are the hypervisor's, as addresses: 256 to 271.
const HYPERVISOR: core::ops::Range<u64> = 0xffff_8000_0000_0000..0xffff_8800_0000_0000;
/// Where the addresses' lower half ends.
const LOW_END: u64 = 0x0000_8000_0000_0000;

/// Consecutive frames of the guest, and where the bootstrap page tables map them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Virtual address of the first page.
    pub va: u64,
    /// First frame.
    pub pfn: u64,
    /// Length in pages.
    pub pages: u64,
}

impl Region {
    /// Virtual address behind the region.
    pub const fn va_end(&self) -> u64 {
        self.va.wrapping_add(self.pages.wrapping_mul(PAGE_SIZE))
    }

    /// The frame behind the region.
    pub const fn pfn_end(&self) -> u64 {
        self.pfn.wrapping_add(self.pages)
    }

    /// Whether a frame is in the region.
    pub const fn contains_pfn(&self, pfn: u64) -> bool {
        self.pfn <= pfn && pfn < self.pfn_end()
    }
}

/// Where the initial RAM disk is, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initrd {
    /// None.
    None,
    /// In the bootstrap region: `mod_start` is its virtual address.
    Mapped(Region),
    /// Not mapped: `mod_start` is its first frame, and `SIF_MOD_START_PFN` is to be set.
    Unmapped {
        /// First frame.
        pfn: u64,
        /// Length in pages.
        pages: u64,
    },
}

impl Initrd {
    /// First frame and length in pages.
    pub const fn frames(&self) -> Option<(u64, u64)> {
        match *self {
            Self::None => None,
            Self::Mapped(region) => Some((region.pfn, region.pages)),
            Self::Unmapped { pfn, pages } => Some((pfn, pages)),
        }
    }

    /// `mod_start` of `start_info`, zero without a RAM disk.
    pub const fn mod_start(&self) -> u64 {
        match *self {
            Self::None => 0,
            Self::Mapped(region) => region.va,
            Self::Unmapped { pfn, .. } => pfn,
        }
    }
}

/// What a plan depends on besides the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanInput {
    /// Memory of the domain in pages: `nr_pages` of `start_info`, and the length of the p2m list.
    pub nr_pages: u64,
    /// Length of the initial RAM disk in bytes, zero for none.
    pub initrd_len: u64,
    /// Whether there are a xenstore and a console page (every domain but dom0).
    pub rings: bool,
}

/// Why a kernel does not fit into a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// The domain's memory is too small.
    TooLittleMemory {
        /// Pages needed for the kernel, its RAM disk and the boot structures.
        needed: u64,
        /// Pages that the domain has.
        nr_pages: u64,
    },
    /// A region would lie outside the addresses that belong to the guest.
    NotGuestAddress {
        /// What would.
        what: &'static str,
        /// Its first address.
        va: u64,
    },
    /// The p2m list would lie in the bootstrap region.
    P2mOverlap {
        /// The address that the kernel wants it at.
        va: u64,
    },
    /// A number of the kernel or the domain is not aligned to pages or too large.
    OutOfRange(&'static str),
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooLittleMemory { needed, nr_pages } => write!(
                f,
                "the kernel and its initramfs need {} MiB to start, but the domain has {} MiB: give it more (dom0_mem=)",
                needed.div_ceil(256),
                nr_pages / 256
            ),
            Self::NotGuestAddress { what, va } => {
                write!(
                    f,
                    "the kernel wants its {what} at {va:#x}, which is not a guest's address: use another kernel"
                )
            }
            Self::P2mOverlap { va } => {
                write!(f, "the kernel wants its p2m list at {va:#x}, where it is itself: use another kernel")
            }
            Self::OutOfRange(what) => write!(f, "the kernel's {what} is out of range: the file is corrupt"),
        }
    }
}

impl core::error::Error for PlanError {}

/// The first memory of a domain. Frames are the guest's (pfn); all regions are disjoint and below `nr_pages`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildPlan {
    /// The bootstrap region, from pfn 0 on; every page of it is mapped, page tables read-only, the others writable.
    pub bootstrap: Region,
    /// Initial RIP.
    pub entry: u64,
    /// The kernel's pages.
    pub kernel: Region,
    /// The frame to be filled with the hypercall page, if the kernel wants one.
    pub hypercall_pfn: Option<u64>,
    /// The initial RAM disk.
    pub initrd: Initrd,
    /// The p2m list: `mfn_list` is its address.
    pub p2m: Region,
    /// The `start_info` page: initial RSI is its address.
    pub start_info: Region,
    /// The xenstore page.
    pub xenstore: Option<Region>,
    /// The console page.
    pub console: Option<Region>,
    /// The bootstrap page tables, the root first: `pt_base` and `nr_pt_frames`.
    pub page_tables: Region,
    /// The boot stack: initial RSP is its end.
    pub stack: Region,
    /// Frames of the p2m list outside the bootstrap region and of the page tables for it: `first_p2m_pfn` and
    /// `nr_p2m_frames`. Without `INIT_P2M` the number is zero.
    pub p2m_frames: (u64, u64),
    /// The first frame that the plan does not use.
    pub next_pfn: u64,
    tables: Tables,
}

impl BuildPlan {
    /// Lays out the memory of a domain that starts `kernel`.
    pub fn new(kernel: &KernelInfo<'_>, input: PlanInput) -> Result<Self, PlanError> {
        let notes = kernel.notes();
        if !kernel.virt_base().is_multiple_of(PAGE_SIZE) {
            return Err(PlanError::OutOfRange("virtual base"));
        }
        let mut place = Placer::new(kernel.virt_base());
        let p2m_pages =
            input.nr_pages.checked_mul(P2M_ENTRY).ok_or(PlanError::OutOfRange("memory"))?.div_ceil(PAGE_SIZE);
        let initrd_pages = input.initrd_len.div_ceil(PAGE_SIZE);

        let kernel_region = place.up_to(kernel.start(), kernel.end())?;
        let mut initrd = Initrd::None;
        if initrd_pages != 0 && !notes.mod_start_pfn {
            initrd = Initrd::Mapped(place.next(initrd_pages)?);
        }
        let inline_p2m = if notes.init_p2m.is_none() { Some(place.next(p2m_pages)?) } else { None };
        let start_info = place.next(1)?;
        let xenstore = if input.rings { Some(place.next(1)?) } else { None };
        let console = if input.rings { Some(place.next(1)?) } else { None };
        let (page_tables, stack, v_end) = place.page_tables_and_stack()?;

        let bootstrap =
            Region { va: kernel.virt_base(), pfn: 0, pages: pages_between(kernel.virt_base(), v_end) };
        guest_addresses("memory", &bootstrap)?;
        let mut next_pfn = bootstrap.pages;
        if initrd_pages != 0 && notes.mod_start_pfn {
            initrd = Initrd::Unmapped { pfn: next_pfn, pages: initrd_pages };
            next_pfn = add(next_pfn, initrd_pages)?;
        }
        let mut tables = Tables::new(bootstrap, page_tables.pfn);
        let first_p2m_pfn = next_pfn;
        let p2m = match (inline_p2m, notes.init_p2m) {
            (Some(region), _) => region,
            (None, va) => {
                let p2m = separate_p2m(va.unwrap_or(0), p2m_pages, &bootstrap)?;
                let pfn = tables.add_p2m(p2m, next_pfn).ok_or(PlanError::OutOfRange("p2m address"))?;
                next_pfn = add(pfn, p2m_pages)?;
                Region { pfn, ..p2m }
            }
        };
        if next_pfn > input.nr_pages {
            return Err(PlanError::TooLittleMemory { needed: next_pfn, nr_pages: input.nr_pages });
        }
        Ok(Self {
            bootstrap,
            entry: kernel.entry(),
            kernel: kernel_region,
            hypercall_pfn: notes.hypercall_page.map(|va| pages_between(kernel.virt_base(), va)),
            initrd,
            p2m,
            start_info,
            xenstore,
            console,
            page_tables,
            stack,
            p2m_frames: (first_p2m_pfn, next_pfn.saturating_sub(first_p2m_pfn)),
            next_pfn,
            tables,
        })
    }

    /// The frame that is mapped at a virtual address, in the bootstrap region or the p2m list.
    pub fn pfn_of(&self, va: u64) -> Option<u64> {
        [&self.bootstrap, &self.p2m].into_iter().find_map(|region| {
            let page = va.checked_sub(region.va)? / PAGE_SIZE;
            (page < region.pages).then(|| region.pfn.saturating_add(page))
        })
    }

    /// Whether a frame is a page table: it may not be mapped writable.
    pub fn is_page_table(&self, pfn: u64) -> bool {
        self.tables.contains(pfn)
    }

    /// Every present entry of the first page tables, the root's first, each exactly once. Tables are to be cleared
    /// before: the entries not listed are zero.
    pub fn page_table_entries(&self) -> PageTableEntries {
        self.tables.entries()
    }

    /// Level (4 is the root) of a page-table frame.
    pub fn page_table_level(&self, pfn: u64) -> Option<u8> {
        self.tables.level_of(pfn)
    }
}

/// Hands out consecutive pages of the bootstrap region.
struct Placer {
    base: u64,
    next: u64,
}

impl Placer {
    const fn new(base: u64) -> Self {
        Self { base, next: base }
    }

    /// The pages from those of `start` to those of `end`.
    fn up_to(&mut self, start: u64, end: u64) -> Result<Region, PlanError> {
        let first = start & !(PAGE_SIZE.wrapping_sub(1));
        let end = end.checked_next_multiple_of(PAGE_SIZE).ok_or(PlanError::OutOfRange("end"))?;
        self.next = end;
        Ok(Region { va: first, pfn: pages_between(self.base, first), pages: pages_between(first, end) })
    }

    fn next(&mut self, pages: u64) -> Result<Region, PlanError> {
        let va = self.next;
        let len = pages.checked_mul(PAGE_SIZE).ok_or(PlanError::OutOfRange("size"))?;
        self.next = va.checked_add(len).ok_or(PlanError::OutOfRange("end"))?;
        Ok(Region { va, pfn: pages_between(self.base, va), pages })
    }

    /// The page tables map themselves, so their number is the smallest one that is enough for itself.
    fn page_tables_and_stack(&mut self) -> Result<(Region, Region, u64), PlanError> {
        let mut pages = 0;
        loop {
            let mut trial = Self { base: self.base, next: self.next };
            let page_tables = trial.next(pages)?;
            let stack = trial.next(1)?;
            let v_end = region_end(trial.next).ok_or(PlanError::OutOfRange("end"))?;
            // Grows with each round and is bounded by the tables of the whole address space.
            let needed = Tables::count(self.base, v_end);
            if needed == pages {
                self.next = v_end;
                return Ok((page_tables, stack, v_end));
            }
            pages = needed;
        }
    }
}

/// At least [`MIN_PADDING`] behind `end`, aligned.
fn region_end(end: u64) -> Option<u64> {
    end.checked_add(MIN_PADDING)?.checked_next_multiple_of(REGION_ALIGN)
}

/// Where the kernel wants its p2m list; the frames are not known yet.
fn separate_p2m(va: u64, pages: u64, bootstrap: &Region) -> Result<Region, PlanError> {
    let region = Region { va, pfn: 0, pages };
    let len = pages.checked_mul(PAGE_SIZE).ok_or(PlanError::OutOfRange("memory"))?;
    let end = va.checked_add(len).ok_or(PlanError::NotGuestAddress { what: "p2m list", va })?;
    if !va.is_multiple_of(PAGE_SIZE) {
        return Err(PlanError::OutOfRange("p2m address"));
    }
    guest_addresses("p2m list", &region)?;
    if va < bootstrap.va_end() && bootstrap.va < end {
        return Err(PlanError::P2mOverlap { va });
    }
    Ok(region)
}

/// Canonical, and not in the hypervisor's part.
fn guest_addresses(what: &'static str, region: &Region) -> Result<(), PlanError> {
    let last = region.va_end().wrapping_sub(1);
    let low = region.va < LOW_END && last < LOW_END;
    let high = region.va >= HYPERVISOR.end && last >= HYPERVISOR.end;
    if region.pages == 0 || low || high {
        Ok(())
    } else {
        Err(PlanError::NotGuestAddress { what, va: region.va })
    }
}

const fn pages_between(low: u64, high: u64) -> u64 {
    high.wrapping_sub(low) / PAGE_SIZE
}

fn add(a: u64, b: u64) -> Result<u64, PlanError> {
    a.checked_add(b).ok_or(PlanError::OutOfRange("memory"))
}
