//! One test an attack or a rule: what is allowed, and its refused twin.

use std::sync::atomic::Ordering::SeqCst;

use guest_abi::Errno;
use guest_abi::xen::*;
use hv_core::frame::Share;
use hv_core::mmu::Pte;
use hv_core::mmu::port::Domains;
use hv_core::port::Memory;
use hv_types::{DomId, Mfn};
use tests_model::{Act, World};

/// A vCPU of the first unprivileged domain, and one of the privileged domain.
const GUEST: usize = 2;
const DOM0: usize = 0;
const SELF: u32 = DomId::SELF.0 as u32;
const RW: u64 = 3;
const RO: u64 = 1;

/// A guest's frames: 0 to 3 are its tables from the root down; its level-1 table maps 0..12, all but tables writable.
fn frames(world: &World, cpu: usize) -> Vec<u64> {
    world.frames_of(DomId(cpu as u16 / 2)).iter().map(|mfn| mfn.0).collect()
}

fn update(table: u64, index: usize, value: u64) -> Act {
    Act::Update(MMU_NORMAL_PT_UPDATE, table, index, value, SELF)
}

fn ext(command: u32, arg: u64) -> Act {
    Act::Ext(command, arg, 0, SELF)
}

/// Performs, and looks at every invariant.
fn act(world: &World, cpu: usize, act: Act) -> Result<u64, Errno> {
    let answer = world.act(cpu, &act);
    world.check().unwrap();
    answer
}

#[test]
fn a_page_table_is_mapped_read_only_and_never_writable() {
    let world = World::new();
    let own = frames(&world, GUEST);
    assert_eq!(act(&world, GUEST, update(own[3], 20, own[2] << 12 | RO)), Ok(0));
    for table in 0..4 {
        assert_eq!(act(&world, GUEST, update(own[3], 20, own[table] << 12 | RW)), Err(Errno::EBUSY));
    }
}

#[test]
fn a_frame_that_is_mapped_writable_does_not_become_a_table_and_one_that_is_not_does() {
    let world = World::new();
    let own = frames(&world, GUEST);
    assert_eq!(act(&world, GUEST, ext(MMUEXT_PIN_L1_TABLE, own[5])), Err(Errno::EINVAL));
    assert_eq!(act(&world, GUEST, update(own[3], 5, own[5] << 12 | RO)), Ok(0));
    assert_eq!(act(&world, GUEST, ext(MMUEXT_PIN_L1_TABLE, own[5])), Ok(0));
}

/// The guest keeps a writable translation in its TLB by not flushing, makes the frame a table, and writes it.
#[test]
fn a_stale_translation_of_a_new_table_is_flushed_before_the_table_counts() {
    let world = World::new();
    let own = frames(&world, GUEST);
    world.sim.speculate();
    assert_eq!(act(&world, GUEST, update(own[3], 5, 0)), Ok(0));
    let before = world.sim.flushes.load(SeqCst);
    assert_eq!(act(&world, GUEST, ext(MMUEXT_PIN_L1_TABLE, own[5])), Ok(0));
    assert_eq!(world.sim.flushes.load(SeqCst), before + 2, "both CPUs of the domain, and no other");
}

/// The same on a machine that forgets to flush: the oracle must see it, or the test above shows nothing.
#[test]
#[should_panic = "I-PT-4"]
fn the_oracle_sees_a_forgotten_flush() {
    let world = World::new();
    let own = frames(&world, GUEST);
    world.sim.speculate();
    act(&world, GUEST, update(own[3], 5, 0)).unwrap();
    world.sim.forget_flushes.store(true, SeqCst);
    _ = act(&world, GUEST, ext(MMUEXT_PIN_L1_TABLE, own[5]));
}

#[test]
fn a_frame_that_was_flushed_since_costs_no_second_flush() {
    let world = World::new();
    let own = frames(&world, GUEST);
    act(&world, GUEST, update(own[3], 5, 0)).unwrap();
    act(&world, GUEST, ext(MMUEXT_TLB_FLUSH_ALL, 0)).unwrap();
    let before = world.sim.flushes.load(SeqCst);
    act(&world, GUEST, ext(MMUEXT_PIN_L1_TABLE, own[5])).unwrap();
    assert_eq!(world.sim.flushes.load(SeqCst), before);
}

