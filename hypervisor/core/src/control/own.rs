//! The codec of Xenolith's own interface (`guest_abi::control`): structures that begin with their size and only grow.

use super::{Asker, LogWish, NewDomain, NewLimits, Refusal, Reply, Request, Room};
use crate::mmu::port::{CpuSet, MAX_CPUS};
use crate::port::GuestSpace;
use crate::wire;
use core::mem::offset_of;
use guest_abi::Errno;
use guest_abi::control::*;
use hv_types::{DomId, GuestVa, VcpuId};

/// The head of a request, read once.
#[derive(Clone, Copy, Debug)]
pub struct Envelope {
    at: GuestVa,
    size: u32,
    /// The operation.
    pub op: u32,
}

impl Envelope {
    /// Reads size and operation. `-EINVAL`: no such size can be.
    pub fn read<G: GuestSpace>(space: &G, at: GuestVa) -> Result<Envelope, Errno> {
        let [size, op]: [u32; 2] = wire::read(space, at)?;
        if !(HEADER..=MAX_REQUEST).contains(&size) || !at.is_guest_range(size.into()) {
            return Err(Errno::EINVAL);
        }
        Ok(Envelope { at, size, op })
    }

    /// Address of byte `offset`. The range was checked.
    fn byte(&self, offset: usize) -> GuestVa {
        GuestVa(self.at.0.wrapping_add(offset as u64))
    }

    /// The request as we know it: what the caller does not know is zero, and what we do not know must be.
    fn body<T: Operation, G: GuestSpace>(&self, space: &G) -> Result<T, Refusal> {
        let mut body = T::new();
        let known = size_of::<T>().min(self.size as usize);
        let bytes = body.as_mut_bytes().get_mut(HEADER as usize..known).unwrap_or_default();
        space.read(self.byte(HEADER as usize), bytes).map_err(|_| Errno::EFAULT)?;
        let mut at = known;
        let mut chunk = [0; 64];
        while at < self.size as usize {
            let len = chunk.len().min(self.size as usize - at);
            let part = chunk.get_mut(..len).unwrap_or_default();
            space.read(self.byte(at), part).map_err(|_| Errno::EFAULT)?;
            if part.iter().any(|byte| *byte != 0) {
                return Err(Errno::E2BIG.into());
            }
            at += len;
        }
        Ok(body)
    }

    /// Writes the answer back, as far as the caller knows it.
    fn put<T: Operation, G: GuestSpace>(&self, space: &G, body: &T) -> Result<(), Refusal> {
        let known = size_of::<T>().min(self.size as usize);
        let bytes = body.as_bytes().get(HEADER as usize..known).unwrap_or_default();
        Ok(space.write(self.byte(HEADER as usize), bytes).map_err(|_| Errno::EFAULT)?)
    }

    /// Writes some fields of the answer: those from `offset` on.
    fn put_at<T: zerocopy::IntoBytes + zerocopy::Immutable, G: GuestSpace>(
        &self,
        space: &G,
        offset: usize,
        value: &T,
    ) -> Result<(), Refusal> {
        let known = (self.size as usize).saturating_sub(offset).min(size_of::<T>());
        let bytes = value.as_bytes().get(..known).unwrap_or_default();
        Ok(space.write(self.byte(offset), bytes).map_err(|_| Errno::EFAULT)?)
    }
}

fn only(flags: u32, known: u32) -> Result<(), Refusal> {
    let why = "the request has a flag or a reserved field that this hypervisor does not know";
    if flags & !known == 0 { Ok(()) } else { Err(Refusal::new(Errno::EINVAL, why)) }
}

/// A domain by number. Numbers that name none are answered as such.
fn domain(number: u32, asker: Asker) -> Result<DomId, Refusal> {
    match u16::try_from(number).map(DomId) {
        Ok(DomId::SELF) => Ok(asker.dom),
        Ok(dom) if dom.0 < DomId::SELF.0 => Ok(dom),
        _ => Err(Refusal::NO_DOMAIN),
    }
}

