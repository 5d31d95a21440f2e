//! The own interface from the outside: bytes in a guest's memory, and what becomes of them.

use super::*;
use crate::testing::Guest;
use guest_abi::control as abi;
use guest_abi::control::Operation;
use proptest::prelude::*;
use std::cell::{Cell, RefCell};

/// A machine with dom0 and domain 5, which notes what it is told.
struct Fake {
    failures: Failures,
    told: RefCell<Vec<String>>,
    busy: Cell<bool>,
}

impl Fake {
    fn new() -> Self {
        Fake { failures: Failures::new(), told: RefCell::default(), busy: Cell::new(false) }
    }

    fn tell(&self, what: String) {
        self.told.borrow_mut().push(what);
    }

    fn known(&self, dom: DomId) -> Result<(), Refusal> {
        if matches!(dom.0, 0 | 5) { Ok(()) } else { Err(Refusal::NO_DOMAIN) }
    }
}

impl ControlPorts for Fake {
    fn now(&self) -> u64 {
        77
    }
    fn failures(&self) -> &Failures {
        &self.failures
    }
    fn abilities(&self) -> Abilities {
        Abilities { version: (1, 2, 3), max_domains: 9, max_vcpus: 4 }
    }
    fn create(&self, new: &NewDomain) -> Result<DomId, Refusal> {
        self.tell(format!("create {new:?}"));
        Ok(new.dom.unwrap_or(DomId(6)))
    }
    fn destroy(&self, dom: DomId) -> Result<u64, Stop> {
        self.known(dom)?;
        if self.busy.take() { Err(Stop::Again) } else { Ok(3) }
    }
    fn set_paused(&self, dom: DomId, paused: bool) -> Result<(), Stop> {
        self.tell(format!("pause {dom:?} {paused}"));
        Ok(self.known(dom)?)
    }
    fn set_max_pages(&self, dom: DomId, pages: u64) -> Result<(), Refusal> {
        self.tell(format!("max_pages {dom:?} {pages}"));
        self.known(dom)
    }
    fn claim(&self, dom: DomId, pages: u64) -> Result<(), Refusal> {
        self.tell(format!("claim {dom:?} {pages}"));
        self.known(dom)
    }
    fn make_vcpus(&self, dom: DomId, _: u32) -> Result<(), Refusal> {
        self.known(dom)
    }
    fn set_context(&self, dom: DomId, vcpu: VcpuId, context: &VcpuGuestContext) -> Result<(), Stop> {
        self.tell(format!("context {dom:?} {vcpu:?} {:#x}", context.user_regs.rip));
        Ok(self.known(dom)?)
    }
    fn context(&self, dom: DomId, _: VcpuId, context: &mut VcpuGuestContext) -> Result<(), Stop> {
        context.user_regs.rip = 0x1234;
        Ok(self.known(dom)?)
    }
    fn page_kind(&self, _: DomId, mfn: Mfn) -> u32 {
        mfn.0 as u32 & 15
    }
    fn set_affinity(
        &self,
        dom: DomId,
        _: VcpuId,
        hard: Option<CpuSet>,
        soft: Option<CpuSet>,
    ) -> Result<(CpuSet, CpuSet), Stop> {
        self.known(dom)?;
        Ok((hard.unwrap_or(CpuSet::EMPTY), soft.unwrap_or(CpuSet::EMPTY)))
    }
    fn affinity(&self, dom: DomId, _: VcpuId) -> Result<(CpuSet, CpuSet), Refusal> {
        self.known(dom)?;
        Ok((CpuSet::ALL, CpuSet::EMPTY))
    }
    fn set_share(&self, dom: DomId, _: Option<u16>, _: Option<u32>) -> Result<(), Refusal> {
        self.known(dom)
    }
    fn share(&self, dom: DomId) -> Result<(u32, u32), Refusal> {
        self.known(dom).map(|()| (256, 50))
    }
    fn domain_facts(&self, dom: DomId, or_next: bool) -> Option<DomainFacts> {
        let dom = match dom.0 {
            0 | 5 => dom,
            1..5 if or_next => DomId(5),
            _ => return None,
        };
        Some(DomainFacts { dom, pages: 100, paused: dom.0 == 5, shutdown: Some(3), ..Default::default() })
    }
    fn vcpu_facts(&self, dom: DomId, vcpu: VcpuId) -> Result<VcpuFacts, Refusal> {
        self.known(dom)?;
        if vcpu.0 != 0 {
            return Err(Refusal::NO_VCPU);
        }
        let mut facts = VcpuFacts { online: true, running: true, cpu: 2, ..Default::default() };
        facts.runstate.time = [10, 20, 30, 40];
        Ok(facts)
    }
    fn host_facts(&self) -> HostFacts {
        HostFacts {
            total_pages: 100,
            free_pages: 20,
            domain_pages: 50,
            outstanding_pages: 5,
            version: "Xenolith 9",
            ..Default::default()
        }
    }
    fn read_log(&self, from: u64, into: &mut [u8]) -> (usize, u64) {
        let left = 600u64.saturating_sub(from).min(into.len() as u64);
        into[..left as usize].fill(b'x');
        (left as usize, from + left)
    }
    fn clear_log(&self) {
        self.tell("clear".into());
    }
    fn set_limits(&self, dom: DomId, limits: &NewLimits) -> Result<(), Refusal> {
        self.tell(format!("{limits:?}"));
        self.known(dom)
    }
    fn shut_down(&self, dom: DomId, reason: u8) -> Result<(), Refusal> {
        self.tell(format!("shutdown {dom:?} {reason}"));
        self.known(dom)
    }
    fn holders(&self, dom: DomId, tell: &mut dyn FnMut(Holder)) -> Result<u64, Refusal> {
        self.known(dom)?;
        for n in 0..3 {
            tell(Holder { domid: n, kind: 1, pages: 10 });
        }
        Ok(25)
    }
    fn cpu(&self, cpu: u32) -> Option<CpuTopology> {
        (cpu < 2).then(|| CpuTopology { cpu, flags: 1, apic_id: cpu * 2, core: cpu, socket: 0, node: 0 })
    }
}

