//! Clocks: the TSC as system time, measured in a short window against a counter of known frequency.
//!
//! The window is ten milliseconds, and there is none at all where CPUID says the frequencies. A reading of the
//! reference is taken between two readings of the TSC, again and again for a part of the window at its beginning and at its
//! end, and the narrowest pair counts: an interruption of the machine under us does not matter, and what is left is
//! a part of the latency of one register access.

use core::sync::atomic::{AtomicU64, Ordering};

use hv_core::options;
use hv_core::platform::clock::{self, PIT_HZ, PM_TIMER_HZ, Rate, SECOND, Scale};
use spin::{Mutex, Once};

use super::acpi::{Platform, Register};
use super::mmio::Block;
use super::{apic, rtc};
use crate::cpu;

/// Length of the window in ns.
const WINDOW: u64 = 10_000_000;
/// Length where only the local timer is unknown.
const SHORT_WINDOW: u64 = 2_000_000;
/// Which part of the window each of the two readings may take: one in so many.
const READING_PART: u64 = 20;
/// Upper bound of samples for a reading, should the reference stand still.
const MAX_SAMPLES: u32 = 20_000;

#[derive(Clone, Copy, Debug)]
enum Source {
    Hpet(Block),
    Pm(Register, Option<Block>),
    Pit,
}

/// A counter that does not depend on the processor.
pub struct PlatformTimer {
    source: Source,
    hz: u64,
    mask: u64,
    /// Count of the last reading, and ticks since the first.
    state: Mutex<(u64, u64)>,
}

impl PlatformTimer {
    /// The one that is wanted, or the best that the machine has: HPET, else the ACPI timer, else the 8254.
    pub fn open(platform: &Platform, wanted: Option<options::PlatformTimer>) -> PlatformTimer {
        use options::PlatformTimer::{Acpi, Hpet, Pit};
        let open = |which| match which {
            Hpet => platform.hpet.and_then(hpet),
            Acpi => pm_timer(platform),
            Pit => Some(pit()),
        };
        wanted.into_iter().chain([Hpet, Acpi]).find_map(open).unwrap_or_else(pit)
    }

    fn new(source: Source, hz: u64, mask: u64) -> PlatformTimer {
        let timer = PlatformTimer { source, hz, mask, state: Mutex::new((0, 0)) };
        timer.state.lock().0 = timer.count();
        timer
    }

    /// Its name, as the log has it.
    pub fn name(&self) -> &'static str {
        match self.source {
            Source::Hpet(_) => "HPET",
            Source::Pm(..) => "ACPI timer",
            Source::Pit => "8254",
        }
    }

    /// Ticks a second.
    pub fn hz(&self) -> u64 {
        self.hz
    }

    fn count(&self) -> u64 {
        let raw = match self.source {
            Source::Hpet(block) => block.read32(0xf0).into(),
            // SAFETY: the port that ACPI names as the timer; reading it has no effect.
            Source::Pm(Register::Port(port), _) => unsafe { cpu::inl(port) }.into(),
            Source::Pm(Register::Memory(_), block) => block.map_or(0, |block| block.read32(0).into()),
            Source::Pit => read_pit(),
        };
        raw & self.mask
    }

    /// Nanoseconds since the timer was opened. To be read at least once in the time the counter takes to wrap: 43 s for
    /// a fast HPET, 4.6 s for a 24-bit ACPI timer, 50 ms for the 8254.
    pub fn nanoseconds(&self) -> u64 {
        let mut state = self.state.lock();
        let count = self.count();
        let (last, ticks) = *state;
        let ticks = ticks + (count.wrapping_sub(last) & self.mask);
        *state = (count, ticks);
        (u128::from(ticks) * u128::from(SECOND) / u128::from(self.hz)) as u64
    }
}

