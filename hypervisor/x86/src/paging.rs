//! The guest's page tables: the bridge between the core's rules and this processor.

use core::sync::atomic::{AtomicU64, Ordering};

use hv_core::call::CallError;
use hv_core::frame::{Frame, FrameTable};
use hv_core::grant::{GrantPorts, GrantTable};
use hv_core::heap::Heap;
use hv_core::memory_op::{MemoryMap, MemoryPorts};
use hv_core::mmu::port::{Domains, Registers, Tlb};
use hv_core::mmu::{Caller, DomainMemory, EmulatedWrite, Mmu, RangeSet};
use hv_core::port::{GuestSpace, Memory};
use hv_pv::code::Code;
use hv_pv::descriptor::SegmentDescriptor;
use hv_pv::emulate::decode::Segment;
use hv_pv::emulate::port::RootSwitch;
use hv_pv::ptwr;
use hv_pv::ptwr_string::StringWrite;
use hv_pv::regs::Regs;
use hv_types::{DomId, GuestVa, Mfn};
use spin::{Mutex, Once};

use guest_abi::errno::Errno;
use guest_abi::memory::E820Entry;

use crate::cpu::msr::{FS_BASE, GS_BASE};
use crate::guest::Caller as GuestMemory;
use crate::layout;
use crate::machine::Machine;
use crate::mem::{self, PAGE, phys_to_virt, pte};
use crate::percpu::{self, Cpu, this_cpu};
use crate::vcpu::{Vcpu, current};
use crate::{cpu, desc, domain, ipi, tlb};

/// Free memory of the machine.
pub static HEAP: Heap = Heap::new();
static READ_ONLY_IO: Mutex<RangeSet> = Mutex::new(RangeSet::new());
static MACHINE: Machine = Machine;

/// The frame table and the M2P, as slices over their windows, and what belongs to them.
static MMU: Once<Mmu<'static, Machine>> = Once::new();

/// Makes the core see the frame table and the M2P that [`mem::take_over`] mapped.
pub fn init(extent: mem::Extent) {
    let len = extent.max_mfn as usize;
    // SAFETY: both windows are mapped for `len` records, zeroed (frames) or all ones (M2P), and never unmapped. Holes
    // share one frame, whose records stay as they are because no hole is ever owned by anybody (I-FR-9).
    let tables = unsafe {
        (
            FrameTable::new(core::slice::from_raw_parts(layout::FRAMES as *const Frame, len)),
            core::slice::from_raw_parts(layout::M2P_RW as *const AtomicU64, len),
        )
    };
    let (frames, m2p) = tables;
    MMU.call_once(|| Mmu { frames, heap: &HEAP, m2p, read_only_io: &READ_ONLY_IO, port: &MACHINE });
}

/// Everything the core's page-table code works on.
#[inline(always)]
pub fn mmu() -> &'static Mmu<'static, Machine> {
    // SAFETY: `init` runs before the first guest and before the first use (order in `start`).
    unsafe { MMU.get_unchecked() }
}

