//! Several hypercalls in one, and the errors of each.
#![no_std]
#![no_main]

use claim::abi::Hypercall;
use claim::abi::xen::*;
use claim::{Answer, ask, call, mm, say};

claim::claim!(run);

fn entry(call: Hypercall, arguments: &[u64]) -> MulticallEntry {
    let mut entry = MulticallEntry { op: u64::from(call.number()), result: 0xdead, ..Default::default() };
    entry.args[..arguments.len()].copy_from_slice(arguments);
    entry
}

fn multicall(entries: &mut [MulticallEntry]) -> i64 {
    call(Hypercall::Multicall, &[entries.as_mut_ptr() as u64, entries.len() as u64])
}

fn run() {
    let page = mm::page();
    let good = mm::entry(page, 1).value;
    let mut entries = [
        entry(Hypercall::XenVersion, &[7, 0]),
        entry(Hypercall::UpdateVaMapping, &[page, good, UVMF_INVLPG]),
        entry(Hypercall::UpdateVaMapping, &[0xffff_8000_0000_0000, good, 0]),
        entry(Hypercall::FpuTaskswitch, &[0]),
        entry(Hypercall::SchedOp, &[99, 0]),
    ];
    ask!("five calls, two of them bad", multicall(&mut entries));
    for entry in &entries {
        say!("  {}", Answer(entry.result as i64));
    }
    let mut unknown = [MulticallEntry { op: 63, result: 1, ..Default::default() }];
    ask!("unknown call", multicall(&mut unknown));
    say!("  {}", Answer(unknown[0].result as i64));
    unknown[0].op = 1 << 40;
    ask!("number too large", multicall(&mut unknown));
    say!("  {}", Answer(unknown[0].result as i64));
    let mut inner = [entry(Hypercall::XenVersion, &[7, 0])];
    let mut nested = [entry(Hypercall::Multicall, &[inner.as_mut_ptr() as u64, 1])];
    ask!("multicall in a multicall", multicall(&mut nested));
    say!("  {}", Answer(nested[0].result as i64));
    ask!("none", multicall(&mut []));
    ask!("list at a bad address", call(Hypercall::Multicall, &[0x1000, 1]));
    ask!("list in the hypervisor", call(Hypercall::Multicall, &[0xffff_8300_0000_0000, 1]));
    let mut many = [entry(Hypercall::XenVersion, &[7, 0]); 60];
    ask!("sixty", multicall(&mut many));
    say!("  all answered: {}", many.iter().all(|e| e.result == 4096));
    boundary();
}

/// A list whose second entry lies in an absent page: the first is done, the call fails.
fn boundary() {
    let (first, second) = (mm::page(), mm::page());
    assert!(second == first + 4096);
    assert!(mm::update_va_mapping(second, 0) == 0);
    let at = second - size_of::<MulticallEntry>() as u64;
    // SAFETY: the last bytes of a page of the arena.
    unsafe { (at as *mut MulticallEntry).write_volatile(entry(Hypercall::XenVersion, &[7, 0])) };
    ask!("second of two entries is absent", call(Hypercall::Multicall, &[at, 2]));
    // SAFETY: as above.
    let first = unsafe { (at as *const MulticallEntry).read_volatile() };
    say!("first was done: {}", first.result == 4096);
}
