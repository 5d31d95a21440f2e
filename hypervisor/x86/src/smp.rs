//! Starting the other CPUs.
//!
//! The boot CPU prepares a CPU's stacks and record, copies the trampoline to a page below 1 MiB and sends INIT and STARTUP.
//! The started CPU makes itself alike and joins the scheduler with nothing to run. One that does not answer is left out.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use boot_entry::trampoline::{Start, image};
use hv_pv::regs::Regs;

use crate::boot::{Info, kind};
use crate::dev::acpi::Platform;
use crate::dev::{apic, firmware, mca, time, tsc};
use crate::mem::{self, BOOT, PAGE, pte};
use crate::percpu::{self, Cpu, MAX_CPUS, this_cpu};
use crate::{alone, desc, entry, features, layout, tlb, topology, work};

/// Root table of a CPU in the trampoline: below 4 GiB, maps the page to itself, and the hypervisor. 0: none yet.
static START_ROOT: AtomicU64 = AtomicU64::new(0);
/// How long a CPU may take to report, in ns.
const PATIENCE: u64 = 1_000_000_000;
/// Between INIT and STARTUP, in ns (Intel SDM, "MP Initialization Protocol").
const AFTER_INIT: u64 = 10_000_000;
/// Between two STARTUPs, in ns.
const AFTER_STARTUP: u64 = 200_000;

/// A page of RAM below 640 KiB that CPUs can start in. The hypervisor uses no memory there for anything that lasts.
fn low_page(info: &Info) -> Option<u64> {
    let low = |end: u64| end.min(0xa_0000) & !(PAGE - 1);
    let ram = info.memory.iter().filter(|r| r.kind == kind::RAM);
    ram.filter_map(|r| low(r.end).checked_sub(PAGE).filter(|page| *page >= r.start.max(PAGE))).max()
}

fn frame_below_4g() -> Option<u64> {
    let frame = BOOT.lock().take(PAGE, PAGE, 1 << 32)?;
    // SAFETY: just taken, so nobody else's; the direct map shows it.
    unsafe { core::ptr::write_bytes(mem::phys_to_virt(frame), 0, PAGE as usize) };
    Some(frame)
}

/// Makes the root table that the trampoline loads.
fn start_root(page: u64) -> Option<u64> {
    let tables: [u64; 4] = [frame_below_4g()?, frame_below_4g()?, frame_below_4g()?, frame_below_4g()?];
    let put = |table: u64, index: usize, entry: u64| {
        // SAFETY: a table just made, which no CPU has loaded.
        unsafe { mem::phys_to_virt(table).cast::<u64>().add(index & 511).write(entry) };
    };
    put(tables[0], 0, tables[1] | pte::TABLE);
    put(tables[1], 0, tables[2] | pte::TABLE);
    put(tables[2], 0, tables[3] | pte::TABLE);
    // Written once, here: what runs in it is copied through the direct map, and only while a CPU starts.
    put(tables[3], (page / PAGE) as usize, page | pte::P | pte::W | pte::A | pte::D);
    for slot in layout::FIRST_SLOT..layout::END_SLOT {
        put(tables[0], slot, mem::root_entry(slot));
    }
    Some(tables[0])
}

/// Starts every CPU that ACPI names, `most` in all; says which did not come.
pub fn start_all(info: &Info, platform: &Platform, most: usize) {
    let own = apic::id();
    join(this_cpu());
    topology::introduce(this_cpu());
    let candidates = platform.processors.iter().filter(|p| p.usable && p.apic_id != own);
    let Some(page) = low_page(info) else {
        return log::error!("no memory below 640 KiB to start other processors in");
    };
    let (mut id, mut joined) = (1, 1);
    for processor in candidates.take(most.clamp(1, MAX_CPUS) - 1) {
        if START_ROOT.load(Ordering::Relaxed) == 0 {
            let Some(root) = start_root(page) else { return log::error!("no memory to start processors") };
            START_ROOT.store(root, Ordering::Relaxed);
        }
        let Ok(cpu) = percpu::prepare(id, processor.apic_id) else {
            log::error!("no memory for the processor with APIC id {} and those after it", processor.apic_id);
            break;
        };
        if start(cpu, page) {
            topology::introduce(cpu);
            joined += 1;
        } else {
            log::error!("processor with APIC id {} does not start; left out", processor.apic_id);
        }
        // Of one that does not start nobody uses the number: it may still come to what is prepared for it.
        id += 1;
    }
    log::info!("{joined} of {} processors", platform.processors.iter().filter(|p| p.usable).count());
    topology::report();
}

