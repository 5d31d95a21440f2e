//! Control of domains, whatever interface it is asked for by.
//!
//! A codec reads a request completely from the caller's memory and gives a [`Request`], which knows no version. [`perform`]
//! asks [`access`](crate::access), then the machine by [`ControlPorts`]. What is refused says why in words ([`Refusal`]), and the
//! last refusals can be asked for ([`Failures`]).
//!
//! Codecs: [`own`], for Xenolith's own interface (`guest_abi::control`). Xen's versioned ones have their place beside it.

pub mod failures;
pub mod own;

use crate::access::{self, Action};
use crate::call::{CallError, Continuation};
use crate::mmu::port::CpuSet;
use crate::port::GuestSpace;
use crate::wire;
pub use failures::Failures;
use guest_abi::Errno;
use guest_abi::control::{CpuTopology, Failure, Holder};
use guest_abi::x86_64::VcpuGuestContext;
use hv_types::{DomId, GuestVa, Mfn, VcpuId};
use zerocopy::{FromZeros, IntoBytes};

/// Why something is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The error, for programs.
    pub errno: Errno,
    /// The reason, for people.
    pub why: &'static str,
}

impl Refusal {
    /// A refusal.
    pub const fn new(errno: Errno, why: &'static str) -> Self {
        Refusal { errno, why }
    }

    /// There is no such domain.
    pub const NO_DOMAIN: Refusal = Refusal::new(Errno::ESRCH, "there is no domain of that number");
    /// The domain has no such vCPU.
    pub const NO_VCPU: Refusal = Refusal::new(Errno::ENOENT, "the domain has no vCPU of that number");
    /// Memory of the hypervisor is exhausted.
    pub const NO_MEMORY: Refusal = Refusal::new(Errno::ENOMEM, "the hypervisor has no memory left for it");
    /// The domain is being destroyed.
    pub const DYING: Refusal = Refusal::new(Errno::EINVAL, "the domain is being destroyed");
    /// The caller's memory.
    pub const FAULT: Refusal =
        Refusal::new(Errno::EFAULT, "an address in the request is not mapped as it must be");
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        let why = match errno {
            Errno::EFAULT => Refusal::FAULT.why,
            Errno::ENOMEM => Refusal::NO_MEMORY.why,
            Errno::EPERM => "the caller has no privilege to do this",
            Errno::ESRCH => Refusal::NO_DOMAIN.why,
            Errno::ENOSYS => "there is no such operation",
            Errno::E2BIG => "the request is longer than this hypervisor knows and asks for something there",
            _ => "the request makes no sense",
        };
        Refusal { errno, why }
    }
}

/// Why an operation is not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It is refused.
    Refused(Refusal),
    /// The CPU is wanted: the same call again goes on.
    Again,
}

impl<T: Into<Refusal>> From<T> for Stop {
    fn from(refusal: T) -> Self {
        Stop::Refused(refusal.into())
    }
}

/// A domain to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewDomain {
    /// Its number; nothing: any.
    pub dom: Option<DomId>,
    /// Its UUID.
    pub handle: [u8; 16],
    /// vCPUs that it may have, at least 1.
    pub max_vcpus: u32,
    /// Event channels that it may have.
    pub max_evtchns: Option<u32>,
    /// Pages that it may have.
    pub max_pages: u64,
    /// Frames that its grant table may have.
    pub max_grant_frames: Option<u32>,
    /// Grants that it may have mapped.
    pub max_maptrack: Option<u32>,
}

/// Limits to change; nothing: as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewLimits {
    /// Frames of the grant table.
    pub grant_frames: Option<u32>,
    /// Grants mapped.
    pub maptrack: Option<u32>,
    /// Event channels.
    pub evtchns: Option<u32>,
}

/// Part of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogWish {
    /// Where to begin; nothing: at the oldest byte.
    pub from: Option<u64>,
    /// Forget it afterwards.
    pub clear: bool,
    /// Where it goes.
    pub buffer: GuestVa,
    /// How much fits.
    pub room: u32,
}

