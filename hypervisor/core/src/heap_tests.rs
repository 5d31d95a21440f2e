use super::*;
use crate::frame::Frame;
use proptest::prelude::*;
use std::vec::Vec;

fn table(frames: usize) -> Vec<Frame> {
    (0..frames).map(|_| Frame::default()).collect()
}

fn take(heap: &Heap, frames: FrameTable<'_>, order: u32, limit: u32) -> Option<u64> {
    heap.alloc(frames, order, limit).map(|fresh| fresh.mfn.0)
}

#[test]
fn what_was_given_comes_out_once_and_merges_again() {
    let table = table(1024);
    let frames = FrameTable::new(&table);
    let heap = Heap::new();
    heap.add(frames, Mfn(16), Mfn(1024));
    assert_eq!((heap.free_frames(), heap.total_frames()), (1008, 1008));
    let mut seen = Vec::new();
    while let Some(mfn) = take(&heap, frames, 0, 64) {
        assert!((16..1024).contains(&mfn) && !seen.contains(&mfn));
        seen.push(mfn);
    }
    assert_eq!((seen.len(), heap.free_frames()), (1008, 0));
    // Back in an order that merges late.
    seen.sort_by_key(|mfn| mfn.reverse_bits());
    for mfn in seen {
        heap.free(frames, Block { mfn: Mfn(mfn), order: 0, drawn: 0 }, 0);
    }
    assert_eq!(heap.free_frames(), 1008);
    assert_eq!(take(&heap, frames, 9, 64), Some(512));
    assert_eq!(take(&heap, frames, 8, 64), Some(256));
    assert_eq!(take(&heap, frames, 8, 64), None);
}

#[test]
fn an_address_limit_is_kept_and_low_memory_is_spared() {
    let table = table(1 << 10);
    let frames = FrameTable::new(&table);
    let heap = Heap::new();
    heap.add(frames, Mfn(1), Mfn(1 << 10));
    assert!(take(&heap, frames, 0, 64).is_some_and(|mfn| mfn >= 512), "the highest zone first");
    // Below 64 KiB there are frames 1 to 15.
    for _ in 1..16 {
        assert!(take(&heap, frames, 0, 16).is_some_and(|mfn| mfn < 16));
    }
    assert_eq!(take(&heap, frames, 0, 16), None);
    assert!(take(&heap, frames, 0, 64).is_some(), "others still get some");
}

#[test]
fn a_block_is_aligned_and_an_order_too_large_is_refused() {
    let table = table(256);
    let frames = FrameTable::new(&table);
    let heap = Heap::new();
    heap.add(frames, Mfn(3), Mfn(200));
    for order in 0..7 {
        if let Some(mfn) = take(&heap, frames, order, 64) {
            assert_eq!(mfn % (1 << order), 0);
        }
    }
    assert_eq!(take(&heap, frames, MAX_ORDER + 1, 64), None);
    assert_eq!(take(&heap, frames, u32::MAX, 64), None);
}

#[test]
fn used_and_io_frames_are_not_added() {
    let table = table(8);
    let frames = FrameTable::new(&table);
    frames.mark_io(Mfn(2));
    assert!(frames.publish(Mfn(3), hv_types::DomId(1)));
    let heap = Heap::new();
    heap.add(frames, Mfn(1), Mfn(8));
    heap.add(frames, Mfn(1), Mfn(8));
    assert_eq!(heap.total_frames(), 5);
}

#[test]
fn a_block_given_back_twice_is_taken_once() {
    let table = table(16);
    let frames = FrameTable::new(&table);
    let heap = Heap::new();
    heap.add(frames, Mfn(1), Mfn(16));
    let mfn = take(&heap, frames, 1, 64).unwrap();
    heap.free(frames, Block { mfn: Mfn(mfn), order: 1, drawn: 0 }, 0);
    heap.free(frames, Block { mfn: Mfn(mfn), order: 1, drawn: 0 }, 0);
    assert_eq!(heap.free_frames(), 15);
    assert!(!frames.publish(Mfn(mfn + 1), hv_types::DomId(1)), "I-FR-6: nor can a free frame be used");
}

