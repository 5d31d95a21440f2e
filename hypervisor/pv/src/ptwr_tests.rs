use super::*;
use iced_x86::{Code, Decoder, DecoderOptions, Mnemonic, OpKind, Register};
use proptest::prelude::*;

const PAGE: u64 = 0xffff_8880_0123_4000;

fn decode_at(code: &[u8], regs: &Regs, fault: u64) -> Result<EntryWrite, NotEmulated> {
    decode(code, regs, GuestVa(fault), |segment| if segment == Segment::Gs { 0x1000 } else { 0x2000 })
}

/// Runs an instruction with `rdi` at entry 3 of a page that holds `old`; answers the entry and the registers after.
fn run(code: &[u8], old: u64, regs: Regs) -> (Option<u64>, Regs) {
    let mut regs = Regs { rdi: PAGE + 24, rip: 0x1000, rflags: 0x202, ..regs };
    let write = decode_at(code, &regs, PAGE + 24).unwrap();
    assert_eq!(write.index(), 3);
    let entry = write.entry(old);
    assert!(!write.retire(old, &mut regs));
    assert_eq!(regs.rip, 0x1000 + code.len() as u64);
    (entry, regs)
}

#[test]
fn the_usual_store_is_unconditional() {
    // mov %rsi,(%rdi)
    let regs = Regs { rdi: PAGE + 8, rsi: 0x8000_0000_1234_5067, ..Regs::default() };
    let write = decode_at(&[0x48, 0x89, 0x37, 0x90], &regs, PAGE + 8).unwrap();
    assert_eq!(plain_move(&[0x48, 0x89, 0x37, 0x90], &regs, GuestVa(PAGE + 8)), Some(write));
    assert_eq!(write.unconditional(), Some(0x8000_0000_1234_5067));
    assert_eq!((write.address(), write.index()), (GuestVa(PAGE + 8), 1));
    // movq $0,(%rdi)
    let write = decode_at(&[0x48, 0xc7, 0x07, 0, 0, 0, 0], &regs, PAGE + 8).unwrap();
    assert_eq!(write.unconditional(), Some(0));
}

#[test]
fn a_narrow_store_keeps_the_rest() {
    // mov %esi,4(%rdi); movb $0x55,1(%rdi)
    let regs = Regs { rsi: 0xaaaa_bbbb_cccc_dddd, ..Regs::default() };
    assert_eq!(run(&[0x89, 0x77, 0x04], 0x1111_2222_3333_4444, regs).0, Some(0xcccc_dddd_3333_4444));
    assert_eq!(run(&[0xc6, 0x47, 0x01, 0x55], 0x1111_2222_3333_4444, regs).0, Some(0x1111_2222_3333_5544));
}

#[test]
fn exchanges_give_the_old_entry_back() {
    // xchg %rax,(%rdi)
    let (entry, regs) = run(&[0x48, 0x87, 0x07], 0x67, Regs { rax: 0, ..Regs::default() });
    assert_eq!((entry, regs.rax), (Some(0), 0x67));
    // lock xadd %rsi,(%rdi)
    let code = [0xf0, 0x48, 0x0f, 0xc1, 0x37];
    let (entry, regs) = run(&code, 0x67, Regs { rsi: 0x1000, ..Regs::default() });
    assert_eq!((entry, regs.rsi), (Some(0x1067), 0x67));
}

#[test]
fn a_comparison_stores_only_what_matches() {
    // lock cmpxchg %rsi,(%rdi)
    let code = [0xf0, 0x48, 0x0f, 0xb1, 0x37];
    let regs = Regs { rax: 0x67, rsi: 0x65, ..Regs::default() };
    let (entry, after) = run(&code, 0x67, regs);
    assert_eq!((entry, after.rax, after.rflags & ZF), (Some(0x65), 0x67, ZF));
    let (entry, after) = run(&code, 0x27, regs);
    assert_eq!((entry, after.rax, after.rflags & ZF), (None, 0x27, 0));
}

#[test]
fn bits_are_changed_one_at_a_time() {
    // lock btrq $5,(%rdi); lock btrq $1,(%rdi); lock andb $0xfd,(%rdi)
    let (entry, regs) = run(&[0xf0, 0x48, 0x0f, 0xba, 0x37, 5], 0x67, Regs::default());
    assert_eq!((entry, regs.rflags & CF), (Some(0x47), 1));
    let (entry, regs) = run(&[0xf0, 0x48, 0x0f, 0xba, 0x37, 1], 0x65, Regs::default());
    assert_eq!((entry, regs.rflags & CF), (Some(0x65), 0));
    assert_eq!(run(&[0xf0, 0x80, 0x27, 0xfd], 0x1_0067, Regs::default()).0, Some(0x1_0065));
    // bts %rax,-24(%rdi) with bit 192 + 6: entry 3 again
    let regs = Regs { rax: 192 + 6, ..Regs::default() };
    assert_eq!(run(&[0x48, 0x0f, 0xab, 0x47, 0xe8], 0, regs).0, Some(0x40));
    // btc %eax,8(%rdi) with bit -64: two double words back
    let regs = Regs { rax: 0xffff_ffc0, ..Regs::default() };
    assert_eq!(run(&[0x0f, 0xbb, 0x47, 0x08], 0, regs).0, Some(1));
}

