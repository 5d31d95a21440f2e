use super::*;
use iced_x86::{Code, Decoder, DecoderOptions, Mnemonic, OpKind, Register};
use proptest::prelude::*;

fn gpr(register: Register) -> u8 {
    register.full_register().number() as u8
}

fn port(instruction: &iced_x86::Instruction, operand: u32) -> PortOperand {
    match instruction.op_kind(operand) {
        OpKind::Immediate8 => PortOperand::Immediate(instruction.immediate8()),
        _ => PortOperand::Dx,
    }
}

fn width(register: Register) -> u8 {
    register.size() as u8
}

/// What iced makes of the bytes, in our terms.
fn oracle(code: &[u8], bits: u32) -> Option<(Instruction, u8)> {
    use Instruction::*;
    let mut decoder = Decoder::new(bits, code, DecoderOptions::NO_INVALID_CHECK);
    let i = decoder.decode();
    let string = || StringIo {
        bytes: match i.code() {
            Code::Insb_m8_DX | Code::Outsb_DX_m8 => 1,
            Code::Insw_m16_DX | Code::Outsw_DX_m16 => 2,
            _ => 4,
        },
        repeat: i.has_rep_prefix() || i.has_repne_prefix(),
        short_address: matches!(
            (i.op0_kind(), i.op1_kind()),
            (OpKind::MemoryESEDI, _) | (_, OpKind::MemorySegESI)
        ),
        segment: match i.segment_prefix() {
            Register::FS => Segment::Fs,
            Register::GS => Segment::Gs,
            _ => Segment::Flat,
        },
    };
    let number = |r: Register| r.number() as u8;
    let decoded = match i.mnemonic() {
        Mnemonic::Rdtsc => ReadTsc,
        Mnemonic::Rdtscp => ReadTscAux,
        Mnemonic::Cpuid => Cpuid,
        Mnemonic::Rdmsr => ReadMsr,
        Mnemonic::Wrmsr => WriteMsr,
        Mnemonic::Clts => ClearTaskSwitched,
        Mnemonic::Wbinvd => FlushCaches { invalidate: true },
        Mnemonic::Wbnoinvd => FlushCaches { invalidate: false },
        Mnemonic::Xsetbv => SetExtendedControl,
        Mnemonic::Cli => DisableInterrupts,
        Mnemonic::Sti => EnableInterrupts,
        Mnemonic::Mov => match (i.op0_register(), i.op1_register()) {
            (to, from) if from.is_cr() => ReadControl { control: number(from), gpr: gpr(to) },
            (to, from) if to.is_cr() => WriteControl { control: number(to), gpr: gpr(from) },
            (to, from) if from.is_dr() => ReadDebug { debug: number(from), gpr: gpr(to) },
            (to, from) if to.is_dr() => WriteDebug { debug: number(to), gpr: gpr(from) },
            _ => return None,
        },
        Mnemonic::In => In { port: port(&i, 1), bytes: width(i.op0_register()) },
        Mnemonic::Out => Out { port: port(&i, 0), bytes: width(i.op1_register()) },
        Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd => {
            InString(StringIo { segment: Segment::Flat, ..string() })
        }
        Mnemonic::Outsb | Mnemonic::Outsw | Mnemonic::Outsd => OutString(string()),
        _ => return None,
    };
    Some((decoded, i.len() as u8))
}

/// The segment of INS is ES whatever the prefix says.
fn normal(decoded: (Instruction, u8)) -> (Instruction, u8) {
    match decoded {
        (Instruction::InString(shape), length) => {
            (Instruction::InString(StringIo { segment: Segment::Flat, ..shape }), length)
        }
        other => other,
    }
}

