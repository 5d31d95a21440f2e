use super::*;
use crate::frame::Frame;
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
        heap.free(frames, Block { mfn: Mfn(mfn), order: 0 }, 0);
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
    heap.free(frames, Block { mfn: Mfn(mfn), order: 1 }, 0);
    heap.free(frames, Block { mfn: Mfn(mfn), order: 1 }, 0);
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
        heap.free(frames, Block { mfn: fresh.mfn, order: 0 }, now);
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
