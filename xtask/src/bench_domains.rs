//! `bench-domains`: what guests cost, `xl` on Debian's Xen beside `lith` on Xenolith, on the same machine with the same guest.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::bench_table::{hypervisors, name};
use crate::console::Console;
use crate::machine::{Domains, Hypervisor, Machine, Spec};
use crate::{bench, guests};

const HELP: &str = "\
usage: cargo xtask bench-domains [OPTION]...

Makes and destroys guests that do nothing, in dom0 of a machine of 2 GiB of which dom0 has 512 MiB, by `xl` on Debian's Xen
4.17 and by `lith` on Xenolith, and prints what each step takes in instructions (QEMU's -icount: one a nanosecond of virtual
time), the memory that a guest costs beyond its own, and how many guests of 32 MiB there is room for.

  --on LIST       xen, xenolith (both)
  --check         fail if a ratio is above its bar
  --verbose       print each serial line
";
/// One instruction at a time, and Xen's tools take many.
const TIME_LIMIT: Duration = Duration::from_secs(1500);
const SCRIPT: &str = include_str!("bench_domains.sh");

/// Ratios of Xenolith to Xen that must not be exceeded. Guests that fit are better the more there are.
const BARS: &[(&str, f64)] =
    &[("create-16M", 0.33), ("destroy-16M", 0.33), ("overhead-1-kib", 0.5), ("overhead-8-kib", 0.5)];
/// The row of which more is better.
const MORE_IS_BETTER: &str = "guests-of-32M";

/// The verb.
pub fn run(args: &[String]) -> Result<ExitCode> {
    let (mut on, mut check, mut verbose) = (vec![Hypervisor::Xen, Hypervisor::Xenolith], false, false);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--on" => on = hypervisors(args.next().context("--on needs a list")?, &on)?,
            "--check" => check = true,
            "--verbose" => verbose = true,
            "--help" | "-h" => {
                print!("{HELP}");
                return Ok(ExitCode::SUCCESS);
            }
            _ => bail!("unknown option {arg}\n{HELP}"),
        }
    }
    let mut columns = BTreeMap::new();
    for hypervisor in &on {
        eprintln!("measuring on {}", name(*hypervisor));
        columns.insert(name(*hypervisor), measure(*hypervisor, verbose)?);
    }
    let above = print_table(&columns);
    if !above.is_empty() {
        println!("above their bars: {}", above.join(", "));
    }
    Ok(ExitCode::from(u8::from(check && !above.is_empty())))
}

type Rows = BTreeMap<String, f64>;

fn print_table(columns: &BTreeMap<&str, Rows>) -> Vec<String> {
    let none = Rows::new();
    let column = |name| columns.get(name).unwrap_or(&none);
    let (xen, xenolith) = (column(name(Hypervisor::Xen)), column(name(Hypervisor::Xenolith)));
    let mut above = Vec::new();
    println!("{:20}{:>14}{:>14}{:>8}{:>6}", "", "xen", "xenolith", "ratio", "bar");
    let shown = |value: Option<&f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
    let mut names: Vec<_> = xen.keys().chain(xenolith.keys()).collect();
    names.sort();
    names.dedup();
    for row in names {
        let (theirs, own) = (xen.get(row), xenolith.get(row));
        print!("{row:20}{:>14}{:>14}", shown(theirs), shown(own));
        if let (Some(theirs), Some(own)) = (theirs, own) {
            let ratio = own / theirs;
            let bar = BARS.iter().find(|bar| bar.0 == row).map_or(1.0, |bar| bar.1);
            print!("{ratio:8.2}{bar:6.2}");
            if if row == MORE_IS_BETTER { ratio < bar } else { ratio > bar } {
                above.push(row.clone());
            }
        }
        println!();
    }
    above
}

fn measure(hypervisor: Hypervisor, verbose: bool) -> Result<Rows> {
    let programs = vec![bench::program()?, guests::build()?.join("idle")];
    let spec = Spec {
        hypervisor,
        memory: 2048,
        default_dom0_memory: true,
        append: "dom0_mem=512M,max:512M dom0_max_vcpus=1".to_owned(),
        cpu: Some("qemu64".to_owned()),
        domains: Domains::Tools,
        icount: true,
        programs,
        command: Some(SCRIPT.to_owned()),
        ..Spec::default()
    };
    let machine = Machine::prepare(&spec)?;
    let mut console = Console::start(machine.command(false))?;
    let mut lines = Vec::new();
    let done = console.run_command(TIME_LIMIT, |line| lines.push(line.to_owned()));
    if verbose || done.is_err() {
        eprintln!("--- the serial line ---\n{}\n--- end ---", console.transcript().trim_end());
    }
    let status = done.context("the script did not end; the serial line is above")?;
    ensure!(status == 0, "the script failed:\n{}", lines.join("\n"));
    Ok(rows(&lines))
}

/// The median of each row's figures.
fn rows(lines: &[String]) -> Rows {
    let mut figures: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for line in lines.iter().filter_map(|line| line.strip_prefix("BENCH ")) {
        if let Some((name, figure)) = line.split_once(' ')
            && let Ok(figure) = figure.trim().parse()
        {
            figures.entry(name.to_owned()).or_default().push(figure);
        }
    }
    figures.into_iter().filter_map(|(name, figures)| Some((name, median(figures)?))).collect()
}

fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_the_median_of_its_lines() {
        let lines = ["BENCH a 1", "x", "BENCH a 9", "BENCH a 3", "BENCH b 7"].map(str::to_owned);
        assert_eq!(rows(&lines), Rows::from([("a".to_owned(), 3.0), ("b".to_owned(), 7.0)]));
    }
}