fn vcpu(number: u32) -> Result<VcpuId, Refusal> {
    u16::try_from(number).map(VcpuId).map_err(|_| Refusal::NO_VCPU)
}

fn nonzero(value: u32) -> Option<u32> {
    (value != 0).then_some(value)
}

/// A set of CPUs; those that no machine has are left out.
fn cpus(words: &[u64; AFFINITY_WORDS]) -> CpuSet {
    let mut set = CpuSet::EMPTY;
    (0..MAX_CPUS as u32)
        .filter(|cpu| words.get(*cpu as usize / 64).is_some_and(|word| word >> (cpu % 64) & 1 != 0))
        .for_each(|cpu| set.insert(cpu));
    set
}

fn words(set: &CpuSet) -> [u64; AFFINITY_WORDS] {
    let mut words = [0; AFFINITY_WORDS];
    words.iter_mut().zip(set.words()).for_each(|(to, from)| *to = *from);
    words
}

fn room(buffer: u64, count: u32, size: u32) -> Result<Room, Refusal> {
    let fits = GuestVa(buffer).is_guest_range(u64::from(count) * u64::from(size));
    if fits { Ok(Room { buffer: GuestVa(buffer), count, size }) } else { Err(Refusal::FAULT) }
}

/// Reads a request completely.
pub fn decode<G: GuestSpace>(space: &G, envelope: &Envelope, asker: Asker) -> Result<Request, Refusal> {
    let dom = |number| domain(number, asker);
    Ok(match envelope.op {
        OP_VERSION => envelope.body::<Version, G>(space).map(|_| Request::Version)?,
        OP_CREATE => create(envelope.body(space)?)?,
        OP_DESTROY => {
            let body: Destroy = envelope.body(space)?;
            only(body.reserved, 0)?;
            Request::Destroy(dom(body.domid)?)
        }
        OP_PAUSE => {
            let body: Pause = envelope.body(space)?;
            only(body.reserved, 0)?;
            Request::Pause(dom(body.domid)?)
        }
        OP_UNPAUSE => {
            let body: Unpause = envelope.body(space)?;
            only(body.reserved, 0)?;
            Request::Unpause(dom(body.domid)?)
        }
        OP_SET_MAX_MEM => {
            let body: SetMaxMem = envelope.body(space)?;
            only(body.reserved, 0)?;
            Request::SetMaxMem(dom(body.domid)?, body.max_pages)
        }
        OP_CLAIM => {
            let body: Claim = envelope.body(space)?;
            only(body.reserved, 0)?;
            Request::Claim(dom(body.domid)?, body.pages)
        }
        OP_MAX_VCPUS => {
            let body: MaxVcpus = envelope.body(space)?;
            Request::MaxVcpus(dom(body.domid)?, body.vcpus)
        }
        OP_SHUTDOWN => {
            let body: Shutdown = envelope.body(space)?;
            let reason = u8::try_from(body.reason).ok().filter(|reason| *reason < u8::MAX);
            let unknown = Refusal::new(Errno::EINVAL, "there is no such reason to shut down");
            Request::Shutdown(dom(body.domid)?, reason.ok_or(unknown)?)
        }
        _ => decode_vcpu(space, envelope, asker)?,
    })
}

fn create(body: Create) -> Result<Request, Refusal> {
    only(body.flags, 0)?;
    let dom = match body.domid {
        ANY_DOMID => None,
        number => Some(
            u16::try_from(number)
                .map(DomId)
                .ok()
                .filter(|dom| *dom < DomId::SELF)
                .ok_or(Refusal::new(Errno::EINVAL, "no domain can have that number"))?,
        ),
    };
    Ok(Request::Create(NewDomain {
        dom,
        handle: body.handle,
        max_vcpus: body.max_vcpus,
        max_evtchns: nonzero(body.max_evtchns),
        max_pages: body.max_pages,
        max_grant_frames: nonzero(body.max_grant_frames),
        max_maptrack: nonzero(body.max_maptrack),
    }))
}