fn hpet(address: u64) -> Option<PlatformTimer> {
    const FEMTOSECONDS: u64 = 1_000_000_000_000_000;
    const ENABLE: u32 = 1;
    const LEGACY: u32 = 2;
    // SAFETY: ACPI names these as the HPET's registers, which are the hypervisor's.
    let block = unsafe { Block::map(address, 0x400) }?;
    let period = block.read32(4);
    // The specification allows up to 100 ns.
    if block.read32(0) == u32::MAX || !(1..=100_000_000).contains(&period) {
        return None;
    }
    block.write32(0x10, block.read32(0x10) & !LEGACY | ENABLE);
    let hz = FEMTOSECONDS / u64::from(period);
    Some(PlatformTimer::new(Source::Hpet(block), hz, u32::MAX.into()))
}

fn pm_timer(platform: &Platform) -> Option<PlatformTimer> {
    let (register, wide) = platform.pm_timer?;
    let block = match register {
        Register::Port(_) => None,
        // SAFETY: ACPI names this as the timer.
        Register::Memory(address) => Some(unsafe { Block::map(address, 4) }?),
    };
    let mask = if wide { u64::from(u32::MAX) } else { 0xff_ffff };
    Some(PlatformTimer::new(Source::Pm(register, block), PM_TIMER_HZ, mask))
}

/// Channel 2 of the 8254, which otherwise makes the speaker beep, counting from 65536 down again and again.
fn pit() -> PlatformTimer {
    const GATE: u8 = 1;
    const SPEAKER: u8 = 2;
    // SAFETY: the hypervisor owns the 8254; with the speaker off, the channel has no effect but its count.
    unsafe {
        cpu::outb(0x61, cpu::inb(0x61) & !SPEAKER | GATE);
        cpu::outb(0x43, 0b1011_0100);
        cpu::outb(0x42, 0);
        cpu::outb(0x42, 0);
    }
    PlatformTimer::new(Source::Pit, PIT_HZ, 0xffff)
}

fn read_pit() -> u64 {
    // SAFETY: latches and reads channel 2, which is the hypervisor's.
    let count = unsafe {
        cpu::outb(0x43, 0b1000_0000);
        u16::from_le_bytes([cpu::inb(0x42), cpu::inb(0x42)])
    };
    u64::from(count.wrapping_neg())
}

/// System time: nanoseconds since the clock was started, by the TSC.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Frequency of the TSC.
    pub tsc_hz: u64,
    /// From ticks of the TSC to ns, as guests are told.
    pub scale: Scale,
    /// The TSC at system time 0.
    pub start: u64,
    rate: Rate,
}

/// The clock as the short window has it, and the one that guests are given.
static CLOCK: Once<Clock> = Once::new();
static FINAL: Once<Clock> = Once::new();
/// TSC and platform timer at the end of the short window.
static BASELINE: Once<(u64, u64)> = Once::new();
static TIMER: Once<PlatformTimer> = Once::new();
/// Wall-clock time at system time 0, in ns since 1970.
static WALL: AtomicU64 = AtomicU64::new(0);

/// Why there is no clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoClock;

/// Starts system time and gives the local timer its frequency. After `apic::init_cpu` on the first CPU.
pub fn init(platform: &Platform, wanted: Option<options::PlatformTimer>) -> Result<&'static Clock, NoClock> {
    let start = cpu::rdtsc();
    let timer = TIMER.call_once(|| PlatformTimer::open(platform, wanted));
    let said = said_by_cpuid();
    let measured = match said {
        (Some(_), Some(_)) => None,
        (Some(_), None) if apic::has_deadline() => None,
        (Some(_), None) => measure(timer, SHORT_WINDOW),
        (None, _) => measure(timer, WINDOW),
    };
    let tsc_hz = said.0.or(measured.map(|(tsc, _)| tsc)).filter(|hz| *hz >= 1_000_000).ok_or(NoClock)?;
    if let Some(hz) = said.1.or(measured.map(|(_, apic)| apic)) {
        apic::set_timer_hz(hz);
    }
    let scale = Scale::from_hz(tsc_hz).ok_or(NoClock)?;
    let clock = CLOCK.call_once(|| Clock { tsc_hz, scale, start, rate: Rate::from_hz(tsc_hz) });
    let seconds = if platform.no_cmos_clock { None } else { rtc::seconds(platform.century) };
    let wall = seconds.unwrap_or(0).saturating_mul(SECOND).saturating_sub(clock.now());
    WALL.store(wall, Ordering::Relaxed);
    log::info!(
        "TSC {}.{:03} MHz, platform timer {} {} kHz",
        tsc_hz / 1_000_000,
        tsc_hz / 1000 % 1000,
        timer.name(),
        timer.hz() / 1000
    );
    Ok(clock)
}

