//! `bench-domains`: what guests cost, `xl` on Debian's Xen beside `lith` on Xenolith, on the same machine with the same guest.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::bench_table::{Flags, name};
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

const BARS: Bars = Bars {
    rows: &[("create-16M", 0.33), ("destroy-16M", 0.33), ("overhead-1-kib", 0.5), ("overhead-8-kib", 0.5)],
    others: 1.0,
    more_is_better: &["guests-of-32M"],
};

/// Ratios of Xenolith to Xen.
pub struct Bars {
    /// Of rows by name.
    pub rows: &'static [(&'static str, f64)],
    /// Of all others.
    pub others: f64,
    /// Rows whose ratio must not be below the bar, instead of above.
    pub more_is_better: &'static [&'static str],
}

/// The verb.
pub fn run(args: &[String]) -> Result<ExitCode> {
    let Some((on, flags)) = Flags::parse_with_both(args, HELP)? else { return Ok(ExitCode::SUCCESS) };
    let mut columns = BTreeMap::new();
    for hypervisor in &on {
        eprintln!("measuring on {}", name(*hypervisor));
        let programs = vec![bench::program()?, guests::build()?.join("idle")];
        columns.insert(name(*hypervisor), measure(*hypervisor, SCRIPT, programs, flags.verbose)?);
    }
    let above = print_table("", &columns, &BARS);
    Ok(flags.verdict(&above))
}

/// A figure for each row.
pub type Rows = BTreeMap<String, f64>;

/// Prints the rows of both hypervisors, where they were measured, and returns those beyond their bars.
pub fn print_table(title: &str, columns: &BTreeMap<&str, Rows>, bars: &Bars) -> Vec<String> {
    let none = Rows::new();
    let column = |name| columns.get(name).unwrap_or(&none);
    let (xen, xenolith) = (column(name(Hypervisor::Xen)), column(name(Hypervisor::Xenolith)));
    let mut above = Vec::new();
    println!("{title:20}{:>14}{:>14}{:>8}{:>6}", "xen", "xenolith", "ratio", "bar");
    let shown = |value: Option<&f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
    let mut names: Vec<_> = xen.keys().chain(xenolith.keys()).collect();
    names.sort();
    names.dedup();
    for row in names {
        let (theirs, own) = (xen.get(row), xenolith.get(row));
        print!("{row:20}{:>14}{:>14}", shown(theirs), shown(own));
        if let (Some(theirs), Some(own)) = (theirs, own) {
            let ratio = own / theirs;
            let bar = bars.rows.iter().find(|bar| bar.0 == row).map_or(bars.others, |bar| bar.1);
            print!("{ratio:8.2}{bar:6.2}");
            let more_is_better = bars.more_is_better.contains(&row.as_str());
            if if more_is_better { ratio < bar } else { ratio > bar } {
                above.push(row.clone());
            }
        }
        println!();
    }
    above
}

/// Runs a script in dom0 of the machine that guests are measured on, and returns its rows.
pub fn measure(hypervisor: Hypervisor, script: &str, programs: Vec<PathBuf>, verbose: bool) -> Result<Rows> {
    let spec = Spec {
        hypervisor,
        memory: 2048,
        default_dom0_memory: true,
        append: "dom0_mem=512M,max:512M dom0_max_vcpus=1".to_owned(),
        cpu: Some("qemu64".to_owned()),
        domains: Domains::Tools,
        icount: true,
        programs,
        command: Some(script.to_owned()),
        ..Spec::default()
    };
    run_script(&spec, verbose)
}

/// Runs the command of a machine's dom0, and returns the rows that it printed as lines `BENCH NAME FIGURE`.
pub fn run_script(spec: &Spec, verbose: bool) -> Result<Rows> {
    let machine = Machine::prepare(spec)?;
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
