//! The order of initialisation, from the loader's hand-over to dom0's first instruction.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use guest_abi::Errno;
use guest_abi::vga::Dom0VgaConsoleInfo;
use guest_abi::x86_64::{FLAT_KERNEL_CS, FLAT_KERNEL_SS};
use hv_core::call::CallError;
use hv_core::event::Limits;
use hv_core::frame::Share;
use hv_core::mmu::CpuSet;
use hv_core::options::{Level, Options, Selftest, Size};
use hv_core::pirq::Pirqs;
use hv_core::platform::line::{Consoles, Settings};
use hv_core::sched::{DEFAULT_WEIGHT, Reasons};
use hv_pv::cpuid::HypervisorLeaves;
use hv_pv::regs::{Regs, flags};
use hv_types::{DomId, Gfn, Mfn};
use spin::Once;
use zerocopy::IntoBytes;

use crate::boot::{self, Info, kind};
use crate::calls::version;
use crate::dev::{apic, firmware, ioapic, irq, pci, pic, serial, time, tsc, vga};
use crate::dom0::Frames;
use crate::domain::{self, Domain};
use crate::life::MAX_VCPUS;
use crate::machine::Machine;
use crate::mem::{self, Extent, PAGE};
use crate::paging::{self, Area, HEAP, mmu};
use crate::percpu::{self, this_cpu};
use crate::vcpu::Vcpu;
use crate::watchdog;
use crate::work::{self, Runner};
use crate::{
    alone, console, cpu, cpuid, dom0, entry, features, guest, heap, host, hub, parking, power, println, smp,
    switch,
};

static INFO: Once<Info> = Once::new();

/// The loader's information.
pub fn boot_info() -> Option<&'static Info> {
    INFO.get()
}

/// The name and version that the first line shows.
const VERSION: &str = env!("CARGO_PKG_VERSION");

fn log_level(level: Level) -> log::LevelFilter {
    match level {
        Level::Error => log::LevelFilter::Error,
        Level::Warning => log::LevelFilter::Warn,
        Level::Info => log::LevelFilter::Info,
        Level::All => log::LevelFilter::Trace,
    }
}

/// Stops before there is anything to run, with a line that says what to do.
fn give_up(what: core::fmt::Arguments) -> ! {
    println!("Xenolith cannot start: {what}");
    power::after_fatal()
}

/// First Rust code: on the boot stack and the boot tables.
///
/// # Safety
/// Called once, by the entry code, with the loader's `mbi` and the image at machine address `base`.
pub unsafe fn begin(mbi: u64, base: u64) -> ! {
    console::install(log::LevelFilter::Info);
    println!("Xenolith {VERSION}");
    // SAFETY: the entry code passes the loader's word and has mapped the first 4 GiB.
    let info = match unsafe { boot::read(mbi) } {
        Ok(info) => INFO.call_once(|| info),
        Err(boot::Unusable(why)) => give_up(format_args!("{why}; use GRUB 2's multiboot2")),
    };
    let options = Options::parse(&info.command_line);
    log::set_max_level(log_level(options.log_level));
    power::set_no_reboot(options.no_reboot);
    open_serial(&options);
    log::info!("command line: {}", info.command_line);
    for name in &options.unknown {
        log::warn!("unknown option `{name}` is ignored");
    }
    for word in &options.bad {
        log::warn!("option `{word}` has a value that makes no sense; it is ignored");
    }
    features::init(options.pcid);
    if !features::features().nx {
        give_up(format_args!("the processor has no NX, or the firmware switched it off"));
    }
    if !features::features().smap {
        // SAFETY: the boot tables map text writable, and this is the only CPU that runs.
        unsafe { guest::patch_smap() };
    }
    // SAFETY: first and only call, on the boot tables.
    let extent = match unsafe { mem::take_over(info, base) } {
        Ok(extent) => extent,
        Err(mem::NoMemory) => give_up(format_args!("no memory below 4 GiB for its own tables")),
    };
    log::info!("RAM: {} MiB, highest frame {:#x}", extent.ram_frames / 256, extent.max_mfn);
    let Ok(cpu) = percpu::prepare(0, cpu::apic_id()) else { give_up(format_args!("no memory for stacks")) };
    // SAFETY: once, on the boot stack, which is not used again.
    unsafe { percpu::enter_first_stack(cpu, on_own_stack) }
}

