//! What each CPU has of its own: stacks, the record at the end of the primary stack, GDT, TSS, syscall stub.
//!
//! One block of 128 KiB a CPU, aligned to its size. From low to high addresses: an unmapped guard page, the stacks
//! for double fault, machine check, NMI and #DB (two pages each, a guard page under each), a guard page, the primary
//! stack, and at its end the [`Cpu`] record. The guest's registers lie directly below the record, because that is
//! where the processor begins to push when it enters from ring 3.

use core::cell::Cell;
use core::mem::size_of;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use hv_core::mmu::SharedCpuSet;
use hv_core::mmu::clock::CpuFlushes;
use hv_core::mmu::tags::Tags;
use hv_core::sched::CpuQueue;
use hv_core::time::TimerQueue;
use spin::Mutex;

use crate::features::features;
use crate::layout::{self, STACK_BLOCK};
use crate::mem::{self, PAGE, pte};
use crate::parking::Parking;
use crate::topology::Neighbours;
use crate::vcpu::Vcpu;
use crate::work::Runner;
use crate::{cpu, desc, ipi};

/// Pages of the block that stay unmapped.
const GUARDS: [u64; 5] = [0, 3, 6, 9, 12];
/// End of each stack that an IST entry names, in pages from the start of the block.
const IST_ENDS: [u64; 4] = [3, 6, 9, 12];
const BLOCK_PAGES: u64 = STACK_BLOCK / PAGE;

/// No deadline.
pub const NEVER: u64 = u64::MAX;
/// CPUs the image has room to name.
pub const MAX_CPUS: usize = 256;

/// One CPU's record. Written by its own CPU only, except the atomics.
#[repr(C, align(16))]
pub struct Cpu {
    /// The vCPU whose registers are on the stack or were last; null on a CPU that never had one. Others may only
    /// compare it.
    pub current: AtomicPtr<Vcpu>,
    /// Number of this CPU, from 0.
    pub id: u32,
    /// APIC id.
    pub apic_id: u32,
    /// Machine address of the page that holds the CPU's own descriptors.
    pub gdt_page: u64,
    /// The same page, as we see it.
    pub gdt: *mut u64,
    /// TSS, for the top of the primary stack and the I/O bitmap.
    pub tss: *mut desc::Tss,
    /// The CPUs that are close to it.
    pub neighbours: Neighbours,
    /// Work that waits for the next return to a guest (bits of [`work`]).
    pub work: AtomicU32,
    /// How translations are tagged.
    pub tags: Tags,
    /// Root tables loaded so far.
    pub root_loads: AtomicU64,
    /// TLB flushes so far.
    pub tlb_flushes: AtomicU64,
    /// What it may remember of guests' tables.
    pub flushes: CpuFlushes,
    /// What other CPUs ask of this one.
    pub requests: ipi::Requests,
    /// The last round in which this CPU said that it uses nothing that it found before.
    pub passed: AtomicU64,
    /// It has come up and takes part.
    pub online: AtomicBool,
    /// Whether it is parked.
    pub parking: Parking,
    /// Time-stamp counter at which the present call has had its share; 0: not asked yet.
    slice_end: Cell<u64>,
    /// Vector and error code of the last foreseen fault in the hypervisor, for fix-ups that pass it on.
    pub last_fault: Cell<(u8, u32)>,
    /// Who runs here.
    pub queue: Mutex<CpuQueue<Runner>>,
    /// Timers that expire here.
    pub timers: Mutex<TimerQueue>,
    /// System time at which the running vCPU's slice ends; [`NEVER`] if nobody waits.
    pub slice: AtomicU64,
    /// System time at which this CPU last showed that it is not stuck, and when it does so next ([`NEVER`]: no watchdog).
    pub alive: AtomicU64,
    /// See `alive`.
    pub next_look: AtomicU64,
    /// Virtual time of the first vCPU that waits here; [`NEVER`] if none does.
    pub front: AtomicU64,
    /// The CPU that this one last asked to look for somebody to take.
    pub nudged: AtomicU32,
    /// Where the last NMI came that nobody asked for.
    pub strange_nmi: AtomicU64,
    /// Time without anything to do, in ns.
    pub idle_ns: AtomicU64,
    /// Times that another vCPU was put on this CPU.
    pub slices: AtomicU64,
}