#[test]
fn a_domain_maps_its_own_frames_and_nobody_elses() {
    let world = World::new();
    let (own, theirs) = (frames(&world, GUEST), frames(&world, DOM0));
    assert_eq!(act(&world, GUEST, update(own[3], 30, own[15] << 12 | RW)), Ok(0));
    assert_eq!(act(&world, GUEST, update(own[3], 30, theirs[15] << 12 | RW)), Err(Errno::EBUSY));
    assert_eq!(act(&world, GUEST, update(own[3], 30, theirs[15] << 12 | RO)), Err(Errno::EBUSY));
    // Frames of the hypervisor, of nobody, and none at all.
    assert_eq!(act(&world, GUEST, update(own[3], 30, 1 << 12 | RO)), Err(Errno::EBUSY));
    let free = (8..96).find(|&mfn| world.frames().peek(Mfn(mfn)).is_some_and(|w| w.general() == 0)).unwrap();
    assert_eq!(act(&world, GUEST, update(own[3], 30, free << 12 | RO)), Err(Errno::EBUSY));
}

#[test]
fn only_the_privileged_domain_names_anothers_frames() {
    let world = World::new();
    let (dom0, guest) = (frames(&world, DOM0), frames(&world, GUEST));
    let map =
        |table: u64, frame: u64, owner| Act::Update(MMU_NORMAL_PT_UPDATE, table, 30, frame << 12 | RW, owner);
    assert_eq!(act(&world, DOM0, map(dom0[3], guest[15], 1)), Ok(0));
    assert_eq!(act(&world, GUEST, map(guest[3], dom0[15], 0)), Err(Errno::EPERM));
    assert_eq!(act(&world, DOM0, map(dom0[3], guest[15], 0)), Err(Errno::ESRCH), "oneself is named SELF");
    assert_eq!(act(&world, DOM0, map(dom0[3], guest[15], 9)), Err(Errno::ESRCH), "there is no domain 9");
    assert_eq!(act(&world, DOM0, map(dom0[3], guest[0], 1)), Err(Errno::EBUSY), "not even it writes a table");
}

/// dom0 mapped the frame of a guest; the guest makes a table of it while dom0's CPU still translates.
#[test]
fn a_foreign_mapping_is_flushed_everywhere_before_the_frame_is_a_table() {
    let world = World::new();
    let (dom0, guest) = (frames(&world, DOM0), frames(&world, GUEST));
    let map = Act::Update(MMU_NORMAL_PT_UPDATE, dom0[3], 30, guest[15] << 12 | RW, 1);
    act(&world, DOM0, map).unwrap();
    assert_eq!(act(&world, GUEST, ext(MMUEXT_PIN_L1_TABLE, guest[15])), Err(Errno::EINVAL));
    act(&world, DOM0, update(dom0[3], 30, 0)).unwrap();
    assert_eq!(act(&world, GUEST, ext(MMUEXT_PIN_L1_TABLE, guest[15])), Ok(0));
}

#[test]
fn io_space_is_mapped_by_permission_uncached_and_where_told_read_only() {
    let world = World::new();
    let (dom0, guest) = (frames(&world, DOM0), frames(&world, GUEST));
    let entry = || world.sim.load64(Mfn(dom0[3]), 40);
    assert_eq!(act(&world, DOM0, update(dom0[3], 40, 4 << 12 | RW)), Ok(0));
    assert_eq!(entry() & (Pte::CACHE | RW), Pte::PWT | Pte::PCD | RW, "write-back becomes uncached");
    assert_eq!(act(&world, DOM0, update(dom0[3], 40, 4 << 12 | RW | Pte::PAT)), Ok(0));
    assert_eq!(entry() & Pte::CACHE, Pte::PAT, "write-combining stays");
    assert_eq!(act(&world, DOM0, update(dom0[3], 40, 6 << 12 | RW)), Ok(0));
    assert_eq!(entry() & Pte::WRITE, 0);
    assert_eq!(act(&world, DOM0, update(dom0[3], 40, 7 << 12 | RO)), Err(Errno::EPERM));
    assert_eq!(act(&world, GUEST, update(guest[3], 40, 4 << 12 | RO)), Err(Errno::EPERM));
    let none = Pte::FRAME;
    assert_eq!(act(&world, GUEST, update(guest[3], 40, none | RO)), Err(Errno::EINVAL));
    let beyond = 0x1_0000_0000 << 12;
    assert_eq!(act(&world, DOM0, update(dom0[3], 40, beyond | RO)), Err(Errno::EPERM));
}

