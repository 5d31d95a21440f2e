//! Privileged instructions that the hypervisor carries out, and those it refuses.
#![no_std]
#![no_main]

use claim::abi::Hypercall;
use claim::abi::physdev::{PHYSDEVOP_SET_IOPL, PhysdevSetIopl};
use claim::hypercall::command;
use claim::trap::Trap;
use claim::{ask, attempt, call, mm, outcome, say};

claim::claim!(run);

fn run() {
    control_registers();
    identification();
    model_specific();
    ports();
    others();
}

fn control_registers() {
    let cr0: u64;
    outcome!("read CR0", attempt!(["mov {v}, cr0"], v = out(reg) cr0));
    say!("CR0 {cr0:#x}");
    let cr2: u64;
    outcome!("read CR2", attempt!(["mov {v}, cr2"], v = out(reg) cr2));
    say!("CR2 {cr2:#x}");
    let cr3: u64;
    outcome!("read CR3", attempt!(["mov {v}, cr3"], v = out(reg) cr3));
    say!("CR3 is the root: {}", cr3 == mm::mfn_of(mm::start_info().pt_base) << 12);
    let cr4: u64;
    outcome!("read CR4", attempt!(["mov {v}, cr4"], v = out(reg) cr4));
    say!("CR4 PAE {} PGE {} FXSR {}", cr4 >> 5 & 1, cr4 >> 7 & 1, cr4 >> 9 & 1);
    outcome!("read CR8", attempt!(["mov {v}, cr8"], v = out(reg) _));
    outcome!("write CR0 with TS", attempt!(["mov cr0, {v}"], v = in(reg) cr0 | 8));
    let now: u64;
    outcome!("read CR0", attempt!(["mov {v}, cr0"], v = out(reg) now));
    say!("TS is set: {}", now & 8 != 0);
    outcome!("clts", attempt!(["clts"]));
    outcome!("write CR0 without paging", attempt!(["mov cr0, {v}"], v = in(reg) cr0 & !(1 << 31)));
    outcome!("write CR0 without write protection", attempt!(["mov cr0, {v}"], v = in(reg) cr0 & !(1 << 16)));
    outcome!("write CR2", attempt!(["mov cr2, {v}"], v = in(reg) 0x1234_u64));
    outcome!("write CR3, same", attempt!(["mov cr3, {v}"], v = in(reg) cr3));
    outcome!(
        "write CR3, an ordinary page",
        attempt!(["mov cr3, {v}"], v = in(reg) mm::mfn_of(mm::page()) << 12)
    );
    outcome!("write CR4, same", attempt!(["mov cr4, {v}"], v = in(reg) cr4));
    outcome!("write CR4 without PAE", attempt!(["mov cr4, {v}"], v = in(reg) cr4 & !(1 << 5)));
    outcome!("lmsw", attempt!(["lmsw {v:x}"], v = in(reg) 0x33_u16));
    debug_registers();
}

fn debug_registers() {
    let value: u64;
    outcome!("read DR7", attempt!(["mov {v}, dr7"], v = out(reg) value));
    say!("DR7 {value:#x}");
    let value: u64;
    outcome!("read DR6", attempt!(["mov {v}, dr6"], v = out(reg) value));
    say!("DR6 {value:#x}");
    outcome!("write DR0", attempt!(["mov dr0, {v}"], v = in(reg) mm::VIRT_BASE));
    ask!("DR0 by hypercall is that", i64::from(call(Hypercall::GetDebugreg, &[0]) as u64 != mm::VIRT_BASE));
    outcome!(
        "write DR1 in the hypervisor",
        attempt!(["mov dr1, {v}"], v = in(reg) 0xffff_8300_0000_0000_u64)
    );
    ask!("DR1 in the hypervisor", call(Hypercall::SetDebugreg, &[1, 0xffff_8300_0000_0000]));
    ask!("DR4", call(Hypercall::SetDebugreg, &[4, 0]));
    ask!("DR5", call(Hypercall::SetDebugreg, &[5, 0]));
    ask!("DR8", call(Hypercall::SetDebugreg, &[8, 0]));
    ask!("read DR8", call(Hypercall::GetDebugreg, &[8]));
    ask!("DR7 with general detection", call(Hypercall::SetDebugreg, &[7, 0x2400]));
    ask!("DR7 with an I/O breakpoint", call(Hypercall::SetDebugreg, &[7, 0x2_0402]));
    ask!("DR7 off", call(Hypercall::SetDebugreg, &[7, 0x400]));
}

