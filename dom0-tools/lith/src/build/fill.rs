//! Writing a plan into a domain's memory.

use super::{Kernel, Memory};
use crate::error::Result;
use crate::host::{Hypervisor, StartRegisters};
use boot_image::{BuildPlan, Initrd, PAGE_SIZE, Region};
use guest_abi::grant_table::{GNTTAB_RESERVED_CONSOLE, GNTTAB_RESERVED_XENSTORE};
use guest_abi::xen::{SIF_MOD_START_PFN, START_INFO_MAGIC, StartInfo};
use std::collections::BTreeMap;
use zerocopy::IntoBytes;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;

/// The event channels of a domain's two rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rings {
    /// Its port of the store.
    pub store_port: u32,
    /// Its port of the console.
    pub console_port: u32,
    /// Frame of the shared page.
    pub shared_info: u64,
}

/// Writes the kernel, its RAM disk, the p2m list, start information and page tables; pins the root, and grants dom0 the
/// two rings. The domain's memory is clear before, so that what is zero is not written. Returns what vCPU 0 starts with.
pub fn fill<H: Hypervisor + ?Sized>(
    host: &H,
    domid: u32,
    kernel: &Kernel,
    plan: &BuildPlan,
    memory: &Memory,
    (initrd, cmdline): (&[u8], &str),
    rings: Rings,
) -> Result<StartRegisters> {
    let writer = Writer { host, domid, plan, memory };
    for segment in kernel.info()?.segments() {
        writer.write(segment.va, segment.data)?;
    }
    if let Some((pfn, pages)) = plan.initrd.frames() {
        host.write_frames(domid, &memory.run(pfn, pages)?, 0, initrd)?;
    }
    if let Some(pfn) = plan.hypercall_pfn {
        host.write_frames(domid, &memory.run(pfn, 1)?, 0, &hypercall_page())?;
    }
    writer.p2m()?;
    writer.start_info(initrd.len() as u64, cmdline, rings)?;
    writer.page_tables()?;
    writer.finish()
}

struct Writer<'a, H: ?Sized> {
    host: &'a H,
    domid: u32,
    plan: &'a BuildPlan,
    memory: &'a Memory,
}