/// Room for records in the caller's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Where.
    pub buffer: GuestVa,
    /// How many records.
    pub count: u32,
    /// Bytes from one to the next.
    pub size: u32,
}

/// What a caller wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// What the interface can do.
    Version,
    /// A new domain.
    Create(NewDomain),
    /// The end of a domain.
    Destroy(DomId),
    /// Hold a domain.
    Pause(DomId),
    /// Let it go.
    Unpause(DomId),
    /// Pages that it may have.
    SetMaxMem(DomId, u64),
    /// Promises a domain so many pages in all.
    Claim(DomId, u64),
    /// Make its vCPUs.
    MaxVcpus(DomId, u32),
    /// Set a vCPU's registers from memory of the caller.
    SetContext(DomId, VcpuId, GuestVa),
    /// Read them.
    GetContext(DomId, VcpuId, GuestVa),
    /// Kinds of frames: how many, their numbers, where the kinds go.
    PageInfo(DomId, u32, GuestVa, GuestVa),
    /// Where a vCPU may run, and likes to.
    SetAffinity(DomId, VcpuId, Option<CpuSet>, Option<CpuSet>),
    /// The same.
    GetAffinity(DomId, VcpuId),
    /// Weight and cap.
    SetSched(DomId, Option<u16>, Option<u32>),
    /// The same.
    GetSched(DomId),
    /// A domain, or (true) the next one.
    DomainInfo(DomId, bool),
    /// A vCPU.
    VcpuInfo(DomId, VcpuId),
    /// The machine.
    HostInfo,
    /// The log.
    ReadConsole(LogWish),
    /// What failed, from this number on.
    Failures(u64, Room),
    /// Limits.
    SetLimits(DomId, NewLimits),
    /// Shut a domain down for a reason.
    Shutdown(DomId, u8),
    /// Who holds its pages.
    Holders(DomId, Room),
    /// The CPUs, from this one on.
    Topology(u32, Room),
}

impl Request {
    /// What it does, and to whom.
    pub fn action(&self) -> (Action, Option<DomId>) {
        match *self {
            Request::Version => (Action::AskVersion, None),
            Request::HostInfo | Request::ReadConsole(_) | Request::Failures(..) | Request::Topology(..) => {
                (Action::AskHost, None)
            }
            Request::Create(new) => (Action::Create, new.dom),
            Request::Destroy(dom) | Request::Shutdown(dom, _) => (Action::End, Some(dom)),
            Request::Pause(dom)
            | Request::Unpause(dom)
            | Request::MaxVcpus(dom, _)
            | Request::SetContext(dom, ..)
            | Request::GetContext(dom, ..) => (Action::Hold, Some(dom)),
            Request::SetMaxMem(dom, _)
            | Request::Claim(dom, _)
            | Request::SetAffinity(dom, ..)
            | Request::SetSched(dom, ..)
            | Request::SetLimits(dom, _) => (Action::Limit, Some(dom)),
            Request::PageInfo(dom, ..)
            | Request::GetAffinity(dom, _)
            | Request::GetSched(dom)
            | Request::DomainInfo(dom, _)
            | Request::VcpuInfo(dom, _)
            | Request::Holders(dom, _) => (Action::AskDomain, Some(dom)),
        }
    }
}

/// What there is to know of a domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DomainFacts {
    /// Its number.
    pub dom: DomId,
    /// Its UUID.
    pub handle: [u8; 16],
    /// It may act on others.
    pub privileged: bool,
    /// It is held.
    pub paused: bool,
    /// It has shut down, with this reason.
    pub shutdown: Option<u8>,
    /// It is being destroyed.
    pub dying: bool,
    /// All of its vCPUs that are up wait for events.
    pub blocked: bool,
    /// One of its vCPUs is on a CPU.
    pub running: bool,
    /// Pages.
    pub pages: u64,
    /// Pages that it may have.
    pub max_pages: u64,
    /// Pages claimed for it.
    pub outstanding_pages: u64,
    /// Its shared page.
    pub shared_info: Mfn,
    /// ns that its vCPUs ran.
    pub cpu_time: u64,
    /// System time of its creation.
    pub created: u64,
    /// vCPUs that are up.
    pub online_vcpus: u32,
    /// vCPUs.
    pub vcpus: u32,
    /// vCPUs that it may have.
    pub max_vcpus: u32,
    /// Frames of its grant table, and how many it may have.
    pub grant_frames: (u32, u32),
    /// Grants that it maps, and how many it may.
    pub maptrack: (u32, u32),
    /// Event channels, and how many it may have.
    pub evtchns: (u32, u32),
}