/// Second half: own stack, own tables.
extern "C" fn on_own_stack() -> ! {
    let cpu = this_cpu();
    // SAFETY: once, on the primary stack and the final tables.
    unsafe { smp::prepare_processor(cpu) };
    let Some(info) = INFO.get() else { give_up(format_args!("boot information is lost")) };
    let options = Options::parse(&info.command_line);
    version::init(options.compat, &info.command_line);
    cpuid::init(HypervisorLeaves {
        version: u32::from(options.compat.0) << 16 | u32::from(options.compat.1),
        ..HypervisorLeaves::default()
    });
    log::info!("processor: {}", features::features());
    let screen = open_screen(info, &options);
    if options.selftest == Some(Selftest::Fault) {
        fault_on_purpose();
    }
    let gsis = start_devices(info, &options);
    match build(info, &options, screen, gsis) {
        Ok((vcpu, regs)) => run_first(vcpu, regs),
        Err(error) => give_up(format_args!("{error}")),
    }
}

/// `selftest=fault`: reads where nothing is mapped.
#[inline(never)]
fn fault_on_purpose() {
    // SAFETY: none, which is the point: an address of the hypervisor's that is never mapped. The fault is caught and
    // ends in a report.
    let _ = unsafe { core::ptr::read_volatile(0xffff_82ff_dead_b000 as *const u64) };
}

/// Writes the log and dom0's console to the devices that are open.
fn sink(bytes: &[u8]) {
    serial::write(bytes);
    vga::write(bytes);
}

/// What `com1=` says.
fn line_settings(options: &Options) -> Settings {
    Settings::COM1.with(options.com1.unwrap_or("")).unwrap_or(Settings::COM1)
}

/// Which consoles `console=` names.
fn consoles(options: &Options) -> Consoles {
    options.console.and_then(|c| Consoles::parse(c).ok()).unwrap_or(Consoles::DEFAULT)
}

/// From here on the log goes to the line that the options name, or nowhere until there is a screen.
fn open_serial(options: &Options) {
    let wanted = consoles(options).serial;
    let opened = if wanted { serial::init(&line_settings(options)) } else { Ok(()) };
    console::set_sink(sink);
    if options.console_to_ring {
        console::keep_guest_in_ring();
    }
    if let Err(error) = opened {
        log::warn!("no serial line: {error:?}");
    }
}

/// Opens the screen and says how dom0 inherits it.
fn open_screen(info: &Info, options: &Options) -> Option<Dom0VgaConsoleInfo> {
    if !consoles(options).screen {
        return None;
    }
    let efi = info.efi_system_table.is_some();
    vga::init(info.framebuffer.as_ref(), efi);
    let screen = vga::dom0_console(info.framebuffer.as_ref(), efi);
    console::replay(vga::write);
    screen
}

/// Interrupt controllers, clocks and configuration space. Returns the number of GSIs.
fn start_devices(info: &'static Info, options: &Options) -> u32 {
    pic::silence();
    let platform = match firmware::init(info) {
        Ok(platform) => platform,
        Err(error) => give_up(format_args!("ACPI: {error:?}; enable ACPI in the firmware")),
    };
    if let Err(error) = apic::init(platform, options.x2apic) {
        give_up(format_args!("{error:?}: no usable local APIC; switch it on in the firmware"));
    }
    apic::init_cpu(platform, 0);
    if time::init(platform, options.platform_timer).is_err() {
        give_up(format_args!("no clock to measure the processor's counter with"));
    }
    console::set_clock(time::now);
    smp::HANG.store(options.selftest == Some(Selftest::Hang), Ordering::Release);
    smp::DEAF.store(options.selftest == Some(Selftest::Deaf), Ordering::Relaxed);
    parking::STAYS.store(options.selftest == Some(Selftest::Stay), Ordering::Relaxed);
    tsc::init(options);
    if options.alone {
        log::info!("sched=null: a CPU for each vCPU");
        alone::switch_on();
    }
    smp::start_all(info, platform, options.max_cpus.map_or(usize::MAX, |n| n as usize));
    tsc::report();
    pci::init(&platform.mm_configs);
    irq::init(platform)
}