impl<H: Hypervisor + ?Sized> Writer<'_, H> {
    /// Writes at an address of the bootstrap region.
    fn write(&self, va: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let offset = va % PAGE_SIZE;
        let pfn = (va - self.plan.bootstrap.va) / PAGE_SIZE;
        let pages = (offset + bytes.len() as u64).div_ceil(PAGE_SIZE);
        self.host.write_frames(self.domid, &self.memory.run(pfn, pages)?, offset as usize, bytes)?;
        Ok(())
    }

    /// The list of the domain's machine frames, a part at a time.
    fn p2m(&self) -> Result<()> {
        const FRAMES: u64 = 256;
        const WORDS: u64 = PAGE_SIZE / 8;
        for (part, pfn) in (0..self.memory.len()).step_by((FRAMES * WORDS) as usize).enumerate() {
            let mfns = self.memory.run(pfn, (FRAMES * WORDS).min(self.memory.len() - pfn))?;
            let frames = (mfns.len() as u64).div_ceil(WORDS);
            let frames = self.memory.run(self.plan.p2m.pfn + part as u64 * FRAMES, frames)?;
            self.host.write_frames(self.domid, &frames, 0, mfns.as_bytes())?;
        }
        Ok(())
    }

    fn start_info(&self, initrd_len: u64, cmdline: &str, rings: Rings) -> Result<()> {
        let plan = self.plan;
        let ring = |region: &Option<Region>| region.map_or(Ok(0), |region| self.memory.mfn(region.pfn));
        let mut start = StartInfo {
            nr_pages: self.memory.len(),
            shared_info: rings.shared_info * PAGE_SIZE,
            store_mfn: ring(&plan.xenstore)?,
            store_evtchn: rings.store_port,
            console: ring(&plan.console)?,
            console_evtchn: rings.console_port,
            pt_base: plan.page_tables.va,
            nr_pt_frames: plan.page_tables.pages,
            mfn_list: plan.p2m.va,
            mod_start: plan.initrd.mod_start(),
            mod_len: initrd_len,
            first_p2m_pfn: plan.p2m_frames.0,
            nr_p2m_frames: plan.p2m_frames.1,
            ..StartInfo::default()
        };
        if matches!(plan.initrd, Initrd::Unmapped { .. }) {
            start.flags |= SIF_MOD_START_PFN;
        }
        start.magic[..START_INFO_MAGIC.len()].copy_from_slice(START_INFO_MAGIC);
        // The last byte stays NUL.
        let len = cmdline.len().min(start.cmd_line.len() - 1);
        start.cmd_line[..len].copy_from_slice(&cmdline.as_bytes()[..len]);
        self.write(plan.start_info.va, start.as_bytes())
    }

    fn page_tables(&self) -> Result<()> {
        let mut tables: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for entry in self.plan.page_table_entries() {
            let flags = match (entry.level, entry.target_is_table) {
                // Without the user bit an entry is the guest's kernel's; the hypervisor adds what ring 3 needs.
                (1, false) => PRESENT | ACCESSED | WRITABLE | DIRTY,
                (1, true) => PRESENT | ACCESSED,
                _ => PRESENT | ACCESSED | WRITABLE | DIRTY | USER,
            };
            let table = tables.entry(entry.table).or_insert_with(|| vec![0; 512]);
            table[usize::from(entry.index)] = (self.memory.mfn(entry.target)? * PAGE_SIZE) | flags;
        }
        // Tables lie together, so few writes are enough.
        let mut run: (u64, Vec<u64>) = (0, Vec::new());
        for (pfn, entries) in tables {
            if run.0 + run.1.len() as u64 / 512 != pfn {
                self.write_tables(&run)?;
                run = (pfn, Vec::new());
            }
            run.1.extend(entries);
        }
        self.write_tables(&run)
    }

    fn write_tables(&self, (pfn, entries): &(u64, Vec<u64>)) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let frames = self.memory.run(*pfn, entries.len() as u64 / 512)?;
        Ok(self.host.write_frames(self.domid, &frames, 0, entries.as_bytes())?)
    }

    fn finish(&self) -> Result<StartRegisters> {
        let (host, plan) = (self.host, self.plan);
        let root_mfn = self.memory.mfn(plan.page_tables.pfn)?;
        host.pin_root(self.domid, root_mfn)?;
        for (region, reference) in
            [(plan.console, GNTTAB_RESERVED_CONSOLE), (plan.xenstore, GNTTAB_RESERVED_XENSTORE)]
        {
            if let Some(region) = region {
                host.grant_to_dom0(self.domid, reference, self.memory.mfn(region.pfn)?)?;
            }
        }
        Ok(StartRegisters {
            rip: plan.entry,
            rsp: plan.stack.va_end(),
            start_info: plan.start_info.va,
            root_mfn,
        })
    }
}

/// The page through which older kernels call: entry `n` is `mov eax, n; syscall; ret`, and `iret` is a jump that saves
/// rcx, r11 and rax as its frame has them (`arch-x86/xen-x86_64.h`).
fn hypercall_page() -> Vec<u8> {
    const IRET: usize = 23;
    let mut page = vec![0xcc; PAGE_SIZE as usize];
    for (n, code) in page.chunks_exact_mut(32).take(64).enumerate() {
        if n == IRET {
            // push rcx; push r11; push rax; mov eax, 23; syscall
            code[..11].copy_from_slice(&[0x51, 0x41, 0x53, 0x50, 0xb8, 23, 0, 0, 0, 0x0f, 0x05]);
        } else {
            // push rcx; push r11; mov eax, n; syscall; pop r11; pop rcx; ret
            let number = n as u8;
            code[..14].copy_from_slice(&[
                0x51, 0x41, 0x53, 0xb8, number, 0, 0, 0, 0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3,
            ]);
        }
    }
    page
}
