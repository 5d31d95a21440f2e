//! Events, timers, scheduling and interrupts: the core's ports on this machine.

use core::ops::Deref;
use core::sync::atomic::Ordering;

use guest_abi::errno::Errno;
use guest_abi::sched::{SHUTDOWN_CRASH, SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT, SHUTDOWN_WATCHDOG};
use guest_abi::xen::{VIRQ_DOM_EXC, VIRQ_TIMER};
use hv_core::call::CallError;
use hv_core::event::{self, DomainEvents, FramePin, Pirqs, Preempt, Wake};
use hv_core::physdev;
use hv_core::sched::{Reasons, SchedCaller, SchedPorts, VcpuSched};
use hv_core::time::{
    Fired, TimeRecord, TimerCommand, TimerKind, TimerQueue, VcpuTimers, Watchdogs, timer_op, write_time,
};
use hv_core::vcpu::VcpuPorts;
use hv_types::{DomId, Gfn, GuestVa, Mfn, Pirq, VcpuId};

use crate::dev::irq::{Board, LINES};
use crate::dev::{irq, time, tsc};
use crate::domain::{self, Domain};
use crate::guest::Caller;
use crate::machine::Machine;
use crate::mem::{PAGE, phys_to_virt};
use crate::paging::mmu;
use crate::percpu::{Cpu, NEVER, OPEN, cpu_record, this_cpu, work};
use crate::vcpu::{Vcpu, current};
use crate::{ipi, power, watchdog, work as cpu_work};

fn vcpu(dom: DomId, id: VcpuId) -> Option<&'static Vcpu> {
    domain::find(dom)?.vcpus().get(usize::from(id.0)).copied()
}

impl Wake for Machine {
    #[inline(always)]
    fn notify(&self, dom: DomId, id: VcpuId) {
        // A vCPU that runs here sees its pending flag on the way out.
        let Some(vcpu) = vcpu(dom, id) else { return };
        if vcpu.sched.release(Reasons::BLOCKED) {
            cpu_work::wake(vcpu);
        } else {
            cpu_work::knock(vcpu);
        }
    }

    fn unblock(&self, dom: DomId, id: VcpuId) {
        self.notify(dom, id);
    }
}

impl FramePin for Machine {
    fn pin(&self, dom: DomId, gfn: Gfn) -> Result<Mfn, Errno> {
        let domain = domain::find(dom).ok_or(Errno::EINVAL)?;
        // A paravirtual guest's frame numbers are machine frame numbers.
        mmu().pin_writable(&domain.memory, Mfn(gfn.0))
    }

    fn unpin(&self, _dom: DomId, mfn: Mfn) {
        mmu().unpin_writable(mfn);
    }
}

impl Pirqs for Machine {
    fn permitted(&self, dom: DomId, pirq: Pirq) -> bool {
        domain::find(dom).is_some_and(|d| d.privileged && d.pirqs.lock().irq(pirq).is_ok())
    }

    fn bind(&self, dom: DomId, pirq: Pirq, _will_share: bool) -> Result<(), Errno> {
        let domain = domain::find(dom).ok_or(Errno::EINVAL)?;
        physdev::bind(pirq, dom, &mut domain.pirqs.lock(), &LINES, &Board, self)
    }

    fn unbind(&self, dom: DomId, pirq: Pirq) {
        if let Some(domain) = domain::find(dom) {
            physdev::unbind(pirq, &mut domain.pirqs.lock(), &LINES, &Board, self);
        }
    }

    fn set_affinity(&self, dom: DomId, pirq: Pirq, id: VcpuId) {
        let Some(domain) = domain::find(dom) else { return };
        let Ok(line) = domain.pirqs.lock().irq(pirq) else { return };
        if let Some(cpu) = vcpu(dom, id).and_then(cpu_work::home) {
            irq::set_target(line, cpu.apic_id, || OPEN.contains(cpu.id));
        }
    }
}

