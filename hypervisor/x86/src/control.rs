//! Control of domains on this machine: the core's port ([`ControlPorts`]).

use core::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use guest_abi::Errno;
use guest_abi::control::{
    CPU_ONLINE, CpuTopology, HOLDER_FOREIGN, HOLDER_GRANT, Holder, PAGE_L1TAB, PAGE_NOTAB, PAGE_PINNED,
    PAGE_XTAB,
};
use guest_abi::vcpu::RUNSTATE_RUNNING;
use guest_abi::x86_64::{VGCF_ONLINE, VcpuGuestContext};
use guest_abi::xen::{
    VMASST_TYPE_M2P_STRICT, VMASST_TYPE_RUNSTATE_UPDATE_FLAG, VMASST_TYPE_WRITABLE_PAGETABLES,
};
use hv_core::call::CallError;
use hv_core::control::{
    Abilities, ControlPorts, DomainFacts, Failures, HostFacts, NewDomain, NewLimits, Refusal, Stop, VcpuFacts,
};
use hv_core::frame::Kind;
use hv_core::mmu::CpuSet;
use hv_core::sched::Reasons;
use hv_types::{DomId, Mfn, VcpuId};

use crate::dev::time;
use crate::domain::{self, Domain, MAX_DOMAINS};
use crate::life::{self, MAX_VCPUS};
use crate::machine::Machine;
use crate::paging::{HEAP, mmu};
use crate::percpu::{OPEN, online};
use crate::vcpu::Vcpu;
use crate::{console, context, hub, parking, snapshot, start, topology, work};

static FAILURES: Failures = Failures::new();

fn find(dom: DomId) -> Result<&'static Domain, Refusal> {
    domain::find(dom).ok_or(Refusal::NO_DOMAIN)
}

fn find_vcpu(dom: DomId, vcpu: VcpuId) -> Result<&'static Vcpu, Refusal> {
    find(dom)?.vcpus().get(usize::from(vcpu.0)).copied().ok_or(Refusal::NO_VCPU)
}

/// Where a vCPU may run and likes to, of the CPUs that are online.
fn affinities(vcpu: &Vcpu) -> (CpuSet, CpuSet) {
    (work::allowed(vcpu), vcpu.soft_affinity.lock().intersection(&OPEN.snapshot()))
}

impl ControlPorts for Machine {
    fn now(&self) -> u64 {
        time::now()
    }

    fn failures(&self) -> &Failures {
        &FAILURES
    }

    fn abilities(&self) -> Abilities {
        let number = |text: &str| text.parse().unwrap_or(0);
        Abilities {
            version: (
                number(env!("CARGO_PKG_VERSION_MAJOR")),
                number(env!("CARGO_PKG_VERSION_MINOR")),
                number(env!("CARGO_PKG_VERSION_PATCH")),
            ),
            max_domains: MAX_DOMAINS as u32,
            max_vcpus: MAX_VCPUS,
        }
    }

    fn create(&self, new: &NewDomain) -> Result<DomId, Refusal> {
        life::bury_the_dead();
        life::create(new)
    }

    fn destroy(&self, dom: DomId) -> Result<u64, Stop> {
        life::destroy(find(dom)?)
    }

    fn set_paused(&self, dom: DomId, paused: bool) -> Result<(), Stop> {
        life::set_paused(find(dom)?, paused)
    }

    fn set_max_pages(&self, dom: DomId, pages: u64) -> Result<(), Refusal> {
        find(dom)?.memory.max_pages.store(pages, Ordering::Relaxed);
        Ok(())
    }

    fn claim(&self, dom: DomId, pages: u64) -> Result<(), Refusal> {
        let domain = find(dom)?;
        if domain.life.is_dying() {
            return Err(Refusal::DYING);
        }
        mmu().claim(&domain.memory, pages).map_err(|errno| match errno {
            Errno::ENOMEM => {
                Refusal::new(errno, "there is not so much memory that nobody has or was promised")
            }
            _ => Refusal::new(
                errno,
                "the domain has so many pages, may not have so many, or has a claim already",
            ),
        })
    }

