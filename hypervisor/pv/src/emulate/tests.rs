use super::fake::{BITMAP, CR0, Did, Fake};
use super::port::{Base, VirtualPort};
use super::*;
use proptest::prelude::*;

const RIP: u64 = 0x40_1000;

/// Runs one instruction of a kernel (#GP) on a machine that `set` has prepared.
fn run_with(code: &[u8], mode: Mode, regs: Regs, set: impl FnOnce(&mut Fake)) -> (Outcome, Regs, Fake) {
    let mut machine = Fake::new();
    machine.map(RIP, code);
    set(&mut machine);
    let mut regs = Regs { rip: RIP, rflags: 0x202, ..regs };
    let outcome = general_protection(&mut regs, mode, CodeSegment::LONG, &mut machine);
    if outcome == Outcome::Done {
        assert_eq!(regs.rip, RIP + code.len() as u64);
    }
    (outcome, regs, machine)
}

fn run(code: &[u8], regs: Regs) -> (Outcome, Regs, Fake) {
    run_with(code, Mode::Kernel, regs, |_| ())
}

fn user(code: &[u8], regs: Regs) -> Outcome {
    run_with(code, Mode::User, regs, |_| ()).0
}

#[test]
fn the_time_stamp_is_read_unless_user_mode_may_not() {
    let (outcome, regs, _) = run(&[0x0f, 0x31], Regs { rax: u64::MAX, ..Regs::default() });
    assert_eq!((outcome, regs.rax, regs.rdx), (Outcome::Done, 0x5566_7788, 0x1122_3344));
    assert_eq!(user(&[0x0f, 0x31], Regs::default()), Outcome::Done);
    let denied = run_with(&[0x0f, 0x31], Mode::User, Regs::default(), |m| m.state.cr4 |= CR4_TSD);
    assert_eq!(denied.0, GP0);
}

#[test]
fn cpuid_knows_how_it_was_asked() {
    let (_, regs, _) = run(&[0x0f, 0xa2], Regs { rax: 0xffff_ffff_0000_0007, rcx: 2, ..Regs::default() });
    assert_eq!([regs.rax, regs.rbx, regs.rcx, regs.rdx], [7, 2, 1, 0]);
    let mut machine = Fake::new();
    machine.map(RIP, &[0x0f, 0x0b, b'x', b'e', b'n', 0x0f, 0xa2]);
    let mut regs = Regs { rip: RIP, rax: 1, ..Regs::default() };
    assert_eq!(invalid_opcode(&mut regs, Mode::User, &mut machine), Outcome::Done);
    assert_eq!((regs.rip, regs.rax, regs.rcx, regs.rdx), (RIP + 7, 1, 0, 1));
}

#[test]
fn another_invalid_opcode_is_the_guests() {
    for code in [&[0x0f, 0x0b, b'x', b'e', b'n', 0x0f, 0x31][..], &[0x0f, 0x0b], &[0x0f, 0xff]] {
        let mut machine = Fake::new();
        machine.map(RIP, code);
        let mut regs = Regs { rip: RIP, ..Regs::default() };
        assert_eq!(invalid_opcode(&mut regs, Mode::Kernel, &mut machine), Outcome::Unhandled);
        assert_eq!(regs.rip, RIP);
    }
}

#[test]
fn a_forced_cpuid_that_runs_into_a_hole_faults_there() {
    let mut machine = Fake::new();
    machine.map(RIP + 0xffc, &[0x0f, 0x0b, b'x', b'e']);
    let mut regs = Regs { rip: RIP + 0xffc, ..Regs::default() };
    let fault = Outcome::Inject(Event::PageFault { address: RIP + 0x1000, error: 0 });
    assert_eq!(invalid_opcode(&mut regs, Mode::Kernel, &mut machine), fault);
    machine.map(RIP + 0x1000, &[b'n', 0x0f, 0xa2]);
    assert_eq!(invalid_opcode(&mut regs, Mode::Kernel, &mut machine), Outcome::Done);
    assert_eq!(regs.rip, RIP + 0x1003);
}

#[test]
fn control_registers_read_as_the_guests() {
    let reads = [(0xc0, CR0), (0xd0, 0), (0xd8, 0x123_4000), (0xe0, 0x660)];
    for (modrm, expected) in reads {
        let (outcome, regs, _) = run(&[0x0f, 0x20, modrm], Regs::default());
        assert_eq!((outcome, regs.rax), (Outcome::Done, expected));
    }
    assert_eq!(run(&[0x44, 0x0f, 0x20, 0xc0], Regs::default()).0, Outcome::Unhandled);
    assert_eq!(user(&[0x0f, 0x20, 0xc0], Regs::default()), GP0);
}

