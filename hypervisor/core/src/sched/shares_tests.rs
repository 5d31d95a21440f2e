//! Shares across CPUs, caps and starvation, with simulated time: the queues as the machine uses them.

use super::*;
use crate::time::MILLISECOND;
use proptest::prelude::*;

#[derive(Clone, Copy)]
struct Name<'a>(usize, &'a VcpuSched);

impl Unit for Name<'_> {
    fn sched(&self) -> &VcpuSched {
        self.1
    }

    fn may_go_to(&self, _: u32) -> bool {
        true
    }

    fn prefers(&self, _: u32) -> bool {
        true
    }
}

const SECOND: u64 = 1000 * MILLISECOND;

/// CPUs that balance as the machine does: at the end of a slice a CPU takes who is further behind elsewhere, and asks a CPU
/// where nobody waits to look.
struct Cpus<'a> {
    queues: Vec<CpuQueue<Name<'a>>>,
    /// Who runs since when, and when the CPU chooses again.
    runs: Vec<(Option<usize>, u64, u64)>,
    ran: Vec<u64>,
    longest_wait: u64,
    last_ran: Vec<u64>,
    nudged: usize,
    /// So many CPUs share a cache.
    shared_by: usize,
    /// How often somebody was taken from a CPU that shares the cache, and from another.
    taken: (u32, u32),
}

impl<'a> Cpus<'a> {
    fn new(cpus: usize, scheds: &'a [VcpuSched], weights: &[u16], caps: &[u32]) -> Self {
        let mut queues: Vec<_> = (0..cpus as u32).map(CpuQueue::new).collect();
        for (who, sched) in scheds.iter().enumerate() {
            let queue = &mut queues[who % cpus];
            let slot = queue.add(Name(who, sched), weights[who], 0).unwrap();
            queue.set_cap(slot, caps[who], 0);
        }
        Cpus {
            queues,
            runs: vec![(None, 0, 0); cpus],
            ran: vec![0; scheds.len()],
            longest_wait: 0,
            last_ran: vec![0; scheds.len()],
            nudged: 0,
            shared_by: cpus,
            taken: (0, 0),
        }
    }

    fn are_near(&self, one: usize, other: usize) -> bool {
        one / self.shared_by == other / self.shared_by
    }

    fn choose(&mut self, cpu: usize, now: u64) {
        if let (Some(who), since, _) = self.runs[cpu] {
            self.ran[who] += now - since;
            self.last_ran[who] = now;
        }
        let own = self.queues[cpu].next_time(now);
        let others = (0..self.queues.len()).filter(|other| *other != cpu);
        let seen = |other: usize| Some(seen(self.queues[other].front()?, self.are_near(cpu, other)));
        let behind = others.filter_map(|other| seen(other).map(|time| (time, other))).min();
        if let Some((time, other)) = behind
            && worth_taking(own, time)
        {
            let near = self.are_near(cpu, other);
            *(if near { &mut self.taken.0 } else { &mut self.taken.1 }) += 1;
            let mut mine = std::mem::replace(&mut self.queues[cpu], CpuQueue::new(99));
            self.queues[other].give_one(&mut mine, now);
            self.queues[cpu] = mine;
        }
        let pick = self.queues[cpu].pick(now);
        let who = pick.run.map(|unit| unit.0);
        if let Some(who) = who {
            self.longest_wait = self.longest_wait.max(now - self.last_ran[who]);
        }
        self.runs[cpu] = (who, now, pick.until.unwrap_or(u64::MAX));
    }

    fn run(&mut self, until: u64) {
        let cpus = self.queues.len();
        loop {
            let (cpu, at) = (0..cpus).map(|cpu| (cpu, self.runs[cpu].2)).min_by_key(|(_, at)| *at).unwrap();
            if at >= until {
                break;
            }
            self.choose(cpu, at);
            if self.queues[cpu].has_waiting() {
                self.nudged = (self.nudged + 1) % cpus;
                let other = self.nudged;
                if other != cpu && !self.queues[other].has_waiting() {
                    self.choose(other, at);
                }
            }
        }
        (0..cpus).for_each(|cpu| self.choose(cpu, until));
    }
}

/// What each gets of `cpus` CPUs in `total` ns: by weight, nobody more than a CPU or its cap.
fn due(cpus: usize, weights: &[u16], caps: &[u32], total: u64) -> Vec<u64> {
    let most = |who: usize| if caps[who] == 0 { total } else { total * u64::from(caps[who]) / 100 };
    let mut due = vec![None; weights.len()];
    loop {
        let left = (cpus as u64 * total).saturating_sub(due.iter().flatten().sum());
        let open = (0..weights.len()).filter(|who| due[*who].is_none());
        let sum: u64 = open.clone().map(|who| u64::from(weights[who])).sum();
        let full: Vec<_> = open.filter(|who| left * u64::from(weights[*who]) >= most(*who) * sum).collect();
        if full.is_empty() {
            return (0..weights.len())
                .map(|who| due[who].unwrap_or_else(|| left * u64::from(weights[who]) / sum))
                .collect();
        }
        full.into_iter().for_each(|who| due[who] = Some(most(who)));
        if due.iter().all(Option::is_some) {
            return due.into_iter().flatten().collect();
        }
    }
}

