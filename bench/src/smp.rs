//! Rows that need several CPUs. Each prints one figure or more, and runs only when asked for by name: what they show
//! depends on how many CPUs and vCPUs the machine was given (`cargo xtask bench-smp`).

use std::io::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sys::{self, Child, Pages, Pipe};

/// A row: its name, and what measures it.
pub struct Row {
    /// As asked for and printed.
    pub name: &'static str,
    /// Prints its figures.
    pub run: fn(&str) -> Result<()>,
}

/// All of them.
pub const ROWS: &[Row] = &[
    Row { name: "ping-pong", run: ping_pong },
    Row { name: "remote-flush", run: remote_flush },
    Row { name: "wake-idle", run: |name| wake(name, 0) },
    Row { name: "wake-loaded", run: |name| wake(name, 2) },
    Row { name: "faults", run: faults },
];

fn print(name: &str, nanoseconds: f64) {
    println!("BENCH {name} {nanoseconds:.1}");
}

/// A byte from vCPU 0 to a process on vCPU 1 and back: an interrupt between vCPUs each way, and the switch between them
/// where they share a CPU.
fn ping_pong(name: &str) -> Result<()> {
    const ROUNDS: u32 = 3000;
    let (there, back) = (Pipe::new()?, Pipe::new()?);
    let child = sys::fork(|| {
        let _ = sys::run_on(1);
        while there.receive().and_then(|()| back.send()).is_ok() {}
    })?;
    sys::run_on(0)?;
    let mut start = sys::now();
    for round in 0..ROUNDS + ROUNDS / 10 {
        if round == ROUNDS / 10 {
            start = sys::now();
        }
        there.send()?;
        back.receive()?;
    }
    print(name, (sys::now() - start) as f64 / f64::from(ROUNDS));
    child.kill()
}

/// A page's protection changed by vCPU 0 while a thread of the same process computes on vCPU 1, so that its TLB must be told.
fn remote_flush(name: &str) -> Result<()> {
    const ROUNDS: u32 = 3000;
    static GO_ON: AtomicBool = AtomicBool::new(true);
    let other = std::thread::spawn(|| {
        let bound = sys::run_on(1);
        while GO_ON.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
        bound
    });
    sys::run_on(0)?;
    let mut pages = Pages::map(1)?;
    pages.touch();
    let start = sys::now();
    for round in 0..ROUNDS {
        pages.protect(round % 2 != 0)?;
    }
    print(name, (sys::now() - start) as f64 / f64::from(ROUNDS));
    GO_ON.store(false, Ordering::Relaxed);
    other.join().map_err(|_| Error::other("the thread panicked"))?
}

/// How late a sleeper on vCPU 0 wakes, while other vCPUs compute: half of the times, and 99 of 100.
fn wake(name: &str, hogs: usize) -> Result<()> {
    const ROUNDS: usize = 1000;
    const PAUSE: u64 = 2_000_000;
    let hogs: Vec<Child> = (0..hogs)
        .map(|hog| {
            sys::fork(|| {
                let _ = sys::run_on(2 + hog);
                // Computes; a `PAUSE` would be slow under emulation, and a hypervisor may take it for waiting.
                let mut sum = 0u64;
                loop {
                    sum = std::hint::black_box(sum.wrapping_mul(3) + 1);
                }
            })
        })
        .collect::<Result<_>>()?;
    sys::run_on(0)?;
    sys::no_timer_slack();
    let mut late: Vec<u64> = (0..ROUNDS)
        .map(|_| {
            let due = sys::now() + PAUSE;
            sys::sleep_until(due);
            sys::now() - due
        })
        .collect();
    late.sort_unstable();
    print(&format!("{name}-median"), late[ROUNDS / 2] as f64);
    print(&format!("{name}-p99"), late[ROUNDS * 99 / 100] as f64);
    hogs.into_iter().try_for_each(Child::kill)
}

/// Page faults of one process on each of 1, 2, 4 vCPUs at once: nanoseconds a fault, over all.
fn faults(name: &str) -> Result<()> {
    const PAGES: usize = 4096;
    const ROUNDS: usize = 4;
    sys::no_huge_pages();
    let vcpus = std::thread::available_parallelism()?.get();
    for count in [1, 2, 4].into_iter().filter(|count| *count <= vcpus) {
        let work = |cpu: usize| {
            let _ = sys::run_on(cpu);
            for _ in 0..ROUNDS {
                if let Ok(mut pages) = Pages::map(PAGES) {
                    pages.touch();
                }
            }
        };
        let start = sys::now();
        let children: Vec<Child> = (0..count).map(|cpu| sys::fork(|| work(cpu))).collect::<Result<_>>()?;
        children.into_iter().try_for_each(Child::wait)?;
        let each = (sys::now() - start) as f64 / (count * ROUNDS * PAGES) as f64;
        print(&format!("{name}-{count}"), each);
    }
    Ok(())
}