/// The calling vCPU, for the core.
#[inline(always)]
pub fn caller(vcpu: &'static Vcpu) -> Caller<'static> {
    Caller { domain: &vcpu.domain.memory, vcpu: &vcpu.mmu }
}

/// A frame for the hypervisor's own use.
pub fn take_frame() -> Option<u64> {
    let fresh = HEAP.alloc(mmu().frames, 0, 64)?;
    Some(fresh.make_safe(&MACHINE, false).mfn().0 * PAGE)
}

impl Registers for Machine {
    fn load_root(&self, root: Mfn) {
        // SAFETY: the core has validated the root and holds a reference for the vCPU (I-PT-2).
        unsafe { tlb::load_kernel_root(this_cpu(), root.0 << 12) };
    }

    fn forget_user_root(&self) {
        tlb::forget_user_root();
    }

    fn reload_ldt(&self, entries: u32) {
        let vcpu = current();
        vcpu.window.clear_ldt();
        vcpu.ldt_entries.set(entries);
        load_ldt(this_cpu(), vcpu);
    }

    fn reload_gdt(&self) {
        let vcpu = current();
        map_gdt(vcpu);
        load_gdt(this_cpu(), vcpu);
    }

    fn write_back_caches(&self, every_cpu: bool) {
        if every_cpu {
            ipi::write_back_caches_of_others();
        }
        cpu::wbinvd();
    }

    #[inline(always)]
    fn should_preempt(&self) -> bool {
        this_cpu().slice_is_over()
    }
}

impl Domains for Machine {
    fn domain(&self, id: DomId) -> Option<&DomainMemory> {
        domain::find(id).map(|d| &d.memory)
    }

    fn dirty_cpu(&self, domain: DomId, vcpu: u32) -> Option<u32> {
        let vcpu = *domain::find(domain)?.vcpus().get(vcpu as usize)?;
        let cpu = percpu::cpu_record(vcpu.last_cpu()? as usize)?;
        // Who has loaded another vCPU since has flushed since.
        core::ptr::eq(cpu.current.load(Ordering::Acquire), vcpu).then_some(cpu.id)
    }

    fn hypervisor_slots(&self, domain: DomId) -> [u64; 16] {
        let own = domain::find(domain).map_or(0, |d| d.area.entry());
        core::array::from_fn(|n| {
            let slot = layout::FIRST_SLOT + n;
            if slot == layout::PER_DOMAIN_SLOT { own } else { slots()[n] }
        })
    }

    fn check_descriptor(&self, descriptor: u64) -> Option<u64> {
        SegmentDescriptor::check(descriptor).ok().map(SegmentDescriptor::bits)
    }
}

impl GrantPorts for Machine {
    fn grants(&self, dom: DomId) -> Option<&GrantTable> {
        domain::find(dom).map(|d| &d.grants)
    }
}

impl MemoryPorts for Machine {
    fn max_page(&self) -> u64 {
        mmu().m2p.len() as u64
    }

    fn machine_region(&self, index: usize) -> Option<E820Entry> {
        let region = crate::start::boot_info()?.memory.get(index)?;
        Some(E820Entry { addr: region.start, size: region.end - region.start, kind: region.kind })
    }

    fn m2p_extent(&self, index: u64) -> Option<Mfn> {
        let size = (mmu().m2p.len() as u64 * 8).next_multiple_of(PAGE);
        let offset = index.checked_mul(2 << 20).filter(|offset| *offset < size)?;
        mem::translate(layout::M2P_RW + offset).map(Mfn::containing)
    }

    fn memory_map(&self, dom: DomId) -> Option<&MemoryMap> {
        domain::find(dom).map(|d| &d.memory_map)
    }

    fn shared_info(&self, dom: DomId) -> Option<Mfn> {
        domain::find(dom).map(|d| d.shared_info)
    }
}

/// The template of the hypervisor's slots, read once: the root's entries never change after boot.
fn slots() -> &'static [u64; 16] {
    static SLOTS: Once<[u64; 16]> = Once::new();
    SLOTS.call_once(|| core::array::from_fn(|n| mem::root_entry(layout::FIRST_SLOT + n)))
}

/// A domain's own part of the hypervisor's range: the table of level 3 and what hangs below it, for the GDT and LDT
/// windows of its vCPUs.
pub struct Area {
    l3: u64,
    l2: u64,
    /// One table of level 1 for each 16 vCPUs.
    l1: [AtomicU64; 8],
}

/// vCPUs whose windows one table of level 1 maps.
const VCPUS_PER_TABLE: usize = 16;
const WINDOW_PAGES: usize = 32;

impl Area {
    /// An area without windows.
    pub fn new() -> Option<Area> {
        let (l3, l2) = (mem::take_frame()?, mem::take_frame()?);
        // SAFETY: a fresh frame of ours.
        unsafe { phys_to_virt(l3).cast::<u64>().write(l2 | pte::TABLE) };
        Some(Area { l3, l2, l1: [const { AtomicU64::new(0) }; 8] })
    }

    /// The root entry for [`layout::PER_DOMAIN_SLOT`].
    pub fn entry(&self) -> u64 {
        self.l3 | pte::TABLE
    }

    /// Gives back the area's frames, once. No CPU uses its windows, and no root shows them any more.
    pub fn release(&self, mut give_back: impl FnMut(u64)) {
        for l1 in &self.l1 {
            let l1 = l1.swap(0, Ordering::AcqRel);
            if l1 != 0 {
                give_back(l1);
            }
        }
        give_back(self.l2);
        give_back(self.l3);
    }

    /// The window of a vCPU; `None` if memory is exhausted or the number too high.
    pub fn window(&self, vcpu: usize) -> Option<Window> {
        let slot = self.l1.get(vcpu / VCPUS_PER_TABLE)?;
        if slot.load(Ordering::Acquire) == 0 {
            let l1 = mem::take_frame()?;
            // SAFETY: the entry is absent and the domain's creation is the only writer.
            unsafe { phys_to_virt(self.l2).cast::<u64>().add(vcpu / VCPUS_PER_TABLE).write(l1 | pte::TABLE) };
            slot.store(l1, Ordering::Release);
        }
        let table = phys_to_virt(slot.load(Ordering::Acquire)).cast::<u64>();
        let first = vcpu % VCPUS_PER_TABLE * WINDOW_PAGES;
        Some(Window { entries: table.wrapping_add(first), va: layout::gdt_window(vcpu) })
    }
}