const DOM0: Asker = Asker { dom: DomId(0), privileged: true };
const AT: u64 = Guest::BASE;

fn ask(fake: &Fake, guest: &Guest, asker: Asker, bytes: &[u8]) -> Result<i64, CallError> {
    guest.0.borrow_mut()[..bytes.len()].copy_from_slice(bytes);
    control_op(fake, guest, asker, GuestVa(AT))
}

/// Asks with a request of today's size.
fn request<T: Operation>(fake: &Fake, body: &mut T) -> Result<i64, CallError> {
    let guest = Guest::new(0x4000);
    let result = ask(fake, &guest, DOM0, body.as_bytes());
    let len = size_of::<T>();
    body.as_mut_bytes().copy_from_slice(&guest.0.borrow()[..len]);
    result
}

fn errno(errno: Errno) -> Result<i64, CallError> {
    Err(CallError::Errno(errno))
}

#[test]
fn a_domain_is_described() {
    let fake = Fake::new();
    let mut info = abi::DomainInfo { domid: 1, flags: abi::INFO_NEXT, ..Default::default() };
    assert_eq!(request(&fake, &mut info), Ok(0));
    assert_eq!((info.domid, info.pages, info.shutdown_reason), (5, 100, 3));
    assert_eq!(info.state, abi::DOMAIN_PAUSED | abi::DOMAIN_SHUTDOWN);
    let mut info = abi::DomainInfo { domid: 1, ..Default::default() };
    assert_eq!(request(&fake, &mut info), errno(Errno::ESRCH));
}

#[test]
fn a_vcpu_is_described() {
    let mut info = abi::VcpuInfo { domid: 5, ..Default::default() };
    assert_eq!(request(&Fake::new(), &mut info), Ok(0));
    assert_eq!((info.domid, info.vcpu, info.cpu, info.cpu_time), (5, 0, 2, 10));
    assert_eq!((info.flags, info.time), (abi::VCPU_ONLINE | abi::VCPU_RUNNING, [10, 20, 30, 40]));
    info.vcpu = 1 << 16;
    assert_eq!(request(&Fake::new(), &mut info), errno(Errno::ENOENT));
}