/// What is about vCPUs and their share of the CPUs.
fn decode_vcpu<G: GuestSpace>(space: &G, envelope: &Envelope, asker: Asker) -> Result<Request, Refusal> {
    let dom = |number| domain(number, asker);
    Ok(match envelope.op {
        OP_SET_VCPU_CONTEXT => {
            let body: SetVcpuContext = envelope.body(space)?;
            Request::SetContext(dom(body.domid)?, vcpu(body.vcpu)?, GuestVa(body.context))
        }
        OP_GET_VCPU_CONTEXT => {
            let body: GetVcpuContext = envelope.body(space)?;
            Request::GetContext(dom(body.domid)?, vcpu(body.vcpu)?, GuestVa(body.context))
        }
        OP_SET_AFFINITY => {
            let body: SetAffinity = envelope.body(space)?;
            only(body.flags, AFFINITY_HARD | AFFINITY_SOFT)?;
            only(body.reserved, 0)?;
            let hard = (body.flags & AFFINITY_HARD != 0).then(|| cpus(&body.hard));
            let soft = (body.flags & AFFINITY_SOFT != 0).then(|| cpus(&body.soft));
            Request::SetAffinity(dom(body.domid)?, vcpu(body.vcpu)?, hard, soft)
        }
        OP_GET_AFFINITY => {
            let body: GetAffinity = envelope.body(space)?;
            Request::GetAffinity(dom(body.domid)?, vcpu(body.vcpu)?)
        }
        OP_SET_SCHED => {
            let body: SetSched = envelope.body(space)?;
            only(body.set_cap, 1)?;
            let heavy = Refusal::new(Errno::EINVAL, "a weight is at most 65535");
            let weight = nonzero(body.weight).map(u16::try_from).transpose().map_err(|_| heavy)?;
            let cap = (body.set_cap != 0).then_some(body.cap);
            Request::SetSched(dom(body.domid)?, weight, cap)
        }
        OP_GET_SCHED => {
            let body: GetSched = envelope.body(space)?;
            Request::GetSched(dom(body.domid)?)
        }
        OP_VCPU_INFO => {
            let body: VcpuInfo = envelope.body(space)?;
            Request::VcpuInfo(dom(body.domid)?, vcpu(body.vcpu)?)
        }
        _ => decode_rest(space, envelope, asker)?,
    })
}

fn decode_rest<G: GuestSpace>(space: &G, envelope: &Envelope, asker: Asker) -> Result<Request, Refusal> {
    let dom = |number| domain(number, asker);
    Ok(match envelope.op {
        OP_PAGE_INFO => {
            let body: PageInfo = envelope.body(space)?;
            if body.count > MAX_PAGE_INFO {
                return Err(Refusal::new(Errno::E2BIG, "too many frames in one request"));
            }
            let (frames, types) = (GuestVa(body.frames), GuestVa(body.types));
            Request::PageInfo(dom(body.domid)?, body.count, frames, types)
        }
        OP_DOMAIN_INFO => {
            let body: DomainInfo = envelope.body(space)?;
            only(body.flags, INFO_NEXT)?;
            Request::DomainInfo(dom(body.domid)?, body.flags & INFO_NEXT != 0)
        }
        OP_HOST_INFO => envelope.body::<HostInfo, G>(space).map(|_| Request::HostInfo)?,
        OP_READ_CONSOLE => {
            let body: ReadConsole = envelope.body(space)?;
            only(body.flags, CONSOLE_CLEAR | CONSOLE_INCREMENTAL)?;
            let from = (body.flags & CONSOLE_INCREMENTAL != 0).then_some(body.index);
            let clear = body.flags & CONSOLE_CLEAR != 0;
            let Room { buffer, count, .. } = room(body.buffer, body.count, 1)?;
            Request::ReadConsole(LogWish { from, clear, buffer, room: count })
        }
        OP_FAILURES => {
            let body: Failures = envelope.body(space)?;
            if body.record_size > MAX_REQUEST {
                return Err(Refusal::new(Errno::EINVAL, "a record is not as long as that"));
            }
            let room = room(body.buffer, body.count, body.record_size)?;
            Request::Failures(body.sequence, room)
        }
        OP_SET_LIMITS => {
            let body: SetLimits = envelope.body(space)?;
            let limits = NewLimits {
                grant_frames: nonzero(body.max_grant_frames),
                maptrack: nonzero(body.max_maptrack),
                evtchns: nonzero(body.max_evtchns),
            };
            Request::SetLimits(dom(body.domid)?, limits)
        }
        OP_HOLDERS => {
            let body: Holders = envelope.body(space)?;
            Request::Holders(dom(body.domid)?, room(body.buffer, body.count, size_of::<Holder>() as u32)?)
        }
        OP_CPU_TOPOLOGY => {
            let body: CpuTopologyInfo = envelope.body(space)?;
            let room = room(body.buffer, body.count, size_of::<CpuTopology>() as u32)?;
            Request::Topology(body.first, room)
        }
        _ => return Err(Errno::ENOSYS.into()),
    })
}