fn cpuid(leaf: u32, subleaf: u32) -> (Option<Trap>, [u32; 4]) {
    let (a, b, c, d): (u32, u32, u32, u32);
    // RBX is the compiler's.
    let trap = attempt!(["push rbx", "cpuid", "mov {b:e}, ebx", "pop rbx"],
        inout("eax") leaf => a, inout("ecx") subleaf => c, out("edx") d, b = out(reg) b);
    (trap, [a, b, c, d])
}

fn forced_cpuid(leaf: u32, subleaf: u32) -> (Option<Trap>, [u32; 4]) {
    let (a, b, c, d): (u32, u32, u32, u32);
    let trap = attempt!(["push rbx", ".byte 0x0f, 0x0b, 0x78, 0x65, 0x6e", "cpuid", "mov {b:e}, ebx", "pop rbx"],
        inout("eax") leaf => a, inout("ecx") subleaf => c, out("edx") d, b = out(reg) b);
    (trap, [a, b, c, d])
}

fn identification() {
    let (trap, plain) = cpuid(0, 0);
    outcome!("cpuid", trap);
    let (trap, forced) = forced_cpuid(0, 0);
    outcome!("forced cpuid", trap);
    say!("same vendor: {}", plain[1..] == forced[1..]);
    let (_, [a, b, c, d]) = forced_cpuid(0x4000_0000, 0);
    say!("hypervisor leaf: enough leaves {}, signature {}", a >= 0x4000_0002, [b, c, d] == SIGNATURE);
    let (_, [version, ..]) = forced_cpuid(0x4000_0001, 0);
    say!("hypervisor version: {}.{}", version >> 16, version & 0xffff);
    let (_, [pages, msr, features, _]) = forced_cpuid(0x4000_0002, 0);
    say!("hypercall pages {pages} at MSR {msr:#x}, features {features:#x}");
    let (_, [.., c, d]) = forced_cpuid(1, 0);
    let has = |word: u32, bit: u32| word >> bit & 1;
    say!(
        "leaf 1: VMX {} OSXSAVE {} x2APIC {} hypervisor {} MONITOR {}",
        has(c, 5),
        has(c, 27),
        has(c, 21),
        has(c, 31),
        has(c, 3)
    );
    say!(
        "leaf 1: VME {} PSE {} TSC {} MTRR {} SEP {} PGE {} PSE36 {} MCE {} APIC {} ACPI {}",
        has(d, 1),
        has(d, 3),
        has(d, 4),
        has(d, 12),
        has(d, 11),
        has(d, 13),
        has(d, 17),
        has(d, 7),
        has(d, 9),
        has(d, 22)
    );
    let (_, [_, b, ..]) = forced_cpuid(7, 0);
    say!("leaf 7: SMEP {} SMAP {} FSGSBASE {} INVPCID {}", has(b, 7), has(b, 20), has(b, 0), has(b, 10));
    let (_, [_, _, c, d]) = forced_cpuid(0x8000_0001, 0);
    say!(
        "extended: SYSCALL {} NX {} LM {} 1G {} RDTSCP {} SVM {}",
        has(d, 11),
        has(d, 20),
        has(d, 29),
        has(d, 26),
        has(d, 27),
        has(c, 2)
    );
    outcome!("broken prefix", attempt!([".byte 0x0f, 0x0b, 0x78, 0x65, 0x6e", "nop"]));
}

/// `XenVMMXenVMM`
const SIGNATURE: [u32; 3] = [0x566e_6558, 0x6558_4d4d, 0x4d4d_566e];

fn rdmsr(index: u32) -> (Option<Trap>, u64) {
    let (low, high): (u32, u32);
    let trap = attempt!(["rdmsr"], in("ecx") index, inout("eax") 0 => low, inout("edx") 0 => high);
    (trap, u64::from(high) << 32 | u64::from(low))
}

fn wrmsr(index: u32, value: u64) -> Option<Trap> {
    attempt!(["wrmsr"], in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32)
}

