//! The rows of the table.

use std::fs::OpenOptions;
use std::io::{Error, Result, Write};

use crate::NOTHING;
use crate::counters::Counters;
use crate::sys::{self, Pages, Pipe, Program};

/// One operation and how often it is done.
pub struct Row {
    /// As printed.
    pub name: &'static str,
    rounds: u32,
    /// Does the operation so often and returns the nanoseconds that it took all in all.
    run: fn(u32) -> Result<u64>,
}

impl Row {
    /// Nanoseconds an operation, after a tenth of the rounds to warm up, and what the hypervisor counted in them: root
    /// tables loaded, TLB flushes.
    pub fn measure(&self, counters: Option<&Counters>) -> Result<(f64, Option<[f64; 2]>)> {
        (self.run)(self.rounds.div_ceil(10))?;
        let before = counters.map(Counters::read).transpose()?;
        let nanoseconds = (self.run)(self.rounds)? as f64 / f64::from(self.rounds);
        let after = counters.map(Counters::read).transpose()?;
        let counted = before.zip(after).map(|(before, after)| after.since(before, self.rounds));
        Ok((nanoseconds, counted))
    }
}

/// All rows, in the order of the table.
pub const ROWS: &[Row] = &[
    Row { name: "getpid", rounds: 100_000, run: getpid },
    Row { name: "write-null", rounds: 100_000, run: write_null },
    Row { name: "gettimeofday", rounds: 100_000, run: gettimeofday },
    Row { name: "page-fault", rounds: 8192, run: page_fault },
    Row { name: "mmap-munmap-1", rounds: 4000, run: |rounds| map_and_unmap(rounds, 1) },
    Row { name: "mmap-munmap-64", rounds: 200, run: |rounds| map_and_unmap(rounds, 64) },
    Row { name: "mprotect", rounds: 20_000, run: mprotect },
    Row { name: "fork-exit", rounds: 200, run: fork_exit },
    Row { name: "fork-exec", rounds: 100, run: fork_exec },
    Row { name: "pipe-round-trip", rounds: 4000, run: pipe_round_trip },
    Row { name: "signal", rounds: 20_000, run: signal },
    Row { name: "thread", rounds: 1000, run: thread },
    Row { name: "nanosleep-50us", rounds: 1000, run: nanosleep },
];

/// Times `operation`, done so often.
fn time(rounds: u32, mut operation: impl FnMut() -> Result<()>) -> Result<u64> {
    let start = sys::now();
    for _ in 0..rounds {
        operation()?;
    }
    Ok(sys::now() - start)
}

fn getpid(rounds: u32) -> Result<u64> {
    time(rounds, || {
        sys::getpid();
        Ok(())
    })
}

fn write_null(rounds: u32) -> Result<u64> {
    let mut null = OpenOptions::new().write(true).open("/dev/null")?;
    time(rounds, || null.write_all(b"x"))
}

fn gettimeofday(rounds: u32) -> Result<u64> {
    time(rounds, || {
        sys::gettimeofday();
        Ok(())
    })
}

fn page_fault(rounds: u32) -> Result<u64> {
    sys::no_huge_pages();
    let mut pages = Pages::map(rounds as usize)?;
    time(1, || {
        pages.touch();
        Ok(())
    })
}

fn map_and_unmap(rounds: u32, count: usize) -> Result<u64> {
    time(rounds, || {
        Pages::map(count)?.touch();
        Ok(())
    })
}

/// One page that is there, its protection changed to and fro.
fn mprotect(rounds: u32) -> Result<u64> {
    let mut pages = Pages::map(1)?;
    pages.touch();
    let mut writable = true;
    time(rounds, || {
        writable = !writable;
        pages.protect(writable)
    })
}

fn fork_exit(rounds: u32) -> Result<u64> {
    time(rounds, || sys::fork(|| {})?.wait())
}

fn fork_exec(rounds: u32) -> Result<u64> {
    let path = std::env::current_exe()?;
    let path = path.to_str().ok_or(Error::other("the program's path is not text"))?;
    let program = Program::new(&[path, NOTHING])?;
    time(rounds, || sys::fork(|| program.exec())?.wait())
}

/// A byte to another process and one back.
fn pipe_round_trip(rounds: u32) -> Result<u64> {
    let (there, back) = (Pipe::new()?, Pipe::new()?);
    let child = sys::fork(|| {
        for _ in 0..rounds {
            if there.receive().and_then(|()| back.send()).is_err() {
                return;
            }
        }
    })?;
    let taken = time(rounds, || {
        there.send()?;
        back.receive()
    })?;
    child.wait()?;
    Ok(taken)
}

fn signal(rounds: u32) -> Result<u64> {
    sys::catch_signal(libc::SIGUSR1)?;
    time(rounds, || sys::raise(libc::SIGUSR1))
}

fn thread(rounds: u32) -> Result<u64> {
    time(rounds, || std::thread::spawn(|| {}).join().map_err(|_| Error::other("the thread panicked")))
}

fn nanosleep(rounds: u32) -> Result<u64> {
    time(rounds, || {
        sys::nanosleep(50_000);
        Ok(())
    })
}