/// Writes an answer into the request that was asked.
pub fn answer<G: GuestSpace>(space: &G, envelope: &Envelope, reply: &Reply) -> Result<(), Refusal> {
    match *reply {
        Reply::Done => Ok(()),
        Reply::Version(abilities) => {
            let (major, minor, patch) = abilities.version;
            let body = Version {
                abi: CONTROL_ABI,
                operations: OPERATIONS.len() as u32,
                capabilities: CAPABILITY_PV64,
                hypervisor: u64::from(major) << 32 | u64::from(minor) << 16 | u64::from(patch),
                max_domains: abilities.max_domains,
                max_vcpus: abilities.max_vcpus,
                ..Version::new()
            };
            envelope.put(space, &body)
        }
        Reply::Created(dom) => envelope.put_at(space, offset_of!(Create, domid), &u32::from(dom.0)),
        Reply::Destroyed(held) => envelope.put_at(space, offset_of!(Destroy, held_pages), &held),
        Reply::Affinity(hard, soft) => {
            // Both requests have the maps in the same place.
            const { assert!(offset_of!(SetAffinity, hard) == offset_of!(GetAffinity, hard)) };
            const { assert!(offset_of!(SetAffinity, soft) == offset_of!(GetAffinity, soft)) };
            if envelope.op == OP_GET_AFFINITY {
                let both = AFFINITY_HARD | AFFINITY_SOFT;
                envelope.put_at(space, offset_of!(GetAffinity, flags), &both)?;
            }
            envelope.put_at(space, offset_of!(GetAffinity, hard), &words(&hard))?;
            envelope.put_at(space, offset_of!(GetAffinity, soft), &words(&soft))
        }
        Reply::Sched(weight, cap) => envelope.put_at(space, offset_of!(GetSched, weight), &[weight, cap]),
        Reply::Domain(facts) => envelope.put(space, &domain_info(&facts)),
        Reply::Vcpu(facts) => envelope.put_at(space, offset_of!(VcpuInfo, flags), &VcpuAnswer::of(&facts)),
        Reply::Host(facts) => envelope.put(space, &host_info(&facts)),
        Reply::Log(written, next) => {
            envelope.put_at(space, offset_of!(ReadConsole, count), &written)?;
            envelope.put_at(space, offset_of!(ReadConsole, index), &next)
        }
        Reply::Records(written, next) => records(space, envelope, written, next),
    }
}

fn records<G: GuestSpace>(space: &G, envelope: &Envelope, written: u32, next: u64) -> Result<(), Refusal> {
    match envelope.op {
        OP_FAILURES => {
            envelope.put_at(space, offset_of!(Failures, sequence), &next)?;
            envelope.put_at(space, offset_of!(Failures, count), &written)
        }
        OP_HOLDERS => {
            envelope.put_at(space, offset_of!(Holders, count), &written)?;
            envelope.put_at(space, offset_of!(Holders, total_pages), &next)
        }
        _ => {
            envelope.put_at(space, offset_of!(CpuTopologyInfo, first), &(next as u32))?;
            envelope.put_at(space, offset_of!(CpuTopologyInfo, count), &written)
        }
    }
}

