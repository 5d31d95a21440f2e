//! Operations on vCPUs: state, run states, areas, the place of `vcpu_info`.
#![no_std]
#![no_main]

use claim::abi::Hypercall;
use claim::abi::vcpu::*;
use claim::abi::x86_64::VcpuGuestContext;
use claim::abi::xen::VcpuInfo;
use claim::{ask, call, event, mm, say, time};

claim::claim!(run);

fn op<T>(op: u32, vcpu: u64, argument: &mut T) -> i64 {
    call(Hypercall::VcpuOp, &[u64::from(op), vcpu, &raw mut *argument as u64])
}

fn run() {
    event::shared();
    states();
    run_state();
    moved_info();
}

fn states() {
    let mut none = 0_u64;
    ask!("is the first up", op(VCPUOP_IS_UP, 0, &mut none));
    ask!("is a vCPU up that is not", op(VCPUOP_IS_UP, 9, &mut none));
    ask!("is a vCPU up far beyond", op(VCPUOP_IS_UP, 1 << 20, &mut none));
    ask!("bring the first up", op(VCPUOP_UP, 0, &mut none));
    ask!("bring a vCPU up that is not", op(VCPUOP_UP, 9, &mut none));
    ask!("take a vCPU down that is not", op(VCPUOP_DOWN, 9, &mut none));
    ask!("NMI to a vCPU that is not", op(VCPUOP_SEND_NMI, 9, &mut none));
    let context = mm::page() as *mut VcpuGuestContext;
    mm::page();
    let arguments = [u64::from(VCPUOP_INITIALISE), 0, context as u64];
    ask!("initialise the first again", call(Hypercall::VcpuOp, &arguments));
    let arguments = [u64::from(VCPUOP_INITIALISE), 9, context as u64];
    ask!("initialise a vCPU that is not", call(Hypercall::VcpuOp, &arguments));
}

fn run_state() {
    let mut state = VcpuRunstateInfo { state: 99, ..Default::default() };
    ask!("run state", op(VCPUOP_GET_RUNSTATE_INFO, 0, &mut state));
    say!("state {}, has run {}", state.state, state.time[RUNSTATE_RUNNING as usize] > 0);
    let sum: u64 = state.time.iter().sum();
    say!("adds up to less than system time: {}", sum <= time::now());
    ask!("of a vCPU that is not", op(VCPUOP_GET_RUNSTATE_INFO, 9, &mut state));
    ask!("to a bad address", call(Hypercall::VcpuOp, &[u64::from(VCPUOP_GET_RUNSTATE_INFO), 0, 0x1000]));
    let mut area = VcpuRegisterRunstateMemoryArea { addr: mm::page() };
    ask!("area", op(VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, 0, &mut area));
    say!("state in it {}", mm::peek(area.addr) as u32);
    let mut bad = VcpuRegisterRunstateMemoryArea { addr: 0xffff_8300_0000_0000 };
    ask!("area in the hypervisor", op(VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, 0, &mut bad));
    let mut nowhere = VcpuRegisterRunstateMemoryArea { addr: 0x1000 };
    ask!("area at an absent page", op(VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, 0, &mut nowhere));
    ask!("area again", op(VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, 0, &mut area));
}

fn moved_info() {
    let page = mm::page();
    let mut info = VcpuRegisterVcpuInfo { mfn: mm::mfn_of(page), offset: 0, rsvd: 0 };
    info.offset = 4096 - 32;
    ask!("place across a page's end", op(VCPUOP_REGISTER_VCPU_INFO, 0, &mut info));
    info.offset = 4;
    ask!("place not aligned", op(VCPUOP_REGISTER_VCPU_INFO, 0, &mut info));
    info.offset = 0;
    info.mfn = 1 << 39;
    ask!("place beyond the machine", op(VCPUOP_REGISTER_VCPU_INFO, 0, &mut info));
    info.mfn = mm::hypervisor_frame();
    ask!("place in the hypervisor", op(VCPUOP_REGISTER_VCPU_INFO, 0, &mut info));
    info.mfn = mm::mfn_of(page);
    info.offset = 64;
    ask!("place of a vCPU that is not", op(VCPUOP_REGISTER_VCPU_INFO, 9, &mut info));
    event::set_upcall_mask(1);
    ask!("place", op(VCPUOP_REGISTER_VCPU_INFO, 0, &mut info));
    ask!("place again", op(VCPUOP_REGISTER_VCPU_INFO, 0, &mut info));
    let at = (page + 64) as *const VcpuInfo;
    // SAFETY: a page of the arena that the hypervisor shares.
    let moved = unsafe { at.read_volatile() };
    say!("mask was carried over: {}", moved.evtchn_upcall_mask);
    say!(
        "pending after the move: {}, selector all ones: {}",
        moved.evtchn_upcall_pending,
        moved.evtchn_pending_sel == u64::MAX
    );
    say!("clock runs there: {}", moved.time.version & 1 == 0 && moved.time.tsc_to_system_mul != 0);
}
