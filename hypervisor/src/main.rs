//! The binary: order of initialisation, no logic.
#![no_std]
#![no_main]

use boot_entry as _;
use hv_x86::{boot, console, cpu, desc, guest, mem, percpu, println};

#[unsafe(no_mangle)]
extern "C" fn hv_main(mbi: u64, base: u64) -> ! {
    console::install(log::LevelFilter::Info);
    println!("Xenolith {}", env!("CARGO_PKG_VERSION"));
    // SAFETY: the entry code passes the loader's word and has mapped 4 GiB.
    let info = unsafe { boot::read(mbi) }.unwrap();
    log::info!("command line: {}", info.command_line);
    for r in &info.memory {
        log::info!("memory {:#014x}..{:#014x} kind {}", r.start, r.end, r.kind);
    }
    for m in &info.modules {
        log::info!("module {:#x}..{:#x} {}", m.start, m.end, m.command_line);
    }
    if !smap() {
        // SAFETY: text is still writable.
        unsafe { guest::patch_smap() };
    }
    let extent = unsafe { mem::take_over(&info, base) }.unwrap();
    log::info!("{extent:?}");
    let cpu = percpu::prepare(0, 0).unwrap();
    unsafe { percpu::enter_first_stack(cpu, on_stack) }
}

fn smap() -> bool {
    let max = cpu::cpuid(0, 0).eax;
    max >= 7 && cpu::cpuid(7, 0).ebx & (1 << 20) != 0
}

extern "C" fn on_stack() -> ! {
    let cpu = percpu::this_cpu();
    // SAFETY: this CPU's own page.
    unsafe {
        desc::load_gdt(cpu.gdt as u64 - 0xe000);
        desc::load_segments();
    }
    desc::load_idt();
    unsafe { desc::set_syscall(percpu::stub(0)) };
    log::info!("rdmsr of nothing: {:?}", cpu::rdmsr_safe(0x1234_5678));
    log::info!("read of guest: {:?}", guest::Caller.read_u64(0x1000));
    let b = alloc::boxed::Box::new(3);
    log::info!("heap {b}");
    cpu::halt_for_ever()
}
extern crate alloc;

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    hv_x86::panic::rust_panic(info)
}