/// Starts a CPU; true once it has joined.
fn start(cpu: &'static Cpu, page: u64) -> bool {
    let apic_id = cpu.apic_id;
    let start = Start {
        page: page as u32,
        root: START_ROOT.load(Ordering::Relaxed),
        // The guest's registers have their place at the very end.
        stack: core::ptr::from_ref(cpu) as u64 - PAGE,
        entry: joined as *const () as u64,
    };
    let code = image(start);
    // SAFETY: RAM below 1 MiB is nobody's until dom0 runs; the direct map shows it.
    unsafe { core::ptr::copy_nonoverlapping(code.as_ptr(), mem::phys_to_virt(page), code.len()) };
    apic::send_init(apic_id);
    time::wait(AFTER_INIT);
    let deaf = DEAF.swap(false, Ordering::Relaxed);
    for _ in 0..2 {
        if !deaf {
            apic::send_startup(apic_id, (page / PAGE) as u8);
        }
        time::wait(AFTER_STARTUP);
        tsc::attend();
        if cpu.online.load(Ordering::Acquire) {
            return true;
        }
    }
    let end = time::now() + PATIENCE;
    while time::now() < end {
        tsc::attend();
        if cpu.online.load(Ordering::Acquire) {
            return true;
        }
        core::hint::spin_loop();
    }
    // It must not wake up later.
    apic::send_init(apic_id);
    false
}

/// The CPU takes part from here on.
fn join(cpu: &Cpu) {
    percpu::OPEN.insert(cpu.id);
    alone::begin(cpu);
    cpu.parking.come_up();
    cpu.online.store(true, Ordering::Release);
}

/// First Rust code of a started CPU, on its own primary stack.
extern "C" fn joined() -> ! {
    let cpu = this_cpu();
    tlb::load_own_root(cpu);
    // SAFETY: first code of this CPU, once, on the final tables.
    unsafe { prepare_processor(cpu) };
    if let Some(platform) = firmware::platform() {
        let acpi_id = platform.processors.iter().find(|p| p.apic_id == cpu.apic_id).map_or(0, |p| p.acpi_id);
        apic::init_cpu(platform, acpi_id);
    }
    tsc::come(cpu, false);
    join(cpu);
    if cpu.id == 1 && HANG.load(Ordering::Acquire) {
        hang_on_purpose();
    }
    let vcpu = work::first(cpu);
    let place = (core::ptr::from_ref(cpu) as u64 - size_of::<Regs>() as u64) as *mut Regs;
    // SAFETY: the place of the guest's registers at the end of this stack; our own frames are far below it.
    unsafe { place.write(vcpu.saved.get()) };
    // SAFETY: the vCPU's state is loaded and its registers are in place.
    unsafe { entry::enter_guest(place) }
}

/// `selftest=deaf` was asked for: the next processor is not told to start.
pub static DEAF: AtomicBool = AtomicBool::new(false);

/// `selftest=hang` was asked for.
pub static HANG: AtomicBool = AtomicBool::new(false);

/// `selftest=hang`: a CPU that never comes back.
#[inline(never)]
fn hang_on_purpose() -> ! {
    loop {
        core::hint::spin_loop();
    }
}

/// Loads this CPU's descriptors and entry points and switches its protections on.
///
/// # Safety
/// Once a CPU, on its primary stack and on the final tables.
pub unsafe fn prepare_processor(cpu: &Cpu) {
    // SAFETY: the page is this CPU's own; nothing below it in the table is reachable yet.
    unsafe {
        desc::load_gdt(cpu.gdt as u64 - u64::from(desc::RESERVED));
        desc::load_segments();
        desc::load_idt();
        desc::set_syscall(percpu::stub(cpu.id), core::ptr::from_ref(cpu) as u64);
        features::enable();
    }
    mca::init_cpu();
}
