//! Events, timers, scheduling and interrupts: the core's ports on this machine.

use core::ops::Deref;
use core::sync::atomic::Ordering;

use guest_abi::errno::Errno;
use guest_abi::sched::{SHUTDOWN_CRASH, SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT, SHUTDOWN_WATCHDOG};
use guest_abi::xen::VIRQ_TIMER;
use hv_core::call::CallError;
use hv_core::event::{self, DomainEvents, FramePin, Pirqs, Preempt, Wake};
use hv_core::physdev;
use hv_core::sched::{Reasons, SchedCaller, SchedPorts, VcpuSched};
use hv_core::time::{Fired, TimeRecord, TimerCommand, TimerKind, timer_op, write_time};
use hv_core::vcpu::VcpuPorts;
use hv_types::{DomId, Gfn, GuestVa, Mfn, Pirq, VcpuId};

use crate::dev::irq::{Board, LINES};
use crate::dev::{irq, time};
use crate::domain::{self, Domain};
use crate::machine::Machine;
use crate::mem::{PAGE, phys_to_virt};
use crate::paging::mmu;
use crate::percpu::{cpu_record, this_cpu, work};
use crate::vcpu::{Vcpu, current};
use crate::work::Runner;
use crate::{power, work as cpu_work};

fn vcpu(dom: DomId, id: VcpuId) -> Option<&'static Vcpu> {
    domain::find(dom)?.vcpus().get(usize::from(id.0)).copied()
}

/// The vCPU's last reason not to run may be gone: its CPU looks again.
fn may_run_again(vcpu: &'static Vcpu) {
    let home = cpu_record(vcpu.sched.cpu() as usize).unwrap_or(this_cpu());
    let mut queue = home.queue.lock();
    if let Some(slot) = queue.slot_of(&Runner(vcpu)) {
        queue.wake(slot, time::now());
    }
    drop(queue);
    home.work.fetch_or(work::SCHEDULE, Ordering::AcqRel);
}

impl Wake for Machine {
    #[inline(always)]
    fn notify(&self, dom: DomId, id: VcpuId) {
        // A running vCPU sees its pending flag on the way out.
        if let Some(vcpu) = vcpu(dom, id)
            && vcpu.sched.release(Reasons::BLOCKED)
        {
            may_run_again(vcpu);
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
        let home = vcpu(dom, id).and_then(|v| cpu_record(v.sched.cpu() as usize));
        if let Some(cpu) = home {
            irq::set_target(line, cpu.apic_id);
        }
    }
}

/// A domain's events; domains are never freed, so that a reference is enough.
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

