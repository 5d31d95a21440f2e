use super::*;
use proptest::prelude::*;

/// A host in the manner of a server of either vendor.
fn host(amd: bool) -> impl FnMut(u32, u32) -> Leaf + Copy {
    move |leaf, subleaf| match (leaf, subleaf) {
        (0, _) if amd => [0x10, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
        (0, _) => [0x16, 0x756e_6547, 0x6c65_746e, 0x4965_6e69],
        (1, _) => [0x3_5075 | 0x1000, 0x0710_0800, u32::MAX, u32::MAX],
        (4, 0) => [0x1c00_4121, 0x01c0_003f, 0x3f, 0xf],
        (4, 1) => [0x1c00_4143, 0x03c0_003f, 0xfff, 0],
        (5, _) => [0x40, 0x40, 3, 0x2020],
        (7, 0) => [1, u32::MAX, u32::MAX, u32::MAX],
        (7, 1) => [u32::MAX; 4],
        (0xd, 0) => [0x2ff, 0x340, 0xa88, 0],
        (0xd, 1) => [0xf, 0x240, 0, 0],
        (0xd, 2) => [0x100, 0x240, 0, 0],
        (0xd, 5) => [0x40, 0x440, 0, 0],
        (0xd, 6) => [0x200, 0x480, 0, 0],
        (0xd, 7) => [0x400, 0x680, 0, 0],
        (0xd, 9) => [8, 0xa80, 0, 0],
        (0x8000_0000, _) => [if amd { 0x8000_0021 } else { 0x8000_0008 }, 1, 2, 3],
        (0x8000_0001, _) => [0x1234, 0x5678, u32::MAX, u32::MAX],
        (0x8000_0002, _) => [0x4141_4141; 4],
        (0x8000_0007, _) => [1, 1, 1, 0x100],
        (0x8000_0008, _) => [0x0030_3030, u32::MAX, 0x3f0ff, 7],
        (0x8000_000a, _) => [1, 0x8000, 0, u32::MAX],
        (0x8000_0021, _) => [u32::MAX; 4],
        _ => [0xdead; 4],
    }
}

const KERNEL: Asker =
    Asker { mode: Mode::Kernel, forced: true, hardware_domain: true, cr4: 0, host_osxsave: true };

fn ask(policy: &CpuidPolicy, leaf: u32, subleaf: u32, asker: Asker) -> Leaf {
    policy.answer(leaf, subleaf, &asker, &HypervisorLeaves::default(), |leaf, subleaf| {
        assert_eq!((leaf, subleaf < 2), (0xd, true), "only sizes are asked of the host");
        [0, 0x340, 0, 0]
    })
}

/// Features of the public header by name, with their letters.
fn header() -> Vec<(String, u16, String)> {
    let text = std::fs::read_to_string("/usr/include/xen/arch-x86/cpufeatureset.h")
        .expect("libxen-dev is installed");
    let line = |line: &str| {
        let (name, rest) = line.strip_prefix("XEN_CPUFEATURE(")?.split_once(',')?;
        let (number, comment) = rest.split_once(")")?;
        let (word, bit) = number.split_once("*32+")?;
        let letters = comment.split_once("/*")?.1.split(' ').next()?;
        let number = word.trim().parse::<u16>().ok()? * 32 + bit.trim().parse::<u16>().ok()?;
        Some((name.to_string(), number, letters.to_string()))
    };
    text.lines().filter_map(line).collect()
}

#[test]
fn every_feature_shown_has_the_headers_letter() {
    let header = header();
    assert!(header.len() > 150);
    for (word, _, offered) in WORDS {
        for bit in (0..32).filter(|bit| offered >> bit & 1 != 0) {
            let found = header.iter().find(|(_, number, _)| *number == word * 32 + bit);
            let (name, _, letters) = found.unwrap_or_else(|| panic!("no feature {word}*32+{bit}"));
            assert!(letters.contains('A'), "{name} is not for PV guests by default");
        }
    }
}

#[test]
fn every_feature_with_the_letter_is_shown_or_left_out_by_name() {
    let left_out = ["DBEXT", "IBRSB", "STIBP", "SSBD", "INTEL_PSFD", "EIBRS"];
    // Later headers know later features; the first nine words are settled.
    for (name, number, letters) in header().iter().filter(|(_, number, _)| *number < 9 * 32) {
        let offered = WORDS.iter().find(|(word, _, _)| *word == number >> 5).map_or(0, |(_, _, bits)| *bits);
        let shown = offered >> (number & 31) & 1 != 0;
        assert_eq!(shown, letters.contains('A') && !left_out.contains(&name.as_str()), "{name}");
    }
}

#[test]
fn a_pv_kernel_sees_what_it_may_use_and_not_what_it_may_not() {
    for amd in [false, true] {
        let policy = CpuidPolicy::pv(host(amd), None);
        for (name, number, _) in header() {
            let expected = match name.as_str() {
                "VMX" | "SVM" | "MONITOR" | "PCID" | "INVPCID" | "SMEP" | "SMAP" | "UMIP" | "X2APIC"
                | "PSE" | "PGE" | "PSE36" | "MTRR" | "PAGE1GB" | "TSC_DEADLINE" | "VME" | "XSAVES"
                | "PKU" | "MPX" | "ARCH_CAPS" | "TSC_ADJUST" | "TOPOEXT" | "CET_SS" | "CET_IBT" | "IBRSB" => {
                    false
                }
                "SYSCALL" | "NX" | "LM" | "PAE" | "APIC" | "ACPI" | "FXSR" | "SSE2" | "AVX2" | "AVX512F"
                | "XSAVE" | "RDTSCP" | "FSGSBASE" | "CX16" | "HYPERVISOR" | "HTT" | "MCE" | "PAT" => true,
                "SEP" => !amd,
                _ => continue,
            };
            assert_eq!(policy.has(number), expected, "{name} amd={amd}");
        }
    }
}

#[test]
fn leaf_one_depends_on_who_asks() {
    let policy = CpuidPolicy::pv(host(false), None);
    let ecx = |asker| ask(&policy, 1, 0, asker)[ECX];
    let (osxsave, eist, monitor) = (mask(OSXSAVE), mask(EIST), mask(MONITOR));
    assert_eq!(ecx(KERNEL) & (osxsave | eist | monitor), osxsave | eist);
    assert_eq!(ecx(Asker { forced: false, ..KERNEL }) & (osxsave | monitor), monitor);
    assert_eq!(ecx(Asker { mode: Mode::User, ..KERNEL }) & (osxsave | eist), 0);
    assert_eq!(ecx(Asker { cr4: CR4_OSXSAVE, mode: Mode::User, ..KERNEL }) & osxsave, osxsave);
    let domu = Asker { hardware_domain: false, ..KERNEL };
    assert_eq!(ecx(domu) & eist, 0);
    assert_eq!(ask(&policy, 1, 0, KERNEL)[EDX] & mask(MTRR), mask(MTRR));
    assert_eq!(ask(&policy, 1, 0, domu)[EDX] & mask(MTRR), 0);
    assert_eq!(ask(&policy, 1, 0, KERNEL)[EBX], 0x0010_0800);
    assert_eq!(ask(&policy, 5, 0, KERNEL), NOTHING);
    assert_eq!(ask(&policy, 5, 0, Asker { forced: false, ..KERNEL }), [0x40, 0x40, 3, 0x2020]);
}

#[test]
fn extended_states_are_those_that_are_offered() {
    let policy = CpuidPolicy::pv(host(false), None);
    assert_eq!(policy.extended_states(), 0xe7);
    assert_eq!(ask(&policy, 0xd, 0, KERNEL), [0xe7, 0x340, 0xa80, 0]);
    assert_eq!(ask(&policy, 0xd, 1, KERNEL), [7, 0x340, 0, 0]);
    assert_eq!(ask(&policy, 0xd, 2, KERNEL), [0x100, 0x240, 0, 0]);
    assert_eq!(ask(&policy, 0xd, 9, KERNEL), NOTHING);
    let mut host = host(false);
    let without = CpuidPolicy::pv(
        |leaf, sub| {
            let mut answer = host(leaf, sub);
            if leaf == 1 {
                answer[ECX] &= !mask(XSAVE);
            }
            answer
        },
        None,
    );
    assert_eq!((without.extended_states(), without.has(AVX512BW), without.has(FMA)), (0, false, false));
    assert_eq!(ask(&without, 0xd, 0, KERNEL), NOTHING);
    assert_eq!(ask(&without, 1, 0, KERNEL)[ECX] & mask(OSXSAVE), 0);
}

#[test]
fn vendors_differ_where_their_manuals_do() {
    let (intel, amd) = (CpuidPolicy::pv(host(false), None), CpuidPolicy::pv(host(true), None));
    assert_eq!(ask(&intel, 0x8000_0000, 0, KERNEL), [0x8000_0008, 0, 0, 0]);
    assert_eq!(ask(&amd, 0x8000_0000, 0, KERNEL), [0x8000_0021, 0x6874_7541, 0x444d_4163, 0x6974_6e65]);
    assert_eq!(ask(&intel, 4, 0, KERNEL), [0x1c00_4121 & 0xffff_c3ff, 0x01c0_003f, 0x3f, 7]);
    assert_eq!(ask(&amd, 4, 0, KERNEL), NOTHING);
    assert_eq!(ask(&amd, 0x8000_000a, 0, KERNEL), NOTHING);
    let domu = Asker { hardware_domain: false, ..KERNEL };
    assert_eq!(ask(&amd, 0x8000_0001, 0, domu)[EDX] & COMMON_1D, ask(&amd, 1, 0, domu)[EDX] & COMMON_1D);
    assert_eq!(ask(&intel, 0x8000_0001, 0, domu)[EDX] & COMMON_1D, 0);
    assert_eq!(ask(&intel, 0x8000_0002, 0, KERNEL), [0x4141_4141; 4]);
}

#[test]
fn the_capabilities_register_is_intels() {
    let intel = CpuidPolicy::pv(host(false), Some(0x8_0006 | 1));
    assert_eq!(intel.arch_capabilities(), Some(0b101));
    assert_eq!(CpuidPolicy::pv(host(true), Some(1)).arch_capabilities(), None);
    assert_eq!(CpuidPolicy::pv(host(false), None).arch_capabilities(), None);
}

#[test]
fn only_dom0_learns_that_the_tsc_is_constant() {
    let policy = CpuidPolicy::pv(host(false), None);
    assert_eq!(ask(&policy, 0x8000_0007, 0, KERNEL), NOTHING);
    assert_eq!(ask(&policy.for_dom0(host(false)), 0x8000_0007, 0, KERNEL), [0, 0, 0, 0x100]);
}

#[test]
fn the_hypervisor_introduces_itself() {
    let leaves = HypervisorLeaves {
        version: 4 << 16 | 17,
        reliable_tsc: true,
        rdtscp: true,
        tsc_khz: 2_000_000,
        host_khz: 2_000_001,
        tsc_to_ns_mul: 0x8000_0000,
        tsc_to_ns_shift: -1,
        address_bits: 40,
        ..HypervisorLeaves::default()
    };
    let signature = leaves.answer(0, 0);
    let text: Vec<u8> = signature[1..].iter().flat_map(|word| word.to_le_bytes()).collect();
    assert_eq!((signature[EAX], &text[..]), (0x4000_0005, &b"XenVMMXenVMM"[..]));
    assert_eq!(leaves.answer(1, 0), [0x4_0011, 0, 0, 0]);
    assert_eq!(leaves.answer(2, 0), [1, 0x4000_0000, 1, 0]);
    assert_eq!(leaves.answer(3, 0), [6, 0, 2_000_000, 0]);
    assert_eq!(leaves.answer(3, 1), [0, 0, 0x8000_0000, u32::MAX]);
    assert_eq!(leaves.answer(3, 2)[EAX], 2_000_001);
    assert_eq!(leaves.answer(5, 0), [0, 40, 0, 0]);
    assert_eq!(
        (leaves.answer(4, 0), leaves.answer(6, 0), leaves.answer(0x100, 0)),
        (NOTHING, NOTHING, NOTHING)
    );
}

proptest! {
    #[test]
    fn no_host_makes_a_guest_see_more_than_the_masks(seed in any::<u64>(), leaf in any::<u32>(), low in 0u32..0x30, subleaf in any::<u32>()) {
        let wild = |leaf: u32, subleaf: u32| -> Leaf {
            if leaf & 0x7fff_ffff == 0 {
                return host(seed & 1 != 0)(leaf, subleaf);
            }
            core::array::from_fn(|n| {
                (seed ^ u64::from(leaf) ^ u64::from(subleaf) << 8).wrapping_mul(0x9e37_79b9_7f4a_7c15 | (n as u64 * 2)) as u32
            })
        };
        let policy = CpuidPolicy::pv(wild, Some(seed));
        let domu = Asker { hardware_domain: false, host_osxsave: false, ..KERNEL };
        for leaf in [leaf, low, 0x8000_0000 + low, 0x4000_0000 + low] {
            ask(&policy, leaf, subleaf & 0xff, domu);
        }
        let leaf1 = ask(&policy, 1, 0, domu);
        prop_assert_eq!(leaf1[EDX] & !WORDS[0].2, 0);
        prop_assert_eq!(leaf1[ECX] & !WORDS[1].2, 0);
        let x87 = mask(FDP_EXCP_ONLY) | mask(NO_FPU_SEL);
        prop_assert_eq!(ask(&policy, 7, 0, domu)[EBX] & !(WORDS[5].2 | x87), 0);
        for (feature, dependents) in NEEDS {
            prop_assert!(policy.has(feature) || dependents.iter().all(|d| !policy.has(*d)));
        }
    }
}