#[test]
fn cache_attributes_are_for_domains_with_hardware() {
    let world = World::new();
    let (dom0, guest) = (frames(&world, DOM0), frames(&world, GUEST));
    assert_eq!(act(&world, DOM0, update(dom0[3], 40, dom0[15] << 12 | RW | Pte::PCD)), Ok(0));
    assert_eq!(act(&world, GUEST, update(guest[3], 40, guest[15] << 12 | RW | Pte::PCD)), Err(Errno::EINVAL));
    assert_eq!(act(&world, DOM0, ext(MMUEXT_FLUSH_CACHE, 0)), Ok(0));
    assert_eq!(act(&world, GUEST, ext(MMUEXT_FLUSH_CACHE, 0)), Err(Errno::EACCES));
}

#[test]
fn super_pages_and_attributes_above_level_one_are_refused() {
    let world = World::new();
    let own = frames(&world, GUEST);
    act(&world, GUEST, update(own[3], 5, 0)).unwrap();
    assert_eq!(act(&world, GUEST, update(own[2], 1, own[5] << 12 | 7)), Ok(0));
    for bad in [Pte::PAT, Pte::GLOBAL, Pte::PCD, Pte::PWT] {
        for level in 0..3 {
            assert_eq!(act(&world, GUEST, update(own[level], 3, own[5] << 12 | 7 | bad)), Err(Errno::EINVAL));
        }
    }
    assert_eq!(act(&world, GUEST, ext(MMUEXT_MARK_SUPER, own[5])), Err(Errno::EOPNOTSUPP));
}

#[test]
fn the_hypervisors_slots_of_a_root_are_filled_in_and_kept() {
    let world = World::new();
    let own = frames(&world, GUEST);
    let slots = |root: u64| (256..272).map(|slot| world.sim.load64(Mfn(root), slot)).collect::<Vec<_>>();
    let expected = world.sim.hypervisor_slots(DomId(1));
    assert_eq!(slots(own[0]), expected);
    for slot in 256..272 {
        assert_eq!(act(&world, GUEST, update(own[0], slot, 0)), Err(Errno::EINVAL));
        assert_eq!(act(&world, GUEST, update(own[0], slot, own[1] << 12 | 7)), Err(Errno::EINVAL));
    }
    assert_eq!(slots(own[0]), expected);
    assert_eq!(act(&world, GUEST, update(own[0], 272, own[1] << 12 | 7)), Ok(0));
    assert_eq!(act(&world, GUEST, update(own[0], 255, own[1] << 12 | 7)), Ok(0));
}

/// A linear map: a table that names itself or a table of its own level.
#[test]
fn a_table_never_names_its_own_level() {
    let world = World::new();
    let own = frames(&world, GUEST);
    for level in 0..3 {
        assert_eq!(act(&world, GUEST, update(own[level], 9, own[level] << 12 | RO)), Err(Errno::EINVAL));
        assert_eq!(act(&world, GUEST, update(own[level], 9, own[level + 1] << 12 | 7)), Ok(0));
    }
}