#[test]
fn memory_adds_up() {
    let mut info = abi::HostInfo::new();
    assert_eq!(request(&Fake::new(), &mut info), Ok(0));
    let parts = info.free_pages + info.hypervisor_pages + info.domain_pages + info.outstanding_pages;
    assert_eq!((info.total_pages, parts), (100, 100));
    assert_eq!(&info.version[..11], b"Xenolith 9\0");
}

#[test]
fn a_shorter_request_is_answered_in_what_it_knows() {
    let fake = Fake::new();
    let guest = Guest::new(0x1000);
    let mut info = abi::DomainInfo { domid: 5, ..Default::default() };
    info.size = 48;
    guest.0.borrow_mut()[48..200].fill(0xee);
    assert_eq!(ask(&fake, &guest, DOM0, &info.as_bytes()[..48]), Ok(0));
    assert_eq!(guest.0.borrow()[40..48], 100u64.to_le_bytes());
    assert!(guest.0.borrow()[48..200].iter().all(|byte| *byte == 0xee));
}

#[test]
fn a_longer_request_may_only_have_zeroes_there() {
    let fake = Fake::new();
    let guest = Guest::new(0x1000);
    let mut pause = [0; 600];
    pause[..16].copy_from_slice(abi::Pause { size: 600, domid: 5, ..Default::default() }.as_bytes());
    assert_eq!(ask(&fake, &guest, DOM0, &pause), Ok(0));
    pause[599] = 1;
    assert_eq!(ask(&fake, &guest, DOM0, &pause), errno(Errno::E2BIG));
    assert_eq!(*fake.told.borrow(), ["pause DomId(0x5) true"]);
}

#[test]
fn sizes_that_cannot_be_and_operations_that_are_not() {
    let guest = Guest::new(0x4000);
    for size in [0u32, 7, 4097, u32::MAX] {
        let head = [size, abi::OP_VERSION];
        assert_eq!(ask(&Fake::new(), &guest, DOM0, head.as_bytes()), errno(Errno::EINVAL), "{size}");
    }
    let head = [8u32, 1000];
    assert_eq!(ask(&Fake::new(), &guest, DOM0, head.as_bytes()), errno(Errno::ENOSYS));
    assert_eq!(control_op(&Fake::new(), &guest, DOM0, GuestVa(0x1000)), Err(CallError::Errno(Errno::EFAULT)));
}

#[test]
fn the_smallest_request_asks_for_defaults() {
    let guest = Guest::new(0x1000);
    // A pause of domain 0, which is the caller.
    assert_eq!(ask(&Fake::new(), &guest, DOM0, [8u32, abi::OP_PAUSE].as_bytes()), errno(Errno::EINVAL));
    assert_eq!(ask(&Fake::new(), &guest, DOM0, [8u32, abi::OP_VERSION].as_bytes()), Ok(0));
}

#[test]
fn without_privilege_nothing_happens_and_nothing_is_remembered() {
    let guest = Guest::new(0x1000);
    let fake = Fake::new();
    let asker = Asker { dom: DomId(5), privileged: false };
    for (op, name, size) in abi::OPERATIONS {
        let mut bytes = vec![0; *size];
        bytes[..8].copy_from_slice([*size as u32, *op].as_bytes());
        let result = ask(&fake, &guest, asker, &bytes);
        let wanted = if *op == abi::OP_VERSION { Ok(0) } else { errno(Errno::EPERM) };
        assert_eq!(result, wanted, "{name}");
    }
    assert!(fake.told.borrow().is_empty());
    assert_eq!(fake.failures.at_or_after(0), None);
}

#[test]
fn flags_and_reserved_fields_that_nobody_knows_are_refused() {
    let fake = Fake::new();
    let mut create = abi::Create { flags: 1, domid: abi::ANY_DOMID, max_vcpus: 1, ..Default::default() };
    assert_eq!(request(&fake, &mut create), errno(Errno::EINVAL));
    create.flags = 0;
    assert_eq!(request(&fake, &mut create), Ok(0));
    assert_eq!(create.domid, 6);
    create.max_vcpus = 5;
    assert_eq!(request(&fake, &mut create), errno(Errno::EINVAL));
    let mut destroy = abi::Destroy { domid: 5, reserved: 1, ..Default::default() };
    assert_eq!(request(&fake, &mut destroy), errno(Errno::EINVAL));
    destroy.reserved = 0;
    assert_eq!(request(&fake, &mut destroy), Ok(0));
    assert_eq!(destroy.held_pages, 3);
    let mut info = abi::DomainInfo { flags: 2, ..Default::default() };
    assert_eq!(request(&fake, &mut info), errno(Errno::EINVAL));
}

