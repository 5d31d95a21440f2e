//! The paravirtual clock, and timers that send VIRQ_TIMER.
#![no_std]
#![no_main]

use claim::abi::Hypercall;
use claim::abi::sched::*;
use claim::abi::vcpu::*;
use claim::abi::xen::{VIRQ_TIMER, XEN_PVCLOCK_TSC_STABLE_BIT, shared_offset};
use claim::event::{self, bind_virq, clear, clear_selector, clear_upcall_pending, pending, set_masked};
use claim::{Answer, ask, call, mm, say, time, trap};

claim::claim!(run);

const MILLISECOND: u64 = 1_000_000;

fn run() {
    clock();
    let port = bind_virq(VIRQ_TIMER, 0).unwrap_or(0);
    set_masked(port, false);
    say!("a periodic timer runs from the start: {} {}", wait(port), wait(port));
    ask!("stop it", claim_vcpu(VCPUOP_STOP_PERIODIC_TIMER, &mut 0_u64));
    clear(port);
    timer_op(port);
    singleshot(port);
    periodic(port);
    blocking(port);
}

fn clock() {
    let shared = event::shared();
    let clock = time::clock();
    say!(
        "clock is filled in: {}",
        clock.version != 0 && clock.version & 1 == 0 && clock.tsc_to_system_mul != 0
    );
    let stable = clock.flags & XEN_PVCLOCK_TSC_STABLE_BIT != 0;
    say!("it is marked stable on a TSC that may stop or change: {}", stable && !tsc_is_invariant());
    let (first, second) = (time::now(), time::now());
    say!("time does not go back: {}", second >= first);
    let seconds = mm::peek(shared + shared_offset::WC_VERSION as u64) >> 32;
    say!("wall clock is after 2020: {}", seconds > 1_577_836_800);
    let version = mm::peek(shared + shared_offset::WC_VERSION as u64) as u32;
    say!("wall clock version is even and not zero: {}", version != 0 && version & 1 == 0);
    let mut area = VcpuRegisterTimeMemoryArea { addr: mm::page() };
    ask!("second copy of the clock", claim_vcpu(VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA, &mut area));
    ask!("yield", call(Hypercall::SchedOp, &[u64::from(SCHEDOP_YIELD), 0]));
    let copy = area.addr as *const claim::abi::xen::VcpuTimeInfo;
    // SAFETY: the area is a page of the arena.
    say!("it is filled in: {}", unsafe { copy.read_volatile() }.tsc_to_system_mul == clock.tsc_to_system_mul);
}

/// CPUID 0x80000007, EDX bit 8.
fn tsc_is_invariant() -> bool {
    const POWER: u32 = 0x8000_0007;
    let cpuid = core::arch::x86_64::__cpuid;
    cpuid(0x8000_0000).eax >= POWER && cpuid(POWER).edx & 1 << 8 != 0
}

fn claim_vcpu<T>(op: u32, argument: &mut T) -> i64 {
    call(Hypercall::VcpuOp, &[u64::from(op), 0, &raw mut *argument as u64])
}

/// Waits, with hypercalls in between, until the port is pending; gives up after two seconds.
fn wait(port: u32) -> bool {
    let until = time::now() + 2000 * MILLISECOND;
    while time::now() < until {
        if pending(port) {
            clear(port);
            clear_upcall_pending();
            clear_selector();
            return true;
        }
        call(Hypercall::SchedOp, &[u64::from(SCHEDOP_YIELD), 0]);
    }
    false
}

fn timer_op(port: u32) {
    let at = time::now() + 5 * MILLISECOND;
    ask!("timer in 5 ms", call(Hypercall::SetTimerOp, &[at]));
    say!("it came: {}, not early: {}", wait(port), time::now() >= at);
    ask!("timer in the past", call(Hypercall::SetTimerOp, &[1]));
    say!("it came: {}", wait(port));
    ask!("timer in 20 ms", call(Hypercall::SetTimerOp, &[time::now() + 20 * MILLISECOND]));
    ask!("timer off", call(Hypercall::SetTimerOp, &[0]));
    let until = time::now() + 40 * MILLISECOND;
    while time::now() < until {}
    say!("it came: {}", pending(port));
    clear(port);
}