/// dom0's frames come from the free memory; those of the initramfs are dom0's where they are.
struct Dom0Frames<'a> {
    domain: &'a Domain,
    next: u64,
}

/// Largest block asked for: 2 MiB at a time keeps the map of frames short.
const LARGEST_ORDER: u32 = 18;

impl Frames for Dom0Frames<'_> {
    fn take(&mut self, pages: u64) -> Option<(Mfn, u64)> {
        let m = mmu();
        let mut order = pages.ilog2().min(LARGEST_ORDER);
        let fresh = loop {
            match HEAP.alloc(m.frames, order, 64) {
                Some(fresh) => break fresh,
                None if order == 0 => return None,
                None => order -= 1,
            }
        };
        // What the firmware left is nobody's secret: the builder clears what must be zero, the rest dom0 clears itself.
        let block = fresh.make_safe(&Machine, false);
        let first = self.next;
        let mfn = m.assign(&self.domain.memory, block, |n| Some(Gfn(first + n))).ok()?;
        self.next += 1 << order;
        Some((mfn, 1 << order))
    }

    fn adopt(&mut self, first: Mfn, pages: u64) -> Option<()> {
        let gfn = self.next;
        mmu().adopt(&self.domain.memory, first, pages, |n| Some(Gfn(gfn + n))).ok()?;
        self.next += pages;
        Some(())
    }
}

/// dom0's memory in pages, of `free` pages.
fn dom0_pages(options: &Options, free: u64) -> Result<u64, dom0::Error> {
    let bytes = match options.dom0_memory.initial {
        Some(Size::Bytes(n)) => n,
        Some(Size::AllBut(n)) => (free * PAGE).saturating_sub(n),
        None => free * PAGE - (free * PAGE / 16).min(128 << 20),
    };
    if bytes / PAGE > free {
        return Err(dom0::Error::TooMuch { asked: bytes >> 20, free: free / 256 });
    }
    Ok(bytes / PAGE)
}

/// Gives all RAM that nobody uses to the allocator, except what unpacking the kernel takes, and marks what is no RAM.
fn fill_heap(info: &Info, extent: Extent) -> (u64, u64) {
    let largest = mem::BOOT.lock().largest(1 << 32);
    let need = dom0::unpacking_needs(&info.modules).next_multiple_of(PAGE);
    let start = largest.1.saturating_sub(need).max(largest.0);
    let heap = (start, largest.1);
    mem::BOOT.lock().reserve(heap.0, heap.1);
    let frames = mmu().frames;
    let mut ram = info.memory.iter().filter(|r| r.kind == kind::RAM).peekable();
    let mut mfn = 0;
    while mfn < extent.max_mfn {
        while ram.next_if(|r| r.end / PAGE <= mfn).is_some() {}
        let Some(region) = ram.peek() else { break };
        let (first, last) = (region.start.div_ceil(PAGE), region.end / PAGE);
        // The first MiB is I/O for a guest, whatever the firmware calls it: BIOS data and option ROMs are there.
        for hole in mfn..first.clamp(LOW_FRAMES, extent.max_mfn) {
            frames.mark_io(Mfn(hole));
        }
        mfn = last.max(mfn).max(LOW_FRAMES);
    }
    for (start, end) in mem::BOOT.lock().drain() {
        HEAP.add(frames, Mfn(start / PAGE), Mfn(end / PAGE));
    }
    mem::set_late_allocator(paging::take_frame);
    heap
}

/// Frames below 1 MiB.
const LOW_FRAMES: u64 = 256;

/// Gives back what is not needed once dom0's first memory is filled: the heap for unpacking, and the loader's files.
/// An initramfs whose frames became dom0's is not the allocator's to take.
fn release_boot_memory(info: &Info, boot_heap: (u64, u64)) {
    let frames = mmu().frames;
    if heap::end_boot() {
        HEAP.add(frames, Mfn(boot_heap.0 / PAGE), Mfn(boot_heap.1 / PAGE));
    }
    for module in info.modules.iter().take(2) {
        HEAP.add(frames, Mfn(module.start / PAGE), Mfn(module.end.div_ceil(PAGE)));
    }
}