    fn is_paused(&self, _dom: DomId) -> bool {
        false
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
    match this_cpu().timers.lock().deadline() {
        Some(deadline) => clock.arm(deadline),
        None => crate::dev::apic::disarm_timer(),
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
    arm_timer();
}

fn expired(fired: Fired, deadline: u64, now: u64) {
    let Some(vcpu) = vcpu(fired.dom, fired.vcpu) else { return };
    match fired.kind {
        TimerKind::Singleshot => vcpu.domain.events.send_virq(&Machine, fired.vcpu, VIRQ_TIMER),
        TimerKind::Periodic => {
            vcpu.domain.events.send_virq(&Machine, fired.vcpu, VIRQ_TIMER);
            vcpu.timers.lock().renew_periodic(&mut this_cpu().timers.lock(), deadline, now);
        }
        TimerKind::Poll => {
            if vcpu.sched.release(Reasons::BLOCKED) {
                may_run_again(vcpu);
            }
        }
        TimerKind::Watchdog => {
            log::warn!("d{}: its watchdog expired", fired.dom.0);
            let _ = Machine.shut_down_domain(vcpu.domain, SHUTDOWN_WATCHDOG as u8);
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

/// Sets or stops the one-shot timer of the caller.
#[inline]
pub fn set_singleshot(vcpu: &Vcpu, deadline: Option<u64>) {
    let slot = vcpu.timers.lock().singleshot;
    let mut queue = this_cpu().timers.lock();
    let before = queue.deadline();
    match deadline {
        Some(deadline) => queue.start(slot, deadline),
        None => queue.stop(slot),
    }
    let after = queue.deadline();
    drop(queue);
    // A timer that was put off fires early once and finds nothing; that is cheaper than setting the hardware.
    if after.is_some_and(|a| before.is_none_or(|b| a < b)) {
        arm_timer();
    }
}

impl Machine {
    /// Ends a domain; of dom0: the machine.
    fn shut_down_domain(&self, domain: &'static Domain, code: u8) -> Result<(), Errno> {
        let (code, first) = domain.shutdown.begin(code);
        if domain.privileged {
            end_of_machine(code);
        }
        if first {
            for vcpu in domain.vcpus() {
                vcpu.sched.hold(Reasons::SHUTDOWN);
                may_run_again(vcpu);
            }
        }
        Ok(())
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
        let slot = current().timers.lock().poll;
        this_cpu().timers.lock().start(slot, deadline);
        current().polls.set(true);
        arm_timer();
    }

    fn shut_down(&self, dom: DomId, code: u8) -> Result<(), Errno> {
        self.shut_down_domain(domain::find(dom).ok_or(Errno::ESRCH)?, code)
    }

    fn set_watchdog(&self, id: u32, timeout: u32) -> Result<i64, Errno> {
        let cpu = this_cpu();
        let domain = current().domain;
        let mut held = domain.watchdogs.lock();
        let result = {
            let mut queue = cpu.timers.lock();
            let dogs = match held.as_mut() {
                Some(dogs) => dogs,
                None => held.insert(hv_core::time::Watchdogs::add(&mut queue, domain.id)?),
            };
            dogs.set(&mut queue, time::now(), id, timeout)
        };
        arm_timer();
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

    fn initialise(&self, _vcpu: VcpuId, _context: GuestVa) -> Result<(), CallError> {
        // Every vCPU that exists was given its context when it was made.
        Err(Errno::EEXIST.into())
    }

    fn is_initialised(&self, _vcpu: VcpuId) -> bool {
        true
    }

    fn wake(&self, id: VcpuId) {
        if let Some(vcpu) = current().domain.vcpus().get(usize::from(id.0)) {
            may_run_again(vcpu);
        }
    }

    fn sleep(&self, id: VcpuId) {
        self.wake(id);
    }

    fn shut_down(&self, code: u8) -> Result<(), Errno> {
        self.shut_down_domain(current().domain, code)
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
        let mut timers = vcpu.timers.lock();
        {
            let mut queue = this_cpu().timers.lock();
            match period {
                Some(period) => timers.set_periodic(&mut queue, time::now(), period)?,
                None => timers.stop_periodic(&mut queue),
            }
        }
        arm_timer();
        Ok(())
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
            may_run_again(vcpu);
        }
    }

    fn physical_id(&self, _vcpu: VcpuId) -> Option<u64> {
        None
    }

    fn marks_runstate(&self) -> bool {
        current().domain.assists(guest_abi::xen::VMASST_TYPE_RUNSTATE_UPDATE_FLAG)
    }
}

/// Writes the paravirtual clock where the guest looks: `vcpu_info`, and the area it asked for, if any.
pub fn write_clock(vcpu: &Vcpu) {
    let Some(clock) = time::clock() else { return };
    let tsc = crate::cpu::rdtsc();
    let record = TimeRecord { tsc, system_time: clock.at(tsc), scale: clock.scale, stable: false };
    if let Some(place) = vcpu.domain.events.vcpu(VcpuId(vcpu.id)).and_then(|e| e.info()) {
        write_time(&Machine, place, &record);
    }
    let area = vcpu.time_area.load(Ordering::Relaxed);
    if area != 0 {
        let mut version = vcpu.time_area_version.get();
        let _ = hv_core::time::write_time_area(&crate::guest::Caller, GuestVa(area), &mut version, &record);
        vcpu.time_area_version.set(version);
    }
}

/// Writes the runstate area that the guest asked for, on its own page tables.
pub fn write_runstate(vcpu: &Vcpu) {
    let area = vcpu.runstate_area.load(Ordering::Relaxed);
    if area != 0 {
        let marked = vcpu.domain.assists(guest_abi::xen::VMASST_TYPE_RUNSTATE_UPDATE_FLAG);
        let info = vcpu.sched.runstate(time::now());
        let _ = hv_core::time::write_runstate(&crate::guest::Caller, GuestVa(area), &info, marked);
    }
}