/// What there is to know of a vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VcpuFacts {
    /// It is up.
    pub online: bool,
    /// It waits for an event.
    pub blocked: bool,
    /// It is on a CPU.
    pub running: bool,
    /// It has got a context.
    pub initialised: bool,
    /// Where it runs or ran last.
    pub cpu: u32,
    /// Where its time went.
    pub runstate: guest_abi::vcpu::VcpuRunstateInfo,
}

/// What there is to know of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// CPUs that run.
    pub online_cpus: u32,
    /// One more than the highest CPU.
    pub max_cpus: u32,
    /// Threads of a core.
    pub threads_per_core: u32,
    /// Cores of a socket.
    pub cores_per_socket: u32,
    /// Frequency of the TSC.
    pub cpu_khz: u32,
    /// System time.
    pub uptime: u64,
    /// Pages of memory.
    pub total_pages: u64,
    /// Pages that nobody has.
    pub free_pages: u64,
    /// Pages of all domains.
    pub domain_pages: u64,
    /// Pages claimed.
    pub outstanding_pages: u64,
    /// dom0's pages.
    pub dom0_pages: u64,
    /// One more than the highest frame.
    pub max_frame: u64,
    /// Domains.
    pub domains: u32,
    /// Their vCPUs.
    pub vcpus: u32,
    /// Name and version.
    pub version: &'static str,
}

/// What the interface can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// Major, minor, patch.
    pub version: (u16, u16, u16),
    /// Domains that there can be.
    pub max_domains: u32,
    /// vCPUs that one can have.
    pub max_vcpus: u32,
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is done.
    Done,
    /// The interface.
    Version(Abilities),
    /// The new domain's number.
    Created(DomId),
    /// The domain is gone but for so many pages that others hold.
    Destroyed(u64),
    /// Where a vCPU may run and likes to.
    Affinity(CpuSet, CpuSet),
    /// Weight and cap.
    Sched(u32, u32),
    /// A domain.
    Domain(DomainFacts),
    /// A vCPU.
    Vcpu(VcpuFacts),
    /// The machine.
    Host(HostFacts),
    /// Bytes written, and where to go on.
    Log(u32, u64),
    /// Records written, and where to go on or how many pages in all.
    Records(u32, u64),
}