#[test]
fn other_pages_and_unaligned_operands_are_not_emulated() {
    let at = |rdi, fault| {
        decode_at(&[0x48, 0x89, 0x37], &Regs { rdi, ..Regs::default() }, fault).map(|w| w.address().0)
    };
    assert_eq!(at(PAGE + 8, PAGE), Ok(PAGE + 8));
    assert_eq!(at(PAGE + 0x1000, PAGE), Err(NotEmulated::Elsewhere));
    assert_eq!(at(PAGE + 4, PAGE + 4), Err(NotEmulated::Elsewhere));
    assert_eq!(at(PAGE - 4, PAGE), Err(NotEmulated::Elsewhere));
}

#[test]
fn other_instructions_are_not_emulated() {
    // rep stosq; mov %rsi,%rdi; movups %xmm0,(%rdi); cmp %rsi,(%rdi); addr32 mov; push
    for code in [
        &[0xf3, 0x48, 0xab][..],
        &[0x48, 0x89, 0xf7],
        &[0x0f, 0x11, 0x07],
        &[0x48, 0x39, 0x37],
        &[0x67, 0x48, 0x89, 0x37],
        &[0xff, 0x37],
        &[0x48, 0x89],
        &[],
    ] {
        let regs = Regs { rdi: PAGE, ..Regs::default() };
        assert_eq!(decode_at(code, &regs, PAGE), Err(NotEmulated::Unknown), "{code:x?}");
    }
}

#[test]
fn a_single_step_follows_the_write() {
    let mut regs = Regs { rdi: PAGE, rflags: 0x1_0302, ..Regs::default() };
    let write = decode_at(&[0x48, 0x89, 0x37], &regs, PAGE).unwrap();
    assert!(write.retire(0, &mut regs));
    assert_eq!(regs.rflags, 0x302);
}

fn register_value(regs: &Regs, register: Register) -> Option<u64> {
    match register {
        Register::None | Register::DS | Register::ES | Register::SS | Register::CS => Some(0),
        Register::GS => Some(0x1000),
        Register::FS => Some(0x2000),
        r if r.is_gpr64() => Some(regs.gpr(r.number() as u8)),
        _ => None,
    }
}

fn writes(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        Mov | Xchg
            | Cmpxchg
            | Xadd
            | Add
            | Or
            | And
            | Sub
            | Xor
            | Not
            | Neg
            | Inc
            | Dec
            | Bts
            | Btr
            | Btc
            | Movnti
    )
}

/// MOV of the accumulator to a 64-bit address in the instruction.
fn is_absolute_store(code: Code) -> bool {
    use Code::*;
    matches!(code, Mov_moffs8_AL | Mov_moffs16_AX | Mov_moffs32_EAX | Mov_moffs64_RAX)
}

