//! `bench-guest`: the hypervisor's short paths, measured by a tiny guest on Debian's Xen and on Xenolith, as instructions
//! an operation, with the ratios and the bars that they are held to.

use crate::bench_table::Flags;
use crate::guests::{Answer, On, Options, Runner};
use anyhow::{Context, Result, bail, ensure};
use std::process::ExitCode;

const GUEST: &str = "measure";
const HELP: &str = "\
usage: cargo xtask bench-guest [OPTION]...

Boots tests/guests' `measure` as dom0's kernel on Debian's Xen 4.17 and on Xenolith under QEMU's -icount, and prints
what each operation takes, in instructions, and the ratio. The last rows are the instructions from the hypervisor's
first one to dom0's, waits included, and the memory that the hypervisor keeps, in KiB, on machines of 512 MiB and 2 GiB.
A `bar` is the ratio that must not be exceeded.

  --on LIST       xen,xenolith (both)
  --cpu MODEL     QEMU's CPU model (qemu64)
  --memory MIB    memory of the machine for the operations (512)
  --append OPTIONS  more options for the hypervisor; with `loglvl=info --verbose` Xenolith's log says how long it took
                  and how much memory it keeps
  --check         fail if a ratio is above its bar
  --verbose       print the serial lines
";

/// Machines, in MiB, on which the start is looked at; dom0 has what it gets when nobody says how much.
const SIZES: [u32; 2] = [512, 2048];

/// Ratios that must not be exceeded; for the rest 1.00.
const BARS: [(&str, f64); 9] = [
    ("unimplemented", 0.60),
    ("mmu_update_batch", 0.60),
    ("mmu_update_batch_same", 0.60),
    ("pin_unpin_l1", 0.60),
    ("page_fault_iret", 0.60),
    ("ptwr", 0.50),
    ("entry_to_dom0_512M", 0.25),
    ("entry_to_dom0_2048M", 0.25),
    ("kept_kib_2048M", 0.65),
];

fn bar(row: &str) -> f64 {
    BARS.iter().find(|bar| bar.0 == row).map_or(1.0, |bar| bar.1)
}

type Rows = Vec<(String, u64)>;

/// The verb.
pub fn run(args: &[String]) -> Result<ExitCode> {
    let mut options = Options { icount: true, ..Options::default() };
    let mut on = vec![On::Xen, On::Xenolith];
    let flags = Flags::parse(args, HELP, |option, value| {
        match option {
            "--on" => on = value()?.split(',').map(hypervisor).collect::<Result<_>>()?,
            "--cpu" => options.cpu = value()?,
            "--memory" => options.memory = value()?.parse().context("--memory needs MiB")?,
            "--append" => options.append = value()?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let Some(flags) = flags else { return Ok(ExitCode::SUCCESS) };
    let mut columns = Vec::new();
    for on in on {
        columns.push((on, measure(&Options { on, ..options.clone() }, flags.verbose)?));
    }
    let (text, above) = table(&columns);
    print!("{text}");
    Ok(flags.verdict(&above))
}

/// All rows of one hypervisor: the short paths on the machine that was asked for, the start on all sizes.
fn measure(options: &Options, verbose: bool) -> Result<Rows> {
    let mut all = run_on(options.memory, options, verbose)?;
    for memory in SIZES.into_iter().filter(|memory| *memory != options.memory) {
        let rows = run_on(memory, options, verbose)?;
        all.extend(rows.into_iter().filter(|row| row.0.ends_with(&size(memory))));
    }
    Ok(all)
}

fn run_on(memory: u32, options: &Options, verbose: bool) -> Result<Rows> {
    let answer = Runner::new(Options { memory, ..options.clone() })?.run(GUEST)?;
    if verbose || !answer.whole {
        eprintln!("--- the serial line ---\n{}\n--- end ---", answer.transcript.trim_end());
    }
    ensure!(answer.whole, "the measurement did not end on {:?}; the serial line is above", options.on);
    let mut all = rows(&answer.lines)?;
    all.extend(start_rows(&answer, memory)?);
    Ok(all)
}

/// How a row of a machine of some memory ends.
fn size(memory: u32) -> String {
    format!("_{memory}M")
}

/// From the hypervisor's first instruction to the guest's, and the memory that the hypervisor keeps.
fn start_rows(answer: &Answer, memory: u32) -> Result<[(String, u64); 2]> {
    let line = |mark: &str| -> Result<u64> {
        let text = answer.lines.lines().find_map(|line| line.strip_prefix(mark));
        Ok(text.with_context(|| format!("no line {mark}"))?.trim().parse()?)
    };
    let entered = answer.entered.context("nobody noted when the hypervisor began")?;
    let start =
        line("BENCH-START ")?.checked_sub(entered).context("the guest began before the hypervisor")?;
    let named = |name: &str, number| (format!("{name}{}", size(memory)), number);
    Ok([named("entry_to_dom0", start), named("kept_kib", line("BENCH-KEPT ")?)])
}

fn hypervisor(text: &str) -> Result<On> {
    match text {
        "xen" => Ok(On::Xen),
        "xenolith" => Ok(On::Xenolith),
        _ => bail!("{text} is not one of xen, xenolith"),
    }
}

fn rows(lines: &str) -> Result<Rows> {
    let rows = lines.lines().filter_map(|line| line.strip_prefix("BENCH "));
    rows.map(|row| {
        let (name, number) = row.split_once(' ').with_context(|| format!("bad row {row}"))?;
        Ok((name.to_owned(), number.trim().parse().with_context(|| format!("bad row {row}"))?))
    })
    .collect()
}

/// The table, and the rows above their bars.
fn table(columns: &[(On, Rows)]) -> (String, Vec<String>) {
    let column = |on| columns.iter().find(|column| column.0 == on).map(|column| &column.1);
    let cell = |on, name: &str| {
        let row = column(on)?.iter().find(|row| row.0 == name)?;
        Some(row.1)
    };
    let show = |number: Option<u64>| number.map_or("-".to_owned(), |n| n.to_string());
    let mut text =
        format!("{:<26}{:>12}{:>12}{:>8}{:>6}\n", "instructions", "xen", "xenolith", "ratio", "bar");
    let mut above = Vec::new();
    for (name, _) in columns.first().map_or(&[][..], |column| &column.1) {
        let (xen, xenolith) = (cell(On::Xen, name), cell(On::Xenolith, name));
        let ratio = xen.zip(xenolith).map(|(xen, xenolith)| xenolith as f64 / xen as f64);
        if ratio.is_some_and(|ratio| ratio > bar(name)) {
            above.push(name.clone());
        }
        let shown = ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        let (xen, xenolith) = (show(xen), show(xenolith));
        text += &format!("{name:<26}{xen:>12}{xenolith:>12}{shown:>8}{:>6.2}\n", bar(name));
    }
    (text, above)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_ratios_and_names_rows_above_their_bars() {
        let xen = rows("BENCH unimplemented 300\nother\nBENCH xen_version 400\n").unwrap();
        let ours = rows("BENCH unimplemented 200\nBENCH xen_version 300\n").unwrap();
        let (text, above) = table(&[(On::Xen, xen), (On::Xenolith, ours)]);
        assert_eq!(above, ["unimplemented"], "0.67 is above 0.60, 0.75 is not above 1.00");
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["unimplemented", "300", "200", "0.67", "0.60"]);
        assert_eq!(lines[2], ["xen_version", "400", "300", "0.75", "1.00"]);
        assert!(rows("BENCH x y\n").is_err());
    }
}
