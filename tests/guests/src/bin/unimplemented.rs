//! Hypercalls that do not exist, or not for a PV guest, answer so and change nothing.
#![no_std]
#![no_main]

use claim::abi::Hypercall;
use claim::abi::xen::DOMID_SELF;
use claim::hypercall::call_number;
use claim::{Answer, ask, call, mm, say};

claim::claim!(run);

fn run() {
    for number in [11, 43, 44, 45, 46, 47, 55, 56, 63, 64, 65, 1 << 20, 1 << 32, u64::MAX] {
        say!("number {number:#x}: {}", Answer(call_number(number, &[])));
    }
    for number in [Hypercall::TmemOp, Hypercall::Arch2, Hypercall::Arch7] {
        say!("{}: {}", number.name(), Answer(call(number, &[0, 0])));
    }
    say!("xen_version with a high half in the number: {}", Answer(call_number(1 << 32 | 17, &[7, 0])));
    let page = mm::page();
    ask!("callback: unknown operation", call(Hypercall::CallbackOp, &[99, page]));
    ask!("callback: unknown type", claim::trap::register(6, mm::VIRT_BASE));
    ask!("callback: deprecated sysenter", claim::trap::register(3, mm::VIRT_BASE));
    ask!("callback: no address", claim::trap::register(0, 0x8000_0000_0000));
    ask!("callback: event again", claim::trap::register(0, claim::trap::entry_of(claim::trap::UPCALL)));
    let mut gone = claim::abi::callback::CallbackUnregister { kind: 0, ..Default::default() };
    ask!("callback: unregister the event", claim::hypercall::command(Hypercall::CallbackOp, 1, &mut gone));
    gone.kind = 5;
    ask!("callback: unregister sysenter", claim::hypercall::command(Hypercall::CallbackOp, 1, &mut gone));
    ask!(
        "callbacks of old",
        call(
            Hypercall::SetCallbacks,
            &[claim::trap::entry_of(32), claim::trap::entry_of(33), claim::trap::entry_of(34)]
        )
    );
    ask!("NMI: unknown operation", call(Hypercall::NmiOp, &[99, 0]));
    ask!("NMI: unregister", call(Hypercall::NmiOp, &[1, 0]));
    for (name, cmd, kind) in [
        ("enable writable page tables", 0, 2),
        ("disable writable page tables", 1, 2),
        ("enable it again", 0, 2),
        ("enable architectural IOPL", 0, 4),
        ("disable architectural IOPL", 1, 4),
        ("enable the runstate flag", 0, 5),
        ("enable the strict m2p", 0, 32),
        ("disable the strict m2p", 1, 32),
        ("enable 4 GiB segments", 0, 0),
        ("enable PAE's extended CR3", 0, 3),
        ("enable what is not", 0, 20),
        ("enable what is not, far", 0, 1000),
        ("unknown command", 2, 2),
    ] {
        say!("assist: {name}: {}", Answer(call(Hypercall::VmAssist, &[cmd, kind])));
    }
    let elsewhere = [page, mm::entry(page, 1).value, 0];
    let on =
        |domain: u64| call(Hypercall::UpdateVaMappingOtherdomain, &[elsewhere[0], elsewhere[1], 0, domain]);
    ask!("mapping on behalf of ourselves", on(u64::from(DOMID_SELF)));
    ask!("mapping on behalf of an unknown domain", on(77));
    ask!("grant: unknown operation", call(Hypercall::GrantTableOp, &[99, page, 1]));
    ask!("memory: unknown operation", call(Hypercall::MemoryOp, &[60, page]));
    ask!("physdev: unknown operation", call(Hypercall::PhysdevOp, &[99, page]));
    ask!("vcpu: unknown operation", call(Hypercall::VcpuOp, &[99, 0, page]));
}