/// What control asks of the machine. Numbers of domains are those of other domains than the caller, or the caller's own where
/// [`access`] lets it. Each answers [`Refusal::NO_DOMAIN`] or [`Refusal::NO_VCPU`] by itself.
pub trait ControlPorts {
    /// System time.
    fn now(&self) -> u64;
    /// Where failures are remembered.
    fn failures(&self) -> &Failures;
    /// What there can be.
    fn abilities(&self) -> Abilities;
    /// Makes a domain, paused.
    fn create(&self, new: &NewDomain) -> Result<DomId, Refusal>;
    /// Ends a domain; pages that others still hold.
    fn destroy(&self, dom: DomId) -> Result<u64, Stop>;
    /// Holds a domain or lets it go.
    fn set_paused(&self, dom: DomId, paused: bool) -> Result<(), Stop>;
    /// Changes how many pages it may have.
    fn set_max_pages(&self, dom: DomId, pages: u64) -> Result<(), Refusal>;
    /// Promises it so many pages in all; 0 takes the promise back.
    fn claim(&self, dom: DomId, pages: u64) -> Result<(), Refusal>;
    /// Makes its vCPUs.
    fn make_vcpus(&self, dom: DomId, count: u32) -> Result<(), Refusal>;
    /// Gives a vCPU registers, tables and callbacks.
    fn set_context(&self, dom: DomId, vcpu: VcpuId, context: &VcpuGuestContext) -> Result<(), Stop>;
    /// Reads a vCPU's registers, tables and callbacks.
    fn context(&self, dom: DomId, vcpu: VcpuId, context: &mut VcpuGuestContext) -> Result<(), Stop>;
    /// What a frame of a domain that exists is used as (`PAGE_*`).
    fn page_kind(&self, dom: DomId, mfn: Mfn) -> u32;
    /// Changes where a vCPU may run and likes to; the answer is what counts then.
    fn set_affinity(
        &self,
        dom: DomId,
        vcpu: VcpuId,
        hard: Option<CpuSet>,
        soft: Option<CpuSet>,
    ) -> Result<(CpuSet, CpuSet), Stop>;
    /// Where a vCPU may run and likes to.
    fn affinity(&self, dom: DomId, vcpu: VcpuId) -> Result<(CpuSet, CpuSet), Refusal>;
    /// Changes a domain's share.
    fn set_share(&self, dom: DomId, weight: Option<u16>, cap: Option<u32>) -> Result<(), Refusal>;
    /// A domain's weight and cap.
    fn share(&self, dom: DomId) -> Result<(u32, u32), Refusal>;
    /// A domain, or the next of a higher number.
    fn domain_facts(&self, dom: DomId, or_next: bool) -> Option<DomainFacts>;
    /// A vCPU.
    fn vcpu_facts(&self, dom: DomId, vcpu: VcpuId) -> Result<VcpuFacts, Refusal>;
    /// The machine.
    fn host_facts(&self) -> HostFacts;
    /// Bytes of the log from there on: how many, and where to go on.
    fn read_log(&self, from: u64, into: &mut [u8]) -> (usize, u64);
    /// Forgets the log so far.
    fn clear_log(&self);
    /// Changes limits.
    fn set_limits(&self, dom: DomId, limits: &NewLimits) -> Result<(), Refusal>;
    /// Shuts a domain down.
    fn shut_down(&self, dom: DomId, reason: u8) -> Result<(), Refusal>;
    /// Tells who holds pages of a domain; the answer is how many pages.
    fn holders(&self, dom: DomId, tell: &mut dyn FnMut(Holder)) -> Result<u64, Refusal>;
    /// A CPU.
    fn cpu(&self, cpu: u32) -> Option<CpuTopology>;
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// The calling domain.
    pub dom: DomId,
    /// It may act on others.
    pub privileged: bool,
}

/// The call on Xenolith's own interface: the request at `at` is read, performed, and answered where it is.
pub fn control_op<P: ControlPorts, G: GuestSpace>(
    ports: &P,
    space: &G,
    asker: Asker,
    at: GuestVa,
) -> Result<i64, CallError> {
    let envelope = own::Envelope::read(space, at)?;
    let decoded = own::decode(space, &envelope, asker);
    let asked = decoded.ok().map(|request| request.action());
    // A question that has no answer is no failure: lists end so.
    let changes = !matches!(asked, Some((Action::AskVersion | Action::AskHost | Action::AskDomain, _)));
    let target = asked.and_then(|(_, target)| target);
    let result = decoded.map_err(Stop::from).and_then(|request| {
        let reply = perform(ports, space, asker, &request)?;
        Ok(own::answer(space, &envelope, &reply)?)
    });
    match result {
        Ok(()) => Ok(0),
        Err(Stop::Again) => Err(CallError::Retry(Continuation { args: [at.0, 0, 0, 0] })),
        Err(Stop::Refused(refusal)) => {
            // A guest cannot fill the ring.
            if asker.privileged && changes {
                ports.failures().record(
                    ports.now(),
                    asker.dom,
                    envelope.op,
                    target,
                    refusal.errno,
                    refusal.why,
                );
            }
            Err(refusal.errno.into())
        }
    }
}

