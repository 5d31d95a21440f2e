//! Which CPU a vCPU goes to: threads of one core share its units, and what a vCPU has in a cache it finds again only on CPUs that
//! share it.

use crate::mmu::CpuSet;
use crate::time::MILLISECOND;

/// How much further behind a vCPU must be that waits where no cache is shared.
const FAR_LEAD: u64 = 5 * MILLISECOND;

/// The virtual time of a vCPU that waits on another CPU, as a CPU sees it that looks for somebody to take. `near`: the two share a
/// cache.
pub const fn seen(theirs: u64, near: bool) -> u64 {
    if near { theirs } else { theirs.saturating_add(FAR_LEAD) }
}

/// The idle CPU that a vCPU which wakes goes to, of those on which it may run: rather one whose core has nothing to do, then rather one
/// that is `near` where it ran last.
///
/// `siblings` answers the threads of a CPU's core; `idle` and `busy` are all CPUs that do nothing, and those that do something.
pub fn idle_cpu(
    idle: &CpuSet,
    busy: &CpuSet,
    may: &CpuSet,
    near: &CpuSet,
    siblings: impl Fn(u32) -> CpuSet,
) -> Option<u32> {
    let all = idle.intersection(may);
    let close = all.intersection(near);
    let is_whole = |cpu: &u32| siblings(*cpu).intersection(busy).is_empty();
    let whole = close.iter().chain(all.iter()).find(is_whole);
    whole.or_else(|| close.first()).or_else(|| all.first())
}

/// The CPU that a vCPU had better go to which wakes at `home`, where nobody runs: if another thread of that core is busy, one of a core
/// that has nothing to do and is near. Further away it would miss more of what is in the cache than it gains.
pub fn idle_core(
    home: u32,
    idle: &CpuSet,
    busy: &CpuSet,
    may: &CpuSet,
    near: &CpuSet,
    siblings: impl Fn(u32) -> CpuSet,
) -> Option<u32> {
    let is_whole = |cpu: &u32| siblings(*cpu).intersection(busy).is_empty();
    let mut others = *busy;
    others.remove(home);
    if siblings(home).intersection(&others).is_empty() {
        return None;
    }
    idle.intersection(may).intersection(near).iter().find(is_whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::topology::Topology;
    use proptest::prelude::*;

    const CPUS: u32 = 16;

    fn set(bits: u16) -> CpuSet {
        let mut set = CpuSet::EMPTY;
        (0..CPUS).filter(|cpu| bits >> cpu & 1 != 0).for_each(|cpu| set.insert(cpu));
        set
    }

    /// CPUs of a machine that are like `cpu` in something.
    fn alike<T: PartialEq>(cpu: u32, what: impl Fn(u32) -> T) -> CpuSet {
        let mut set = CpuSet::EMPTY;
        (0..CPUS).filter(|other| what(*other) == what(cpu)).for_each(|other| set.insert(other));
        set
    }

    proptest! {
        /// The answer is an idle CPU of the affinity if there is one, and no other is better.
        #[test]
        fn the_best_idle_cpu_is_found(
            (thread_bits, cache_bits) in (0u32..3).prop_flat_map(|threads| (Just(threads), threads..5)),
            (idle, offline, may, home) in (any::<u16>(), any::<u16>(), any::<u16>(), 0..CPUS),
        ) {
            let topology = Topology { thread_bits, cache_bits, socket_bits: 4 };
            let siblings = |cpu| alike(cpu, |cpu| topology.place(cpu).core);
            let near = alike(home, |cpu| topology.place(cpu).cache);
            let busy = set(!idle & !offline);
            let (idle, may) = (set(idle), set(may));
            let worse = |cpu: u32| (!siblings(cpu).intersection(&busy).is_empty(), !near.contains(cpu));
            let candidates = (0..CPUS).filter(|cpu| idle.contains(*cpu) && may.contains(*cpu));
            let best = candidates.clone().map(worse).min();
            let found = idle_cpu(&idle, &busy, &may, &near, siblings);
            prop_assert_eq!(found.map(worse), best);
            prop_assert!(found.is_none_or(|cpu| candidates.clone().any(|candidate| candidate == cpu)));

            let core = idle_core(home, &idle, &busy, &may, &near, siblings);
            let crowded = siblings(home).iter().any(|cpu| cpu != home && busy.contains(cpu));
            let mut cores = candidates.clone().filter(|cpu| worse(*cpu) == (false, false));
            prop_assert_eq!(core.is_some(), crowded && cores.clone().next().is_some());
            prop_assert!(core.is_none_or(|core| cores.any(|cpu| cpu == core)));
        }
    }

    #[test]
    fn an_idle_core_comes_before_an_idle_thread_and_then_the_cache() {
        // Two caches of two cores of two threads; CPU 0 runs something, and so did the vCPU there.
        let siblings = |cpu: u32| alike(cpu, |cpu| cpu / 2);
        let (near, may) = (set(0b1111), set(0b1111_1111));
        let find = |busy: u16| idle_cpu(&set(0xff & !busy), &set(busy), &may, &near, siblings);
        assert_eq!(find(0b0000_0001), Some(2), "the other core of the same cache");
        assert_eq!(find(0b0000_0101), Some(4), "an idle core, though elsewhere");
        assert_eq!(find(0b0101_0101), Some(1), "with no idle core, a thread that shares the cache");
        assert_eq!(find(0b0101_1111), Some(5), "with none that does, any");
        assert_eq!(find(0b1111_1111), None);
    }

    #[test]
    fn a_busy_thread_beside_home_drives_a_vcpu_to_an_idle_core_of_the_same_cache() {
        let siblings = |cpu: u32| alike(cpu, |cpu| cpu / 2);
        let find = |busy: u16, may: u16| {
            idle_core(0, &set(0xff & !busy), &set(busy), &set(may), &set(0b1111), siblings)
        };
        assert_eq!(find(0b0010, 0xff), Some(2));
        assert_eq!(find(0b0010, 0b1011), Some(3), "where it may run");
        assert_eq!(find(0b0100, 0xff), None, "nobody is beside it");
        assert_eq!(find(0b0001, 0xff), None, "its own CPU is not beside it");
        assert_eq!(find(0b0110, 0xff), None, "the other core has something to do, and the next is far");
    }

    #[test]
    fn who_waits_far_away_has_to_be_further_behind() {
        assert_eq!((seen(7, true), seen(7, false)), (7, 7 + FAR_LEAD));
        assert_eq!(seen(u64::MAX, false), u64::MAX);
    }
}
