//! What a page-table entry means, for every combination of its flags.

use hv_core::mmu::{Class, Pte};
use hv_types::Mfn;

/// Every combination of the low twelve and high twelve bits, at every level.
#[test]
fn classify_is_total_and_says_what_the_manual_and_the_abi_say() {
    let frame = 0x1_2345_6789_a000 & Pte::FRAME;
    for flags in 0..1u64 << 24 {
        let entry = Pte(frame | (flags & 0xfff) | (flags >> 12) << 52);
        for (level, cache) in [(1, false), (1, true), (2, false), (3, true), (4, false)] {
            let bad = match (level, cache) {
                (1, true) => 0,
                (1, false) => 0b0_1001_1000,
                _ => 0b1_1001_1000,
            };
            let expected = if flags & 1 == 0 {
                Class::Absent
            } else if flags & bad != 0 {
                Class::Forbidden(flags & bad)
            } else if level == 1 {
                Class::Leaf(Mfn(frame >> 12))
            } else {
                Class::Table(Mfn(frame >> 12))
            };
            if entry.classify(level, cache) != expected {
                panic!("{entry:?} at level {level}");
            }
        }
    }
}

#[test]
fn a_kernel_mapping_is_marked_and_a_user_mapping_is_global() {
    let kernel = Pte(Pte::PRESENT | Pte::WRITE).adjust(1);
    assert_eq!(kernel.0, Pte::PRESENT | Pte::WRITE | Pte::USER | Pte::GUEST_KERNEL);
    assert_eq!(kernel.adjust(1), kernel, "adjusting twice is adjusting once");
    let user = Pte(Pte::PRESENT | Pte::USER).adjust(1);
    assert_eq!(user.0, Pte::PRESENT | Pte::USER | Pte::GLOBAL);
    assert_eq!(user.adjust(1), user);
}

#[test]
fn tables_are_always_accessible_and_a_root_entry_accessed() {
    assert_eq!(Pte(1).adjust(2).0, 1 | Pte::USER);
    assert_eq!(Pte(1).adjust(3).0, 1 | Pte::USER);
    assert_eq!(Pte(1).adjust(4).0, 1 | Pte::USER | Pte::ACCESSED);
}

#[test]
fn a_change_of_frame_or_write_permission_is_another_mapping_and_of_dirty_is_not() {
    for bits in [Pte::PRESENT, Pte::WRITE, Pte::PWT, Pte::PCD, Pte::PAT, 1 << 12, 1 << 51] {
        assert_ne!(bits & Pte::IDENTITY_LEAF, 0, "{bits:#x}");
    }
    for bits in [Pte::DIRTY, Pte::ACCESSED, Pte::USER, Pte::GLOBAL, 1 << 9, 1 << 52, 1 << 63] {
        assert_eq!(bits & Pte::IDENTITY_LEAF, 0, "{bits:#x}");
    }
    assert_eq!(Pte::WRITE & Pte::IDENTITY_TABLE, 0);
    assert_ne!(Pte::PRESENT & Pte::IDENTITY_TABLE, 0);
}