#[test]
fn what_was_given_back_last_does_not_seem_older() {
    let table = table(16);
    let frames = FrameTable::new(&table);
    let heap = Heap::new();
    heap.add(frames, Mfn(1), Mfn(16));
    let free_at = |now| {
        let fresh = heap.alloc(frames, 0, 64).unwrap();
        heap.free(frames, fresh.block(), now);
        let fresh = heap.alloc(frames, 0, 64).unwrap();
        let seen = fresh.last_free;
        heap.free_fresh(frames, fresh);
        seen
    };
    assert_eq!(free_at(7), 7);
    assert_eq!(free_at(5), 7, "a CPU that read the clock before the other");
    assert_eq!(free_at(8), 8);
    assert_eq!(free_at(8 + (1 << 30)), 8 + (1 << 30));
    assert_eq!(free_at(1 << 31), 1 << 31);
    assert_eq!(free_at(3 << 30), 3 << 30);
    assert_eq!(free_at(2), 2, "the clock wrapped");
}

/// What is done to the heap: by whom, with how many.
#[derive(Clone, Debug)]
enum Act {
    Stake(usize, u64),
    Close(usize),
    /// A block for a claim's owner, or for anybody.
    Take(Option<usize>, u32),
    /// A block that is there comes back: published before, or as it was taken.
    Give(usize, bool),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let who = 0usize..3;
    let act = prop_oneof![
        4 => (who.clone(), 0u64..50).prop_map(|(who, frames)| Act::Stake(who, frames)),
        1 => who.clone().prop_map(Act::Close),
        6 => (prop::option::of(who), 0u32..5).prop_map(|(who, order)| Act::Take(who, order)),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(which, published)| Act::Give(which, published)),
    ];
    prop::collection::vec(act, 1..60)
}

proptest! {
    /// Whatever happens, what is promised is there, nobody else got it, and its owner gets it (I-FR-10).
    #[test]
    fn a_promise_is_kept(acts in acts()) {
        let table = table(65);
        let frames = FrameTable::new(&table);
        let heap = Heap::new();
        heap.add(frames, Mfn(1), Mfn(65));
        let claims = [Claim::new(), Claim::new(), Claim::new()];
        let mut closed = [false; 3];
        let mut out: Vec<(Option<usize>, Block)> = Vec::new();
        for act in acts {
            let before: Vec<u64> = claims.iter().map(Claim::outstanding).collect();
            let (spare, claimed) = heap.unclaimed_and_claimed();
            match act {
                Act::Stake(who, wanted) => {
                    let done = heap.stake(&claims[who], wanted);
                    prop_assert_eq!(done, !closed[who] && wanted <= before[who] + spare);
                    prop_assert_eq!(claims[who].outstanding(), if done { wanted } else { before[who] });
                }
                Act::Close(who) => {
                    heap.close(&claims[who]);
                    closed[who] = true;
                    prop_assert_eq!(heap.unclaimed_and_claimed(), (spare + before[who], claimed - before[who]));
                }
                Act::Take(who, order) => {
                    let nobody = Claim::new();
                    let (claim, promised) = who.map_or((&nobody, 0), |who| (&claims[who], before[who]));
                    let taken = heap.alloc_for(frames, order, 64, claim);
                    // A large block may be missing though there is as much in pieces.
                    prop_assert!(taken.is_none() || 1 << order <= spare + promised);
                    prop_assert!(taken.is_some() || order > 0 || spare + promised == 0);
                    if let Some(fresh) = taken {
                        prop_assert_eq!(claim.outstanding(), promised.saturating_sub(1 << order));
                        out.push((who, fresh.block()));
                    }
                }
                Act::Give(which, published) if !out.is_empty() => {
                    let (who, block) = out.swap_remove(which % out.len());
                    let drawn = u64::from(block.drawn);
                    match who {
                        Some(who) if !published => {
                            heap.free_for(frames, block, &claims[who], 0);
                            let back = if closed[who] { 0 } else { drawn };
                            prop_assert_eq!(claims[who].outstanding(), before[who] + back);
                        }
                        _ => heap.free(frames, block, 0),
                    }
                }
                Act::Give(..) => {}
            }
            let promised: u64 = claims.iter().map(Claim::outstanding).sum();
            let (spare, claimed) = heap.unclaimed_and_claimed();
            prop_assert_eq!((claimed, spare + claimed), (promised, heap.free_frames()));
            let there: u64 = out.iter().map(|(_, block)| 1 << block.order).sum();
            prop_assert_eq!(heap.free_frames() + there, 64);
        }
        // Others take what they get first.
        while heap.alloc(frames, 0, 64).is_some() {}
        for claim in &claims {
            for _ in 0..claim.outstanding() {
                prop_assert!(heap.alloc_for(frames, 0, 64, claim).is_some());
            }
            prop_assert_eq!(heap.alloc_for(frames, 0, 64, claim), None);
        }
        prop_assert_eq!(heap.free_frames(), 0);
    }
}