/// Bits of [`Cpu::work`].
pub mod work {
    /// Choose again who runs.
    pub const SCHEDULE: u32 = 1;
    /// A timer may have expired.
    pub const TIMER: u32 = 2;
    /// An NMI came that nobody asked for.
    pub const NMI: u32 = 4;
    /// Events may be pending for the vCPU that runs.
    pub const LOOK: u32 = 8;
    /// The running vCPU's slice is over.
    pub const SLICE: u32 = 16;
    /// Somebody who waits elsewhere may be further behind than whoever runs here.
    pub const BALANCE: u32 = 32;
    /// All that make a CPU choose.
    pub const CHOOSE: u32 = SCHEDULE | SLICE | BALANCE;
    /// Say that this CPU uses nothing that it found before ([`crate::life`]).
    pub const PASS: u32 = 64;
    /// A CPU comes and wants to compare its TSC with this one's.
    pub const MEET: u32 = 128;
    /// What the running vCPU is told about the TSC is not so any more.
    pub const CLOCK: u32 = 256;
}

// SAFETY: the plain fields are written before the record is published and by the record's own CPU afterwards.
unsafe impl Sync for Cpu {}

static RECORDS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// Offset of the record within the block.
pub const RECORD_OFFSET: u64 = STACK_BLOCK - size_of::<Cpu>() as u64;

/// The record of the CPU that runs this code. Valid on any stack of a CPU's block, which is every stack after
/// [`enter_first_stack`].
#[inline(always)]
pub fn this_cpu() -> &'static Cpu {
    let sp: u64;
    // SAFETY: reads the stack pointer.
    unsafe { core::arch::asm!("mov {}, rsp", out(reg) sp, options(nomem, nostack, preserves_flags, pure)) };
    // SAFETY: all stacks lie in a block whose end holds an initialised record that is never freed (I-CPU-1).
    unsafe { &*(((sp & !(STACK_BLOCK - 1)) + RECORD_OFFSET) as *const Cpu) }
}

/// Record of CPU `id`, once it was prepared.
pub fn cpu_record(id: usize) -> Option<&'static Cpu> {
    let at = RECORDS.get(id)?.load(Ordering::Acquire);
    // SAFETY: a non-zero word is the address of a record published by `prepare`.
    (at != 0).then(|| unsafe { &*(at as *const Cpu) })
}

/// The CPUs that take part, in the order of their numbers.
pub fn online() -> impl Iterator<Item = &'static Cpu> + Clone {
    (0..MAX_CPUS).map_while(cpu_record).filter(|cpu| cpu.online.load(Ordering::Acquire))
}

/// CPUs that vCPUs and device interrupts may come to: those that are online, but for one on its way out. See
/// [`crate::parking::set_open`].
pub static OPEN: SharedCpuSet = SharedCpuSet::new();

/// The CPUs that vCPUs may come to, in the order of their numbers.
pub fn open() -> impl Iterator<Item = &'static Cpu> + Clone {
    online().filter(|cpu| OPEN.contains(cpu.id))
}

fn block(id: u32) -> u64 {
    layout::STACKS + u64::from(id) * 2 * STACK_BLOCK
}

/// Where the code of CPU `id`'s syscall stub lies: a page of its own behind the block.
pub fn stub(id: u32) -> u64 {
    block(id) + STACK_BLOCK
}

/// Makes stacks, record, descriptors and stub of CPU `id`.
pub fn prepare(id: u32, apic_id: u32) -> Result<&'static Cpu, mem::NoMemory> {
    let base = block(id);
    for page in (0..BLOCK_PAGES).filter(|p| !GUARDS.contains(p)) {
        mem::map_fresh(base + page * PAGE, PAGE)?;
    }
    let gdt_page = mem::take_frame().ok_or(mem::NoMemory)?;
    let tss_page = mem::take_frame().ok_or(mem::NoMemory)?;
    let record = (base + RECORD_OFFSET) as *mut Cpu;
    let tss = mem::phys_to_virt(tss_page).cast::<desc::Tss>();
    let gdt = mem::phys_to_virt(gdt_page).cast::<u64>();
    let ist = IST_ENDS.map(|end| base + end * PAGE);
    // SAFETY: both pages are fresh and ours; the layouts fit a page.
    unsafe {
        tss.write(desc::Tss::new(record as u64, ist));
        desc::fill_gdt_page(gdt, tss as u64, id);
    }
    // SAFETY: the record's memory was just mapped and nobody else knows of it.
    unsafe {
        record.write(Cpu {
            current: AtomicPtr::new(null_mut()),
            id,
            apic_id,
            gdt_page,
            gdt,
            tss,
            neighbours: Neighbours::none(),
            work: AtomicU32::new(0),
            tags: Tags::new(features().pcid),
            root_loads: AtomicU64::new(0),
            tlb_flushes: AtomicU64::new(0),
            flushes: CpuFlushes::new(),
            requests: ipi::Requests::empty(),
            passed: AtomicU64::new(0),
            online: AtomicBool::new(false),
            parking: Parking::absent(),
            slice_end: Cell::new(0),
            last_fault: Cell::new((0, 0)),
            queue: Mutex::new(CpuQueue::new(id)),
            timers: Mutex::new(TimerQueue::new()),
            slice: AtomicU64::new(NEVER),
            alive: AtomicU64::new(0),
            next_look: AtomicU64::new(NEVER),
            front: AtomicU64::new(NEVER),
            nudged: AtomicU32::new(0),
            strange_nmi: AtomicU64::new(0),
            idle_ns: AtomicU64::new(0),
            slices: AtomicU64::new(0),
        });
    }
    write_stubs(id, record as u64)?;
    if let Some(slot) = RECORDS.get(id as usize) {
        slot.store(record as u64, Ordering::Release);
    }
    // SAFETY: initialised above and never freed.
    Ok(unsafe { &*record })
}

