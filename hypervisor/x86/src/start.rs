//! The order of initialisation, from the loader's hand-over to dom0's first instruction.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::{Cell, UnsafeCell};

use hv_core::options::{Level, Options, Size};
use guest_abi::x86_64::{FLAT_KERNEL_CS, FLAT_KERNEL_SS};
use hv_pv::emulate::port::ControlState;
use hv_pv::regs::{Mode, Regs, flags};
use hv_pv::trap::TrapEntry;
use hv_types::{DomId, Mfn};
use spin::Once;

use crate::boot::{self, Info};
use crate::domain::Domain;
use crate::mem::{self, PAGE};
use crate::percpu::{self, this_cpu};
use crate::vcpu::{Callbacks, Vcpu};
use crate::{console, cpu, desc, dom0, emulate, entry, features, guest, heap, power, println};

static INFO: Once<Info> = Once::new();

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
    log::info!("command line: {}", info.command_line);
    for name in &options.unknown {
        log::warn!("unknown option `{name}` is ignored");
    }
    for word in &options.bad {
        log::warn!("option `{word}` has a value that makes no sense; it is ignored");
    }
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
    let Ok(cpu) = percpu::prepare(0, 0) else { give_up(format_args!("no memory for stacks")) };
    // SAFETY: once, on the boot stack, which is not used again.
    unsafe { percpu::enter_first_stack(cpu, on_own_stack) }
}

/// Second half: own stack, own tables.
extern "C" fn on_own_stack() -> ! {
    let cpu = this_cpu();
    // SAFETY: the page is this CPU's own; nothing below it in the table is reachable yet.
    unsafe {
        desc::load_gdt(cpu.gdt as u64 - u64::from(desc::RESERVED));
        desc::load_segments();
        desc::load_idt();
        desc::set_syscall(percpu::stub(cpu.id));
        features::enable();
    }
    // SAFETY: masks all lines of the two legacy interrupt controllers.
    unsafe {
        cpu::outb(0x21, 0xff);
        cpu::outb(0xa1, 0xff);
    }
    let Some(info) = INFO.get() else { give_up(format_args!("boot information is lost")) };
    match build(info) {
        Ok((vcpu, regs)) => run_first(vcpu, regs),
        Err(error) => give_up(format_args!("{error}")),
    }
}

struct BootFrames;

impl dom0::Frames for BootFrames {
    fn take(&mut self, pages: u64) -> Option<(Mfn, u64)> {
        let mut boot = mem::BOOT.lock();
        let (s, e) = boot.largest(u64::MAX);
        let n = pages.min((e - s) / PAGE);
        if n == 0 {
            return None;
        }
        let at = boot.take(n * PAGE, PAGE, u64::MAX)?;
        // SAFETY: just taken.
        unsafe { core::ptr::write_bytes(mem::phys_to_virt(at), 0, (n * PAGE) as usize) };
        Some((Mfn(at / PAGE), n))
    }

    fn adopt(&mut self, _first: Mfn, _pages: u64) -> Option<()> {
        Some(())
    }
}

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

fn build(info: &'static Info) -> Result<(&'static Vcpu, Regs), dom0::Error> {
    let options = Options::parse(&info.command_line);
    let (start, end) = mem::BOOT.lock().largest(1 << 32);
    let start = end.saturating_sub(300 << 20).max(start);
    let boot_heap = mem::BOOT.lock().take(end - start, PAGE, 1 << 32).unwrap_or(0);
    // SAFETY: just taken.
    unsafe { heap::begin_boot(boot_heap, boot_heap + (end - start)) };
    let kernel = dom0::Kernel::load(&info.modules)?;
    let kinfo = kernel.info()?;
    log::info!("dom0 kernel entry {:#x}", kinfo.entry());
    let nr_pages = dom0_pages(&options, 600 << 8)?;
    let image = dom0::Image::prepare(&kinfo, &info.modules, nr_pages, &mut BootFrames)?;
    let shared = mem::take_frame().ok_or(dom0::Error::NoMemory("the shared page"))?;
    let line = info.modules[0].command_line.as_str();
    image.fill(&kinfo, &info.modules, shared, line, &[]);
    let domain: &'static Domain = Box::leak(Box::new(Domain::new(DomId::DOM0, true, Mfn(shared / PAGE))));
    image.write_tables(|root| {
        for slot in dom0::HYPERVISOR_SLOTS {
            // SAFETY: dom0's root.
            unsafe { root.add(slot).write(mem::root_entry(slot)) };
        }
    });
    let vcpu: &'static Vcpu = Box::leak(Box::new(Vcpu {
        id: 0,
        domain,
        mode: Cell::new(Mode::Kernel),
        info: Cell::new(mem::phys_to_virt(shared)),
        kernel_root: Cell::new(image.root().0 << 12),
        user_root: Cell::new(0),
        kernel_sp: Cell::new(0),
        callbacks: Callbacks::default(),
        traps: [const { Cell::new(TrapEntry::EMPTY) }; 256],
        control: UnsafeCell::new(ControlState::new(&emulate::cr4_policy())),
        ldt: Cell::new((0, 0)),
        saved: Cell::new(Regs::default()),
        xcr0: Cell::new(1),
    }));
    vcpu.set_upcall_mask(1);
    let mut list = Vec::new();
    list.push(vcpu);
    domain.set_vcpus(Vec::leak(list));
    let regs = Regs {
        rip: image.plan.entry,
        cs: FLAT_KERNEL_CS.into(),
        ss: FLAT_KERNEL_SS.into(),
        rflags: flags::IF | 2,
        rsp: image.plan.stack.va_end(),
        rsi: image.plan.start_info.va,
        ..Regs::default()
    };
    Ok((vcpu, regs))
}

/// Puts the vCPU on this CPU and goes to it.
fn run_first(vcpu: &'static Vcpu, regs: Regs) -> ! {
    let cpu = this_cpu();
    cpu.current.set(vcpu);
    let place = (core::ptr::from_ref(cpu) as u64 - size_of::<Regs>() as u64) as *mut Regs;
    // SAFETY: the place of the guest's registers at the end of this stack; our own frames are far below it.
    unsafe { place.write(regs) };
    log::info!("dom0 starts at {:#x}", regs.rip);
    // SAFETY: the root was checked; the registers are in place.
    unsafe {
        percpu::load_root(cpu, vcpu.kernel_root.get());
        entry::enter_guest(place)
    }
}