#[test]
fn the_hot_instructions_decode() {
    use Instruction::*;
    for (code, expected) in [
        (&[0x0f, 0x31][..], ReadTsc),
        (&[0x0f, 0x20, 0xc0], ReadControl { control: 0, gpr: 0 }),
        (&[0x41, 0x0f, 0x22, 0xdf], WriteControl { control: 3, gpr: 15 }),
        (&[0x0f, 0x23, 0xf9], WriteDebug { debug: 7, gpr: 1 }),
        (&[0x0f, 0x01, 0xd1], SetExtendedControl),
        (&[0xed], In { port: PortOperand::Dx, bytes: 4 }),
        (&[0x66, 0xef], Out { port: PortOperand::Dx, bytes: 2 }),
        (&[0x66, 0x48, 0xed], In { port: PortOperand::Dx, bytes: 4 }),
        (&[0xe4, 0x71], In { port: PortOperand::Immediate(0x71), bytes: 1 }),
    ] {
        assert_eq!(decode(code, 64), Ok((expected, code.len() as u8)));
        assert_eq!(oracle(code, 64), Some((expected, code.len() as u8)));
        for cut in 0..code.len() {
            assert_eq!(decode(&code[..cut], 64), Err(Undecoded::Truncated));
        }
    }
}

#[test]
fn neighbours_are_not_decoded() {
    // hlt, lgdt, invlpg, rdpmc, locked mov from cr0, smsw, rsm
    for code in [
        &[0xf4][..],
        &[0x0f, 0x01, 0x10],
        &[0x0f, 0x01, 0x38],
        &[0x0f, 0x33],
        &[0xf0, 0x0f, 0x20, 0xc0],
        &[0x0f, 0x01, 0xe0],
        &[0x0f, 0xaa],
    ] {
        assert_eq!(decode(code, 64), Err(Undecoded::Unknown), "{code:x?}");
    }
}

fn plausible() -> impl Strategy<Value = Vec<u8>> {
    let prefix = prop::sample::select(vec![
        0x26u8, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x40, 0x41, 0x44, 0x48, 0x4f,
    ]);
    let opcode = prop_oneof![
        prop::sample::select(vec![
            0x6cu8, 0x6d, 0x6e, 0x6f, 0xe4, 0xe5, 0xe6, 0xe7, 0xec, 0xed, 0xee, 0xef, 0xfa, 0xfb, 0xf4
        ])
        .prop_map(|b| vec![b]),
        prop::sample::select(vec![0x01u8, 0x06, 0x09, 0x20, 0x21, 0x22, 0x23, 0x30, 0x31, 0x32, 0x33, 0xa2])
            .prop_map(|b| vec![0x0f, b]),
        any::<u8>().prop_map(|b| vec![0x0f, b]),
        any::<u8>().prop_map(|b| vec![b]),
    ];
    (prop::collection::vec(prefix, 0..4), opcode, any::<[u8; 4]>())
        .prop_map(|(prefixes, opcode, tail)| [prefixes, opcode, tail.to_vec()].concat())
}

/// Prefixes of `code` up to its opcode.
fn prefixes(code: &[u8], bits: u32) -> &[u8] {
    let is_prefix = |b: &u8| {
        matches!(b, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3)
            || bits == 64 && (0x40..0x50).contains(b)
    };
    &code[..code.iter().position(|b| !is_prefix(b)).unwrap_or(code.len())]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn iced_agrees(code in plausible(), long in any::<bool>()) {
        let bits = if long { 64 } else { 32 };
        let ours = decode(&code, bits as u8).ok().map(normal);
        let theirs = oracle(&code, bits);
        if let Some(ours) = ours {
            prop_assert_eq!(Some(ours), theirs);
        } else if let Some((instruction, _)) = theirs {
            let used = prefixes(&code, bits);
            let strict = used.iter().any(|b| matches!(b, 0x66 | 0xf0 | 0xf2 | 0xf3));
            let string = matches!(instruction, Instruction::InString(_) | Instruction::OutString(_));
            prop_assert!(strict || (string && bits == 32), "missed {:x?} {:?}", code, instruction);
        }
    }

    #[test]
    fn no_bytes_panic(code in prop::collection::vec(any::<u8>(), 0..20), bits in any::<u8>()) {
        if let Ok((_, length)) = decode(&code, bits) {
            prop_assert!(usize::from(length) <= code.len().min(MAX_LENGTH));
        }
    }
}