#[test]
fn an_interrupted_operation_is_issued_again_as_it_was() {
    let fake = Fake::new();
    fake.busy.set(true);
    let mut destroy = abi::Destroy { domid: 5, ..Default::default() };
    let again = Continuation { args: [AT, 0, 0, 0] };
    assert_eq!(request(&fake, &mut destroy), Err(CallError::Retry(again)));
    assert_eq!((destroy.held_pages, request(&fake, &mut destroy)), (0, Ok(0)));
}

#[test]
fn failures_say_why() {
    let fake = Fake::new();
    let mut pause = abi::Pause { domid: 9, ..Default::default() };
    assert_eq!(request(&fake, &mut pause), errno(Errno::ESRCH));
    let mut unpause = abi::Unpause { domid: 0, ..Default::default() };
    assert_eq!(request(&fake, &mut unpause), errno(Errno::EINVAL));

    let guest = Guest::new(0x1000);
    let mut failures = abi::Failures { buffer: AT + 0x100, count: 3, record_size: 136, ..Default::default() };
    assert_eq!(ask(&fake, &guest, DOM0, failures.as_bytes()), Ok(0));
    let bytes = guest.0.borrow();
    failures.as_mut_bytes().copy_from_slice(&bytes[..32]);
    assert_eq!((failures.count, failures.sequence), (2, 3));
    let first = &bytes[0x100..0x188];
    assert_eq!(first[..8], 1u64.to_le_bytes());
    assert_eq!(first[16..28], *[abi::OP_PAUSE, 9, 3].as_bytes());
    assert!(first[32..].starts_with(b"there is no domain of that number\0"));
    assert_eq!(first[128..], [0; 8]);
    assert!(bytes[0x188 + 32..].starts_with(b"a domain cannot do this to itself\0"));
}

#[test]
fn lists_are_cut_to_the_room_there_is() {
    let guest = Guest::new(0x1000);
    let holders = abi::Holders { domid: 5, count: 2, buffer: AT + 0x100, ..Default::default() };
    assert_eq!(ask(&Fake::new(), &guest, DOM0, holders.as_bytes()), Ok(0));
    assert_eq!(guest.0.borrow()[12..16], 2u32.to_le_bytes());
    assert_eq!(guest.0.borrow()[24..32], 25u64.to_le_bytes());
    assert_eq!(guest.0.borrow()[0x110..0x114], 1u32.to_le_bytes());
    assert_eq!(guest.0.borrow()[0x120..0x130], [0; 16]);
    let cpus = abi::CpuTopologyInfo { count: 9, buffer: AT + 0x200, ..Default::default() };
    assert_eq!(ask(&Fake::new(), &guest, DOM0, cpus.as_bytes()), Ok(0));
    assert_eq!(guest.0.borrow()[8..16], *[2u32, 2].as_bytes());
    assert_eq!(guest.0.borrow()[0x218..0x224], *[1u32, 1, 2].as_bytes());
}

#[test]
fn the_log_is_read_in_pieces() {
    let guest = Guest::new(0x1000);
    let fake = Fake::new();
    let log = abi::ReadConsole { flags: 3, count: 1000, index: 50, buffer: AT + 0x100, ..Default::default() };
    assert_eq!(ask(&fake, &guest, DOM0, log.as_bytes()), Ok(0));
    assert_eq!(guest.0.borrow()[12..16], 550u32.to_le_bytes());
    assert_eq!(guest.0.borrow()[16..24], 600u64.to_le_bytes());
    assert!(guest.0.borrow()[0x100..0x100 + 550].iter().all(|byte| *byte == b'x'));
    assert_eq!(guest.0.borrow()[0x100 + 550], 0);
    assert_eq!(*fake.told.borrow(), ["clear"]);
}

