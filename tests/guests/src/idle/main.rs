//! A guest that does nothing for ever: what a domain costs before its kernel does anything. No claim: measurements make
//! many of it.
#![no_std]
#![no_main]

use claim::abi::Hypercall;
use claim::abi::sched::SCHEDOP_BLOCK;
use claim::call;

claim::claim!(run);

fn run() {
    loop {
        // No event is bound, so that nothing ends this.
        call(Hypercall::SchedOp, &[u64::from(SCHEDOP_BLOCK), 0]);
    }
}
