//! Building dom0: from the loader's modules to a vCPU that stands at its kernel's entry point.

use alloc::vec::Vec;
use core::fmt;
use core::mem::size_of;

use boot_image::{
    BuildPlan, DecompressError, FormatError, Initrd, KernelError, KernelFile, KernelInfo, PlanError,
    PlanInput,
};
use guest_abi::xen::{SIF_INITDOMAIN, SIF_MOD_START_PFN, SIF_PRIVILEGED, START_INFO_MAGIC, StartInfo};
use hv_types::Mfn;
use zerocopy::IntoBytes;

use crate::boot::Module;
use crate::mem::{PAGE, phys_to_virt, pte};

/// Why dom0 could not be built. Each text says what is wrong and what to do.
#[derive(Debug)]
pub enum Error {
    /// No module was loaded.
    NoKernel,
    /// The kernel file.
    Format(FormatError),
    /// Its payload.
    Decompress(DecompressError),
    /// The kernel.
    Kernel(KernelError),
    /// It does not fit.
    Plan(PlanError),
    /// Memory is exhausted.
    NoMemory(&'static str),
    /// The core refused the first page tables: our bug.
    Tables,
    /// `dom0_mem=` asks for more than there is.
    TooMuch {
        /// MiB asked for.
        asked: u64,
        /// MiB there are.
        free: u64,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NoKernel => f.write_str(
                "GRUB loaded no dom0 kernel: add a line `module2 /boot/vmlinuz placeholder root=/dev/...` behind multiboot2",
            ),
            Error::Format(e) => write!(f, "{e}"),
            Error::Decompress(e) => write!(f, "{e}"),
            Error::Kernel(e) => write!(f, "{e}"),
            Error::Plan(e) => write!(f, "{e}"),
            Error::NoMemory(what) => write!(f, "no memory for {what}: give the machine more, or dom0 less (dom0_mem=)"),
            Error::Tables => f.write_str("dom0's first page tables were refused; this is a bug in Xenolith"),
            Error::TooMuch { asked, free } => {
                write!(f, "dom0_mem={asked}M is more than the {free} MiB that are free: lower it")
            }
        }
    }
}

macro_rules! from {
    ($($variant:ident($ty:ty)),*) => {
        $(impl From<$ty> for Error {
            fn from(e: $ty) -> Self {
                Error::$variant(e)
            }
        })*
    };
}
from!(Format(FormatError), Decompress(DecompressError), Kernel(KernelError), Plan(PlanError));

/// Consecutive frames of dom0 on consecutive machine frames.
#[derive(Clone, Copy, Debug)]
struct Run {
    pfn: u64,
    mfn: u64,
    pages: u64,
}

/// dom0's frames: which machine frame is behind each.
#[derive(Default)]
pub struct P2m(Vec<Run>);

impl P2m {
    /// Adds frames; runs are added in ascending order of pfn.
    fn push(&mut self, pfn: u64, mfn: u64, pages: u64) -> Result<(), Error> {
        if let Some(last) = self.0.last_mut()
            && last.pfn + last.pages == pfn
            && last.mfn + last.pages == mfn
        {
            last.pages += pages;
            return Ok(());
        }
        self.0.try_reserve(1).map_err(|_| Error::NoMemory("the map of dom0's frames"))?;
        self.0.push(Run { pfn, mfn, pages });
        Ok(())
    }

    /// Machine frame of `pfn`, which must be dom0's.
    fn mfn(&self, pfn: u64) -> u64 {
        let at = self.0.partition_point(|r| r.pfn <= pfn) - 1;
        let run = &self.0[at];
        assert!(pfn - run.pfn < run.pages, "pfn {pfn:#x} is not dom0's");
        run.mfn + (pfn - run.pfn)
    }

    /// All pairs of pfn and mfn.
    fn pairs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().flat_map(|r| (0..r.pages).map(|i| (r.pfn + i, r.mfn + i)))
    }
}