#[test]
fn contexts_go_both_ways() {
    let guest = Guest::new(0x4000);
    let fake = Fake::new();
    let mut context = VcpuGuestContext::new_zeroed();
    context.user_regs.rip = 0xabcd;
    guest.0.borrow_mut()[0x1000..][..size_of::<VcpuGuestContext>()].copy_from_slice(context.as_bytes());
    let set = abi::SetVcpuContext { domid: 5, vcpu: 1, context: AT + 0x1000, ..Default::default() };
    assert_eq!(ask(&fake, &guest, DOM0, set.as_bytes()), Ok(0));
    assert_eq!(*fake.told.borrow(), ["context DomId(0x5) VcpuId(0x1) 0xabcd"]);
    let get = abi::GetVcpuContext { domid: 5, vcpu: 1, context: AT + 0x1000, ..Default::default() };
    assert_eq!(ask(&fake, &guest, DOM0, get.as_bytes()), Ok(0));
    let bytes = guest.0.borrow()[0x1000..][..size_of::<VcpuGuestContext>()].to_vec();
    context.as_mut_bytes().copy_from_slice(&bytes);
    assert_eq!(context.user_regs.rip, 0x1234);
}

#[test]
fn page_kinds_are_told_one_by_one() {
    let guest = Guest::new(0x1000);
    let mut pages =
        abi::PageInfo { domid: 5, count: 3, frames: AT + 0x100, types: AT + 0x200, ..Default::default() };
    guest.0.borrow_mut()[0x100..0x118].copy_from_slice([4u64, 5, 6].as_bytes());
    assert_eq!(ask(&Fake::new(), &guest, DOM0, pages.as_bytes()), Ok(0));
    assert_eq!(guest.0.borrow()[0x200..0x20c], *[4u32, 5, 6].as_bytes());
    pages.count = abi::MAX_PAGE_INFO + 1;
    assert_eq!(ask(&Fake::new(), &guest, DOM0, pages.as_bytes()), errno(Errno::E2BIG));
}

#[test]
fn affinities_travel_as_bits() {
    let mut set = abi::SetAffinity { domid: 5, flags: abi::AFFINITY_HARD, ..Default::default() };
    set.hard = [5; 16];
    set.soft = [7; 16];
    assert_eq!(request(&Fake::new(), &mut set), Ok(0));
    assert_eq!((set.hard[0], set.hard[3], set.hard[4], set.soft), (5, 5, 0, [0; 16]));
    let mut get = abi::GetAffinity { domid: 5, ..Default::default() };
    assert_eq!(request(&Fake::new(), &mut get), Ok(0));
    assert_eq!((get.flags, get.hard[0], get.soft[0]), (3, u64::MAX, 0));
}

proptest! {
    /// Whatever bytes a caller sends, nothing outside its request and its buffers changes.
    #[test]
    fn any_bytes_are_decoded_or_refused(
        op in 0u32..26,
        size in 0u32..300,
        body in proptest::collection::vec(prop_oneof![Just(0u8), Just(5), any::<u8>()], 300),
    ) {
        let guest = Guest::new(0x1000);
        let mut bytes = body;
        bytes[..8].copy_from_slice([size, op].as_bytes());
        let before = { guest.0.borrow_mut()[..300].copy_from_slice(&bytes); guest.0.borrow().clone() };
        let result = control_op(&Fake::new(), &guest, DOM0, GuestVa(AT));
        prop_assert!(!matches!(result, Err(CallError::CrashCaller(_))));
        if matches!(op, abi::OP_READ_CONSOLE | abi::OP_FAILURES | abi::OP_HOLDERS | abi::OP_CPU_TOPOLOGY
            | abi::OP_GET_VCPU_CONTEXT | abi::OP_PAGE_INFO)
        {
            return Ok(());
        }
        let end = (size as usize).max(8);
        prop_assert_eq!(&guest.0.borrow()[end..], &before[end..]);
        if result.is_err() {
            prop_assert_eq!(&*guest.0.borrow(), &before);
        }
    }
}