/// The stub stores the guest's stack pointer in its place among the saved registers and continues from there:
/// `mov [rip + a], rsp; lea rsp, [rip + b]; jmp syscall_entry`.
///
/// The page holds two of them: one for 64-bit user mode, one for compatibility mode.
fn write_stubs(id: u32, record: u64) -> Result<(), mem::NoMemory> {
    let frame = mem::take_frame().ok_or(mem::NoMemory)?;
    let entries =
        [crate::quick::syscall_entry as *const () as u64, crate::entry::syscall32_entry as *const () as u64];
    for (n, entry) in entries.into_iter().enumerate() {
        let offset = n as u64 * STUB_SIZE;
        write_stub(mem::phys_to_virt(frame + offset), stub(id) + offset, record, entry);
    }
    // SAFETY: the page behind the block is unused until here.
    unsafe { mem::map(stub(id), frame, PAGE, pte::CODE) }
}

/// Bytes between two stubs.
pub const STUB_SIZE: u64 = 32;

fn write_stub(code: *mut u8, at: u64, record: u64, entry: u64) {
    let rsp_slot = record - 16;
    let rel = |target: u64, next: u64| (target.wrapping_sub(at + next) as u32).to_le_bytes();
    let mut bytes = [0xccu8; 19];
    bytes[..3].copy_from_slice(&[0x48, 0x89, 0x25]);
    bytes[3..7].copy_from_slice(&rel(rsp_slot, 7));
    bytes[7..10].copy_from_slice(&[0x48, 0x8d, 0x25]);
    bytes[10..14].copy_from_slice(&rel(rsp_slot, 14));
    bytes[14] = 0xe9;
    bytes[15..19].copy_from_slice(&rel(entry, 19));
    // SAFETY: a fresh frame of ours; it becomes executable only below, and through the direct map it is data that
    // nobody writes again (I-HV-1 allows the view because the stub has no other writer).
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), code, bytes.len()) };
}

/// Leaves the boot stack for the primary stack of the prepared CPU and calls `then` there.
///
/// # Safety
/// Called once on each CPU, on its boot stack, which is never used again.
pub unsafe fn enter_first_stack(cpu: &'static Cpu, then: extern "C" fn() -> !) -> ! {
    let top = core::ptr::from_ref(cpu) as u64;
    // SAFETY: the stack below the record is mapped and unused; `then` does not return.
    unsafe {
        core::arch::asm!("mov rsp, {}", "xor ebp, ebp", "call {}", "ud2", in(reg) top, in(reg) then,
            options(noreturn));
    }
}

/// Counts one more; only the counter's own CPU writes it.
#[inline(always)]
pub fn count(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

/// Adds to a counter that only its own CPU writes.
pub fn count_by(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

/// Time-stamp ticks that one call may take before it must let others run. A millisecond at 1 GHz, less on faster
/// machines.
const SLICE: u64 = 1_000_000;

impl Cpu {
    /// A new call begins.
    #[inline(always)]
    pub fn begin_call(&self) {
        self.slice_end.set(0);
    }

    /// True if the present call has run for long enough. The clock starts at the first question.
    pub fn slice_is_over(&self) -> bool {
        let now = cpu::rdtsc();
        match self.slice_end.get() {
            0 => {
                self.slice_end.set(now.wrapping_add(SLICE));
                false
            }
            end => now > end,
        }
    }
}