fn build(
    info: &'static Info,
    options: &Options,
    screen: Option<Dom0VgaConsoleInfo>,
    gsis: u32,
) -> Result<(&'static Vcpu, Regs), dom0::Error> {
    let extent = mem::extent(info);
    paging::init(extent);
    let boot_heap = fill_heap(info, extent);
    // SAFETY: the range was taken out of the boot allocator and not given to the heap of frames.
    unsafe { heap::begin_boot(boot_heap.0, boot_heap.1) };
    let kernel = dom0::Kernel::load(&info.modules)?;
    let kernel_info = kernel.info()?;
    let lent = info.modules.iter().take(2).map(|m| (m.end - m.start).div_ceil(PAGE)).sum::<u64>()
        + (boot_heap.1 - boot_heap.0) / PAGE;
    let nr_pages = dom0_pages(options, HEAP.free_frames() + lent)?;

    let no_memory = dom0::Error::NoMemory;
    let shared = mem::take_frame().ok_or(no_memory("the shared page"))?;
    let area = Area::new().ok_or(no_memory("descriptor windows"))?;
    let pirqs = Pirqs::for_hardware_domain(gsis, MESSAGES);
    let vcpus = dom0_vcpus(options);
    let limits = Limits { vcpus, max_port: u32::MAX, pirqs: pirqs.limit() };
    let domain = Domain::new(DomId::DOM0, true, Mfn(shared / PAGE), area, pirqs, limits, [0; 16])
        .map_err(|_| no_memory("event channels"))?;
    let domain: &'static Domain = Box::leak(Box::new(domain));
    domain::register(domain);
    // dom0 may balloon up to all there is.
    domain.memory.max_pages.store(u64::from(u32::MAX), Ordering::Relaxed);
    permit_io(domain).map_err(|_| no_memory("I/O ranges"))?;
    if !mmu().frames.share(Mfn(shared / PAGE), DomId::DOM0, Share::Writable) {
        return Err(dom0::Error::Tables);
    }

    let mut frames = Dom0Frames { domain, next: 0 };
    let mut image = dom0::Image::prepare(&kernel_info, &info.modules, nr_pages, &mut frames)?;
    let line = info.modules.first().map_or("", |m| m.command_line.as_str());
    image.fill(&kernel_info, &info.modules, shared, line, screen.as_ref().map_or(&[], |s| s.as_bytes()));
    image.write_tables();
    drop(kernel);
    release_boot_memory(info, boot_heap);
    image.complete(&mut frames)?;
    domain.memory.max_vcpus.store(vcpus.into(), Ordering::Relaxed);
    let vcpu = make_vcpus(domain, vcpus, options.dom0_vcpus_pin).ok_or(no_memory("vCPUs"))?;
    vcpu.initialised.store(true, Ordering::Release);
    take_root(vcpu, image.root())?;
    time::settle();
    host::write_wall_clock_of(domain);
    let regs = Regs {
        rip: image.plan.entry,
        cs: FLAT_KERNEL_CS.into(),
        ss: FLAT_KERNEL_SS.into(),
        rflags: flags::IF | 2,
        rsp: image.plan.stack.va_end(),
        rsi: image.plan.start_info.va,
        ..Regs::default()
    };
    log::info!("dom0: {} MiB, entry {:#x}", nr_pages / 256, regs.rip);
    Ok((vcpu, regs))
}

/// How many vCPUs dom0 has.
fn dom0_vcpus(options: &Options) -> u16 {
    let cpus = percpu::online().count() as u32;
    options.dom0_max_vcpus.unwrap_or(cpus).clamp(1, MAX_VCPUS) as u16
}