    fn make_vcpus(&self, dom: DomId, count: u32) -> Result<(), Refusal> {
        life::make_vcpus(find(dom)?, count)
    }

    fn set_context(&self, dom: DomId, vcpu: VcpuId, context: &VcpuGuestContext) -> Result<(), Stop> {
        let domain = find(dom)?;
        let vcpu = find_vcpu(dom, vcpu)?;
        let _held = domain.control.try_lock().ok_or(Stop::Again)?;
        let _one = domain.initialising.try_lock().ok_or(Stop::Again)?;
        if domain.life.is_dying() {
            return Err(Refusal::DYING.into());
        }
        if vcpu.initialised.load(Ordering::Acquire) {
            return Err(Refusal::new(Errno::EEXIST, "the vCPU has got its context already").into());
        }
        match context::set(vcpu, context) {
            Ok(()) => {}
            Err(CallError::Errno(errno)) => return Err(Refusal::new(errno, BAD_CONTEXT).into()),
            Err(CallError::Retry(_)) => return Err(Stop::Again),
            Err(CallError::CrashCaller(why)) => return Err(Refusal::new(Errno::EINVAL, why).into()),
        }
        for assist in ASSISTS.iter().filter(|bit| context.vm_assist >> **bit & 1 != 0) {
            domain.set_assist(*assist, true);
        }
        if vcpu.id == 0 || context.flags & VGCF_ONLINE != 0 {
            hub::with_timers(vcpu, |timers, queue| timers.come_up(queue, time::now()));
            if vcpu.sched.release(Reasons::DOWN) {
                work::wake(vcpu);
            }
        }
        Ok(())
    }

    fn context(&self, dom: DomId, vcpu: VcpuId, context: &mut VcpuGuestContext) -> Result<(), Stop> {
        let domain = find(dom)?;
        let vcpu = find_vcpu(dom, vcpu)?;
        let _held = domain.control.try_lock().ok_or(Stop::Again)?;
        let was_last = vcpu.sched.hold(Reasons::READ);
        if was_last {
            work::stop(vcpu);
        }
        if !life::is_off_its_cpu(vcpu) {
            // It stays held until the call comes again.
            return Err(Stop::Again);
        }
        snapshot::take(vcpu, context);
        if vcpu.sched.release(Reasons::READ) {
            work::wake(vcpu);
        }
        Ok(())
    }

    fn page_kind(&self, dom: DomId, mfn: Mfn) -> u32 {
        let frames = mmu().frames;
        let Some(word) = frames.peek(mfn).filter(|w| w.general() != 0 && frames.owner(mfn) == dom) else {
            return PAGE_XTAB;
        };
        let level = word.kind().level();
        match word.kind() {
            Kind::L1 | Kind::L2 | Kind::L3 | Kind::L4 if word.types() != 0 => {
                (PAGE_L1TAB + level - 1) | if word.is_pinned() { PAGE_PINNED } else { 0 }
            }
            _ => PAGE_NOTAB,
        }
    }

    fn set_affinity(
        &self,
        dom: DomId,
        vcpu: VcpuId,
        hard: Option<CpuSet>,
        soft: Option<CpuSet>,
    ) -> Result<(CpuSet, CpuSet), Stop> {
        let vcpu = find_vcpu(dom, vcpu)?;
        // The others count when they come online.
        let some = |cpus: &CpuSet| {
            let none = Refusal::new(Errno::EINVAL, "none of the CPUs runs");
            if cpus.intersection(&OPEN.snapshot()).is_empty() { Err(none) } else { Ok(*cpus) }
        };
        let (hard, soft) = (hard.as_ref().map(some).transpose()?, soft.as_ref().map(some).transpose()?);
        if let Some(soft) = soft {
            *vcpu.soft_affinity.lock() = soft;
        }
        if let Some(hard) = hard {
            *vcpu.affinity.lock() = hard;
            work::settle(vcpu);
        }
        Ok(affinities(vcpu))
    }