/// 16 pages of GDT and 16 of LDT.
pub struct Window {
    entries: *mut u64,
    va: u64,
}

// SAFETY: only the CPU that runs or holds the vCPU changes its window (I-VC-1).
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

/// First page of the LDT in a window.
const LDT_PAGE: usize = 16;

impl Window {
    fn set(&self, page: usize, entry: u64) {
        // SAFETY: the window's own 32 entries.
        unsafe { self.entries.add(page & 31).write_volatile(entry) };
        tlb::flush_page(self.va + page as u64 * PAGE);
    }

    fn clear_ldt(&self) {
        (LDT_PAGE..2 * LDT_PAGE).for_each(|page| self.set(page, 0));
    }
}

/// Maps the guest's GDT frames and this CPU's own page in the vCPU's window.
pub fn map_gdt(vcpu: &Vcpu) {
    for page in 0..layout::GUEST_GDT_PAGES {
        // The processor sets accessed bits, hence writable for ring 0; the guest has no mapping that could.
        let entry =
            vcpu.mmu.gdt(page).map_or(0, |mfn| mfn.0 << 12 | pte::P | pte::W | pte::A | pte::D | pte::NX);
        vcpu.window.set(page, entry);
    }
    map_own_page(this_cpu(), vcpu);
}

/// Maps this CPU's descriptor page behind the guest's.
pub fn map_own_page(cpu: &Cpu, vcpu: &Vcpu) {
    vcpu.window.set(layout::GUEST_GDT_PAGES, cpu.gdt_page | pte::P | pte::W | pte::A | pte::D | pte::NX);
}

/// Points this CPU's GDTR at the vCPU's window.
pub fn load_gdt(_cpu: &Cpu, vcpu: &Vcpu) {
    // SAFETY: the window holds this CPU's page at its place and checked descriptors or nothing before it.
    unsafe { desc::load_gdt(vcpu.window.va) };
}

/// Loads the vCPU's LDT on this CPU.
pub fn load_ldt(cpu: &Cpu, vcpu: &Vcpu) {
    let base = vcpu.window.va + LDT_PAGE as u64 * PAGE;
    // SAFETY: pages of the LDT window hold checked descriptors or are absent and come by fault.
    unsafe { desc::load_ldt(cpu.gdt, base, vcpu.ldt_entries.get()) };
}

/// A fault in the hypervisor's range: a page of the LDT that was not touched before. True if it is there now.
pub fn fault_in_window(vcpu: &'static Vcpu, address: u64) -> bool {
    let Some(offset) = address.checked_sub(vcpu.window.va + LDT_PAGE as u64 * PAGE) else { return false };
    if offset >= LDT_PAGE as u64 * PAGE {
        return false;
    }
    match mmu().take_ldt_frame(&caller(vcpu), offset) {
        Some(mfn) => {
            let entry = mfn.0 << 12 | pte::P | pte::W | pte::A | pte::D | pte::NX;
            vcpu.window.set(LDT_PAGE + (offset / PAGE) as usize, entry);
            true
        }
        None => false,
    }
}

fn segment_base(segment: Segment) -> u64 {
    let msr = match segment {
        Segment::Fs => FS_BASE,
        Segment::Gs => GS_BASE,
        _ => return 0,
    };
    // SAFETY: both registers exist on every x86-64 processor.
    unsafe { cpu::rdmsr(msr) }
}

/// Attempts before a write that keeps losing its race is left to the guest to repeat.
const ATTEMPTS: u32 = 8;

/// A write to a page-table page that is mapped read-only. True if done.
pub fn page_table_write(regs: &mut Regs, vcpu: &'static Vcpu, address: u64) -> bool {
    let Some((_, _, leaf)) = mmu().leaf_of(&caller(vcpu), GuestVa(address)) else { return false };
    if !leaf.is_present() || !mmu().frames.is_table(leaf.mfn(), 1) {
        return false;
    }
    let Ok(code) = Code::fetch(GuestVa(regs.rip), &GuestMemory) else { return false };
    let code = code.bytes();
    let stepped = match ptwr::decode(code, regs, GuestVa(address), segment_base) {
        Ok(write) => match store_entry(vcpu, leaf.mfn(), &write) {
            Some(Stored::Found(old)) => write.retire(old, regs),
            Some(Stored::Again) => return true,
            None => return false,
        },
        Err(_) => match string_write(regs, vcpu, leaf.mfn(), code, GuestVa(address)) {
            Some(stepped) => stepped,
            None => return false,
        },
    };
    if stepped {
        crate::trap::single_step(regs, vcpu);
    }
    true
}

