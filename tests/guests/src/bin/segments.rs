//! Segment bases, and the kernel's stack.
#![no_std]
#![no_main]

use claim::abi::Hypercall;
use claim::abi::x86_64::*;
use claim::{ask, attempt, call, mm, outcome, say};

claim::claim!(run);

fn set(which: u32, base: u64) -> i64 {
    call(Hypercall::SetSegmentBase, &[u64::from(which), base])
}

/// True if a call leaves all registers but the result's and the two of SYSCALL as they were.
fn keeps(number: Hypercall, first: u64, second: u64) -> bool {
    let before = [first, second, 3 << 40, 4 << 40, 5 << 40, 6 << 40];
    let mut a = before;
    // SAFETY: SYSCALL of a paravirtualised kernel is a hypercall; those asked for here write no memory of the guest's.
    unsafe {
        core::arch::asm!("syscall",
            inlateout("rax") number as u64 => _, out("rcx") _, out("r11") _,
            inlateout("rdi") a[0], inlateout("rsi") a[1], inlateout("rdx") a[2],
            inlateout("r10") a[3], inlateout("r8") a[4], inlateout("r9") a[5], options(nostack));
    }
    a == before
}

fn run() {
    let page = mm::page();
    mm::poke(page, 11);
    mm::poke(page + 64, 22);
    ask!("FS base", set(SEGBASE_FS, page));
    let value: u64;
    outcome!("read through FS", attempt!(["mov {v}, fs:[0]"], v = out(reg) value));
    say!("reads {value}");
    ask!("kernel's GS base", set(SEGBASE_GS_KERNEL, page + 64));
    let value: u64;
    outcome!("read through GS", attempt!(["mov {v}, gs:[0]"], v = out(reg) value));
    say!("reads {value}");
    ask!("user's GS base", set(SEGBASE_GS_USER, 0x1234_5000));
    let value: u64;
    outcome!("GS is still the kernel's", attempt!(["mov {v}, gs:[0]"], v = out(reg) value));
    say!("reads {value}");
    ask!("FS base of no address", set(SEGBASE_FS, 0x8000_0000_0000));
    ask!("kernel's GS base of no address", set(SEGBASE_GS_KERNEL, 1 << 63));
    ask!("user's GS base of no address", set(SEGBASE_GS_USER, 1 << 63));
    let value: u64;
    outcome!("FS is as it was", attempt!(["mov {v}, fs:[0]"], v = out(reg) value));
    say!("reads {value}");
    ask!("FS base in the hypervisor", set(SEGBASE_FS, 0xffff_8300_0000_0000));
    let trap = attempt!(["mov {v}, fs:[0x200000]"], v = out(reg) _);
    say!("read through FS: vector {}", trap.map_or(0, |t| t.vector));
    ask!("user's GS selector, null", set(SEGBASE_GS_USER_SEL, 0));
    ask!("user's GS selector, flat", set(SEGBASE_GS_USER_SEL, u64::from(FLAT_RING3_DS32)));
    ask!("user's GS selector beyond the tables", set(SEGBASE_GS_USER_SEL, 0xfffb));
    let value: u64;
    outcome!("GS is still the kernel's", attempt!(["mov {v}, gs:[0]"], v = out(reg) value));
    say!("reads {value}");
    ask!("unknown base", set(4, 0));
    for (what, which, base) in [
        ("FS base", SEGBASE_FS, page),
        ("user's GS base", SEGBASE_GS_USER, 1 << 63),
        ("selector", SEGBASE_GS_USER_SEL, 0),
        ("selector beyond the tables", SEGBASE_GS_USER_SEL, 0xfffb),
    ] {
        say!("{what}: arguments kept: {}", keeps(Hypercall::SetSegmentBase, u64::from(which), base));
    }
    say!(
        "kernel stack: arguments kept: {}",
        keeps(Hypercall::StackSwitch, u64::from(FLAT_KERNEL_SS), page + 4096)
    );
    ask!("kernel stack", call(Hypercall::StackSwitch, &[u64::from(FLAT_KERNEL_SS), page + 4096]));
    ask!("kernel stack of no address", call(Hypercall::StackSwitch, &[u64::from(FLAT_KERNEL_SS), 1 << 63]));
    ask!("kernel stack with a null selector", call(Hypercall::StackSwitch, &[0, page + 4096]));
    ask!("kernel stack with the hypervisor's selector", call(Hypercall::StackSwitch, &[0xe010, page + 4096]));
}