    fn affinity(&self, dom: DomId, vcpu: VcpuId) -> Result<(CpuSet, CpuSet), Refusal> {
        Ok(affinities(find_vcpu(dom, vcpu)?))
    }

    fn set_share(&self, dom: DomId, weight: Option<u16>, cap: Option<u32>) -> Result<(), Refusal> {
        let domain = find(dom)?;
        if let Some(weight) = weight {
            domain.weight.store(weight.into(), Ordering::Relaxed);
        }
        if let Some(cap) = cap {
            domain.cap.store(cap, Ordering::Relaxed);
        }
        life::apply_share(domain, domain.vcpus());
        Ok(())
    }

    fn share(&self, dom: DomId) -> Result<(u32, u32), Refusal> {
        let domain = find(dom)?;
        Ok((domain.weight.load(Ordering::Relaxed), domain.cap.load(Ordering::Relaxed)))
    }

    fn domain_facts(&self, dom: DomId, or_next: bool) -> Option<DomainFacts> {
        life::bury_the_dead();
        let domain = match domain::find(dom) {
            None if or_next => domain::all().filter(|other| other.id > dom).min_by_key(|other| other.id.0),
            found => found,
        };
        domain.map(facts)
    }

    fn vcpu_facts(&self, dom: DomId, vcpu: VcpuId) -> Result<VcpuFacts, Refusal> {
        let vcpu = find_vcpu(dom, vcpu)?;
        let runstate = vcpu.sched.runstate(time::now());
        let reasons = vcpu.sched.reasons();
        // One that has gone offline since is no place to be.
        let last = vcpu.last_cpu().filter(|cpu| OPEN.contains(*cpu));
        Ok(VcpuFacts {
            online: !reasons.contains(Reasons::DOWN),
            blocked: reasons.contains(Reasons::BLOCKED),
            running: runstate.state == RUNSTATE_RUNNING,
            initialised: vcpu.initialised.load(Ordering::Acquire),
            cpu: vcpu.cpu().or(last).or(vcpu.sched.cpu()).unwrap_or(0),
            runstate,
        })
    }

    fn host_facts(&self) -> HostFacts {
        life::bury_the_dead();
        let (free_pages, outstanding_pages) = HEAP.unclaimed_and_claimed();
        let mut facts = HostFacts {
            online_cpus: online().count() as u32,
            max_cpus: parking::present().map(|cpu| cpu.id + 1).max().unwrap_or(0),
            cpu_khz: time::clock().map_or(0, |clock| clock.tsc_hz / 1000) as u32,
            uptime: time::now(),
            total_pages: start::boot_info().map_or(0, |info| crate::mem::extent(info).ram_frames),
            free_pages,
            outstanding_pages,
            max_frame: mmu().frames.len() as u64,
            version: concat!("Xenolith ", env!("CARGO_PKG_VERSION")),
            ..HostFacts::default()
        };
        for domain in domain::all() {
            facts.domain_pages += domain.memory.pages();
            facts.domains += 1;
            facts.vcpus += domain.vcpus().len() as u32;
        }
        facts.dom0_pages = domain::find(DomId::DOM0).map_or(0, |dom0| dom0.memory.pages());
        let counts = topology::counts();
        (facts.threads_per_core, facts.cores_per_socket) = (counts.threads_per_core, counts.cores_per_socket);
        facts
    }

    fn read_log(&self, from: u64, into: &mut [u8]) -> (usize, u64) {
        console::read_ring(from, into)
    }

    fn clear_log(&self) {
        console::clear_ring();
    }

    fn set_limits(&self, dom: DomId, limits: &NewLimits) -> Result<(), Refusal> {
        let domain = find(dom)?;
        if limits.evtchns.is_some() {
            let why = "the number of event channels is fixed when a domain is created";
            return Err(Refusal::new(Errno::EOPNOTSUPP, why));
        }
        domain.grants.set_limits(limits.grant_frames, limits.maptrack).map_err(|errno| match errno {
            Errno::EBUSY => Refusal::new(errno, "the domain uses more than that"),
            _ => errno.into(),
        })
    }

