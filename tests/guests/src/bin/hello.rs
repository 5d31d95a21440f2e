//! A PV kernel starts, its console works, and it can stop the machine.
#![no_std]
#![no_main]

use claim::abi::Hypercall;
use claim::abi::xen;
use claim::{ask, call, say};

claim::claim!(run);

fn run() {
    say!("hello");
    let write = u64::from(xen::CONSOLEIO_WRITE);
    ask!("write of no bytes", call(Hypercall::ConsoleIo, &[write, 0, 0]));
    ask!("write from an unmapped address", call(Hypercall::ConsoleIo, &[write, 4, 0x1000]));
    ask!(
        "write from the hypervisor's memory",
        call(Hypercall::ConsoleIo, &[write, 4, 0xffff_8300_0000_0000])
    );
    ask!("unknown console operation", call(Hypercall::ConsoleIo, &[99, 0, 0]));
    let mut byte = 0_u8;
    let read = u64::from(xen::CONSOLEIO_READ);
    ask!("read with nothing typed", call(Hypercall::ConsoleIo, &[read, 1, &raw mut byte as u64]));
}