/// `flags` if `set`.
fn flag(set: bool, flags: u32) -> u32 {
    if set { flags } else { 0 }
}

fn domain_info(facts: &super::DomainFacts) -> DomainInfo {
    DomainInfo {
        domid: facts.dom.0.into(),
        handle: facts.handle,
        state: flag(facts.privileged, DOMAIN_PRIVILEGED)
            | flag(facts.paused, DOMAIN_PAUSED)
            | flag(facts.shutdown.is_some(), DOMAIN_SHUTDOWN)
            | flag(facts.dying, DOMAIN_DYING)
            | flag(facts.blocked, DOMAIN_BLOCKED)
            | flag(facts.running, DOMAIN_RUNNING),
        shutdown_reason: facts.shutdown.map_or(SHUTDOWN_NONE, u32::from),
        pages: facts.pages,
        max_pages: facts.max_pages,
        outstanding_pages: facts.outstanding_pages,
        shared_info_frame: facts.shared_info.0,
        cpu_time: facts.cpu_time,
        created: facts.created,
        online_vcpus: facts.online_vcpus,
        vcpus: facts.vcpus,
        max_vcpus: facts.max_vcpus,
        grant_frames: facts.grant_frames.0,
        max_grant_frames: facts.grant_frames.1,
        maptrack: facts.maptrack.0,
        max_maptrack: facts.maptrack.1,
        evtchns: facts.evtchns.0,
        max_evtchns: facts.evtchns.1,
        ..DomainInfo::new()
    }
}

/// [`VcpuInfo`] from its flags on.
#[repr(C)]
#[derive(zerocopy::IntoBytes, zerocopy::Immutable)]
struct VcpuAnswer {
    flags: u32,
    cpu: u32,
    cpu_time: u64,
    runstate: u32,
    reserved: u32,
    state_entry_time: u64,
    time: [u64; 4],
}

const _: () = assert!(size_of::<VcpuAnswer>() + offset_of!(VcpuInfo, flags) == size_of::<VcpuInfo>());

impl VcpuAnswer {
    fn of(facts: &super::VcpuFacts) -> Self {
        VcpuAnswer {
            flags: flag(facts.online, VCPU_ONLINE)
                | flag(facts.blocked, VCPU_BLOCKED)
                | flag(facts.running, VCPU_RUNNING)
                | flag(facts.initialised, VCPU_INITIALISED),
            cpu: facts.cpu,
            cpu_time: facts.runstate.time[guest_abi::vcpu::RUNSTATE_RUNNING as usize],
            runstate: facts.runstate.state,
            reserved: 0,
            state_entry_time: facts.runstate.state_entry_time,
            time: facts.runstate.time,
        }
    }
}

fn host_info(facts: &super::HostFacts) -> HostInfo {
    let others = facts.free_pages + facts.domain_pages + facts.outstanding_pages;
    let mut version = [0; 64];
    version.iter_mut().take(63).zip(facts.version.bytes()).for_each(|(to, from)| *to = from);
    HostInfo {
        online_cpus: facts.online_cpus,
        max_cpus: facts.max_cpus,
        threads_per_core: facts.threads_per_core,
        cores_per_socket: facts.cores_per_socket,
        nodes: 1,
        cpu_khz: facts.cpu_khz,
        uptime: facts.uptime,
        total_pages: facts.total_pages,
        free_pages: facts.free_pages,
        hypervisor_pages: facts.total_pages.saturating_sub(others),
        domain_pages: facts.domain_pages,
        outstanding_pages: facts.outstanding_pages,
        dom0_pages: facts.dom0_pages,
        max_frame: facts.max_frame,
        domains: facts.domains,
        vcpus: facts.vcpus,
        version,
        ..HostInfo::new()
    }
}
