//! `cargo xtask VERB`.

use anyhow::{Result, bail};
use std::process::ExitCode;
use xtask::{
    bench, bench_data, bench_domains, bench_guest, bench_smp, build, guests, image, run, setup, stats, test,
};

const HELP: &str = "\
usage: cargo xtask VERB [ARGUMENT]...

  setup   install what the other verbs need
  build   the hypervisor, to target/xenolith, checked
  image   kernels, initramfs, root disk, into the user's cache
  run     a machine in QEMU; `run --help`
  guests  the claim guests, compared with Debian's Xen; `guests --help`
  test    everything CI runs; `test STEP` runs one of format, hypervisor, lint, host, guests, system
  stats   lines of code and unsafe blocks, room by room
  bench   operations of the system timed on no hypervisor, Xen and Xenolith; `bench --help`
  bench-smp    IPIs, TLB shootdown, wake-up, scaling on several CPUs, on Xen and Xenolith
  bench-domains  what guests cost, by lith on Xenolith and by xl on Xen
  bench-data   disks, network, grants, events, the store and programs of guests, on Xen and Xenolith
  bench-guest  hypercalls, exceptions and emulation timed on Xen and Xenolith; `bench-guest --help`
";

fn main() -> ExitCode {
    match dispatch() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(125)
        }
    }
}

fn dispatch() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((verb, args)) = args.split_first() else {
        print!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    };
    match verb.as_str() {
        "setup" => setup::run(args)?,
        "build" => build::run(args)?,
        "image" => image::run(args)?,
        "run" => return run::run(args),
        "guests" => return guests::run(args),
        "bench" => return bench::run(args),
        "bench-guest" => return bench_guest::run(args),
        "bench-smp" => return bench_smp::run(args),
        "bench-data" => return bench_data::run(args),
        "bench-domains" => return bench_domains::run(args),
        "test" => test::run(args)?,
        "stats" => stats::run(args)?,
        "help" | "--help" | "-h" => print!("{HELP}"),
        _ => bail!("no verb is called {verb}\n{HELP}"),
    }
    Ok(ExitCode::SUCCESS)
}