#[test]
fn task_switched_is_the_only_bit_of_cr0_that_changes() {
    let (outcome, _, machine) = run(&[0x0f, 0x22, 0xc0], Regs { rax: CR0 | 8, ..Regs::default() });
    assert_eq!((outcome, machine.state.task_switched), (Outcome::Done, true));
    assert_eq!(machine.did, [Did::Reload(Reload::TaskSwitched)]);
    let (outcome, _, machine) = run(&[0x0f, 0x22, 0xc0], Regs { rax: CR0 & !1, ..Regs::default() });
    assert_eq!((outcome, machine.did.len()), (Outcome::Unhandled, 0));
    let (outcome, _, machine) =
        run_with(&[0x0f, 0x06], Mode::Kernel, Regs::default(), |m| m.state.task_switched = true);
    assert_eq!((outcome, machine.state.task_switched), (Outcome::Done, false));
}

#[test]
fn cr3_switches_the_root_or_says_why_not() {
    let set = |answer| move |m: &mut Fake| m.root_switch = answer;
    let regs = Regs { rbx: 0x77_7000, ..Regs::default() };
    let code = [0x0f, 0x22, 0xdb];
    let (outcome, _, machine) = run_with(&code, Mode::Kernel, regs, set(RootSwitch::Done));
    assert_eq!((outcome, machine.did), (Outcome::Done, vec![Did::Root(Mfn(0x777))]));
    let refused = run_with(&code, Mode::Kernel, regs, set(RootSwitch::Refused));
    assert_eq!((refused.0, refused.1.rip), (Outcome::Unhandled, RIP));
    let preempted = run_with(&code, Mode::Kernel, regs, set(RootSwitch::Preempted));
    assert_eq!((preempted.0, preempted.1.rip), (Outcome::Retry, RIP));
}

#[test]
fn debug_registers_refuse_the_hypervisor() {
    let (outcome, _, machine) = run(&[0x0f, 0x23, 0xc0], Regs { rax: 0x1000, ..Regs::default() });
    assert_eq!((outcome, machine.did), (Outcome::Done, vec![Did::Reload(Reload::Debug)]));
    let inside = Regs { rax: 0xffff_82d0_4000_0000, ..Regs::default() };
    assert_eq!(run(&[0x0f, 0x23, 0xc0], inside).0, GP0);
    let (outcome, regs, _) = run(&[0x0f, 0x21, 0xf1], Regs::default());
    assert_eq!((outcome, regs.rcx), (Outcome::Done, 0xffff_0ff0));
}

#[test]
fn msrs_follow_the_policy() {
    let efer = |m: &mut Fake| m.msrs.extend([(0xc000_0080, 0x1d01)]);
    let regs = Regs { rcx: 0xc000_0080, ..Regs::default() };
    let (outcome, regs, _) = run_with(&[0x0f, 0x32], Mode::Kernel, regs, efer);
    assert_eq!((outcome, regs.rax, regs.rdx), (Outcome::Done, 0xd01, 0));
    assert_eq!(run_with(&[0x0f, 0x30], Mode::Kernel, regs, efer).0, Outcome::Done);
    let changed = Regs { rax: 0x501, ..regs };
    assert_eq!(run_with(&[0x0f, 0x30], Mode::Kernel, changed, efer).0, Outcome::Unhandled);
    assert_eq!(user(&[0x0f, 0x32], regs), GP0);
    let base = Regs { rcx: 0xc000_0100, rax: 0x7000, rdx: 1, ..Regs::default() };
    assert_eq!(run(&[0x0f, 0x30], base).2.did, [Did::SetBase(Base::Fs, 0x1_0000_7000)]);
}

#[test]
fn an_unknown_msr_is_zero_only_while_nobody_handles_gp() {
    let regs = Regs { rcx: 0x606, rax: 1, ..Regs::default() };
    let with = |handles_gp, exists| {
        run_with(&[0x0f, 0x32], Mode::Kernel, regs, |m| {
            m.handles_gp = handles_gp;
            if exists {
                m.msrs.insert(0x606, 0xa1003);
            }
        })
    };
    assert_eq!(with(true, true).0, Outcome::Unhandled);
    assert_eq!(with(false, false).0, Outcome::Unhandled);
    let (outcome, regs, _) = with(false, true);
    assert_eq!((outcome, regs.rax), (Outcome::Done, 0));
}

