//! A guest that does nothing for ever: what a domain costs before its kernel does anything. No claim: measurements make
//! many of it. With `end=` on its command line it ends at once, for the reason of that number; with `spin=` it takes all the time it is
//! given.
#![no_std]
#![no_main]

use claim::abi::Hypercall;
use claim::abi::sched::SCHEDOP_BLOCK;
use claim::{call, event, option, stop};

claim::claim!(run);

/// Of the store and of the console, whose daemons tell a new guest at once that they are there.
const PORTS: core::ops::RangeInclusive<u32> = 1..=2;

fn run() {
    if let Some(reason) = option("end") {
        stop(reason as u32);
    }
    while option("spin").is_some() {
        (0..u32::MAX).for_each(|turn| {
            core::hint::black_box(turn);
        });
    }
    PORTS.for_each(|port| event::set_masked(port, true));
    loop {
        // What came before the ports were masked would end every block at once.
        event::clear_selector();
        event::clear_upcall_pending();
        call(Hypercall::SchedOp, &[u64::from(SCHEDOP_BLOCK), 0]);
    }
}