fn singleshot(port: u32) {
    let set = |timeout_abs_ns, flags| {
        let mut timer = VcpuSetSingleshotTimer { timeout_abs_ns, flags, ..Default::default() };
        claim_vcpu(VCPUOP_SET_SINGLESHOT_TIMER, &mut timer)
    };
    ask!("one shot in 5 ms", set(time::now() + 5 * MILLISECOND, 0));
    say!("it came: {}", wait(port));
    ask!("one shot in the future that is past", set(1, VCPU_SSHOTTMR_FUTURE));
    ask!("one shot in the future", set(time::now() + 5 * MILLISECOND, VCPU_SSHOTTMR_FUTURE));
    say!("it came: {}", wait(port));
    ask!("one shot in the past", set(1, 0));
    say!("it came: {}", wait(port));
    ask!("stop what is not running", claim_vcpu(VCPUOP_STOP_SINGLESHOT_TIMER, &mut 0_u64));
    let bad = [u64::from(VCPUOP_SET_SINGLESHOT_TIMER), 0, 0x1000];
    ask!("timer at a bad address", call(Hypercall::VcpuOp, &bad));
    let other = VcpuSetSingleshotTimer::default();
    let elsewhere = [u64::from(VCPUOP_SET_SINGLESHOT_TIMER), 9, &raw const other as u64];
    ask!("timer of a vCPU that is not", call(Hypercall::VcpuOp, &elsewhere));
}

fn periodic(port: u32) {
    let set = |period_ns| claim_vcpu(VCPUOP_SET_PERIODIC_TIMER, &mut VcpuSetPeriodicTimer { period_ns });
    ask!("period of 100 ns", set(100));
    ask!("period of 200 years", set(200 * 365 * 86_400 * 1_000_000_000));
    ask!("period of 4 ms", set(4 * MILLISECOND));
    say!("it came: {}", wait(port));
    say!("and again: {}", wait(port));
    ask!("stop it", claim_vcpu(VCPUOP_STOP_PERIODIC_TIMER, &mut 0_u64));
    clear(port);
    let until = time::now() + 20 * MILLISECOND;
    while time::now() < until {}
    say!("it came: {}", pending(port));
}

fn blocking(port: u32) {
    clear(port);
    clear_upcall_pending();
    clear_selector();
    trap::upcalls();
    let at = time::now() + 10 * MILLISECOND;
    call(Hypercall::SetTimerOp, &[at]);
    let answer = call(Hypercall::SchedOp, &[u64::from(SCHEDOP_BLOCK), 0]);
    say!(
        "block until a timer: {}, upcalls {}, events on {}",
        Answer(answer),
        trap::upcalls(),
        event::upcall_mask() == 0
    );
    say!("not early: {}", time::now() >= at);
    event::set_upcall_mask(1);
    clear(port);
    let at = time::now() + 10 * MILLISECOND;
    let mut poll =
        SchedPoll { ports: &raw const port as u64, nr_ports: 1, timeout: at, ..Default::default() };
    let ask_poll =
        |poll: &mut SchedPoll| call(Hypercall::SchedOp, &[u64::from(SCHEDOP_POLL), &raw mut *poll as u64]);
    ask!("poll with a timeout", ask_poll(&mut poll));
    say!("not early: {}, pending {}", time::now() >= at, pending(port));
    call(Hypercall::SetTimerOp, &[time::now() + 5 * MILLISECOND]);
    poll.timeout = 0;
    ask!("poll until a timer", ask_poll(&mut poll));
    say!("pending {}", pending(port));
    ask!("poll what is pending", ask_poll(&mut poll));
    poll.nr_ports = 129;
    ask!("poll of too many", ask_poll(&mut poll));
    poll.nr_ports = 1;
    poll.ports = 0x1000;
    ask!("poll of a bad address", ask_poll(&mut poll));
    let no_port = 5000_u32;
    poll.ports = &raw const no_port as u64;
    ask!("poll of a port too high", ask_poll(&mut poll));
    ask!("unknown scheduling operation", call(Hypercall::SchedOp, &[99, 0]));
}