/// How a write of an entry ended.
enum Stored {
    /// It found this.
    Found(u64),
    /// It kept losing its race: the guest runs the instruction again.
    Again,
}

/// Has the core check and exchange the entry. `None`: it refuses.
#[inline(always)]
fn store_entry(vcpu: &'static Vcpu, table: Mfn, write: &ptwr::EntryWrite) -> Option<Stored> {
    let (m, caller, index) = (mmu(), caller(vcpu), write.index());
    if let Some(new) = write.unconditional() {
        let old = m.emulated_write(&caller, table, index * 8, 8, EmulatedWrite::Store(new)).ok()?;
        return Some(Stored::Found(old));
    }
    for _ in 0..ATTEMPTS {
        let old = MACHINE.load64(table, index);
        let Some(new) = write.entry(old) else { return Some(Stored::Found(old)) };
        match m.emulated_write(&caller, table, index * 8, 8, EmulatedWrite::CompareExchange { old, new }) {
            Ok(_) => return Some(Stored::Found(old)),
            Err(Errno::EAGAIN) => {}
            Err(_) => return None,
        }
    }
    Some(Stored::Again)
}

/// One element of a STOS or MOVS. The answer says whether a single-step trap follows.
#[cold]
fn string_write(
    regs: &mut Regs,
    vcpu: &'static Vcpu,
    table: Mfn,
    code: &[u8],
    fault: GuestVa,
) -> Option<bool> {
    let string = StringWrite::decode(code, regs, fault).ok()?;
    let value = match string.source(regs) {
        None => regs.rax,
        Some((from, len)) => {
            let mut bytes = [0; 8];
            GuestMemory.read(from, bytes.get_mut(..len)?).ok()?;
            u64::from_le_bytes(bytes)
        }
    };
    match store_entry(vcpu, table, &string.element(value))? {
        Stored::Found(_) => Some(string.retire(regs)),
        Stored::Again => Some(false),
    }
}

/// Makes another frame the kernel's root: a trapped `mov cr3`.
pub fn switch_root(vcpu: &'static Vcpu, root: Mfn) -> RootSwitch {
    match mmu().set_roots(&caller(vcpu), root, None) {
        Ok(()) => {
            MACHINE.load_root(root);
            RootSwitch::Done
        }
        Err(CallError::Retry(_)) => RootSwitch::Preempted,
        Err(_) => RootSwitch::Refused,
    }
}

/// Fills a frame of the guest with the hypercall page.
pub fn write_hypercall_page(vcpu: &'static Vcpu, frame: u64) -> bool {
    let m = mmu();
    match m.frames.get_writable_fast(Mfn(frame), vcpu.domain.id) {
        Ok(held) => {
            // SAFETY: the writable reference is held, so that the frame is the guest's memory.
            unsafe { crate::dom0::write_hypercall_page(phys_to_virt(frame * PAGE)) };
            if let Some(dead) = m.frames.put_writable(held, || MACHINE.clock()) {
                drop(dead);
            }
            true
        }
        Err(_) => false,
    }
}

/// Reads a descriptor of the tables that are loaded on this CPU.
pub fn read_descriptor(selector: u16) -> Option<u64> {
    let vcpu = current();
    let index = u64::from(selector >> 3);
    let (base, limit) = if selector & 4 == 0 {
        (vcpu.window.va, u64::from(desc::GDT_LIMIT) / 8)
    } else {
        (vcpu.window.va + LDT_PAGE as u64 * PAGE, u64::from(vcpu.ldt_entries.get()))
    };
    if index >= limit {
        return None;
    }
    read_own(base + index * 8)
}

/// Reads a word of the hypervisor's range that may not be mapped.
fn read_own(at: u64) -> Option<u64> {
    let value: u64;
    // SAFETY: a fault lands at the label; the windows are readable data.
    unsafe {
        core::arch::asm!("21: mov {v}, [{at}]",
            ".pushsection .ex_table, \"a\"", ".long 21b - ., {fault} - .", ".popsection",
            v = out(reg) value, at = in(reg) at, fault = label { return None }, options(nostack, readonly));
    }
    Some(value)
}
