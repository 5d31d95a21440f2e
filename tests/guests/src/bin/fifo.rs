//! FIFO event channels: control block, event array, linking by priority.
#![no_std]
#![no_main]

use claim::abi::Hypercall;
use claim::abi::event_channel::*;
use claim::event::{bind_ipi, close, send, set_upcall_mask, shared, unmask, upcall_pending};
use claim::hypercall::command;
use claim::{Answer, ask, mm, say, trap};
use core::sync::atomic::{AtomicU32, Ordering};

claim::claim!(run);

fn word(array: u64, port: u32) -> &'static AtomicU32 {
    // SAFETY: the event array is a page of the arena.
    unsafe { AtomicU32::from_ptr((array + 4 * u64::from(port)) as *mut u32) }
}

fn bits(array: u64, port: u32) -> &'static str {
    match word(array, port).load(Ordering::SeqCst) >> EVTCHN_FIFO_LINKED {
        0b000 => "none",
        0b001 => "linked",
        0b010 => "masked",
        0b011 => "masked linked",
        0b100 => "pending",
        0b101 => "pending linked",
        0b110 => "pending masked",
        _ => "pending masked linked",
    }
}

fn init(vcpu: u32, frame: u64, offset: u32) -> (i64, u8) {
    let mut op = EvtchnInitControl { control_gfn: frame, offset, vcpu, ..Default::default() };
    (command(Hypercall::EventChannelOp, EVTCHNOP_INIT_CONTROL, &mut op), op.link_bits)
}

fn expand(frame: u64) -> i64 {
    let mut op = EvtchnExpandArray { array_gfn: frame };
    command(Hypercall::EventChannelOp, EVTCHNOP_EXPAND_ARRAY, &mut op)
}

fn priority(port: u32, priority: u32) -> i64 {
    let mut op = EvtchnSetPriority { port, priority };
    command(Hypercall::EventChannelOp, EVTCHNOP_SET_PRIORITY, &mut op)
}

fn run() {
    shared();
    let (control, array) = (mm::page(), mm::page());
    let frame = mm::mfn_of(control);
    let early = bind_ipi(0).unwrap_or(0);
    ask!("array before the control block", expand(mm::mfn_of(array)));
    ask!("control block for a vCPU that is not", init(9, frame, 0).0);
    ask!("control block across the page's end", init(0, frame, 4096 - 64).0);
    ask!("control block not aligned", init(0, frame, 4).0);
    ask!("control block beyond the machine", init(0, 1 << 39, 0).0);
    let (answer, link_bits) = init(0, frame, 0);
    say!("control block: {}, link bits {link_bits}", Answer(answer));
    ask!("control block again", init(0, frame, 512).0);
    ask!("writable mapping of the control block stays", i64::from(mm::peek(control) != 0));
    ask!("array", expand(mm::mfn_of(array)));
    say!("port from before: {}", bits(array, early));
    sending(control, array);
    priorities(control, array);
    ask!("array beyond the machine", expand(1 << 39));
    ask!("second array page", expand(mm::mfn_of(mm::page())));
    ask!("array page that is a page table", expand(mm::mfn_of(mm::start_info().pt_base)));
}

fn ready(control: u64) -> u32 {
    mm::peek(control) as u32
}

fn head(control: u64, queue: u64) -> u32 {
    // SAFETY: the control block is a page of the arena.
    unsafe { ((control + 8 + 4 * queue) as *const u32).read_volatile() }
}

/// Takes everything off a queue, as a guest would.
fn drain(control: u64, array: u64, queue: u64) -> usize {
    let mut port = head(control, queue);
    let mut taken = 0;
    while port != 0 && taken < 10 {
        let link =
            word(array, port).fetch_and(!(EVTCHN_FIFO_LINK_MASK | 1 << EVTCHN_FIFO_LINKED), Ordering::SeqCst);
        word(array, port).fetch_and(!(1 << EVTCHN_FIFO_PENDING), Ordering::SeqCst);
        port = link & EVTCHN_FIFO_LINK_MASK;
        taken += 1;
    }
    // SAFETY: as above.
    unsafe { ((control + 8 + 4 * queue) as *mut u32).write_volatile(0) };
    mm::poke(control, mm::peek(control) & !(1 << queue));
    taken
}

fn sending(control: u64, array: u64) {
    let port = bind_ipi(0).unwrap_or(0);
    say!("new port: {}", bits(array, port));
    word(array, port).fetch_or(1 << EVTCHN_FIFO_MASKED, Ordering::SeqCst);
    ask!("send while masked", send(port));
    say!("is {}, ready {:#x}", bits(array, port), ready(control));
    ask!("unmask", unmask(port));
    say!("is {}, ready {:#x}, first is it {}", bits(array, port), ready(control), head(control, 7) == port);
    say!("upcall pending {}", upcall_pending());
    ask!("send again", send(port));
    say!("taken from the queue: {}", drain(control, array, 7));
    say!("is {}", bits(array, port));
    trap::upcalls();
    set_upcall_mask(0);
    ask!("send with events on", send(port));
    set_upcall_mask(1);
    say!("upcalls: {}", trap::upcalls().min(1));
    say!("taken from the queue: {}", drain(control, array, 7));
    ask!("close", close(port));
    say!("closed port: {}", bits(array, port));
}

fn priorities(control: u64, array: u64) {
    let ports = [0; 3].map(|_: u32| bind_ipi(0).unwrap_or(0));
    ask!("priority 0", priority(ports[0], EVTCHN_FIFO_PRIORITY_MAX));
    ask!("priority 15", priority(ports[2], EVTCHN_FIFO_PRIORITY_MIN));
    ask!("priority 16", priority(ports[2], 16));
    ask!("priority of a closed port", priority(2000, 1));
    for port in ports {
        word(array, port).fetch_and(!(1 << EVTCHN_FIFO_MASKED), Ordering::SeqCst);
        send(port);
    }
    say!("ready {:#x}", ready(control));
    say!("heads right: {}", [0, 7, 15].iter().zip(ports).all(|(q, port)| head(control, *q) == port));
    say!("taken: {} {} {}", drain(control, array, 0), drain(control, array, 7), drain(control, array, 15));
    let second = bind_ipi(0).unwrap_or(0);
    word(array, second).fetch_and(!(1 << EVTCHN_FIFO_MASKED), Ordering::SeqCst);
    send(ports[1]);
    send(second);
    let link = word(array, ports[1]).load(Ordering::SeqCst) & EVTCHN_FIFO_LINK_MASK;
    say!("second is linked behind the first: {}", link == second);
    say!("taken: {}", drain(control, array, 7));
}
