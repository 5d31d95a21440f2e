//! Whether guests are told that the TSC is one on all CPUs (`XEN_PVCLOCK_TSC_STABLE_BIT`).
//!
//! They are while the processor says that its TSC is invariant, nobody says otherwise on the command line, and each CPU that came, or
//! came back, has met the first one and their TSCs agreed. Once they are not told, they are not told again.

use core::fmt::Arguments;
use core::sync::atomic::{AtomicBool, Ordering};

use hv_core::options::{Options, Selftest};
use hv_core::time::{Meeting, Side, Verdict};
use hv_pv::cpuid::has_invariant_tsc;

use super::time;
use crate::percpu::{Cpu, cpu_record, online, work};
use crate::{cpu, cpuid, ipi};

static STABLE: AtomicBool = AtomicBool::new(false);
static MEETING: Meeting = Meeting::new();
/// `selftest=warp` was asked for.
static WARPS: AtomicBool = AtomicBool::new(false);
/// How far behind a TSC then is, in ticks: more than the emulators' threads take from one reading to the next.
const WARP: u64 = 1 << 40;

/// For how long a meeting may last, in ms, and how often each looks for the other, should a TSC stand still. It is over in a fraction
/// of a millisecond, but for a machine under us that runs one of the two at a time.
const PATIENCE: u64 = 500;
/// See [`PATIENCE`].
const MOST_LOOKS: u32 = 10_000_000;

/// Looks whether there is a point in comparing. After `time::init`, before other CPUs start.
pub fn init(options: &Options) {
    let pretended = matches!(options.selftest, Some(Selftest::Tsc | Selftest::Warp));
    WARPS.store(options.selftest == Some(Selftest::Warp), Ordering::Relaxed);
    STABLE.store((has_invariant_tsc(cpuid::host) || pretended) && !options.tsc_unstable, Ordering::Relaxed);
}

/// True while guests are told.
#[inline]
pub fn is_stable() -> bool {
    STABLE.load(Ordering::Relaxed)
}

/// This CPU, which comes and takes part in nothing yet, meets the first one. `again`: it comes back.
pub fn come(cpu: &Cpu, again: bool) {
    if !is_stable() {
        return;
    }
    MEETING.open();
    if let Some(first) = cpu_record(0) {
        ipi::raise(first, work::MEET);
    }
    let warp = if again && cpu.id == 1 && WARPS.load(Ordering::Relaxed) { WARP } else { 0 };
    let read = || cpu::rdtsc_in_order().wrapping_sub(warp);
    match MEETING.attend(Side::Second, read, patience()) {
        Verdict::Agree => {}
        Verdict::Behind(ticks) => {
            distrust(format_args!("CPU {}'s and CPU 0's differ by {ticks} ticks or more", cpu.id));
        }
        Verdict::Unfinished => distrust(format_args!("CPU {}'s could not be compared", cpu.id)),
    }
}

/// The first CPU meets the one that comes, if one does.
pub fn attend() {
    if MEETING.is_open() {
        // What was found is the other's to act on.
        let _ = MEETING.attend(Side::First, cpu::rdtsc_in_order, patience());
    }
}

fn patience() -> impl FnMut() -> bool {
    let (start, mut looks) = (cpu::rdtsc(), 0);
    let ticks = time::clock().map_or(0, |clock| clock.tsc_hz / 1000 * PATIENCE);
    move || {
        core::hint::spin_loop();
        looks += 1;
        looks < MOST_LOOKS && cpu::rdtsc().wrapping_sub(start) < ticks
    }
}

/// Guests are not told from here on: those that run as soon as their CPUs have looked, the others when they run again.
fn distrust(why: Arguments) {
    if STABLE.swap(false, Ordering::SeqCst) {
        log::warn!("TSC: {why}; guests are not told that it is stable");
        online().for_each(|cpu| ipi::raise(cpu, work::CLOCK));
    }
}

/// Says what guests are told, once all CPUs have come.
pub fn report() {
    if is_stable() {
        log::info!("TSC: invariant, and the same on all processors");
    }
}