fn busy(count: usize) -> Vec<VcpuSched> {
    (0..count).map(|_| VcpuSched::new(Reasons::empty(), 0)).collect()
}

/// 256 to 512 to 1024 over ten seconds on one CPU: less than one per cent off.
#[test]
fn three_weights_are_kept_to_one_per_cent() {
    let (scheds, weights, caps) = (busy(3), [256, 512, 1024], [0; 3]);
    let mut cpus = Cpus::new(1, &scheds, &weights, &caps);
    cpus.run(10 * SECOND);
    for (who, due) in due(1, &weights, &caps, 10 * SECOND).into_iter().enumerate() {
        assert!(cpus.ran[who].abs_diff(due) < due / 100, "{who}: {} of {due}", cpus.ran[who]);
    }
}

/// Two caches of two CPUs, three vCPUs at each: shares hold without anybody leaving his cache.
#[test]
fn who_need_not_leaves_no_cache() {
    let (scheds, weights, caps) = (busy(6), [256; 6], [0; 6]);
    let mut cpus = Cpus::new(4, &scheds, &weights, &caps);
    cpus.shared_by = 2;
    // From 0 and 1, two and one, and the same at the other cache.
    let mut far = std::mem::replace(&mut cpus.queues[2], CpuQueue::new(99));
    cpus.queues[1].give_one(&mut far, 0);
    cpus.queues[2] = far;
    cpus.run(10 * SECOND);
    let (near, far) = cpus.taken;
    assert!(near > 100 && far == 0, "{near} {far}");
    for (who, due) in due(4, &weights, &caps, 10 * SECOND).into_iter().enumerate() {
        assert!(cpus.ran[who].abs_diff(due) < due / 50, "{who}: {} of {due}", cpus.ran[who]);
    }
}

/// A vCPU that waits keeps what it is owed when another CPU takes it; one that sleeps has saved nothing up.
#[test]
fn who_is_taken_is_owed_no_less() {
    let scheds = busy(3);
    let name = |who: usize| Name(who, &scheds[who]);
    let (mut here, mut there) = (CpuQueue::new(0), CpuQueue::new(1));
    here.add(name(0), 256, 0).unwrap();
    let sleeper = here.add(name(1), 256, 0).unwrap();
    there.add(name(2), 256, 0).unwrap();
    let now = 50 * MILLISECOND;
    there.pick(0);
    there.pick(now);
    assert_eq!((there.floor(), here.front()), (now, Some(0)));

    scheds[1].hold(Reasons::BLOCKED);
    here.sleep(sleeper, now);
    assert_eq!(here.give_one(&mut there, now).map(|unit| unit.0), Some(0));
    assert_eq!(there.front(), Some(0), "it waited");
    // It wakes on its way.
    scheds[1].release(Reasons::BLOCKED);
    here.give(sleeper, &mut there, now).unwrap();
    there.pick(now);
    assert_eq!(there.front(), Some(now - 5 * MILLISECOND), "it slept");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// Whatever the weights and the CPUs: after ten seconds everybody has what is due, to one per cent and a few slices,
    /// and nobody waited much longer than his share explains.
    #[test]
    fn shares_hold_across_cpus(
        cpus in 1usize..5,
        shared_by in 1usize..5,
        weights in prop::collection::vec(64u16..1024, 1..9),
    ) {
        let (scheds, caps) = (busy(weights.len()), vec![0; weights.len()]);
        let mut machine = Cpus::new(cpus, &scheds, &weights, &caps);
        machine.shared_by = shared_by;
        machine.run(10 * SECOND);
        for (who, due) in due(cpus, &weights, &caps, 10 * SECOND).into_iter().enumerate() {
            let ran = machine.ran[who];
            prop_assert!(ran.abs_diff(due) <= due / 100 + 60 * MILLISECOND, "{}: {} of {}", who, ran, due);
        }
        let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        let patience = 60 * MILLISECOND * sum / u64::from(*weights.iter().min().unwrap()) + 60 * MILLISECOND;
        prop_assert!(machine.longest_wait <= patience, "{} of {}", machine.longest_wait, patience);
        let worked: u64 = machine.ran.iter().sum();
        prop_assert_eq!(worked, cpus.min(weights.len()) as u64 * 10 * SECOND, "a CPU idled while somebody waited");
    }

    /// A cap is an upper bound to one per cent, and on one CPU what it leaves goes to the others. (On several, two with a cap can
    /// run beside each other while a third waits for both.)
    #[test]
    fn caps_bound(cpus in 1usize..4, caps in prop::collection::vec(0u32..100, 1..6)) {
        let (scheds, weights) = (busy(caps.len()), vec![256; caps.len()]);
        let mut machine = Cpus::new(cpus, &scheds, &weights, &caps);
        machine.run(10 * SECOND);
        for (who, due) in due(cpus, &weights, &caps, 10 * SECOND).into_iter().enumerate() {
            let ran = machine.ran[who];
            if caps[who] != 0 {
                let most = 10 * SECOND / 100 * u64::from(caps[who]);
                prop_assert!(ran <= most + most / 100 + 10 * MILLISECOND, "{}: {} of {}", who, ran, most);
            }
            prop_assert!(cpus > 1 || ran + due / 20 + 100 * MILLISECOND >= due, "{}: {} of {}", who, ran, due);
        }
    }
}
