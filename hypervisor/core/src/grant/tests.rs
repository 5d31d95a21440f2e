//! Grant tables grow, are lent, and come back.

use super::*;
use crate::port::Memory;
use crate::testing::{Guest, Paged};
use zerocopy::FromBytes;

const ARG: GuestVa = GuestVa(Guest::BASE);
const LIST: u64 = Guest::BASE + 64;

struct Rig {
    machine: Paged,
    guest: Guest,
}

impl Rig {
    fn new() -> Self {
        Rig { machine: Paged::new(), guest: Guest::new(4096) }
    }

    fn raw(&self, dom: usize, cmd: u32, uop: GuestVa, count: u32) -> Result<i64, CallError> {
        let caller = Caller { domain: &self.machine.doms[dom], vcpu: &self.machine.vcpu };
        grant_table_op(&self.machine.mmu(), &self.guest, &caller, cmd, uop, count)
    }

    fn call<T: IntoBytes + Immutable + FromBytes>(
        &self,
        dom: usize,
        cmd: u32,
        arg: T,
    ) -> (Result<i64, CallError>, T) {
        wire::write(&self.guest, ARG, &arg).unwrap();
        let answer = self.raw(dom, cmd, ARG, 1);
        (answer, wire::read(&self.guest, ARG).unwrap())
    }

    fn setup(&self, caller: usize, dom: u16, nr_frames: u32) -> i16 {
        let op = GnttabSetupTable { dom, nr_frames, frame_list: LIST, ..Default::default() };
        let (answer, op) = self.call(caller, GNTTABOP_SETUP_TABLE, op);
        assert_eq!(answer, Ok(0));
        op.status
    }

    fn size(&self, caller: usize, dom: u16) -> (i16, u32, u32) {
        let op = GnttabQuerySize { dom, ..Default::default() };
        let (answer, op) = self.call(caller, GNTTABOP_QUERY_SIZE, op);
        assert_eq!(answer, Ok(0));
        (op.status, op.nr_frames, op.max_nr_frames)
    }
}

fn refused(errno: Errno) -> Result<i64, CallError> {
    Err(CallError::Errno(errno))
}

#[test]
fn a_table_grows_to_its_limit_and_comes_back() {
    let rig = Rig::new();
    let free = rig.machine.heap.free_frames();
    let own = DomId::SELF.0;
    assert_eq!(rig.size(1, own), (GNTST_OKAY, 0, 4));
    assert_eq!(rig.setup(1, own, 2), GNTST_OKAY);
    let first: [u64; 2] = [0, 1].map(|i| wire::read_element(&rig.guest, GuestVa(LIST), i).unwrap());
    assert_eq!(rig.setup(1, own, 4), GNTST_OKAY);
    let all: [u64; 4] = [0, 1, 2, 3].map(|i| wire::read_element(&rig.guest, GuestVa(LIST), i).unwrap());
    assert_eq!(all[..2], first, "frames stay where they are");
    assert_eq!(rig.setup(1, own, 5), GNTST_GENERAL_ERROR);
    assert_eq!(rig.setup(1, own, 1), GNTST_OKAY, "it does not shrink");
    assert_eq!((rig.size(0, 1), free - rig.machine.heap.free_frames()), ((GNTST_OKAY, 4, 4), 4));
    let mmu = rig.machine.mmu();
    for mfn in all {
        assert!((0..512).all(|i| rig.machine.load64(Mfn(mfn), i) == 0));
        let mapping =
            mmu.frames.get_writable_fast(Mfn(mfn), DomId(1)).expect("the domain can map it writable");
        assert!(mmu.frames.put_writable(mapping, || 1).is_none());
        assert!(mmu.release(&rig.machine.doms[1], Mfn(mfn)).is_err(), "and cannot give it away");
    }
    assert_eq!(rig.machine.doms[1].pages(), 0, "it is no page of the domain");
    rig.machine.grants[1].release(&mmu);
    assert_eq!(rig.machine.heap.free_frames(), free);
    assert_eq!(rig.setup(0, 1, 1), GNTST_GENERAL_ERROR, "nor does one of a domain that goes come back");
    assert_eq!(rig.machine.heap.free_frames(), free);
}

