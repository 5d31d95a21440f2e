use super::*;
use std::vec::Vec;

fn ranges(set: &RangeSet) -> Vec<(u64, u64)> {
    set.iter().collect()
}

#[test]
fn neighbours_merge_and_holes_split() {
    let mut set = RangeSet::new();
    set.insert(10, 19).unwrap();
    set.insert(30, 39).unwrap();
    assert_eq!(ranges(&set), [(10, 19), (30, 39)]);
    set.insert(20, 29).unwrap();
    assert_eq!(ranges(&set), [(10, 39)]);
    set.remove(15, 17).unwrap();
    assert_eq!(ranges(&set), [(10, 14), (18, 39)]);
    assert!(set.contains(10, 14) && !set.contains(10, 15) && set.touches(14, 17) && !set.touches(15, 17));
    set.remove(0, u64::MAX).unwrap();
    assert!(set.is_empty());
}

#[test]
fn against_a_set_of_numbers() {
    let mut set = RangeSet::new();
    let mut plain = [false; 64];
    let mut seed = 1u64;
    for _ in 0..3000 {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let (first, length, add) = (seed >> 33 & 63, seed >> 40 & 7, seed >> 50 & 1 != 0);
        let last = (first + length).min(63);
        plain[first as usize..=last as usize].fill(add);
        if add {
            set.insert(first, last).unwrap()
        } else {
            set.remove(first, last).unwrap()
        }
        for (number, &inside) in plain.iter().enumerate() {
            assert_eq!(set.contains(number as u64, number as u64), inside);
        }
    }
}

#[test]
fn a_full_set_refuses_and_stays_as_it_was() {
    let mut set = RangeSet::new();
    let mut n = 0;
    while set.insert(n * 4, n * 4 + 2).is_ok() {
        n += 1;
    }
    assert_eq!(n as usize, RANGES);
    let before = ranges(&set);
    assert_eq!(set.remove(1, 1), Err(Errno::ENOMEM));
    assert_eq!(set.insert(5, 3), Err(Errno::EINVAL));
    assert_eq!(ranges(&set), before);
}

#[test]
fn no_more_pages_than_allowed() {
    let domain = DomainMemory::new(DomId(1), false);
    domain.max_pages.store(3, Ordering::Relaxed);
    assert!(domain.charge(2) && !domain.charge(2) && domain.charge(1) && !domain.charge(u64::MAX));
    domain.uncharge(3);
    assert_eq!(domain.pages(), 0);
}