    fn shut_down(&self, dom: DomId, reason: u8) -> Result<(), Refusal> {
        let domain = find(dom)?;
        if domain.life.is_dying() {
            return Err(Refusal::DYING);
        }
        hub::shut_down_domain(domain, reason);
        Ok(())
    }

    fn holders(&self, dom: DomId, tell: &mut dyn FnMut(Holder)) -> Result<u64, Refusal> {
        let domain = find(dom)?;
        // Who does not fit is counted with the last one's neighbours; nobody has that many.
        let mut by_grant: ArrayVec<(DomId, u64), 64> = ArrayVec::new();
        domain.grants.each_use(|user, _| match by_grant.iter_mut().find(|(known, _)| *known == user) {
            Some((_, pages)) => *pages += 1,
            None => _ = by_grant.try_push((user, 1)),
        });
        let granted: u64 = by_grant.iter().map(|(_, pages)| pages).sum();
        for (user, pages) in &by_grant {
            tell(Holder { domid: user.0.into(), kind: HOLDER_GRANT, pages: *pages });
        }
        if domain.life.stage() != hv_core::domain::Stage::Zombie {
            return Ok(granted);
        }
        // What is left of a zombie is held by somebody, and only a privileged domain holds by other means than grants.
        let held = domain.memory.pages();
        if held > granted {
            let pages = held - granted;
            tell(Holder { domid: DomId::DOM0.0.into(), kind: HOLDER_FOREIGN, pages });
        }
        Ok(held)
    }

    fn cpu(&self, number: u32) -> Option<CpuTopology> {
        let record = parking::find(number)?;
        let place = topology::place(record);
        let online = record.online.load(Ordering::Acquire);
        Some(CpuTopology {
            cpu: number,
            flags: if online { CPU_ONLINE } else { 0 },
            apic_id: record.apic_id,
            core: place.core,
            socket: place.socket,
            node: 0,
        })
    }
}

/// Assists that a context can switch on: those that are a domain's as a whole.
const ASSISTS: [u32; 3] =
    [VMASST_TYPE_WRITABLE_PAGETABLES, VMASST_TYPE_RUNSTATE_UPDATE_FLAG, VMASST_TYPE_M2P_STRICT];
const BAD_CONTEXT: &str = "the context names frames, addresses or selectors that the domain cannot have";

fn facts(domain: &'static Domain) -> DomainFacts {
    let now = time::now();
    let mut facts = DomainFacts {
        dom: domain.id,
        handle: domain.handle,
        privileged: domain.privileged,
        paused: domain.life.is_paused(),
        shutdown: domain.shutdown.code(),
        dying: domain.life.is_dying(),
        blocked: true,
        pages: domain.memory.pages(),
        max_pages: domain.memory.max_pages.load(Ordering::Relaxed),
        outstanding_pages: domain.memory.claim.outstanding(),
        shared_info: domain.shared_info,
        created: domain.created,
        vcpus: domain.vcpus().len() as u32,
        max_vcpus: domain.events.max_vcpus().into(),
        grant_frames: (domain.grants.len(), domain.grants.max_frames()),
        maptrack: (domain.grants.mapped(), domain.grants.max_mapped()),
        evtchns: (domain.events.active(), domain.events.max_ports()),
        ..DomainFacts::default()
    };
    for vcpu in domain.vcpus() {
        let runstate = vcpu.sched.runstate(now);
        facts.cpu_time += runstate.time[RUNSTATE_RUNNING as usize];
        facts.running |= runstate.state == RUNSTATE_RUNNING;
        let reasons = vcpu.sched.reasons();
        if !reasons.contains(Reasons::DOWN) {
            facts.online_vcpus += 1;
            facts.blocked &= reasons.contains(Reasons::BLOCKED);
        }
    }
    facts.blocked &= facts.online_vcpus != 0;
    facts
}
