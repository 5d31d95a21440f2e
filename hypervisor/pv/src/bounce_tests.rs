use super::*;
use hv_types::GuestVa;
use proptest::prelude::*;

fn user() -> Regs {
    Regs {
        rcx: 0xc,
        r11: 0xb,
        rip: 0x40_1000,
        cs: 0x33,
        rflags: 0x0004_0346,
        rsp: 0x7fff_1238,
        ss: 0x2b,
        ..Regs::default()
    }
}

fn origin(regs: &Regs, mode: Mode) -> Origin<'_> {
    Origin { regs, mode, kernel_sp: 0xffff_c900_0000_3fd8, upcall_mask: 0, iopl: 0 }
}

#[test]
fn a_fault_in_user_mode_lands_on_the_kernel_stack_with_its_error_code() {
    let regs = user();
    let frame = origin(&regs, Mode::User).frame_with_error(6).unwrap();
    assert_eq!(frame.sp, 0xffff_c900_0000_3fd0 - 64);
    assert_eq!(frame.words, [0xc, 0xb, 6, 0x40_1000, 0x33, 0x0004_0346, 0x7fff_1238, 0x2b]);
}

#[test]
fn an_event_in_the_kernel_stays_on_its_stack_and_shows_ring_zero_and_a_mask() {
    let mut regs = user();
    regs.cs = FLAT_KERNEL_CS as u64;
    regs.ss = FLAT_KERNEL_SS as u64;
    regs.rsp = 0xffff_c900_0000_1238;
    let frame = Origin { upcall_mask: 1, iopl: 0x1000, ..origin(&regs, Mode::Kernel) }.frame().unwrap();
    assert_eq!(frame.sp, 0xffff_c900_0000_1230 - 56);
    let words = [0xc, 0xb, 0x40_1000, 0x1_0000_e030, 0x0004_1146, 0xffff_c900_0000_1238, 0xe02b];
    assert_eq!(frame.words, words);
}

#[test]
fn the_failsafe_callback_is_shown_the_selectors() {
    let regs = user();
    let frame = origin(&regs, Mode::User).frame_with_segments([1, 2, 0x63, 0x6b]).unwrap();
    assert_eq!(frame.sp, 0xffff_c900_0000_3fd0 - 88);
    let words = [0xc, 0xb, 1, 2, 0x63, 0x6b, 0x40_1000, 0x33, 0x0004_0346, 0x7fff_1238, 0x2b];
    assert_eq!(frame.words, words);
    assert_eq!(
        Origin { kernel_sp: 0x60, ..origin(&regs, Mode::User) }.frame_with_segments([0; 4]).unwrap().sp,
        8
    );
}

#[test]
fn entering_clears_what_a_gate_clears() {
    let mut regs = user();
    regs.rflags = 0xffff_ffff;
    let handler = Handler::new(GuestVa(0xffff_ffff_8100_0000), true).unwrap().unwrap();
    enter(&mut regs, handler, 0xffff_c900_0000_3f90);
    assert_eq!((regs.rip, regs.rsp), (0xffff_ffff_8100_0000, 0xffff_c900_0000_3f90));
    assert_eq!((regs.cs, regs.ss), (0xe033, 0xe02b));
    assert_eq!(regs.rflags, 0xffff_ffff & !CLEARED);
    assert_eq!(regs.entry_vector & Regs::LAZY_RETURN, Regs::LAZY_RETURN);
    assert_ne!(regs.rflags & flags::DF, 0);
    enter_system_call(&mut regs, handler, 0);
    assert_eq!(regs.rflags & flags::DF, 0);
}

#[test]
fn a_stack_in_the_hypervisor_or_off_the_map_is_refused() {
    let regs = user();
    let at = |kernel_sp| Origin { kernel_sp, ..origin(&regs, Mode::User) }.frame().map(|f| f.sp);
    assert_eq!(at(0x0000_8000_0000_0000), Ok(0x0000_8000_0000_0000 - 56));
    assert_eq!(at(0x0000_8000_0000_0010), Err(BadStack));
    assert_eq!(at(0xffff_8000_0000_0000), Err(BadStack));
    assert_eq!(at(0xffff_8800_0000_0000), Err(BadStack));
    assert_eq!(at(0xffff_8800_0000_0040), Ok(0xffff_8800_0000_0008));
}

proptest! {
    #[test]
    fn no_word_of_a_frame_is_the_hypervisors(sp in any::<u64>(), kind in 0u8..4, off in -4096i64..4096) {
        let regs = user();
        let edge = [0, 0x0000_8000_0000_0000, 0xffff_8000_0000_0000, 0xffff_8800_0000_0000u64][kind as usize];
        for kernel_sp in [sp, edge.wrapping_add_signed(off)] {
            if let Ok(frame) = (Origin { kernel_sp, ..origin(&regs, Mode::User) }).frame_with_error(0) {
                prop_assert_eq!(frame.sp & 15, 0);
                for n in 0..8 {
                    prop_assert!(GuestVa(frame.sp.wrapping_add(n * 8)).is_guest_range(7));
                }
            }
        }
    }
}
