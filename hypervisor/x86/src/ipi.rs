//! What CPUs ask of each other.
//!
//! Interrupts are off in the hypervisor, so that a CPU which waits for another one's answer while that one waits for it, or for
//! a lock that it holds, would wait for ever. So what must be answered at once is asked by NMI: its handler takes no lock,
//! touches no guest memory and always comes through. Only "look at your work" is an ordinary interrupt.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use hv_core::mmu::CpuSet;
use hv_pv::regs::Regs;
use hv_types::GuestVa;

use crate::dev::{apic, vector};
use crate::percpu::{Cpu, online, this_cpu};
use crate::{cpu, panic, tlb, watchdog};

/// Bits of [`Requests::bits`].
mod bit {
    /// Flush every translation.
    pub const FLUSH: u32 = 1;
    /// Write back and empty the caches.
    pub const CACHES: u32 = 2;
    /// Stop for good.
    pub const STOP: u32 = 4;
    /// Say where it is stuck.
    pub const WHERE: u32 = 8;
}

/// NMIs without a sender's count that pass for late ones.
const MOST_LATE: u32 = 64;

/// A CPU's letter box.
pub struct Requests {
    bits: AtomicU32,
    /// A page to flush, with the sender's number and 1 in its low bits; 0: none.
    page: AtomicU64,
    /// Cache write-backs done.
    caches: AtomicU32,
    /// NMIs sent and not yet seen.
    sent: AtomicU32,
    /// NMIs that may still come for requests that were served together with another's.
    late: AtomicU32,
}

impl Requests {
    /// Nothing asked.
    pub const fn empty() -> Self {
        Requests {
            bits: AtomicU32::new(0),
            page: AtomicU64::new(0),
            caches: AtomicU32::new(0),
            sent: AtomicU32::new(0),
            late: AtomicU32::new(0),
        }
    }

    fn ask(&self, bits: u32) {
        self.bits.fetch_or(bits, Ordering::AcqRel);
    }
}

fn send(to: &Cpu) {
    to.requests.sent.fetch_add(1, Ordering::AcqRel);
    apic::send_nmi(to.apic_id);
}

/// True if nobody else is in the set, which is the usual case.
fn only_own(cpus: &CpuSet, own: &Cpu) -> bool {
    let mut rest = *cpus;
    rest.remove(own.id);
    rest.is_empty()
}

fn others<'a>(cpus: &'a CpuSet, own: &'a Cpu) -> impl Iterator<Item = &'static Cpu> + Clone + use<'a> {
    online().filter(|cpu| cpu.id != own.id && cpus.contains(cpu.id))
}

/// Makes the other CPUs of a set flush everything, unless they have since `stamp`; returns when they have.
pub fn flush_others(cpus: &CpuSet, stamp: u32) {
    let own = this_cpu();
    if only_own(cpus, own) {
        return;
    }
    // What is being taken away must be seen by whoever flushes from here on.
    fence(Ordering::SeqCst);
    let mut waits = CpuSet::EMPTY;
    for to in others(cpus, own).filter(|to| to.flushes.must_be_asked(stamp)) {
        to.requests.ask(bit::FLUSH);
        send(to);
        waits.insert(to.id);
    }
    wait_while(others(&waits, own), |to| to.flushes.is_stale(stamp));
}

/// Makes the other CPUs of a set flush one page; returns when they have.
pub fn flush_page_of_others(cpus: &CpuSet, va: GuestVa, stamp: u32) {
    let own = this_cpu();
    if only_own(cpus, own) {
        return;
    }
    fence(Ordering::SeqCst);
    let letter = va.0 & !0xfff | u64::from(own.id) << 1 & 0xffe | 1;
    let (mut page, mut all) = (CpuSet::EMPTY, CpuSet::EMPTY);
    for to in others(cpus, own).filter(|to| !to.flushes.leave_note()) {
        // Whose letter box is full flushes everything.
        if to.requests.page.compare_exchange(0, letter, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            page.insert(to.id);
        } else {
            to.requests.ask(bit::FLUSH);
            all.insert(to.id);
        }
        send(to);
    }
    wait_while(others(&page, own), |to| to.requests.page.load(Ordering::Acquire) == letter);
    wait_while(others(&all, own), |to| to.flushes.is_stale(stamp));
}

/// Makes every other CPU flush, some time soon. May be called in the handler of an NMI.
pub fn flush_everywhere_soon() {
    let own = this_cpu();
    apic::send_between(|| {
        for to in others(&CpuSet::ALL, own) {
            to.requests.ask(bit::FLUSH);
            send(to);
        }
    });
}

/// Makes every other CPU write back and empty its caches; returns when they have.
pub fn write_back_caches_of_others() {
    let own = this_cpu();
    for to in others(&CpuSet::ALL, own) {
        let before = to.requests.caches.load(Ordering::Acquire);
        to.requests.ask(bit::CACHES);
        send(to);
        wait_while(core::iter::once(to), |to| to.requests.caches.load(Ordering::Acquire) == before);
    }
}

/// Stops every other CPU for good, as far as they can be reached.
pub fn stop_others() {
    let own = this_cpu();
    for to in others(&CpuSet::ALL, own) {
        to.requests.ask(bit::STOP);
        send(to);
    }
}

/// Makes a CPU that is stuck say where, which is its end and everybody's.
pub fn ask_where(to: &Cpu) {
    to.requests.ask(bit::WHERE);
    send(to);
}

/// Waits for CPUs to answer. They do so within the time of an interrupt, whatever they are doing.
fn wait_while(cpus: impl Iterator<Item = &'static Cpu>, unanswered: impl Fn(&Cpu) -> bool) {
    for to in cpus {
        while unanswered(to) {
            core::hint::spin_loop();
        }
    }
}

/// Makes a CPU look at its work: at once if it runs a guest or idles, else before it returns to one.
pub fn raise(to: &Cpu, bits: u32) {
    let before = to.work.fetch_or(bits, Ordering::AcqRel);
    if before & bits != bits && !core::ptr::eq(to, this_cpu()) {
        apic::send_ipi(to.apic_id, vector::WAKE);
    }
}

/// An NMI: serves what others asked for. False if nobody asked, so that it came from elsewhere.
pub fn serve(regs: &Regs) -> bool {
    let own = this_cpu();
    let requests = &own.requests;
    let sent = requests.sent.swap(0, Ordering::AcqRel);
    let bits = requests.bits.swap(0, Ordering::AcqRel);
    let page = requests.page.load(Ordering::Acquire);
    if page != 0 {
        tlb::flush_page(page & !0xfff);
        requests.page.store(0, Ordering::Release);
    }
    if bits & bit::FLUSH != 0 {
        let began = tlb::flush_and_date(own);
        own.flushes.done_for_others(began);
    }
    if bits & bit::CACHES != 0 {
        cpu::wbinvd();
        requests.caches.fetch_add(1, Ordering::AcqRel);
    }
    if bits & bit::WHERE != 0 {
        watchdog::report(regs);
    }
    if bits & bit::STOP != 0 {
        panic::stopped();
    }
    // One NMI served all that was sent; of the others' some still come, and some the processor has merged.
    let late = requests.late.load(Ordering::Relaxed);
    let expected = (late + sent).min(MOST_LATE);
    requests.late.store(expected.saturating_sub(1), Ordering::Relaxed);
    expected != 0
}