/// Does what a request asks, if the caller may.
pub fn perform<P: ControlPorts, G: GuestSpace>(
    ports: &P,
    space: &G,
    asker: Asker,
    request: &Request,
) -> Result<Reply, Stop> {
    let (action, target) = request.action();
    access::check(asker.dom, asker.privileged, action, target).map_err(|errno| match errno {
        Errno::EPERM => Refusal::from(errno),
        _ => Refusal::new(errno, "a domain cannot do this to itself"),
    })?;
    Ok(match *request {
        Request::Version => Reply::Version(ports.abilities()),
        Request::Create(ref new) => Reply::Created(create(ports, new)?),
        Request::Destroy(dom) => Reply::Destroyed(ports.destroy(dom)?),
        Request::Pause(dom) => done(ports.set_paused(dom, true))?,
        Request::Unpause(dom) => done(ports.set_paused(dom, false))?,
        Request::SetMaxMem(dom, pages) => done(ports.set_max_pages(dom, pages))?,
        Request::Claim(dom, pages) => done(ports.claim(dom, pages))?,
        Request::MaxVcpus(dom, count) => done(ports.make_vcpus(dom, count))?,
        Request::SetContext(dom, vcpu, from) => set_context(ports, space, dom, vcpu, from)?,
        Request::GetContext(dom, vcpu, to) => get_context(ports, space, dom, vcpu, to)?,
        Request::PageInfo(dom, count, frames, kinds) => page_info(ports, space, dom, count, frames, kinds)?,
        Request::SetAffinity(dom, vcpu, hard, soft) => {
            let (hard, soft) = ports.set_affinity(dom, vcpu, hard, soft)?;
            Reply::Affinity(hard, soft)
        }
        Request::GetAffinity(dom, vcpu) => {
            let (hard, soft) = ports.affinity(dom, vcpu)?;
            Reply::Affinity(hard, soft)
        }
        Request::SetSched(dom, weight, cap) => done(ports.set_share(dom, weight, cap))?,
        Request::GetSched(dom) => ports.share(dom).map(|(weight, cap)| Reply::Sched(weight, cap))?,
        Request::DomainInfo(dom, next) => {
            Reply::Domain(ports.domain_facts(dom, next).ok_or(Refusal::NO_DOMAIN)?)
        }
        Request::VcpuInfo(dom, vcpu) => Reply::Vcpu(ports.vcpu_facts(dom, vcpu)?),
        Request::HostInfo => Reply::Host(ports.host_facts()),
        Request::ReadConsole(wish) => read_log(ports, space, &wish)?,
        Request::Failures(first, room) => failures_from(ports, space, first, &room)?,
        Request::SetLimits(dom, ref limits) => done(ports.set_limits(dom, limits))?,
        Request::Shutdown(dom, reason) => done(ports.shut_down(dom, reason))?,
        Request::Holders(dom, room) => holders(ports, space, dom, &room)?,
        Request::Topology(first, room) => topology(ports, space, first, &room)?,
    })
}

fn done<E: Into<Stop>>(result: Result<(), E>) -> Result<Reply, Stop> {
    result.map(|()| Reply::Done).map_err(Into::into)
}

fn create<P: ControlPorts>(ports: &P, new: &NewDomain) -> Result<DomId, Refusal> {
    if !(1..=ports.abilities().max_vcpus).contains(&new.max_vcpus) {
        return Err(Refusal::new(
            Errno::EINVAL,
            "a domain has at least one vCPU and not more than the hypervisor can make",
        ));
    }
    ports.create(new)
}

fn set_context<P: ControlPorts, G: GuestSpace>(
    ports: &P,
    space: &G,
    dom: DomId,
    vcpu: VcpuId,
    from: GuestVa,
) -> Result<Reply, Stop> {
    let context: VcpuGuestContext = wire::read(space, from)?;
    done(ports.set_context(dom, vcpu, &context))
}

fn get_context<P: ControlPorts, G: GuestSpace>(
    ports: &P,
    space: &G,
    dom: DomId,
    vcpu: VcpuId,
    to: GuestVa,
) -> Result<Reply, Stop> {
    let mut context = VcpuGuestContext::new_zeroed();
    ports.context(dom, vcpu, &mut context)?;
    Ok(wire::write(space, to, &context).map(|()| Reply::Done)?)
}

