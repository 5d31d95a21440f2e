//! `bench-smp`: what several CPUs add, on Debian's Xen and on Xenolith, in one go.
//!
//! `-icount` serves one CPU only: what one CPU shows is counted in instructions, once. The rest are wall times of a machine that
//! others use as well: each boot is repeated, Xen and Xenolith by turns, and the median of each row counts. Only the ratio
//! means something, and of it not too much: QEMU's own timers and its cache of translations are in every figure.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::bench::{POWER_ON, initramfs, measure};
use crate::bench_table::Flags;
use crate::machine::{Domains, Hypervisor, Spec};
use crate::{bench_domains, guests};

const HELP: &str = "\
usage: cargo xtask bench-smp [OPTION]...

Boots bench/'s program on machines with several CPUs, on Debian's Xen 4.17 and on Xenolith by turns, and prints the
median of each row in nanoseconds and the ratio. Then three guests that spin share a CPU by their weights.

  --rounds N      how often each machine is booted (3)
  --check         fail if a ratio is above its bar
  --verbose       print each serial line
";

/// A machine, and what is measured on it.
struct Setting {
    title: &'static str,
    cpus: u32,
    vcpus: u32,
    icount: bool,
    rows: &'static str,
}

const SETTINGS: [Setting; 5] = [
    Setting { title: "2 vCPUs on 1 CPU, instructions", cpus: 1, vcpus: 2, icount: true, rows: "ping-pong" },
    Setting { title: "4 vCPUs on 1 CPU, instructions", cpus: 1, vcpus: 4, icount: true, rows: "wake-loaded" },
    Setting {
        title: "2 vCPUs on 2 CPUs",
        cpus: 2,
        vcpus: 2,
        icount: false,
        rows: "ping-pong remote-flush wake-idle",
    },
    Setting { title: "4 vCPUs on 2 CPUs", cpus: 2, vcpus: 4, icount: false, rows: "wake-loaded" },
    Setting { title: "4 vCPUs on 4 CPUs", cpus: 4, vcpus: 4, icount: false, rows: "faults" },
];

impl Setting {
    /// Ratio of Xenolith to Xen that a row may have. How late a loaded machine wakes somebody is the scheduler's doing where
    /// instructions are counted; of the wall time the greater part is QEMU's, for either hypervisor.
    fn bar(&self, row: &str) -> f64 {
        if self.icount && row.starts_with("wake-loaded") { 0.5 } else { 1.0 }
    }
}

/// The verb.
pub fn run(args: &[String]) -> Result<ExitCode> {
    let mut rounds = 3;
    let flags = Flags::parse(args, HELP, |option, value| {
        if option == "--rounds" {
            rounds = value()?.parse().context("--rounds needs a number")?;
        }
        Ok(option == "--rounds")
    })?;
    let Some(flags) = flags else { return Ok(ExitCode::SUCCESS) };
    let initrd = initramfs(&Spec::default().kernel)?;
    let mut above = Vec::new();
    for setting in SETTINGS {
        let [mut xen, mut xenolith]: [BTreeMap<String, Vec<f64>>; 2] = Default::default();
        for round in 0..if setting.icount { 1 } else { rounds } {
            eprintln!("{}: round {}", setting.title, round + 1);
            for (hypervisor, figures) in [(Hypervisor::Xenolith, &mut xenolith), (Hypervisor::Xen, &mut xen)]
            {
                let rows = measure(&spec(&setting, hypervisor, &initrd), flags.verbose)?;
                for row in rows.into_iter().filter(|row| row.name != POWER_ON) {
                    figures.entry(row.name).or_default().push(row.time);
                }
            }
        }
        println!("{:28}{:>12}{:>12}{:>8}{:>6}", setting.title, "xen", "xenolith", "ratio", "bar");
        for (row, times) in xen {
            let (xen, own) = (median(times), median(xenolith.get(&row).cloned().unwrap_or_default()));
            let (ratio, bar) = (own / xen, setting.bar(&row));
            println!("  {row:26}{xen:12.0}{own:12.0}{ratio:8.2}{bar:6.2}");
            if ratio > bar || ratio.is_nan() {
                above.push(row);
            }
        }
    }
    above.extend(compare_shares(flags.verbose)?);
    Ok(flags.verdict(&above))
}

/// In dom0 of a machine of [`shares_spec`]: prints rows `share-error` and `shared-permille`, thousandths
/// of a share and of the CPU.
pub const SHARES: &str = include_str!("bench_shares.sh");
/// The greatest error of a share, in thousandths, whatever Xen's is.
pub const SHARE_ERROR: f64 = 10.0;

/// A machine of two CPUs, the first of them dom0's.
pub fn shares_spec(hypervisor: Hypervisor) -> Result<Spec> {
    Ok(Spec {
        hypervisor,
        cpus: 2,
        default_dom0_memory: true,
        append: "dom0_mem=512M,max:512M dom0_max_vcpus=1 dom0_vcpus_pin".to_owned(),
        domains: Domains::Tools,
        programs: vec![guests::build()?.join("idle")],
        command: Some(SHARES.to_owned()),
        ..Spec::default()
    })
}

/// What three guests that spin get of a CPU, beside their weights.
fn compare_shares(verbose: bool) -> Result<Option<String>> {
    const ROW: &str = "share-error";
    let title = "3 guests on 1 CPU, by weight";
    eprintln!("{title}");
    let error = |hypervisor| -> Result<f64> {
        let rows = bench_domains::run_script(&shares_spec(hypervisor)?, verbose)?;
        rows.get(ROW).copied().context("no share was printed")
    };
    let (own, xen) = (error(Hypervisor::Xenolith)?, error(Hypervisor::Xen)?);
    println!("{title:28}{:>12}{:>12}{:>14}", "xen", "xenolith", "bar");
    println!("  {:26}{xen:12.1}{own:12.1}{SHARE_ERROR:14.1}", "share-error, thousandths");
    Ok((own.is_nan() || own >= SHARE_ERROR).then(|| ROW.to_owned()))
}

fn spec(setting: &Setting, hypervisor: Hypervisor, initrd: &[u8]) -> Spec {
    Spec {
        hypervisor,
        cpus: setting.cpus,
        icount: setting.icount,
        cpu: Some("qemu64".to_owned()),
        append: format!("dom0_max_vcpus={}", setting.vcpus),
        dom0_append: format!("quiet nokaslr norandmaps -- {}", setting.rows),
        initrd: Some(initrd.to_vec()),
        ..Spec::default()
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_one_counts() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert!(median(Vec::new()).is_nan());
    }
}