fn plausible() -> impl Strategy<Value = Vec<u8>> {
    let prefix =
        prop::sample::select(vec![0xf0u8, 0x66, 0x64, 0x65, 0x3e, 0x40, 0x41, 0x44, 0x48, 0x4a, 0x4d, 0x4f]);
    let opcode = prop_oneof![
        prop::sample::select(vec![
            0x88u8, 0x89, 0xc6, 0xc7, 0x86, 0x87, 0x80, 0x81, 0x83, 0xf6, 0xf7, 0xfe, 0xff
        ])
        .prop_map(|b| vec![b]),
        (0u8..0x40).prop_map(|b| vec![b]),
        prop::sample::select(vec![0xb0u8, 0xb1, 0xc0, 0xc1, 0xc3, 0xab, 0xb3, 0xbb, 0xba])
            .prop_map(|b| vec![0x0f, b]),
        any::<[u8; 2]>().prop_map(|b| b.to_vec()),
    ];
    (prop::collection::vec(prefix, 0..3), opcode, any::<[u8; 10]>())
        .prop_map(|(prefixes, opcode, tail)| [prefixes, opcode, tail.to_vec()].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Length, address and width are iced's.
    #[test]
    fn iced_agrees(code in plausible(), gprs in any::<[u32; 16]>()) {
        let mut regs = Regs { rip: 0x10_0000, ..Regs::default() };
        for (n, value) in (0..).zip(gprs) {
            *regs.gpr_mut(n) = PAGE.wrapping_add(u64::from(value) << 3);
        }
        let mut decoder = Decoder::with_ip(64, &code, regs.rip, DecoderOptions::NO_INVALID_CHECK);
        let theirs = decoder.decode();
        let memory = theirs.op0_kind() == OpKind::Memory;
        let address = theirs.virtual_address(0, 0, |register, _, _| register_value(&regs, register));
        // BTS and its kin by a register reach elsewhere; iced does not follow.
        let bit_string = matches!(theirs.mnemonic(), Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc)
            && theirs.op1_kind() == OpKind::Register;
        let Some(address) = address.filter(|_| memory) else {
            let fault = regs.rdi;
            let ours = decode_at(&code, &regs, fault);
            prop_assert!(ours.is_err() || theirs.code() == Code::INVALID, "{:x?}", code);
            return Ok(());
        };
        match decode_at(&code, &regs, address) {
            Ok(write) if bit_string => prop_assert_eq!(usize::from(write.length), theirs.len()),
            Ok(write) => {
                prop_assert!(writes(theirs.mnemonic()), "{:?} {:x?}", theirs.code(), code);
                prop_assert_eq!(usize::from(write.length), theirs.len());
                prop_assert_eq!(write.address.0, address);
                prop_assert_eq!(usize::from(write.bytes), theirs.memory_size().size());
            }
            Err(NotEmulated::Elsewhere) => {
                prop_assert!(bit_string || address % theirs.memory_size().size() as u64 != 0);
            }
            Err(NotEmulated::Unknown) => {
                let high_byte = [Register::AH, Register::BH, Register::CH, Register::DH].contains(&theirs.op1_register());
                let special = theirs.op1_register().is_segment_register()
                    || code.iter().take(4).any(|b| matches!(b, 0x67 | 0xf2 | 0xf3))
                    || theirs.mnemonic() == Mnemonic::Movnti
                    || is_absolute_store(theirs.code());
                prop_assert!(!writes(theirs.mnemonic()) || high_byte || special, "{:?} {:x?}", theirs.code(), code);
            }
        }
    }

    /// The short way for the usual store and the general one agree.
    #[test]
    fn the_short_way_is_the_long_way(
        rex in 0x48u8..0x50,
        rest in any::<[u8; 6]>(),
        gprs in any::<[u32; 16]>(),
        base in 0u8..16,
    ) {
        let code = [&[rex, 0x89][..], &rest].concat();
        let mut regs = Regs::default();
        for (n, value) in (0..).zip(gprs) {
            *regs.gpr_mut(n) = PAGE + u64::from(value % 0x400) * 8;
        }
        let displacement = if rest[0] >> 6 == 1 { rest[1] as i8 } else { 0 };
        for fault in [regs.gpr(base), regs.gpr(base).wrapping_add_signed(i64::from(displacement))] {
            if let Some(write) = plain_move(&code, &regs, GuestVa(fault)) {
                prop_assert_eq!(Ok(write), decode_any(&code, &regs, GuestVa(fault), |_| 0));
            }
        }
    }

    #[test]
    fn hostile_bytes_never_panic_and_stay_in_the_entry(code in prop::collection::vec(any::<u8>(), 0..18), fault in any::<u64>(), old in any::<u64>()) {
        let mut regs = Regs { rdi: fault, rax: fault, rcx: fault, ..Regs::default() };
        if let Ok(write) = decode_at(&code, &regs, fault) {
            prop_assert_eq!(write.address.0 >> 12, fault >> 12);
            prop_assert!(write.index() < 512);
            if let Some(entry) = write.entry(old) {
                let touched = mask(write.bytes) << write.shift();
                prop_assert_eq!((entry ^ old) & !touched, 0);
            }
            write.retire(old, &mut regs);
            prop_assert_eq!(regs.rflags & (flags::IF | flags::IOPL | flags::TF), 0);
        }
    }

    /// Flags against wide arithmetic.
    #[test]
    fn flags_are_those_of_the_operation(a in any::<u64>(), b in any::<u64>(), bytes in prop::sample::select(vec![1u8, 2, 4, 8])) {
        let write = EntryWrite { address: GuestVa(PAGE), bytes, length: 3, operation: Operation::Unary(Unary::Not) };
        let (bits, a, b) = (u32::from(bytes) * 8, a & mask(bytes), b & mask(bytes));
        let signed = |value: u64| i128::from(((value << (64 - bits)) as i64) >> (64 - bits));
        let expect = |flags: u64, result: i128, carry: bool, half: bool| {
            let low = (result as u64) & mask(bytes);
            let overflow = result != signed(low);
            let parity = (0..8).filter(|n| low >> n & 1 != 0).count() % 2 == 0;
            let all = [(CF, carry), (PF, parity), (AF, half), (ZF, low == 0), (SF, signed(low) < 0), (OF, overflow)];
            all.into_iter().all(|(flag, set)| (flags & flag != 0) == set)
        };
        let sum = signed(a) + signed(b);
        prop_assert!(expect(write.add_flags(a, b), sum, u128::from(a) + u128::from(b) > u128::from(mask(bytes)), (a & 15) + (b & 15) > 15));
        prop_assert!(expect(write.sub_flags(a, b), signed(a) - signed(b), a < b, a & 15 < b & 15));
    }
}