fn page_info<P: ControlPorts, G: GuestSpace>(
    ports: &P,
    space: &G,
    dom: DomId,
    count: u32,
    frames: GuestVa,
    kinds: GuestVa,
) -> Result<Reply, Stop> {
    ports.domain_facts(dom, false).ok_or(Refusal::NO_DOMAIN)?;
    for index in 0..u64::from(count) {
        let mfn = Mfn(wire::read_element(space, frames, index)?);
        wire::write_element(space, kinds, index, &ports.page_kind(dom, mfn))?;
    }
    Ok(Reply::Done)
}

fn read_log<P: ControlPorts, G: GuestSpace>(ports: &P, space: &G, wish: &LogWish) -> Result<Reply, Stop> {
    let mut from = wish.from.unwrap_or(0);
    let mut written = 0;
    let mut chunk = [0; 256];
    while written < wish.room {
        let want = chunk.len().min((wish.room - written) as usize);
        let Some(part) = chunk.get_mut(..want) else { break };
        let (len, next) = ports.read_log(from, part);
        from = next;
        let Some(part) = chunk.get(..len).filter(|part| !part.is_empty()) else { break };
        let to = wire::element::<u8>(wish.buffer, written.into())?;
        space.write(to, part).map_err(|_| Refusal::FAULT)?;
        written += part.len() as u32;
    }
    if wish.clear {
        ports.clear_log();
    }
    Ok(Reply::Log(written, from))
}

/// Writes one record in the width that the caller knows.
fn put<G: GuestSpace>(space: &G, room: &Room, index: u32, record: &[u8]) -> Result<(), Refusal> {
    const ZEROES: [u8; 64] = [0; 64];
    let size = room.size as usize;
    let offset = u64::from(index) * u64::from(room.size);
    let mut at = room.buffer.0.checked_add(offset).ok_or(Refusal::FAULT)?;
    let known = record.get(..size).unwrap_or(record);
    space.write(GuestVa(at), known).map_err(|_| Refusal::FAULT)?;
    at = at.wrapping_add(known.len() as u64);
    let mut rest = size - known.len();
    while rest > 0 {
        let part = ZEROES.get(..rest).unwrap_or(&ZEROES);
        space.write(GuestVa(at), part).map_err(|_| Refusal::FAULT)?;
        at = at.wrapping_add(part.len() as u64);
        rest -= part.len();
    }
    Ok(())
}

fn failures_from<P: ControlPorts, G: GuestSpace>(
    ports: &P,
    space: &G,
    first: u64,
    room: &Room,
) -> Result<Reply, Stop> {
    let (mut written, mut next) = (0, first);
    while written < room.count
        && let Some(failure) = ports.failures().at_or_after(next)
    {
        put(space, room, written, Failure::as_bytes(&failure))?;
        written += 1;
        next = failure.sequence + 1;
    }
    Ok(Reply::Records(written, next))
}

fn holders<P: ControlPorts, G: GuestSpace>(
    ports: &P,
    space: &G,
    dom: DomId,
    room: &Room,
) -> Result<Reply, Stop> {
    let mut written = 0;
    let mut result = Ok(());
    let total = ports.holders(dom, &mut |holder| {
        if result.is_ok() && written < room.count {
            result = put(space, room, written, holder.as_bytes());
            written += 1;
        }
    })?;
    result?;
    Ok(Reply::Records(written, total))
}

fn topology<P: ControlPorts, G: GuestSpace>(
    ports: &P,
    space: &G,
    first: u32,
    room: &Room,
) -> Result<Reply, Stop> {
    let (mut written, mut next) = (0, first);
    while written < room.count
        && let Some(cpu) = ports.cpu(next)
    {
        put(space, room, written, cpu.as_bytes())?;
        written += 1;
        next = next.saturating_add(1);
    }
    Ok(Reply::Records(written, next.into()))
}

#[cfg(test)]
mod tests;