#[test]
fn a_pin_is_taken_off_once() {
    let world = World::new();
    let own = frames(&world, GUEST);
    assert_eq!(act(&world, GUEST, ext(MMUEXT_PIN_L4_TABLE, own[0])), Ok(0));
    assert_eq!(act(&world, GUEST, ext(MMUEXT_PIN_L4_TABLE, own[0])), Err(Errno::EINVAL));
    assert_eq!(act(&world, GUEST, ext(MMUEXT_PIN_L3_TABLE, own[0])), Err(Errno::EINVAL));
    assert_eq!(act(&world, GUEST, ext(MMUEXT_UNPIN_TABLE, own[0])), Ok(0));
    assert_eq!(act(&world, GUEST, ext(MMUEXT_UNPIN_TABLE, own[0])), Err(Errno::EINVAL));
}

#[test]
fn accessed_and_dirty_are_kept_when_asked_and_only_then() {
    let world = World::new();
    let own = frames(&world, GUEST);
    let table = Mfn(own[3]);
    for (command, kept) in [(MMU_PT_UPDATE_PRESERVE_AD, Pte::AD), (MMU_NORMAL_PT_UPDATE, 0)] {
        world.sim.fetch_or64(table, 5, Pte::AD);
        act(&world, GUEST, Act::Update(command, own[3], 5, own[6] << 12 | RW, SELF)).unwrap();
        assert_eq!(world.sim.load64(table, 5) & Pte::AD, kept);
        world.sim.fetch_or64(table, 5, Pte::AD);
        act(&world, GUEST, Act::Update(command, own[3], 5, own[6] << 12 | RW | 0x200, SELF)).unwrap();
        assert_eq!(world.sim.load64(table, 5) & Pte::AD, kept, "on the short way too");
    }
}

#[test]
fn a_trapped_write_is_checked_like_any_other() {
    let world = World::new();
    let own = frames(&world, GUEST);
    let table = Mfn(own[3]);
    // An own frame that has a neighbour which is another's, so that one byte makes the difference.
    let group = |mfn: u64| (0..16).map(move |low| mfn & !15 | low);
    let (mine, other) =
        own[12..].iter().find_map(|&mfn| Some((mfn, group(mfn).find(|m| !own.contains(m))?))).unwrap();
    assert_eq!(act(&world, GUEST, Act::Trapped(own[3], 50 * 8, 8, mine << 12 | RW)), Ok(0));
    assert_eq!(act(&world, GUEST, Act::Trapped(own[3], 51 * 8, 8, own[3] << 12 | RW)), Err(Errno::EBUSY));
    assert_eq!(act(&world, GUEST, Act::Trapped(own[2], 51 * 8, 8, own[3] << 12 | 7)), Err(Errno::EINVAL));
    assert_eq!(act(&world, GUEST, Act::Trapped(own[15], 0, 8, 0)), Err(Errno::EINVAL), "no table");
    // A byte of a frame number would make the entry another's frame.
    let entry = world.sim.load64(table, 50);
    assert_eq!(act(&world, GUEST, Act::Trapped(own[3], 50 * 8 + 1, 1, other << 4)), Err(Errno::EBUSY));
    assert_eq!(world.sim.load64(table, 50), entry);
    assert_eq!(
        act(&world, GUEST, Act::Trapped(own[3], 50 * 8 + 1, 1, own[14] << 4 | 2)),
        Ok(entry >> 8 & 0xff)
    );
    assert_eq!(act(&world, GUEST, Act::Trapped(own[3], 50 * 8 + 1, 2, 0)), Err(Errno::EINVAL), "not aligned");
}

#[test]
fn the_address_names_an_entry_that_the_caller_has() {
    let world = World::new();
    let own = frames(&world, GUEST);
    assert_eq!(act(&world, GUEST, Act::UpdateVa(5 << 12, own[16] << 12 | RW, UVMF_INVLPG)), Ok(0));
    assert_eq!(world.sim.load64(Mfn(own[3]), 5) >> 12 & 0xffff, own[16]);
    for va in [1 << 21, 1 << 39, 0xffff_8000_0000_0000, 1 << 47 | 5 << 12, u64::MAX] {
        assert_eq!(
            act(&world, GUEST, Act::UpdateVa(va, own[17] << 12 | RW, 0)),
            Err(Errno::EINVAL),
            "{va:#x}"
        );
    }
}

