//! The measured program: one static file that runs as a machine's first process, times what an operating system
//! does all day, prints a line a row and powers off.
//!
//! `cargo xtask bench` boots it with no hypervisor, on Debian's Xen and on Xenolith. Under QEMU's `-icount shift=0` an
//! instruction takes a nanosecond of `CLOCK_MONOTONIC`, so the numbers are instructions, and two runs agree to about
//! 0.3 %; without it they are times. As an ordinary process it only prints:
//! `cargo run --release -p xenolith-bench`. Arguments name the rows to measure; without any it is all.

mod counters;
mod rows;
mod smp;
mod sys;

use std::process::ExitCode;

/// The argument under which the program does nothing: the fork+exec row executes itself so.
const NOTHING: &str = "--exit";

/// Behind it stand a row's name and a program with its arguments, which is run once: `cargo xtask bench-domains`.
const TIME: &str = "--time";

fn time(name: &str, program: &str, arguments: &[String]) -> ExitCode {
    let start = sys::now();
    let ended = std::process::Command::new(program).args(arguments).status();
    let end = sys::now();
    match ended {
        Ok(status) if status.success() => {
            println!("BENCH {name} {}", end - start);
            ExitCode::SUCCESS
        }
        Ok(status) => {
            eprintln!("bench: {program}: {status}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("bench: {program}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|arg| arg == NOTHING) {
        return ExitCode::SUCCESS;
    }
    if let [option, name, program, arguments @ ..] = arguments.as_slice()
        && option == TIME
    {
        return time(name, program, arguments);
    }
    // The kernel gives its first process the options that it does not know itself, too.
    let named = |name: &str| arguments.iter().any(|argument| argument == name);
    let all = !rows::ROWS.iter().any(|row| named(row.name)) && !smp::ROWS.iter().any(|row| named(row.name));
    let first = std::process::id() == 1;
    if first && let Err(error) = set_up() {
        eprintln!("bench: {error}");
    }
    // The cycle counter began with the machine: under -icount this is the time since power-on.
    println!("BENCH-AT init {}", sys::cycles());
    // Behind a row's time: root tables loaded and TLB flushes, where somebody counts them.
    let counters = if first { counters::Counters::open() } else { None };
    let mut failed = false;
    for row in rows::ROWS.iter().filter(|row| all || named(row.name)) {
        match row.measure(counters.as_ref()) {
            Ok((nanoseconds, Some([loads, flushes]))) => {
                println!("BENCH {} {nanoseconds:.1} {loads:.2} {flushes:.2}", row.name);
            }
            Ok((nanoseconds, None)) => println!("BENCH {} {nanoseconds:.1}", row.name),
            Err(error) => {
                println!("BENCH-FAILED {} {error}", row.name);
                failed = true;
            }
        }
    }
    for row in smp::ROWS.iter().filter(|row| named(row.name)) {
        if let Err(error) = (row.run)(row.name) {
            println!("BENCH-FAILED {} {error}", row.name);
            failed = true;
        }
    }
    println!("BENCH-END");
    if first {
        sys::power_off();
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The first process finds nothing mounted.
fn set_up() -> std::io::Result<()> {
    sys::mount("proc", "/proc")?;
    sys::mount("devtmpfs", "/dev")
}