#[test]
fn without_memory_nothing_grows() {
    let rig = Rig::new();
    let mmu = rig.machine.mmu();
    while rig.machine.heap.free_frames() > 2 {
        let _ = mmu.heap.alloc(mmu.frames, 0, 64).map(|fresh| fresh.make_safe(&rig.machine, false));
    }
    assert_eq!(rig.setup(0, DomId::SELF.0, 3), GNTST_GENERAL_ERROR);
    assert_eq!((rig.size(0, 0), rig.machine.heap.free_frames()), ((GNTST_OKAY, 0, 4), 2));
}

#[test]
fn only_a_privileged_domain_names_another() {
    let rig = Rig::new();
    assert_eq!(rig.setup(1, 0, 1), GNTST_PERMISSION_DENIED);
    assert_eq!(rig.setup(1, 9, 1), GNTST_BAD_DOMAIN);
    assert_eq!(rig.setup(0, 1, 1), GNTST_OKAY);
    assert_eq!(rig.size(1, 0).0, GNTST_PERMISSION_DENIED);
    let version =
        |caller, dom| rig.call(caller, GNTTABOP_GET_VERSION, GnttabGetVersion { dom, pad: 0, version: 9 });
    assert_eq!(version(1, 0).0, refused(Errno::EPERM));
    assert_eq!(version(1, 9).0, refused(Errno::ESRCH));
    assert_eq!(version(0, 1).1.version, 1);
}

#[test]
fn version_two_is_refused() {
    let rig = Rig::new();
    for (version, answer) in [(1, Ok(0)), (2, refused(Errno::ENOSYS)), (3, refused(Errno::EINVAL))] {
        let (got, op) = rig.call(0, GNTTABOP_SET_VERSION, GnttabSetVersion { version });
        assert_eq!((got, op.version), (answer, 1));
    }
    let op = GnttabGetStatusFrames { nr_frames: 1, dom: 0, frame_list: LIST, ..Default::default() };
    assert_eq!(rig.call(0, GNTTABOP_GET_STATUS_FRAMES, op).1.status, GNTST_GENERAL_ERROR);
    let none = GnttabGetStatusFrames { nr_frames: 0, ..op };
    assert_eq!(rig.call(0, GNTTABOP_GET_STATUS_FRAMES, none).1.status, GNTST_OKAY);
}

#[test]
fn bad_calls() {
    let rig = Rig::new();
    let setup = GnttabSetupTable { dom: 0, nr_frames: 1, frame_list: LIST, ..Default::default() };
    wire::write(&rig.guest, ARG, &setup).unwrap();
    assert_eq!(rig.raw(0, GNTTABOP_SETUP_TABLE, ARG, 2), refused(Errno::EINVAL));
    assert_eq!(rig.raw(0, GNTTABOP_SETUP_TABLE, ARG, 1 << 31), refused(Errno::EINVAL));
    assert_eq!(rig.raw(0, GNTTABOP_SETUP_TABLE | 1 << 12, ARG, 1), refused(Errno::EINVAL));
    assert_eq!(rig.raw(0, GNTTABOP_SETUP_TABLE, GuestVa(8), 1), refused(Errno::EFAULT));
    let outside = GnttabSetupTable { frame_list: 0xffff_8000_0000_0000, ..setup };
    assert_eq!(rig.call(0, GNTTABOP_SETUP_TABLE, outside).0, refused(Errno::EFAULT));
    let unmapped = GnttabSetupTable { frame_list: 8, ..setup };
    assert_eq!(rig.call(0, GNTTABOP_SETUP_TABLE, unmapped).1.status, GNTST_BAD_VIRT_ADDR);
    for cmd in [GNTTABOP_TRANSFER, GNTTABOP_DUMP_TABLE, GNTTABOP_CACHE_FLUSH, 99] {
        assert_eq!(rig.raw(0, cmd, ARG, 1), refused(Errno::ENOSYS));
    }
}

mod using;