#[test]
fn a_root_is_loaded_only_as_a_root() {
    let world = World::new();
    let own = frames(&world, GUEST);
    act(&world, GUEST, update(own[3], 5, 0)).unwrap();
    assert_eq!(act(&world, GUEST, ext(MMUEXT_NEW_BASEPTR, own[1])), Err(Errno::EINVAL));
    assert_eq!(act(&world, GUEST, ext(MMUEXT_NEW_BASEPTR, frames(&world, DOM0)[0])), Err(Errno::EINVAL));
    assert_eq!(act(&world, GUEST, ext(MMUEXT_NEW_BASEPTR, own[5])), Ok(0), "an empty root is one");
    assert_eq!(world.vcpus[GUEST].kernel_root(), Some(Mfn(own[5])));
    assert_eq!(act(&world, GUEST, ext(MMUEXT_NEW_USER_BASEPTR, own[0])), Ok(0));
    assert_eq!(act(&world, GUEST, ext(MMUEXT_NEW_USER_BASEPTR, 0)), Ok(0));
    assert_eq!(world.vcpus[GUEST].user_root(), None);
}

#[test]
fn ordinary_memory_is_written_by_mmu_update_and_descriptor_tables_are_not() {
    let world = World::new();
    let own = frames(&world, GUEST);
    assert_eq!(act(&world, GUEST, update(own[6], 7, 0x1234_5678)), Ok(0));
    assert_eq!(world.sim.load64(Mfn(own[6]), 7), 0x1234_5678);
    act(&world, GUEST, Act::SetGdt(own[15])).unwrap();
    assert_eq!(act(&world, GUEST, update(own[15], 7, 0)), Err(Errno::EINVAL));
}

#[test]
fn a_descriptor_table_holds_what_a_guest_may_have() {
    let world = World::new();
    let own = frames(&world, GUEST);
    let (code, gate) = (0x00af_9b00_0000_ffff, 0x0000_8e00_0008_0000);
    world.sim.store64(Mfn(own[15]), 3, code);
    world.sim.store64(Mfn(own[16]), 3, gate);
    assert_eq!(act(&world, GUEST, Act::SetGdt(own[16])), Err(Errno::EINVAL));
    assert_eq!(act(&world, GUEST, Act::SetGdt(own[5])), Err(Errno::EINVAL), "mapped writable");
    assert_eq!(act(&world, GUEST, Act::SetGdt(own[15])), Ok(0));
    assert_eq!(world.sim.load64(Mfn(own[15]), 3), code | 3 << 45, "ring 0 is not the guest's");
    assert_eq!(act(&world, GUEST, Act::Descriptor(own[15] << 12 | 64, gate)), Err(Errno::EINVAL));
    assert_eq!(act(&world, GUEST, Act::Descriptor(own[15] << 12 | 64, code)), Ok(0));
    assert_eq!(act(&world, GUEST, Act::Descriptor(own[15] << 12 | 65, code)), Err(Errno::EINVAL));
    assert_eq!(act(&world, GUEST, update(own[3], 20, own[15] << 12 | RW)), Err(Errno::EBUSY));
}

#[test]
fn the_m2p_entry_of_an_own_frame_is_written() {
    let world = World::new();
    let (own, theirs) = (frames(&world, GUEST), frames(&world, DOM0));
    let write = |mfn| Act::Update(MMU_MACHPHYS_UPDATE, mfn, 0, 77, SELF);
    assert_eq!(act(&world, GUEST, write(own[9])), Ok(0));
    assert_eq!(world.m2p(Mfn(own[9])), 77);
    assert_eq!(act(&world, GUEST, write(theirs[9])), Err(Errno::EINVAL));
}

