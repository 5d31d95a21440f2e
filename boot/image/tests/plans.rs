//! ELF files, notes, and the layout of a new domain's memory.

mod common;

use std::collections::HashMap;

use boot_image::{
    BuildPlan, ElfError, Initrd, KernelError, KernelInfo, NoteError, PageTableEntry, PlanError, PlanInput,
    Region,
};
use common::{ElfBuilder, add_note};
use proptest::prelude::*;

const INPUT: PlanInput = PlanInput { nr_pages: 0x10000, initrd_len: 5_000_000, rings: false };

fn error(elf: &ElfBuilder) -> KernelError {
    KernelInfo::parse(&elf.build()).map(|_| ()).unwrap_err()
}

#[test]
fn linux_is_understood() {
    let file = ElfBuilder::linux().build();
    let kernel = KernelInfo::parse(&file).unwrap();
    kernel.check_dom0().unwrap();
    assert_eq!((kernel.start(), kernel.end()), (0xffff_ffff_8100_0000, 0xffff_ffff_8120_1000));
    assert_eq!(kernel.entry(), 0xffff_ffff_8100_0100);
    assert_eq!(kernel.notes().guest_os, Some("linux"));
    let segments: Vec<_> = kernel.segments().map(|s| (s.va, s.data.len(), s.mem_len)).collect();
    assert_eq!(
        segments,
        [(0xffff_ffff_8100_0000, 0x1800, 0x20_0000), (0xffff_ffff_8120_0000, 0x1000, 0x1000)]
    );
}

#[test]
fn notes_in_a_section_are_found_too() {
    let mut elf = ElfBuilder::linux();
    elf.notes_in_section = true;
    assert_eq!(KernelInfo::parse(&elf.build()).unwrap().notes().init_p2m, Some(0x80_0000_0000));
}

#[test]
fn notes_of_others_are_skipped_and_the_last_one_counts() {
    let mut elf = ElfBuilder::linux();
    let mut notes = Vec::new();
    add_note(&mut notes, b"GNU\0", 3, b"id");
    add_note(&mut notes, b"Linux\0", 0x101, b"");
    notes.append(&mut elf.notes);
    elf.notes = notes;
    elf.number(15, 0x90_0000_0000);
    assert_eq!(KernelInfo::parse(&elf.build()).unwrap().notes().init_p2m, Some(0x90_0000_0000));
}

#[test]
fn old_kernels_subtract_their_virtual_base() {
    let mut elf = ElfBuilder::linux();
    elf.number(4, 0xffff_ffff_8000_0000);
    for (paddr, _, _) in &mut elf.segments {
        *paddr += 0xffff_ffff_8000_0000;
    }
    assert_eq!(KernelInfo::parse(&elf.build()).unwrap().start(), 0xffff_ffff_8100_0000);
}

#[test]
fn kernels_that_are_refused() {
    let with = |change: fn(&mut ElfBuilder)| {
        let mut elf = ElfBuilder::linux();
        change(&mut elf);
        error(&elf)
    };
    assert_eq!(KernelInfo::parse(b"MZ").unwrap_err(), KernelError::Elf(ElfError::NotElf));
    assert_eq!(with(|e| e.class = 1), KernelError::Elf(ElfError::ThirtyTwoBit));
    assert_eq!(with(|e| e.machine = 183), KernelError::Elf(ElfError::WrongMachine { machine: 183 }));
    assert_eq!(with(|e| e.segments.clear()), KernelError::Elf(ElfError::NothingToLoad));
    assert_eq!(with(|e| e.segments[1].0 -= 1), KernelError::Elf(ElfError::Overlap { paddr: 0x11f_ffff }));
    assert!(matches!(with(|e| e.segments[0].2 = 5), KernelError::Elf(ElfError::Malformed(_))));
    assert!(matches!(with(|e| e.segments[0].2 = u64::MAX), KernelError::Elf(ElfError::Malformed(_))));
    assert_eq!(with(|e| e.notes.clear()), KernelError::Note(NoteError::NotXen));
    assert_eq!(with(|e| e.note(1, &[1, 2])), KernelError::Note(NoteError::Malformed { note: 1 }));
    assert_eq!(with(|e| e.note(6, &[0xff, 0])), KernelError::Note(NoteError::Malformed { note: 6 }));
    assert_eq!(with(|e| e.text(10, "!telepathy")), KernelError::Note(NoteError::UnknownFeature));
    assert!(matches!(with(|e| e.number(1, 0x1000)), KernelError::BadAddress { what: "entry point", .. }));
    assert!(matches!(with(|e| e.number(2, 0x1001)), KernelError::BadAddress { what: "hypercall page", .. }));
    assert!(matches!(
        with(|e| e.number(4, 0x200_0000)),
        KernelError::BadAddress { what: "load address", .. }
    ));
}