#[test]
fn the_hypercall_page_is_asked_for_by_frame() {
    let ask = |value| {
        let regs = Regs { rcx: 0x4000_0000, rax: value, ..Regs::default() };
        let (outcome, _, machine) = run(&[0x0f, 0x30], regs);
        (outcome, machine.did)
    };
    assert_eq!(ask(0x5000), (Outcome::Done, vec![Did::HypercallPage(5)]));
    assert_eq!(ask(0x5001), (Outcome::Unhandled, vec![]));
    assert_eq!(ask(0x10_0000).0, Outcome::Unhandled);
}

#[test]
fn xsetbv_needs_the_feature_on_and_a_valid_value() {
    let regs = Regs { rax: 7, ..Regs::default() };
    let on = |m: &mut Fake| m.state.cr4 |= CR4_OSXSAVE;
    let code = [0x0f, 0x01, 0xd1];
    assert_eq!(run_with(&code, Mode::Kernel, regs, on).0, Outcome::Done);
    assert_eq!(run(&code, regs).0, Outcome::Inject(Event::Plain(UD)));
    assert_eq!(run_with(&code, Mode::Kernel, Regs { rax: 6, ..regs }, on).0, GP0);
    assert_eq!(run_with(&code, Mode::Kernel, Regs { rcx: 1, ..regs }, on).0, GP0);
}

fn kernel_io(machine: &mut Fake) {
    machine.state.set_iopl(1).unwrap();
}

#[test]
fn io_needs_the_privilege_level_or_the_bitmap() {
    let regs = Regs { rdx: 0x3f8, rax: 0xffff_ffff_1122_3344, ..Regs::default() };
    assert_eq!(run(&[0xec], regs).0, Outcome::Unhandled);
    let (outcome, after, machine) = run_with(&[0xec], Mode::Kernel, regs, kernel_io);
    assert_eq!((outcome, after.rax), (Outcome::Done, 0xffff_ffff_1122_33a1));
    assert_eq!(machine.did, [Did::In(0x3f8, 1)]);
    assert_eq!(run_with(&[0xec], Mode::User, regs, kernel_io).0, Outcome::Unhandled);
    let bitmap = |bits: u8| {
        move |m: &mut Fake| {
            m.state.set_io_bitmap(GuestVa(BITMAP), 0x400).unwrap();
            m.io_bitmap = vec![0xff; 0x80];
            m.io_bitmap[0x3f8 / 8] = bits;
        }
    };
    assert_eq!(run_with(&[0xec], Mode::User, regs, bitmap(0xfe)).0, Outcome::Done);
    assert_eq!(run_with(&[0xec], Mode::User, regs, bitmap(0x01)).0, Outcome::Unhandled);
    assert_eq!(run_with(&[0xed], Mode::User, regs, bitmap(0xf8)).0, Outcome::Unhandled);
    assert_eq!(run_with(&[0xed], Mode::User, regs, bitmap(0xf0)).0, Outcome::Done);
}

#[test]
fn the_bitmap_ends_where_the_guest_said() {
    let mut state = Fake::new().state;
    state.set_io_bitmap(GuestVa(BITMAP), 0x3f9).unwrap();
    assert_eq!(state.bitmap_bytes(0x3f8, 1), Some(GuestVa(BITMAP + 0x7f)));
    assert_eq!(state.bitmap_bytes(0x3f8, 2), None);
    assert_eq!(state.set_io_bitmap(GuestVa(0), 0x1_0001), Err(port::OutOfRange));
    assert_eq!(state.set_iopl(4), Err(port::OutOfRange));
}

#[test]
fn a_port_that_is_not_granted_floats() {
    let regs = Regs { rdx: 0x500, rax: 0x1234, ..Regs::default() };
    let (outcome, after, machine) = run_with(&[0xed], Mode::Kernel, regs, kernel_io);
    assert_eq!((outcome, after.rax, machine.did.len()), (Outcome::Done, 0xffff_ffff, 0));
    assert_eq!(run_with(&[0xef], Mode::Kernel, regs, kernel_io).2.did, []);
}