/// Marks a mapping of the guest's kernel, in a bit that the processor ignores. Without it the core takes the mapping
/// for a user's and makes it global, so that it would outlive a switch to user mode in the TLB.
const GUEST_KERNEL: u64 = 1 << 52;

/// Flags of an entry of the first page tables: tables are mapped read-only and clean.
fn flags_of(level: u8, read_only: bool) -> u64 {
    let kernel = if level == 1 { GUEST_KERNEL } else { 0 };
    let writable = if read_only { 0 } else { pte::W | pte::D };
    pte::P | pte::U | pte::A | writable | kernel
}

fn module_bytes(module: &Module) -> &'static [u8] {
    // SAFETY: the loader put the file there, the boot allocator has left it alone, and nothing writes it before
    // its frames become dom0's, when the slice is no longer used.
    unsafe { core::slice::from_raw_parts(phys_to_virt(module.start), (module.end - module.start) as usize) }
}

/// The dom0 kernel, decompressed.
pub struct Kernel {
    unpacked: Vec<u8>,
    in_place: Option<&'static [u8]>,
}

/// Bytes that a decoder allocates besides the unpacked kernel (at most 150 KiB, says `boot_image::Format`), and the
/// heap's own bookkeeping.
const DECODER: u64 = 1 << 20;

/// Bytes of heap that [`Kernel::load`] takes. A file that cannot be used says so when it is loaded.
pub fn unpacking_needs(modules: &[Module]) -> u64 {
    let file = modules.first().and_then(|module| KernelFile::parse(module_bytes(module)).ok());
    file.filter(|file| file.elf_in_place().is_none())
        .map_or(0, |file| file.uncompressed_len() as u64 + DECODER)
}

impl Kernel {
    /// Unpacks the first module.
    pub fn load(modules: &[Module]) -> Result<Kernel, Error> {
        let module = modules.first().ok_or(Error::NoKernel)?;
        let file = KernelFile::parse(module_bytes(module))?;
        if let Some(elf) = file.elf_in_place() {
            return Ok(Kernel { unpacked: Vec::new(), in_place: Some(elf) });
        }
        let len = file.uncompressed_len();
        let mut unpacked = Vec::new();
        unpacked.try_reserve_exact(len).map_err(|_| Error::NoMemory("the unpacked kernel"))?;
        unpacked.resize(len, 0);
        file.extract_into(&mut unpacked)?;
        Ok(Kernel { unpacked, in_place: None })
    }

    fn bytes(&self) -> &[u8] {
        self.in_place.unwrap_or(&self.unpacked)
    }

    /// Its headers and notes, checked for dom0.
    pub fn info(&self) -> Result<KernelInfo<'_>, Error> {
        let info = KernelInfo::parse(self.bytes())?;
        info.check_dom0()?;
        Ok(info)
    }
}

/// What the builder asks of the owner of all frames.
pub trait Frames {
    /// A zeroed run of up to `pages` frames for dom0: first frame and length.
    fn take(&mut self, pages: u64) -> Option<(Mfn, u64)>;
    /// Gives frames that the loader filled to dom0.
    fn adopt(&mut self, first: Mfn, pages: u64) -> Option<()>;
}

/// The memory of the new domain.
pub struct Image {
    /// Where everything is.
    pub plan: BuildPlan,
    /// Which machine frame is behind each frame.
    pub p2m: P2m,
    /// Frames of dom0.
    pub nr_pages: u64,
}

impl Image {
    /// Lays dom0 out and takes the frames that are filled before it starts. [`Image::complete`] takes the rest.
    pub fn prepare(
        info: &KernelInfo,
        modules: &[Module],
        nr_pages: u64,
        frames: &mut impl Frames,
    ) -> Result<Image, Error> {
        let initrd = modules.get(1);
        let initrd_len = initrd.map_or(0, |m| m.end - m.start);
        let plan = BuildPlan::new(info, PlanInput { nr_pages, initrd_len, rings: false })?;
        let mut image = Image { plan, p2m: P2m::default(), nr_pages };
        let mut pfn = 0;
        if let (Initrd::Unmapped { pfn: first, pages }, Some(module)) = (plan.initrd, initrd) {
            image.take(0, first, frames)?;
            let mfn = module.start / PAGE;
            frames.adopt(Mfn(mfn), pages).ok_or(Error::NoMemory("the initramfs"))?;
            image.p2m.push(first, mfn, pages)?;
            pfn = first + pages;
        }
        image.take(pfn, plan.next_pfn, frames)?;
        Ok(image)
    }