#[test]
fn a_feature_that_is_only_wished_for_may_be_unknown() {
    let mut elf = ElfBuilder::linux();
    elf.text(10, "telepathy|dom0");
    KernelInfo::parse(&elf.build()).unwrap().check_dom0().unwrap();
}

#[test]
fn checks_of_the_interface() {
    let check = |elf: &ElfBuilder| KernelInfo::parse(&elf.build()).unwrap().check_dom0();
    assert_eq!(check(&ElfBuilder::linux().without(5)), Err(KernelError::Interface));
    assert_eq!(check(&ElfBuilder::linux().without(8)), Ok(())); // it is Linux
    assert_eq!(check(&ElfBuilder::linux().without(8).without(6)), Err(KernelError::Loader));
    let mut cloud = ElfBuilder::linux();
    cloud.note(17, &1u32.to_le_bytes());
    assert_eq!(check(&cloud), Err(KernelError::NotDom0));
    assert_eq!(KernelInfo::parse(&cloud.build()).unwrap().check(), Ok(()));
    let mut hvm = ElfBuilder::linux();
    hvm.text(10, "!auto_translated_physmap|!writable_page_tables");
    let message = check(&hvm).unwrap_err().to_string();
    assert!(message.ends_with("AUTO_TRANSLATED_PHYSMAP"), "{message}");
}

#[test]
fn the_layout_of_a_modern_dom0() {
    let file = ElfBuilder::linux().build();
    let plan = BuildPlan::new(&KernelInfo::parse(&file).unwrap(), INPUT).unwrap();
    let base = 0xffff_ffff_8000_0000u64;
    assert_eq!(plan.kernel, Region { va: base + 0x100_0000, pfn: 0x1000, pages: 0x201 });
    assert_eq!(plan.start_info, Region { va: base + 0x120_1000, pfn: 0x1201, pages: 1 });
    // 20 MiB are mapped: ten L1 tables, one of each other level.
    assert_eq!(plan.page_tables, Region { va: base + 0x120_2000, pfn: 0x1202, pages: 13 });
    assert_eq!(plan.stack, Region { va: base + 0x120_f000, pfn: 0x120f, pages: 1 });
    assert_eq!(plan.bootstrap, Region { va: base, pfn: 0, pages: 0x1400 });
    assert_eq!(plan.initrd, Initrd::Unmapped { pfn: 0x1400, pages: 1221 });
    // 65536 frames: 128 pages of list, mapped by one table of each level.
    assert_eq!(plan.p2m_frames, (0x1400 + 1221, 128 + 3));
    assert_eq!(plan.p2m, Region { va: 0x80_0000_0000, pfn: 0x1400 + 1221 + 3, pages: 128 });
    assert_eq!(plan.next_pfn, 0x1400 + 1221 + 131);
    assert_eq!((plan.xenstore, plan.console, plan.hypercall_pfn), (None, None, None));
}

#[test]
fn the_layout_of_an_old_domu() {
    let mut elf = ElfBuilder::linux().without(15).without(16);
    elf.number(2, 0xffff_ffff_8100_1000);
    let file = elf.build();
    let input = PlanInput { rings: true, ..INPUT };
    let plan = BuildPlan::new(&KernelInfo::parse(&file).unwrap(), input).unwrap();
    assert_eq!(plan.hypercall_pfn, Some(0x1001));
    let Initrd::Mapped(initrd) = plan.initrd else { panic!("not mapped") };
    assert_eq!((initrd.pfn, initrd.pages, plan.initrd.mod_start()), (0x1201, 1221, initrd.va));
    let order =
        [plan.kernel, initrd, plan.p2m, plan.start_info, plan.xenstore.unwrap(), plan.console.unwrap()];
    for (before, after) in order.iter().zip(order.iter().skip(1).chain([&plan.page_tables])) {
        assert_eq!((before.va_end(), before.pfn_end()), (after.va, after.pfn));
    }
    assert_eq!(plan.p2m_frames.1, 0);
    assert_eq!(plan.next_pfn, plan.bootstrap.pages);
}