/// Makes dom0's vCPUs, all down, one CPU after the other. Answers the first.
fn make_vcpus(domain: &'static Domain, count: u16, pinned: bool) -> Option<&'static Vcpu> {
    let mut vcpus = Vec::new();
    let mut homes = percpu::online().cycle();
    for id in 0..count {
        let home = homes.next()?;
        let vcpu: &'static Vcpu = Box::leak(Box::new(Vcpu::new(id, domain, home)?));
        if pinned {
            let mut only = CpuSet::EMPTY;
            only.insert(home.id);
            *vcpu.affinity.lock() = only;
        }
        home.queue.lock().add(Runner(vcpu), DEFAULT_WEIGHT, time::now()).ok()?;
        vcpus.push(vcpu);
    }
    let vcpus = Vec::leak(vcpus);
    domain.set_vcpus(vcpus);
    vcpus.first().copied()
}

/// dom0 may map whatever the processor can address and no driver of ours owns: not the local APICs and the range
/// where a write is an interrupt. The I/O APICs it may only read.
fn permit_io(domain: &Domain) -> Result<(), Errno> {
    domain.memory.permit_io(Mfn(0), Mfn((1 << (host::physical_bits() - PAGE.trailing_zeros())) - 1))?;
    domain.memory.deny_io(Mfn(0xfee00), Mfn(0xfeeff))?;
    for address in ioapic::pages() {
        mmu().read_only_io.lock().insert(address / PAGE, address / PAGE)?;
    }
    Ok(())
}

/// Types the first page tables by the ordinary path: pins the root and makes it the vCPU's.
fn take_root(vcpu: &'static Vcpu, root: Mfn) -> Result<(), dom0::Error> {
    let (m, caller) = (mmu(), paging::caller(vcpu));
    loop {
        this_cpu().begin_call();
        match m.pin(&caller, caller.domain, root, 4) {
            Ok(()) => break,
            Err(CallError::Retry(_)) => {}
            Err(_) => return Err(dom0::Error::Tables),
        }
    }
    m.set_roots(&caller, root, None).map_err(|_| dom0::Error::Tables)
}

/// Messages (MSI, MSI-X) that dom0 can have.
const MESSAGES: u32 = 224;

/// Says what the hypervisor takes: RAM that is neither free nor dom0's, and the time since it was entered.
fn report_cost(dom0: &Domain) {
    let ram = INFO.get().map_or(0, |info| mem::extent(info).ram_frames);
    let (free, owned) = (HEAP.free_frames(), dom0.memory.pages());
    log::info!(
        "RAM {} KiB: {} free, {} of dom0, {} of the hypervisor",
        ram * 4,
        free * 4,
        owned * 4,
        ram.saturating_sub(free + owned) * 4
    );
    let ticks = console::ticks_since_start();
    let microseconds = time::clock().map_or(0, |clock| ticks / (clock.tsc_hz / 1_000_000).max(1));
    log::info!("{}.{:03} ms since the loader", microseconds / 1000, microseconds % 1000);
}

/// Puts the vCPU on this CPU and goes to it.
fn run_first(vcpu: &'static Vcpu, regs: Regs) -> ! {
    let cpu = this_cpu();
    let options = Options::parse(INFO.get().map_or("", |i| &i.command_line));
    if let Some(platform) = firmware::platform()
        && consoles(&options).serial
    {
        serial::enable_interrupt(&line_settings(&options), platform);
    }
    if options.watchdog {
        watchdog::start();
    }
    report_cost(vcpu.domain);
    log::info!("dom0 starts at {:#x}", regs.rip);
    if options.vga.is_none_or(|v| !v.contains("keep")) {
        vga::release();
    }
    let place = (core::ptr::from_ref(cpu) as u64 - size_of::<Regs>() as u64) as *mut Regs;
    // SAFETY: the place of the guest's registers at the end of this stack; our own frames are far below it.
    unsafe { place.write(regs) };
    vcpu.sched.release(Reasons::DOWN);
    vcpu.timers.lock().set.come_up(&mut cpu.timers.lock(), time::now());
    hub::arm_timer();
    work::with_queue(cpu, |queue| {
        if let Some(slot) = queue.slot_of(&Runner(vcpu)) {
            queue.wake(slot, time::now());
        }
        queue.pick(time::now());
    });
    switch::load(cpu, vcpu, false);
    // SAFETY: the vCPU's state is loaded and its registers are in place.
    unsafe { entry::enter_guest(place) }
}
