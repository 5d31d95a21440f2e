//! Each operation does its one thing, each refusal its own.

use super::*;
use crate::port::Memory;
use crate::testing::{Guest, World};
use hv_types::Mfn;

const ARG: GuestVa = GuestVa(Guest::BASE);

struct Setup {
    world: World,
    guest: Guest,
}

impl Setup {
    /// A domain with three vCPUs of which only 0 is up, and 1 is initialised.
    fn new() -> Self {
        Setup { world: World::new(1, 3), guest: Guest::new(4096) }
    }

    fn call(&self, cmd: u32, vcpu: u32, arg: GuestVa) -> Result<i64, CallError> {
        let caller = VcpuCaller { events: &self.world.doms[0], vcpu: VcpuId(0) };
        vcpu_op(&self.world, &self.guest, caller, cmd, vcpu, arg)
    }

    fn with<T: zerocopy::IntoBytes + zerocopy::Immutable>(
        &self,
        cmd: u32,
        vcpu: u32,
        arg: T,
    ) -> Result<i64, CallError> {
        wire::write(&self.guest, ARG, &arg).unwrap();
        self.call(cmd, vcpu, ARG)
    }
}

const NONE: GuestVa = GuestVa(0);

fn refused(errno: Errno) -> Result<i64, CallError> {
    Err(CallError::Errno(errno))
}

#[test]
fn vcpus_go_up_and_down() {
    let s = Setup::new();
    assert_eq!([0, 1, 2].map(|v| s.call(VCPUOP_IS_UP, v, NONE)), [Ok(1), Ok(0), Ok(0)]);
    assert_eq!(s.call(VCPUOP_UP, 2, NONE), refused(Errno::EINVAL), "not initialised");
    assert_eq!(s.call(VCPUOP_UP, 1, NONE), Ok(0));
    assert_eq!(s.call(VCPUOP_UP, 1, NONE), Ok(0));
    assert_eq!(s.world.take_log(), ["wake 1"], "once");
    assert_eq!(s.call(VCPUOP_DOWN, 0, NONE), Ok(0));
    assert_eq!(s.world.take_log(), ["sleep 0"]);
    assert_eq!(s.call(VCPUOP_DOWN, 1, NONE), Ok(0));
    assert_eq!(s.world.take_log(), ["shut down: 0"], "the last one");
    assert_eq!(s.call(VCPUOP_IS_UP, 1, NONE), Ok(1));
    assert_eq!(s.call(VCPUOP_UP, 3, NONE), refused(Errno::ENOENT));
    assert_eq!(s.call(VCPUOP_UP, 0x1_0000, NONE), refused(Errno::ENOENT));
}

#[test]
fn timers() {
    let s = Setup::new();
    let past = VcpuSetSingleshotTimer { timeout_abs_ns: 999, flags: 1, _pad: 0 };
    assert_eq!(s.with(VCPUOP_SET_SINGLESHOT_TIMER, 0, past), Ok(0));
    let future = VcpuSetSingleshotTimer { timeout_abs_ns: 1000, ..past };
    assert_eq!(s.with(VCPUOP_SET_SINGLESHOT_TIMER, 0, future), Ok(0));
    assert_eq!(s.call(VCPUOP_STOP_SINGLESHOT_TIMER, 0, NONE), Ok(0));
    let told = ["singleshot None", "send timer", "singleshot Some(1000)", "singleshot None"];
    assert_eq!(s.world.take_log(), told);
    assert_eq!(s.with(VCPUOP_SET_SINGLESHOT_TIMER, 1, future), refused(Errno::EINVAL));
    assert_eq!(s.call(VCPUOP_STOP_SINGLESHOT_TIMER, 1, NONE), refused(Errno::EINVAL));
    assert_eq!(s.with(VCPUOP_SET_PERIODIC_TIMER, 1, VcpuSetPeriodicTimer { period_ns: 5 }), Ok(0));
    assert_eq!(s.call(VCPUOP_STOP_PERIODIC_TIMER, 1, NONE), Ok(0));
    assert_eq!(s.world.take_log(), ["periodic 1 Some(5)", "periodic 1 None"]);
}

#[test]
fn areas_are_checked_and_written() {
    let s = Setup::new();
    assert_eq!(s.with(VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, 0, ARG.0 + 64), Ok(0));
    let info: VcpuRunstateInfo = wire::read(&s.guest, GuestVa(ARG.0 + 64)).unwrap();
    assert_eq!((info.state, info.time), (RUNSTATE_RUNNABLE, [0, 1000, 0, 0]));
    assert_eq!(s.call(VCPUOP_GET_RUNSTATE_INFO, 1, GuestVa(ARG.0 + 256)), Ok(0));
    let info: VcpuRunstateInfo = wire::read(&s.guest, GuestVa(ARG.0 + 256)).unwrap();
    assert_eq!((info.state, info.time), (RUNSTATE_OFFLINE, [0, 0, 0, 1000]));
    assert_eq!(s.with(VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA, 0, ARG.0), Ok(0));
    assert_eq!(s.world.take_log(), [format!("runstate 0 {:#x}", ARG.0 + 64), format!("time 0 {:#x}", ARG.0)]);
    for cmd in [VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA] {
        assert_eq!(s.with(cmd, 0, 0xffff_8000_0000_0000u64), refused(Errno::EFAULT));
        assert_eq!(s.with(cmd, 0, u64::MAX - 8), refused(Errno::EFAULT));
    }
    assert_eq!(s.call(VCPUOP_GET_RUNSTATE_INFO, 0, NONE), refused(Errno::EFAULT));
    assert!(s.world.take_log().is_empty());
}

#[test]
fn vcpu_info_moves_for_oneself_or_one_that_is_down() {
    let s = Setup::new();
    let place = |mfn| VcpuRegisterVcpuInfo { mfn, offset: 128, rsvd: 0 };
    assert_eq!(s.with(VCPUOP_REGISTER_VCPU_INFO, 0, place(40)), Ok(0));
    assert_eq!(s.with(VCPUOP_REGISTER_VCPU_INFO, 1, place(41)), Ok(0));
    s.call(VCPUOP_UP, 1, NONE).unwrap();
    assert_eq!(s.world.take_log(), ["moved 0", "moved 1", "wake 1"]);
    assert_eq!(s.with(VCPUOP_REGISTER_VCPU_INFO, 1, place(42)), refused(Errno::EINVAL));
    assert_eq!(s.world.load8(Mfn(41), 128), 1);
}

#[test]
fn the_rest() {
    let s = Setup::new();
    assert_eq!(s.call(VCPUOP_SEND_NMI, 1, NONE), Ok(0));
    assert_eq!(s.call(VCPUOP_SEND_NMI, 1, ARG), refused(Errno::EINVAL));
    assert_eq!(s.call(VCPUOP_INITIALISE, 2, ARG), Ok(0));
    assert_eq!(s.world.take_log(), ["nmi 1", "initialise 2"]);
    assert_eq!(s.call(VCPUOP_GET_PHYSID, 0, ARG), Ok(0));
    assert_eq!(wire::read::<u64>(&s.guest, ARG), Ok(7 << 32));
    assert_eq!(s.call(VCPUOP_GET_PHYSID, 1, ARG), refused(Errno::EINVAL), "not pinned");
    assert_eq!(s.call(VCPUOP_GET_PHYSID, 0, NONE), refused(Errno::EFAULT));
    assert_eq!(s.call(14, 0, ARG), refused(Errno::ENOSYS));
}