#[test]
fn layouts_that_are_refused() {
    let plan = |elf: &ElfBuilder, input| {
        BuildPlan::new(&KernelInfo::parse(&elf.build()).unwrap(), input).unwrap_err()
    };
    let linux = ElfBuilder::linux();
    let small = PlanInput { nr_pages: 0x1400, ..INPUT };
    assert_eq!(
        plan(&linux, small),
        PlanError::TooLittleMemory { needed: 0x1400 + 1221 + 10 + 3, nr_pages: 0x1400 }
    );
    assert!(matches!(plan(&linux, PlanInput { nr_pages: u64::MAX, ..INPUT }), PlanError::OutOfRange(_)));
    assert!(matches!(
        plan(&linux, PlanInput { nr_pages: 1 << 50, ..INPUT }),
        PlanError::NotGuestAddress { .. }
    ));
    let exact = PlanInput { initrd_len: u64::MAX, ..INPUT };
    assert!(matches!(plan(&linux, exact), PlanError::TooLittleMemory { .. }));
    for va in [0xffff_8000_0000_0000, 0xffff_87ff_ffff_f000, 0x0000_7fff_ffff_f000, 0x8000_0000_0000_0000] {
        let mut elf = ElfBuilder::linux();
        elf.number(15, va);
        assert_eq!(plan(&elf, INPUT), PlanError::NotGuestAddress { what: "p2m list", va });
    }
    let mut inside = ElfBuilder::linux();
    inside.number(15, 0xffff_ffff_8130_0000);
    assert_eq!(plan(&inside, INPUT), PlanError::P2mOverlap { va: 0xffff_ffff_8130_0000 });
}

/// A kernel and a domain with everything that the layout depends on.
fn domain() -> impl Strategy<Value = (ElfBuilder, PlanInput)> {
    let base = prop_oneof![
        Just(0xffff_ffff_8000_0000u64),
        Just(0),
        Just(0x7f_ffe0_0000), // next to a boundary of the root's entries
        Just(0xffff_8800_0000_0000),
        (0u64..1 << 34).prop_map(|page| page << 12),
    ];
    let p2m = prop_oneof![
        Just(None),
        Just(Some(0x80_0000_0000u64)),
        (-2048i64..4096).prop_map(|pages| Some((pages << 12) as u64)), // from the kernel's address, see below
    ];
    let sizes = (0u64..0x4000, 1u64..0x80_0000, 0u64..0x10_0000);
    (base, p2m, sizes, any::<bool>(), any::<bool>(), 1u64..0x40000, prop_oneof![Just(0u64), 1..30_000_000u64])
        .prop_map(|(base, p2m, (gap, first, second), rings, by_pfn, nr_pages, initrd_len)| {
            let mut elf = ElfBuilder::linux().without(15).without(16);
            let start = gap << 8;
            elf.segments = vec![(start, vec![1; 16], first.max(16)), (start + first.max(16), vec![], second)];
            elf.number(3, base);
            elf.number(1, base + start);
            if let Some(va) = p2m {
                let near = base.wrapping_add(start).wrapping_add(va) & !0xfff;
                elf.number(15, if va == 0x80_0000_0000 { va } else { near });
            }
            elf.note(16, &u32::from(by_pfn).to_le_bytes());
            (elf, PlanInput { nr_pages, initrd_len, rings })
        })
}

/// The frame that the entries map an address to, and whether writable.
fn walk(entries: &HashMap<(u64, u16), PageTableEntry>, root: u64, va: u64) -> Option<(u64, bool)> {
    let mut table = root;
    let mut writable = true;
    for level in (1..=4u8).rev() {
        let index = (va >> (3 + 9 * u32::from(level)) & 511) as u16;
        let entry = entries.get(&(table, index))?;
        assert_eq!(entry.level, level);
        if level == 1 {
            writable = !entry.target_is_table;
        }
        table = entry.target;
    }
    Some((table, writable))
}