fn model_specific() {
    for (name, index, shows) in [
        ("TSC", 0x10, false),
        ("APIC_BASE", 0x1b, true),
        ("PLATFORM_ID", 0x17, false),
        ("UCODE_REV", 0x8b, false),
        ("MTRRCAP", 0xfe, false),
        ("SYSENTER_CS", 0x174, false),
        ("MCG_CAP", 0x179, false),
        ("MISC_ENABLE", 0x1a0, false),
        ("PAT", 0x277, true),
        ("EFER", 0xc000_0080, true),
        ("STAR", 0xc000_0081, false),
        ("LSTAR", 0xc000_0082, false),
        ("FS_BASE", 0xc000_0100, true),
        ("GS_BASE", 0xc000_0101, true),
        ("KERNEL_GS_BASE", 0xc000_0102, true),
        ("TSC_AUX", 0xc000_0103, false),
        ("an unknown one", 0x1234_5678, false),
    ] {
        let (trap, value) = rdmsr(index);
        match trap {
            Some(trap) => say!("read {name}: {trap}"),
            None if shows => say!("read {name}: {value:#x}"),
            None => say!("read {name}: no trap"),
        }
    }
    outcome!("write FS_BASE", wrmsr(0xc000_0100, 0x1000));
    say!("reads {:#x}", rdmsr(0xc000_0100).1);
    outcome!("write GS_BASE, non-canonical", wrmsr(0xc000_0101, 1 << 63));
    outcome!("write KERNEL_GS_BASE", wrmsr(0xc000_0102, 0x2000));
    say!("reads {:#x}", rdmsr(0xc000_0102).1);
    outcome!("write EFER, same", wrmsr(0xc000_0080, rdmsr(0xc000_0080).1));
    outcome!("write EFER without NX", wrmsr(0xc000_0080, rdmsr(0xc000_0080).1 & !(1 << 11)));
    outcome!("write LSTAR", wrmsr(0xc000_0082, 0x1000));
    outcome!("write PAT, same", wrmsr(0x277, rdmsr(0x277).1));
    outcome!("write PAT, another", wrmsr(0x277, 0x0606_0606_0606_0606));
    outcome!("write APIC_BASE, same", wrmsr(0x1b, rdmsr(0x1b).1));
    outcome!("write an unknown one", wrmsr(0x1234_5678, 1));
}

fn input(port: u16) -> Option<Trap> {
    attempt!(["in al, dx"], in("dx") port, out("al") _)
}

fn ports() {
    outcome!("read the RTC at IOPL 0", input(0x71));
    let iopl = |iopl| command(Hypercall::PhysdevOp, PHYSDEVOP_SET_IOPL, &mut PhysdevSetIopl { iopl });
    ask!("IOPL 4", iopl(4));
    ask!("IOPL 1", iopl(1));
    outcome!("read the RTC", input(0x71));
    outcome!("read the keyboard controller", input(0x64));
    outcome!("read the master PIC", input(0x20));
    outcome!("read the PIT", input(0x40));
    outcome!("read the serial port of the hypervisor", input(0x3f8));
    outcome!("read an unused port", input(0x1234));
    outcome!("write the POST port", attempt!(["out 0x80, al"], in("al") 0_u8));
    outcome!(
        "read four bytes of PCI configuration",
        attempt!(["in eax, dx"], in("dx") 0xcf8_u16, out("eax") _)
    );
    let page = mm::page();
    outcome!("string read", attempt!(["insb"], in("dx") 0x71_u16, inout("rdi") page => _));
    outcome!("string write", attempt!(["outsb"], in("dx") 0x80_u16, inout("rsi") page => _));
    outcome!("cli", attempt!(["cli"]));
    outcome!("sti", attempt!(["sti"]));
    let flags: u64;
    outcome!("pushf", attempt!(["pushfq", "pop {f}"], f = out(reg) flags));
    say!("IOPL seen {}, IF seen {}", flags >> 12 & 3, flags >> 9 & 1);
    ask!("IOPL 0", iopl(0));
    outcome!("read the RTC", input(0x71));
}

fn others() {
    outcome!("rdtsc", attempt!(["rdtsc"], out("eax") _, out("edx") _));
    outcome!("rdpmc", attempt!(["rdpmc"], in("ecx") 0, out("eax") _, out("edx") _));
    outcome!("wbinvd", attempt!(["wbinvd"]));
    outcome!("invd", attempt!(["invd"]));
    outcome!("cli", attempt!(["cli"]));
    outcome!("sti", attempt!(["sti"]));
    outcome!("monitor", attempt!(["monitor"], in("rax") mm::page(), in("ecx") 0, in("edx") 0));
    outcome!("xsetbv", attempt!(["xsetbv"], in("ecx") 0, in("eax") 1, in("edx") 0));
    outcome!("lidt", attempt!(["lidt [{p}]"], p = in(reg) mm::page()));
    outcome!("lldt", attempt!(["lldt {v:x}"], v = in(reg) 0_u16));
    // #GP where the hypervisor has switched VMX on, else #UD; nobody says whether it has.
    let vmcall = attempt!(["vmcall"]);
    say!("vmcall is refused: {}", vmcall.is_some_and(|trap| matches!(trap.vector, 6 | 13)));
}