/// The clock, once started.
#[inline]
pub fn clock() -> Option<&'static Clock> {
    FINAL.get().or_else(|| CLOCK.get())
}

/// Shortest time over which a second measurement says more than the first.
const LONG_WINDOW: u64 = 100_000_000;

/// Measures the TSC again, over all the time since [`init`], before the first guest runs: what one reading is late by counts
/// for less the longer the window. System time goes on where it is. From here on the clock does not change.
pub fn settle() {
    let Some(first) = CLOCK.get() else { return };
    let better = TIMER.get().and_then(|timer| measured_since_init(timer, first)).unwrap_or(*first);
    if better.tsc_hz != first.tsc_hz {
        let change = better.tsc_hz as i64 - first.tsc_hz as i64;
        log::info!("TSC measured again: {change:+} Hz of {}", first.tsc_hz);
    }
    FINAL.call_once(|| better);
}

fn measured_since_init(timer: &PlatformTimer, first: &Clock) -> Option<Clock> {
    let (tsc, reference) = *BASELINE.get()?;
    let elapsed = first.now().checked_sub(first.at(tsc))?;
    // A counter that may have wrapped says nothing.
    let wraps_after = (u128::from(timer.mask) * u128::from(SECOND) / u128::from(timer.hz)) as u64;
    if elapsed < LONG_WINDOW || elapsed > wraps_after / 2 {
        return None;
    }
    let now = read(timer, timer.hz * READING_TIME / SECOND);
    let ticks = now.reference.wrapping_sub(reference) & timer.mask;
    let tsc_hz = clock::frequency(now.tsc.checked_sub(tsc)?, ticks, timer.hz)?;
    // Further off than the first could be: the reference was disturbed.
    if tsc_hz.abs_diff(first.tsc_hz) > first.tsc_hz / 1000 {
        return None;
    }
    let (scale, rate) = (Scale::from_hz(tsc_hz)?, Rate::from_hz(tsc_hz));
    let start = now.tsc.wrapping_sub(rate.ticks(first.at(now.tsc)));
    Some(Clock { tsc_hz, scale, start, rate })
}

/// How long the reading at the end of a long window may take, in ns.
const READING_TIME: u64 = 500_000;

/// The platform timer, once opened.
pub fn platform_timer() -> Option<&'static PlatformTimer> {
    TIMER.get()
}

/// System time in ns; 0 before [`init`].
#[inline]
pub fn now() -> u64 {
    clock().map_or(0, Clock::now)
}

/// Wall-clock time at system time 0, in ns since 1970 (0 if the CMOS clock showed no date).
pub fn wall_clock_base() -> u64 {
    WALL.load(Ordering::Relaxed)
}

/// From now on the wall clock showed `seconds` and `nanoseconds` after 1970 at `system_time`.
pub fn set_wall_clock(seconds: u64, nanoseconds: u32, system_time: u64) {
    let at = seconds.saturating_mul(SECOND).saturating_add(nanoseconds.into());
    WALL.store(at.saturating_sub(system_time), Ordering::Relaxed);
}

impl Clock {
    /// System time in ns.
    #[inline]
    pub fn now(&self) -> u64 {
        self.at(cpu::rdtsc())
    }

    /// System time when the TSC shows `tsc`.
    #[inline]
    pub fn at(&self, tsc: u64) -> u64 {
        self.scale.nanoseconds(tsc.wrapping_sub(self.start))
    }

    /// What the TSC shows at a system time.
    #[inline]
    pub fn tsc_at(&self, nanoseconds: u64) -> u64 {
        self.start.wrapping_add(self.rate.ticks(nanoseconds))
    }