fn check(plan: &BuildPlan, input: PlanInput) {
    // Regions are disjoint and inside the domain.
    let mut frames = vec![
        (plan.kernel.pfn, plan.kernel.pages),
        (plan.start_info.pfn, 1),
        (plan.page_tables.pfn, plan.page_tables.pages),
        (plan.stack.pfn, 1),
    ];
    frames.extend(plan.initrd.frames());
    frames
        .extend([plan.xenstore, plan.console].into_iter().flatten().map(|region| (region.pfn, region.pages)));
    frames.push(if plan.p2m_frames.1 == 0 { (plan.p2m.pfn, plan.p2m.pages) } else { plan.p2m_frames });
    frames.sort_unstable();
    assert!(frames.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{plan:x?}");
    let used = frames.iter().map(|(pfn, pages)| pfn + pages).max().unwrap();
    assert!(used <= plan.next_pfn && plan.next_pfn <= input.nr_pages);
    assert!(plan.p2m.pages * 512 >= input.nr_pages);
    assert_eq!(plan.bootstrap.va_end() % (4 << 20), 0);
    let padding = plan.bootstrap.va_end() - plan.stack.va_end();
    assert!((512 << 10..(4 << 20) + (512 << 10)).contains(&padding));

    // Every entry once, every table used, tables only read-only.
    let mut entries = HashMap::new();
    for entry in plan.page_table_entries() {
        assert_eq!(plan.page_table_level(entry.table), Some(entry.level));
        let below = (entry.level > 1).then(|| entry.level - 1);
        assert_eq!(plan.page_table_level(entry.target).filter(|_| below.is_some()), below);
        assert_eq!(entry.target_is_table, plan.is_page_table(entry.target));
        assert!(entry.index < 512);
        assert_eq!(entries.insert((entry.table, entry.index), entry), None, "twice");
    }
    let tables: std::collections::HashSet<_> = entries.keys().map(|key| key.0).collect();
    let separate = plan.p2m_frames.1.saturating_sub(plan.p2m.pages) * u64::from(plan.p2m_frames.1 != 0);
    assert_eq!(tables.len() as u64, plan.page_tables.pages + separate);
    assert!((plan.page_tables.pfn..plan.page_tables.pfn_end()).all(|pfn| tables.contains(&pfn)));

    // Exactly the two ranges are mapped, each page to its frame.
    let mut mapped = 0;
    for region in [plan.bootstrap, plan.p2m].iter().take(1 + usize::from(plan.p2m_frames.1 != 0)) {
        for page in 0..region.pages {
            let va = region.va + page * 4096;
            let frame = region.pfn + page;
            assert_eq!(walk(&entries, plan.page_tables.pfn, va), Some((frame, !plan.is_page_table(frame))));
            assert_eq!(plan.pfn_of(va + 7), Some(frame));
        }
        mapped += region.pages;
    }
    assert_eq!(entries.values().filter(|entry| entry.level == 1).count() as u64, mapped);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_layout_is_consistent((elf, input) in domain()) {
        let file = elf.build();
        let kernel = KernelInfo::parse(&file).unwrap();
        if let Ok(plan) = BuildPlan::new(&kernel, input) {
            check(&plan, input);
        }
    }

    #[test]
    fn damaged_elf_files_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![any::<u8>(), Just(0xff), Just(0)]), 1..12),
        cut in prop::option::of(any::<prop::sample::Index>()),
        nr_pages in any::<u64>(),
        initrd_len in any::<u64>(),
    ) {
        let mut file = ElfBuilder::linux().build();
        let headers = 64 + 3 * 56;
        let notes = file.len() - 260;
        for (at, value) in edits {
            let at = at.index(headers + 260);
            file[if at < headers { at } else { notes + at - headers }] = value;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        if let Ok(kernel) = KernelInfo::parse(&file) {
            let _ = kernel.check_dom0();
            let inside = |s: boot_image::Segment<'_>| kernel.start() <= s.va && s.va + s.mem_len <= kernel.end();
            assert!(kernel.segments().all(|s| s.data.len() as u64 <= s.mem_len && inside(s)));
            for (nr_pages, initrd_len) in [(nr_pages, initrd_len), (nr_pages >> 40, initrd_len >> 40)] {
                if let Ok(plan) = BuildPlan::new(&kernel, PlanInput { nr_pages, initrd_len, rings: true }) {
                    assert!(plan.page_table_entries().take(100_000).all(|entry| entry.target < nr_pages));
                }
            }
        }
    }
}