#[test]
fn an_access_that_leaves_the_grant_is_split() {
    let regs = Regs { rdx: 0x3fe, rax: 0x4433_2211, ..Regs::default() };
    let (_, after, machine) = run_with(&[0xed], Mode::Kernel, regs, kernel_io);
    assert_eq!((after.rax, machine.did), (0xffff_a2a1, vec![Did::In(0x3fe, 2)]));
    let machine = run_with(&[0xef], Mode::Kernel, regs, kernel_io).2;
    assert_eq!(machine.did, [Did::Out(0x3fe, 2, 0x2211)]);
}

#[test]
fn the_hypervisors_ports_are_answered_by_it() {
    use VirtualPort::*;
    let all = |m: &mut Fake| {
        kernel_io(m);
        m.granted = 0..0xc00;
    };
    let read =
        |code: &[u8], port| run_with(code, Mode::Kernel, Regs { rdx: port, ..Regs::default() }, all).2.did;
    assert_eq!(read(&[0xec], 0x71), [Did::VirtualIn(Clock(0x71), 1)]);
    assert_eq!(read(&[0xed], 0xcf8), [Did::VirtualIn(PciAddress, 4)]);
    assert_eq!(read(&[0xed], 0xcfc), [Did::VirtualIn(PciData(0), 4)]);
    assert_eq!(read(&[0x66, 0xed], 0xcfe), [Did::VirtualIn(PciData(2), 2)]);
    assert_eq!(read(&[0xec], 0xcf8), []);
    assert_eq!(read(&[0xec], 0x61), [Did::In(0x61, 1)]);
    let write = run_with(&[0xe6, 0x70], Mode::Kernel, Regs { rax: 0x1_0b, ..Regs::default() }, all).2;
    assert_eq!(write.did, [Did::VirtualOut(Clock(0x70), 1, 0x0b)]);
}

#[test]
fn string_input_fills_memory_and_counts_down() {
    let regs = Regs { rdx: 0x310, rdi: 0x50_0ffc, rcx: 2, ..Regs::default() };
    let mapped = |m: &mut Fake| {
        kernel_io(m);
        m.map(0x50_0000, &[]);
        m.map(0x50_1000, &[]);
    };
    let (outcome, after, machine) = run_with(&[0xf3, 0x6d], Mode::Kernel, regs, mapped);
    assert_eq!((outcome, after.rdi, after.rcx), (Outcome::Done, 0x50_1004, 0));
    assert_eq!(machine.memory.borrow()[&0x501][..4], [0xa1, 0xa2, 0xa3, 0xa4]);
    let half = |m: &mut Fake| {
        kernel_io(m);
        m.map(0x50_0000, &[]);
    };
    let (outcome, after, _) = run_with(&[0xf3, 0x6d], Mode::Kernel, regs, half);
    assert_eq!(outcome, Outcome::Inject(Event::PageFault { address: 0x50_1000, error: 2 }));
    assert_eq!((after.rip, after.rdi, after.rcx), (RIP, 0x50_1000, 1));
}

#[test]
fn string_output_reads_where_the_prefix_says_and_backwards() {
    let mapped = |m: &mut Fake| {
        kernel_io(m);
        m.map(0xf010, &[1, 2, 3, 4]);
    };
    let regs = Regs { rdx: 0x310, rsi: 0x12, rcx: 2, ..Regs::default() };
    let mut machine = Fake::new();
    machine.map(RIP, &[0x64, 0xf3, 0x6e]);
    mapped(&mut machine);
    let mut regs = Regs { rip: RIP, rflags: 0x602, ..regs };
    assert_eq!(general_protection(&mut regs, Mode::Kernel, CodeSegment::LONG, &mut machine), Outcome::Done);
    assert_eq!(machine.did, [Did::Out(0x310, 1, 3), Did::Out(0x310, 1, 2)]);
    assert_eq!((regs.rsi, regs.rcx), (0x10, 0));
}

#[test]
fn a_long_repeat_yields_and_one_in_the_hypervisor_is_refused() {
    let regs = Regs { rdx: 0x310, rsi: 0x50_0000, rcx: 1 << 40, ..Regs::default() };
    let mapped = |m: &mut Fake| {
        kernel_io(m);
        m.map(0x50_0000, &[]);
    };
    let (outcome, after, machine) = run_with(&[0xf3, 0x6e], Mode::Kernel, regs, mapped);
    assert_eq!((outcome, after.rip, after.rcx), (Outcome::Retry, RIP, (1 << 40) - 256));
    assert_eq!(machine.did.len(), 256);
    let inside = Regs { rsi: 0xffff_8000_0000_0000, ..regs };
    assert_eq!(run_with(&[0xf3, 0x6e], Mode::Kernel, inside, mapped).0, GP0);
    assert_eq!(run_with(&[0xf3, 0x6e], Mode::Kernel, Regs { rcx: 0, ..regs }, mapped).0, Outcome::Done);
}