    /// Takes frames for `pfn..end`.
    fn take(&mut self, mut pfn: u64, end: u64, frames: &mut impl Frames) -> Result<(), Error> {
        while pfn < end {
            let (mfn, pages) = frames.take(end - pfn).ok_or(Error::NoMemory("dom0"))?;
            self.p2m.push(pfn, mfn.0, pages)?;
            pfn += pages;
        }
        Ok(())
    }

    /// Takes the frames that nothing is written to, and tells dom0 in its p2m list where all of them are.
    pub fn complete(&mut self, frames: &mut impl Frames) -> Result<(), Error> {
        self.take(self.plan.next_pfn, self.nr_pages, frames)?;
        self.write_p2m_list();
        Ok(())
    }

    fn word(&self, pfn: u64, index: u64) -> *mut u64 {
        phys_to_virt((self.p2m.mfn(pfn) << 12) + index * 8).cast()
    }

    /// Writes `bytes` at a virtual address of the bootstrap region or the p2m list.
    fn write(&self, va: u64, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let at = va + done as u64;
            let Some(pfn) = self.plan.pfn_of(at) else { return };
            let offset = at % PAGE;
            let len = ((PAGE - offset) as usize).min(bytes.len() - done);
            let to = phys_to_virt((self.p2m.mfn(pfn) << 12) + offset);
            // SAFETY: the frame is dom0's, which does not run yet; the piece lies within the frame.
            unsafe { core::ptr::copy_nonoverlapping(bytes[done..].as_ptr(), to, len) };
            done += len;
        }
    }

    /// Zeroes `len` bytes at a virtual address.
    fn write_zeroes(&self, va: u64, len: u64) {
        const ZEROES: [u8; PAGE as usize] = [0; PAGE as usize];
        let mut done = 0;
        while done < len {
            let piece = (PAGE - (va + done) % PAGE).min(len - done);
            self.write(va + done, &ZEROES[..piece as usize]);
            done += piece;
        }
    }

    /// Fills everything but the page tables and the p2m list: kernel, initramfs where it is mapped, start information.
    pub fn fill(
        &self,
        info: &KernelInfo,
        modules: &[Module],
        shared_info: u64,
        command_line: &str,
        screen: &[u8],
    ) {
        for segment in info.segments() {
            self.write(segment.va, segment.data);
            self.write_zeroes(
                segment.va + segment.data.len() as u64,
                segment.mem_len - segment.data.len() as u64,
            );
        }
        self.clear(self.plan.start_info.pfn);
        if let (Initrd::Mapped(region), Some(module)) = (self.plan.initrd, modules.get(1)) {
            self.write(region.va, module_bytes(module));
        }
        if let Some(pfn) = self.plan.hypercall_pfn {
            // SAFETY: a frame of dom0, which does not run yet.
            unsafe { write_hypercall_page(self.word(pfn, 0).cast()) };
        }
        self.write_start_info(modules, shared_info, command_line, screen);
    }

    fn write_p2m_list(&self) {
        let mut page = (u64::MAX, core::ptr::null_mut::<u64>());
        for (pfn, mfn) in self.p2m.pairs() {
            if pfn / 512 != page.0 {
                page = (pfn / 512, self.word(self.plan.p2m.pfn + pfn / 512, 0));
            }
            // SAFETY: the list's frames are dom0's, which does not run yet; the index is below 512.
            unsafe { page.1.add((pfn % 512) as usize).write(mfn) };
        }
    }

    fn write_start_info(&self, modules: &[Module], shared_info: u64, command_line: &str, screen: &[u8]) {
        let mut start = StartInfo {
            nr_pages: self.nr_pages,
            shared_info,
            flags: SIF_PRIVILEGED | SIF_INITDOMAIN,
            pt_base: self.plan.page_tables.va,
            nr_pt_frames: self.plan.page_tables.pages,
            mfn_list: self.plan.p2m.va,
            mod_start: self.plan.initrd.mod_start(),
            mod_len: modules.get(1).map_or(0, |m| m.end - m.start),
            first_p2m_pfn: self.plan.p2m_frames.0,
            nr_p2m_frames: self.plan.p2m_frames.1,
            ..StartInfo::default()
        };
        if matches!(self.plan.initrd, Initrd::Unmapped { .. }) {
            start.flags |= SIF_MOD_START_PFN;
        }
        start.magic[..START_INFO_MAGIC.len()].copy_from_slice(START_INFO_MAGIC);
        let len = command_line.len().min(start.cmd_line.len() - 1);
        start.cmd_line[..len].copy_from_slice(&command_line.as_bytes()[..len]);
        let screen_at = size_of::<StartInfo>() as u64;
        if !screen.is_empty() {
            // console.dom0: offset of the screen's description in this page, and its size.
            start.console = screen_at | (screen.len() as u64) << 32;
            self.write(self.plan.start_info.va + screen_at, screen);
        }
        self.write(self.plan.start_info.va, start.as_bytes());
    }

    /// Writes the first page tables as raw entries; the core checks and types them when the root is pinned.
    pub fn write_tables(&self) {
        for table in 0..self.nr_pages {
            // Tables lie together; the list ends where they do.
            if self.plan.is_page_table(table) {
                self.clear(table);
            } else if table > self.plan.next_pfn {
                break;
            }
        }
        for entry in self.plan.page_table_entries() {
            let read_only = entry.level == 1 && entry.target_is_table;
            let value = self.p2m.mfn(entry.target) << 12 | flags_of(entry.level, read_only);
            // SAFETY: page tables of a domain that does not run yet.
            unsafe { self.word(entry.table, u64::from(entry.index)).write(value) };
        }
    }

    /// Zeroes a frame.
    fn clear(&self, pfn: u64) {
        // SAFETY: a frame of a domain that does not run yet.
        unsafe { core::ptr::write_bytes(self.word(pfn, 0).cast::<u8>(), 0, PAGE as usize) };
    }

    /// The root table.
    pub fn root(&self) -> Mfn {
        Mfn(self.p2m.mfn(self.plan.page_tables.pfn))
    }

    /// All frames: (pfn, mfn).
    pub fn frames(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.p2m.pairs()
    }
}

/// The page through which older kernels call: entry `n` is `mov eax, n; syscall; ret`, and for `iret` a jump that
/// saves rcx, r11 and rax as the frame wants them (`arch-x86/xen-x86_64.h`).
///
/// # Safety
/// `page` is a page of the guest's that the caller may write.
pub unsafe fn write_hypercall_page(page: *mut u8) {
    const IRET: usize = 23;
    for n in 0..64usize {
        let mut code = [0xcc; 32];
        if n == IRET {
            // push rcx; push r11; push rax; mov eax, 23; syscall
            code[..11].copy_from_slice(&[0x51, 0x41, 0x53, 0x50, 0xb8, 23, 0, 0, 0, 0x0f, 0x05]);
        } else {
            // push rcx; push r11; mov eax, n; syscall; pop r11; pop rcx; ret
            code[..14].copy_from_slice(&[
                0x51, 0x41, 0x53, 0xb8, n as u8, 0, 0, 0, 0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3,
            ]);
        }
        // SAFETY: 64 entries of 32 bytes lie within the page; the rest is the caller's duty.
        unsafe { core::ptr::copy_nonoverlapping(code.as_ptr(), page.add(n * 32), 32) };
    }
}