    /// Lets this CPU's timer interrupt at a system time; at once if that is past.
    #[inline]
    pub fn arm(&self, deadline: u64) {
        if apic::has_deadline() {
            apic::arm_timer(0, self.tsc_at(deadline));
        } else {
            apic::arm_timer(deadline.saturating_sub(self.now()), 0);
        }
    }
}

/// Waits so many ns by the TSC, or about that long before its frequency is known.
pub fn wait(nanoseconds: u64) {
    match clock() {
        Some(clock) => {
            let end = clock.now().saturating_add(nanoseconds);
            while clock.now() < end {
                core::hint::spin_loop();
            }
        }
        // A write to an unused port takes a microsecond on anything that has ports.
        None => (0..nanoseconds.div_ceil(1000)).for_each(|_| {
            // SAFETY: the port shows codes of the firmware's self-test and has no other effect.
            unsafe { cpu::outb(0x80, 0) }
        }),
    }
}

/// Frequencies of TSC and local timer where CPUID has them: the hypervisor's timing leaf, else the crystal's.
fn said_by_cpuid() -> (Option<u64>, Option<u64>) {
    const TIMING: u32 = 0x4000_0010;
    let some = |hz: u64| (hz != 0).then_some(hz);
    let is_guest = cpu::cpuid(1, 0).ecx & 1 << 31 != 0;
    if is_guest && (TIMING..0x4001_0000).contains(&cpu::cpuid(0x4000_0000, 0).eax) {
        let leaf = cpu::cpuid(TIMING, 0);
        if leaf.eax != 0 {
            return (some(u64::from(leaf.eax) * 1000), some(u64::from(leaf.ebx) * 1000));
        }
    }
    if cpu::cpuid(0, 0).eax < 0x15 {
        return (None, None);
    }
    let leaf = cpu::cpuid(0x15, 0);
    let (denominator, numerator, crystal) = (leaf.eax, leaf.ebx, u64::from(leaf.ecx));
    if denominator == 0 || numerator == 0 || crystal == 0 {
        return (None, None);
    }
    (some(crystal * u64::from(numerator) / u64::from(denominator)), some(crystal))
}

#[derive(Clone, Copy)]
struct Reading {
    tsc: u64,
    reference: u64,
    apic: u32,
}

/// The three counters at one moment, as nearly as that can be had within so many ticks of the reference.
fn read(timer: &PlatformTimer, patience: u64) -> Reading {
    let sample = || {
        let before = cpu::rdtsc();
        let reference = timer.count();
        let after = cpu::rdtsc();
        let apic = apic::counted();
        (after - before, Reading { tsc: before + (after - before) / 2, reference, apic })
    };
    let (mut width, first) = sample();
    let mut best = first;
    for _ in 0..MAX_SAMPLES {
        let (next_width, next) = sample();
        if next_width < width {
            (width, best) = (next_width, next);
        }
        if next.reference.wrapping_sub(first.reference) & timer.mask >= patience {
            break;
        }
    }
    best
}

/// Frequencies of TSC and local timer, measured; `None` if the reference stands still.
fn measure(timer: &PlatformTimer, window: u64) -> Option<(u64, u64)> {
    let enough = timer.hz * (window / 1000) / 1_000_000;
    apic::start_count();
    let part = enough / READING_PART;
    let first = read(timer, part);
    // A counter that stands still is found out by the number of tries: each takes some tens of cycles at least.
    let moved = (0..50_000_000u32).any(|_| {
        core::hint::spin_loop();
        timer.count().wrapping_sub(first.reference) & timer.mask >= enough - part
    });
    let last = read(timer, part);
    apic::stop_count();
    if !moved {
        log::error!("the {} stands still", timer.name());
        return None;
    }
    BASELINE.call_once(|| (last.tsc, last.reference));
    let ticks = last.reference.wrapping_sub(first.reference) & timer.mask;
    let hz = |count: u64| clock::frequency(count, ticks, timer.hz);
    Some((hz(last.tsc - first.tsc)?, hz(u64::from(last.apic - first.apic))?))
}