#[test]
fn interrupt_flags_are_ignored_with_the_level_and_refused_without() {
    for code in [[0xfa], [0xfb]] {
        assert_eq!(run(&code, Regs::default()).0, Outcome::Unhandled);
        let (outcome, regs, _) = run_with(&code, Mode::Kernel, Regs::default(), kernel_io);
        assert_eq!((outcome, regs.rflags), (Outcome::Done, 0x202));
    }
}

#[test]
fn a_single_step_is_reported_after_the_instruction() {
    let mut machine = Fake::new();
    machine.map(RIP, &[0x0f, 0xa2]);
    let mut regs = Regs { rip: RIP, rflags: 0x1_0302, ..Regs::default() };
    let outcome = general_protection(&mut regs, Mode::Kernel, CodeSegment::LONG, &mut machine);
    assert_eq!(outcome, Outcome::Inject(Event::Plain(DB)));
    assert_eq!((regs.rip, regs.rflags), (RIP + 2, 0x302));
    assert_eq!(machine.state.debug.read(6, false), Ok(0xffff_4ff0));
}

#[test]
fn an_instruction_at_the_end_of_a_page_needs_only_its_own_bytes() {
    let mut machine = Fake::new();
    machine.map(RIP + 0xffe, &[0x0f, 0x31]);
    let mut regs = Regs { rip: RIP + 0xffe, ..Regs::default() };
    assert_eq!(general_protection(&mut regs, Mode::Kernel, CodeSegment::LONG, &mut machine), Outcome::Done);
    let mut regs = Regs { rip: RIP + 0xfff, ..Regs::default() };
    machine.map(RIP + 0xfff, &[0x0f]);
    let fault = Outcome::Inject(Event::PageFault { address: RIP + 0x1000, error: 0 });
    assert_eq!(general_protection(&mut regs, Mode::Kernel, CodeSegment::LONG, &mut machine), fault);
}

#[test]
fn a_32_bit_segment_bounds_the_fetch() {
    let mut machine = Fake::new();
    machine.map(0x1_0010, &[0x0f, 0xa2]);
    let code = CodeSegment { bits: 32, base: 0x1_0000, limit: 0x11 };
    let mut regs = Regs { rip: 0x10, ..Regs::default() };
    assert_eq!(general_protection(&mut regs, Mode::User, code, &mut machine), Outcome::Done);
    let mut regs = Regs { rip: 0x10, ..Regs::default() };
    let short = CodeSegment { limit: 0x10, ..code };
    assert_eq!(general_protection(&mut regs, Mode::User, short, &mut machine), GP0);
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic_and_user_mode_changes_nothing_privileged(
        code in prop::collection::vec(any::<u8>(), 1..16),
        pick in prop::sample::select(vec![&[0x0f, 0x22][..], &[0x0f, 0x23], &[0x0f, 0x30], &[0x0f, 0x01, 0xd1], &[0xf3, 0x6d], &[]]),
        gprs in any::<[u64; 16]>(),
        kernel in any::<bool>(),
        offset in 0u64..0x1000,
    ) {
        let mut regs = Regs::default();
        for (n, value) in (0..).zip(gprs) {
            *regs.gpr_mut(n) = value;
        }
        regs.rip = RIP + offset;
        regs.rflags = 0x202 | gprs[0] & 0x500;
        let mut machine = Fake::new();
        machine.map(RIP + offset, &[pick, &code].concat());
        let (before, state) = (regs, machine.state);
        let mode = if kernel { Mode::Kernel } else { Mode::User };
        let outcome = general_protection(&mut regs, mode, CodeSegment::LONG, &mut machine);
        if !kernel {
            prop_assert!(machine.did.iter().all(|did| matches!(did, Did::Reload(Reload::Debug))));
            prop_assert_eq!(machine.state.cr4, state.cr4);
        }
        if outcome == Outcome::Unhandled {
            prop_assert_eq!(regs, before);
            prop_assert_eq!(machine.state, state);
        }
    }
}