/// A domain's events. The record lives for as long as this CPU may use it (I-LF-1).
pub struct Events(&'static Domain);

impl Deref for Events {
    type Target = DomainEvents;

    fn deref(&self) -> &DomainEvents {
        &self.0.events
    }
}

impl event::Domains for Machine {
    type Handle<'a> = Events;

    fn events(&self, dom: DomId) -> Option<Events> {
        domain::find(dom).map(Events)
    }

    fn is_paused(&self, dom: DomId) -> bool {
        domain::find(dom).is_some_and(|domain| domain.life.is_paused())
    }
}

impl Preempt for Machine {
    fn wanted(&self) -> bool {
        this_cpu().slice_is_over()
    }
}

/// Sends an interrupt of a device vector to the domain that owns the line.
#[inline]
pub fn device_interrupt(vector: u8) {
    if let Some((dom, pirq)) = irq::arrive(vector)
        && let Some(domain) = domain::find(dom)
    {
        domain.events.send_pirq(&Machine, pirq);
    }
}

/// Sets the CPU's hardware timer to its first deadline.
pub fn arm_timer() {
    let Some(clock) = time::clock() else { return };
    let cpu = this_cpu();
    let deadline = (cpu.timers.lock().deadline().unwrap_or(NEVER))
        .min(cpu.slice.load(Ordering::Acquire))
        .min(cpu.next_look.load(Ordering::Relaxed));
    match deadline {
        NEVER => crate::dev::apic::disarm_timer(),
        deadline => clock.arm(deadline),
    }
}

/// Ends the running vCPU's slice if it is over, and sees to it that there is an end if others wait.
fn look_at_slice(cpu: &Cpu, now: u64) {
    let slice = cpu.slice.load(Ordering::Acquire);
    if slice <= now || slice == NEVER && cpu.front.load(Ordering::Acquire) != NEVER {
        cpu.slice.store(NEVER, Ordering::Release);
        cpu_work::raise(work::SLICE);
    }
}

/// Acts on every timer of this CPU that has expired, and sets the hardware to the next.
pub fn run_timers() {
    let now = time::now();
    loop {
        let fired = this_cpu().timers.lock().expire(now);
        let Some((_, deadline, fired)) = fired else { break };
        expired(fired, deadline, now);
    }
    look_at_slice(this_cpu(), now);
    watchdog::look(this_cpu(), now);
    arm_timer();
}

fn expired(fired: Fired, deadline: u64, now: u64) {
    let Some(vcpu) = vcpu(fired.dom, fired.vcpu) else { return };
    match fired.kind {
        TimerKind::Singleshot => vcpu.domain.events.send_virq(&Machine, fired.vcpu, VIRQ_TIMER),
        TimerKind::Periodic => {
            vcpu.domain.events.send_virq(&Machine, fired.vcpu, VIRQ_TIMER);
            with_timers(vcpu, |timers, queue| timers.renew_periodic(queue, deadline, now));
        }
        TimerKind::Poll => {
            if vcpu.sched.release(Reasons::BLOCKED) {
                cpu_work::wake(vcpu);
            }
        }
        TimerKind::Watchdog => {
            log::warn!("d{}: its watchdog expired", fired.dom.0);
            shut_down_domain(vcpu.domain, SHUTDOWN_WATCHDOG as u8);
        }
    }
}

/// Who calls, for `sched_op`.
#[inline(always)]
pub fn sched_caller(vcpu: &'static Vcpu) -> SchedCaller<'static> {
    SchedCaller {
        events: &vcpu.domain.events,
        vcpu: VcpuId(vcpu.id),
        sched: &vcpu.sched,
        shutdown: &vcpu.domain.shutdown,
        privileged: vcpu.domain.privileged,
    }
}

/// Performs `set_timer_op`.
#[inline]
pub fn set_timer_op(vcpu: &Vcpu, timeout: u64) {
    match timer_op(timeout, time::now()) {
        TimerCommand::Stop => set_singleshot(vcpu, None),
        TimerCommand::Start(deadline) => set_singleshot(vcpu, Some(deadline)),
    }
}

/// Works on a vCPU's timers where they are, and lets that CPU's hardware follow.
pub fn with_timers<R>(vcpu: &Vcpu, f: impl FnOnce(&mut VcpuTimers, &mut TimerQueue) -> R) -> R {
    let mut timers = vcpu.timers.lock();
    let cpu = cpu_record(timers.cpu as usize).unwrap_or(this_cpu());
    let mut queue = cpu.timers.lock();
    let before = queue.deadline();
    let result = f(&mut timers.set, &mut queue);
    let after = queue.deadline();
    drop(queue);
    // A timer that was put off fires early once and finds nothing; that is cheaper than setting the hardware.
    if after.is_some_and(|a| before.is_none_or(|b| a < b)) {
        if core::ptr::eq(cpu, this_cpu()) {
            arm_timer();
        } else {
            ipi::raise(cpu, work::TIMER);
        }
    }
    result
}

/// Brings a vCPU's timers to the CPU that runs it from now on. Without memory they stay where they are.
pub fn bring_timers(cpu: &Cpu, vcpu: &Vcpu) {
    if move_timers(vcpu, cpu) {
        arm_timer();
    }
}

/// Moves a vCPU's timers to another CPU, whose hardware does not follow yet; false if they stay where they are.
fn move_timers(vcpu: &Vcpu, to: &Cpu) -> bool {
    let mut timers = vcpu.timers.lock();
    let Some(from) = cpu_record(timers.cpu as usize).filter(|from| from.id != to.id) else { return false };
    let moved = with_both_timers(from, to, |theirs, its| timers.set.migrate(theirs, its).is_ok());
    if moved {
        timers.cpu = to.id;
    }
    moved
}

/// Moves a domain's watchdogs to another CPU, whose hardware does not follow yet; false if they stay where they are.
fn move_watchdogs(domain: &Domain, to: &Cpu) -> bool {
    let mut held = domain.watchdogs.lock();
    let Some((dogs, at)) = held.as_mut() else { return false };
    let Some(from) = cpu_record(*at as usize).filter(|from| from.id != to.id) else { return false };
    let moved = with_both_timers(from, to, |theirs, its| dogs.migrate(theirs, its).is_ok());
    if moved {
        *at = to.id;
    }
    moved
}

/// Works on the timers of two CPUs, which are locked in the order of the CPUs' numbers.
fn with_both_timers<R>(one: &Cpu, other: &Cpu, f: impl FnOnce(&mut TimerQueue, &mut TimerQueue) -> R) -> R {
    let (mut first, mut second);
    if one.id < other.id {
        first = one.timers.lock();
        second = other.timers.lock();
    } else {
        second = other.timers.lock();
        first = one.timers.lock();
    }
    f(&mut first, &mut second)
}

/// Sends all timers of a CPU where no vCPU lives any more to another. False: not all are away, because somebody is making or
/// removing a vCPU, or time is up, or there is no memory.
pub fn send_timers_away(from: &Cpu, to: &Cpu) -> bool {
    let mut all = true;
    loop {
        let Some(owner) = from.timers.lock().anybody() else { break };
        let moved = match owner.kind {
            TimerKind::Watchdog => domain::find(owner.dom).is_some_and(|domain| move_watchdogs(domain, to)),
            TimerKind::Singleshot | TimerKind::Periodic | TimerKind::Poll => {
                vcpu(owner.dom, owner.vcpu).is_some_and(|vcpu| move_timers(vcpu, to))
            }
        };
        if !moved || this_cpu().slice_is_over() {
            all = false;
            break;
        }
    }
    ipi::raise(to, work::TIMER);
    all
}

/// Sets or stops the one-shot timer of the caller.
#[inline]
pub fn set_singleshot(vcpu: &Vcpu, deadline: Option<u64>) {
    with_timers(vcpu, |timers, queue| match deadline {
        Some(deadline) => queue.start(timers.singleshot, deadline),
        None => queue.stop(timers.singleshot),
    });
}

/// The vCPU does not poll any more.
pub fn stop_poll_timer(vcpu: &Vcpu) {
    with_timers(vcpu, |timers, queue| queue.stop(timers.poll));
}

/// Ends a domain; of dom0: the machine.
pub fn shut_down_domain(domain: &'static Domain, code: u8) {
    let (code, first) = domain.shutdown.begin(code);
    if domain.privileged {
        end_of_machine(code);
    }
    if first {
        for vcpu in domain.vcpus() {
            vcpu.sched.hold(Reasons::SHUTDOWN);
            cpu_work::stop(vcpu);
        }
        tell_dom0();
    }
}

/// Tells dom0 that a domain changed its state.
pub fn tell_dom0() {
    if let Some(dom0) = domain::find(DomId::DOM0) {
        dom0.events.send_global_virq(&Machine, VIRQ_DOM_EXC);
    }
}

/// dom0 has ended.
fn end_of_machine(code: u8) -> ! {
    match u32::from(code) {
        SHUTDOWN_POWEROFF => {
            log::error!("dom0 has powered off by itself: halting the machine");
            crate::cpu::halt_for_ever()
        }
        SHUTDOWN_REBOOT => {
            log::error!("dom0 asks for a restart: rebooting");
            power::reboot()
        }
        SHUTDOWN_CRASH => log::error!("dom0 reports that it crashed"),
        SHUTDOWN_WATCHDOG => log::error!("dom0's watchdog expired"),
        other => log::error!("dom0 shut down for reason {other}"),
    }
    power::after_fatal()
}

impl SchedPorts for Machine {
    fn reschedule(&self) {
        cpu_work::raise(work::SCHEDULE);
    }

    fn give_way(&self) {
        this_cpu().queue.lock().give_way(time::now());
        cpu_work::raise(work::SCHEDULE);
    }

    fn start_poll_timer(&self, deadline: u64) {
        with_timers(current(), |timers, queue| queue.start(timers.poll, deadline));
        current().polls.set(true);
    }

    fn shut_down(&self, dom: DomId, code: u8) -> Result<(), Errno> {
        shut_down_domain(domain::find(dom).ok_or(Errno::ESRCH)?, code);
        Ok(())
    }

    fn set_watchdog(&self, id: u32, timeout: u32) -> Result<i64, Errno> {
        let domain = current().domain;
        let mut held = domain.watchdogs.lock();
        // They stay in the queue of the CPU that first set one, until it goes offline.
        let home = held.as_ref().map_or(this_cpu().id, |(_, cpu)| *cpu);
        let cpu = cpu_record(home as usize).unwrap_or(this_cpu());
        let result = {
            let mut queue = cpu.timers.lock();
            let (dogs, _) = match held.as_mut() {
                Some(dogs) => dogs,
                None => held.insert((Watchdogs::add(&mut queue, domain.id)?, cpu.id)),
            };
            dogs.set(&mut queue, time::now(), id, timeout)
        };
        ipi::raise(cpu, work::TIMER);
        result
    }
}

impl VcpuPorts for Machine {
    fn now(&self) -> u64 {
        time::now()
    }

    fn sched(&self, vcpu: VcpuId) -> Option<&VcpuSched> {
        current().domain.vcpus().get(usize::from(vcpu.0)).map(|v| &v.sched)
    }

    fn initialise(&self, id: VcpuId, at: GuestVa) -> Result<(), CallError> {
        let domain = current().domain;
        let vcpu = domain.vcpus().get(usize::from(id.0)).ok_or(Errno::ENOENT)?;
        let context = crate::hypercall::read(at.0)?;
        // Two vCPUs may try at once.
        let _one = domain.initialising.lock();
        if vcpu.initialised.load(Ordering::Acquire) {
            return Err(Errno::EEXIST.into());
        }
        crate::context::set(vcpu, &context)
    }

    fn is_initialised(&self, id: VcpuId) -> bool {
        let vcpu = current().domain.vcpus().get(usize::from(id.0));
        vcpu.is_some_and(|vcpu| vcpu.initialised.load(Ordering::Acquire))
    }

    fn wake(&self, id: VcpuId) {
        if let Some(vcpu) = current().domain.vcpus().get(usize::from(id.0)) {
            with_timers(vcpu, |timers, queue| timers.come_up(queue, time::now()));
            cpu_work::wake(vcpu);
        }
    }

    fn sleep(&self, id: VcpuId) {
        if let Some(vcpu) = current().domain.vcpus().get(usize::from(id.0)) {
            cpu_work::stop(vcpu);
        }
    }

    fn shut_down(&self, code: u8) -> Result<(), Errno> {
        shut_down_domain(current().domain, code);
        Ok(())
    }

    fn set_singleshot(&self, deadline: Option<u64>) {
        set_singleshot(current(), deadline);
    }

    fn send_timer(&self) {
        let vcpu = current();
        vcpu.domain.events.send_virq(self, VcpuId(vcpu.id), VIRQ_TIMER);
    }

    fn set_periodic(&self, id: VcpuId, period: Option<u64>) -> Result<(), Errno> {
        let vcpu = current().domain.vcpus().get(usize::from(id.0)).ok_or(Errno::ENOENT)?;
        with_timers(vcpu, |timers, queue| match period {
            Some(period) => timers.set_periodic(queue, time::now(), period),
            None => {
                timers.stop_periodic(queue);
                Ok(())
            }
        })
    }

    fn set_runstate_area(&self, id: VcpuId, at: GuestVa) {
        if let Some(vcpu) = current().domain.vcpus().get(usize::from(id.0)) {
            vcpu.runstate_area.store(at.0, Ordering::Relaxed);
        }
    }

    fn set_time_area(&self, id: VcpuId, at: GuestVa) {
        if let Some(vcpu) = current().domain.vcpus().get(usize::from(id.0)) {
            vcpu.time_area.store(at.0, Ordering::Relaxed);
            if core::ptr::eq(*vcpu, current()) {
                write_clock(vcpu);
            }
        }
    }

    fn info_moved(&self, id: VcpuId) {
        let Some(vcpu) = current().domain.vcpus().get(usize::from(id.0)) else { return };
        if let Some((mfn, offset)) = vcpu.domain.events.vcpu(id).and_then(|e| e.info()) {
            vcpu.info.set(phys_to_virt(mfn.0 * PAGE + offset as u64));
            write_clock(vcpu);
        }
    }

    fn send_nmi(&self, id: VcpuId) {
        if let Some(vcpu) = current().domain.vcpus().get(usize::from(id.0)) {
            vcpu.nmi_pending.store(true, Ordering::Release);
            match vcpu.cpu().and_then(|cpu| cpu_record(cpu as usize)) {
                Some(cpu) => ipi::raise(cpu, work::SCHEDULE),
                None => cpu_work::wake(vcpu),
            }
        }
    }

    fn physical_id(&self, _vcpu: VcpuId) -> Option<u64> {
        None
    }

    fn marks_runstate(&self) -> bool {
        current().domain.assists(guest_abi::xen::VMASST_TYPE_RUNSTATE_UPDATE_FLAG)
    }
}

/// Writes the paravirtual clock where the guest looks: `vcpu_info`, and, of the vCPU that runs here, the area it asked for, if any.
pub fn write_clock(vcpu: &Vcpu) {
    let Some(clock) = time::clock() else { return };
    let record = TimeRecord::of(clock.start, clock.scale, crate::cpu::rdtsc(), tsc::is_stable());
    if let Some(place) = vcpu.domain.events.vcpu(VcpuId(vcpu.id)).and_then(|e| e.info()) {
        write_time(&Machine, place, &record);
    }
    let area = vcpu.time_area.load(Ordering::Relaxed);
    if area != 0 && core::ptr::eq(vcpu, current()) {
        let mut version = vcpu.time_area_version.get();
        vcpu.on_kernel_tables(|| {
            let _ = hv_core::time::write_time_area(&Caller, GuestVa(area), &mut version, &record);
        });
        vcpu.time_area_version.set(version);
    }
}

/// Writes the runstate area that the vCPU that runs here asked for, on its own page tables.
pub fn write_runstate(vcpu: &Vcpu) {
    let area = vcpu.runstate_area.load(Ordering::Relaxed);
    if area != 0 {
        let marked = vcpu.domain.assists(guest_abi::xen::VMASST_TYPE_RUNSTATE_UPDATE_FLAG);
        let info = vcpu.sched.runstate(time::now());
        vcpu.on_kernel_tables(|| {
            let _ = hv_core::time::write_runstate(&Caller, GuestVa(area), &info, marked);
        });
    }
}