#[test]
fn a_released_frame_is_free_after_its_last_mapping_and_clean_for_the_next() {
    let world = World::new();
    let own = frames(&world, GUEST);
    let free = world.heap.free_frames();
    assert_eq!(act(&world, GUEST, Act::Release(own[5])), Ok(0));
    assert_eq!(act(&world, GUEST, Act::Release(own[5])), Err(Errno::EINVAL));
    assert_eq!(world.heap.free_frames(), free, "it is still mapped");
    act(&world, GUEST, update(own[3], 5, 0)).unwrap();
    assert_eq!(world.heap.free_frames(), free + 1);
    assert_eq!(world.m2p(Mfn(own[5])), u64::MAX);
    // `Populate` asserts zeroes, and that nobody still translates to the frame.
    assert!(act(&world, GUEST + 2, Act::Populate).is_ok());
}

#[test]
fn a_frame_lent_read_only_is_never_mapped_writable() {
    let world = World::new();
    let own = frames(&world, GUEST);
    assert!(world.frames().share(Mfn(1), DomId(1), Share::ReadOnly));
    assert!(world.frames().share(Mfn(2), DomId(1), Share::Writable));
    assert_eq!(act(&world, GUEST, update(own[3], 20, 1 << 12 | RW)), Err(Errno::EBUSY));
    assert_eq!(act(&world, GUEST, update(own[3], 20, 1 << 12 | RO)), Ok(0));
    assert_eq!(act(&world, GUEST, update(own[3], 21, 2 << 12 | RW)), Ok(0));
    assert_eq!(act(&world, GUEST, ext(MMUEXT_PIN_L1_TABLE, 1)), Err(Errno::EINVAL));
    assert_eq!(act(&world, GUEST, Act::Release(2)), Err(Errno::EINVAL), "it is not the guest's to give");
}

/// Unpinning a big table must not hold the CPU; what is left is done before the next call.
#[test]
fn an_interrupted_release_is_finished_and_an_interrupted_pin_goes_on() {
    let world = World::new();
    let own = frames(&world, GUEST);
    for (n, index) in (5..12).zip(1..) {
        act(&world, GUEST, update(own[3], n, 0)).unwrap();
        world.sim.store64(Mfn(own[12]), index, own[n] << 12 | 7);
    }
    world.sim.hurry.store(u64::MAX, SeqCst);
    assert_eq!(act(&world, GUEST, ext(MMUEXT_PIN_L2_TABLE, own[12])), Ok(0));
    assert!(world.frames().is_table(Mfn(own[5]), 1));
    assert_eq!(act(&world, GUEST, ext(MMUEXT_UNPIN_TABLE, own[12])), Ok(0));
    assert!(!world.frames().is_table(Mfn(own[5]), 1));
}

/// The same over three levels: what is below the table that was left half-way is not forgotten.
#[test]
fn an_interrupted_release_reaches_the_lowest_tables() {
    let world = World::new();
    let own = frames(&world, GUEST);
    let (l3, l2) = (own[12], own[13]);
    for (n, index) in (5..9).zip(0..) {
        act(&world, GUEST, update(own[3], n, 0)).unwrap();
        act(&world, GUEST, update(l2, index, own[n] << 12 | 7)).unwrap();
    }
    act(&world, GUEST, update(l3, 4, l2 << 12 | 7)).unwrap();
    act(&world, GUEST, update(l3, 9, own[2] << 12 | 7)).unwrap();
    for hurry in [0, u64::MAX, 0xaaaa_aaaa_aaaa_aaaa, 0x8888_8888_8888_8888, 0x1] {
        world.sim.hurry.store(hurry, SeqCst);
        assert_eq!(act(&world, GUEST, ext(MMUEXT_PIN_L3_TABLE, l3)), Ok(0));
        assert!(world.frames().is_table(Mfn(own[5]), 1) && world.frames().is_table(Mfn(l2), 2));
        assert_eq!(act(&world, GUEST, ext(MMUEXT_UNPIN_TABLE, l3)), Ok(0));
        for mfn in [l3, l2, own[5], own[6], own[7], own[8]] {
            assert_eq!(world.frames().peek(Mfn(mfn)).unwrap().types(), 0, "hurry {hurry:#x}: {mfn:#x}");
        }
    }
}
