//! One table after the other.

use super::super::Context;
use super::super::look::seconds;
use super::{PAGE, permille};
use crate::config::bytes_text;
use crate::domain::{self, Domain};
use crate::error::Result;
use crate::output::{Cell, Table, left, right};
use std::collections::BTreeMap;
use std::time::Duration;

/// A look: when it was by the hypervisor's clock, and how long each domain, known by number and creation, had run; in ns.
#[derive(Default)]
struct Look {
    uptime: u64,
    ran: BTreeMap<(u32, u64), u64>,
}

impl Context<'_, '_> {
    /// `clear`: each to the top of an empty screen.
    pub(super) fn tables(&mut self, clear: bool, delay: u64, iterations: Option<u64>) -> Result<()> {
        let mut before = Look::default();
        let mut round = 0;
        while iterations.is_none_or(|most| round < most) {
            if round > 0 {
                self.host.sleep(Duration::from_secs(delay.max(1)));
            }
            round += 1;
            // By the clock that also counts how long domains run: dom0 may itself wait for a CPU between the two.
            let uptime = self.host.host_info()?.uptime;
            let domains = domain::list(self.host)?;
            if clear {
                write!(self.streams.out, "\x1b[H\x1b[J")?;
            }
            self.table(&top_table(&domains, &before, uptime))?;
            self.streams.out.flush()?;
            let ran = domains.iter().map(|d| ((d.id(), d.info.created), d.info.cpu_time)).collect();
            before = Look { uptime, ran };
        }
        Ok(())
    }
}

/// A domain's share of a CPU since the last table, in tenths of a per cent; since its creation in its first one.
fn top_table(domains: &[Domain], before: &Look, uptime: u64) -> Table {
    let mut table = Table::new(
        "top",
        &[
            left("NAME", "name"),
            right("ID", "domid"),
            left("STATE", "state"),
            right("CPU", "cpu_permille"),
            right("TIME", "cpu_time_ns"),
            right("MEMORY", "memory_bytes"),
            right("VCPUS", "vcpus"),
            right("GRANTS", "grant_frames"),
            right("EVENTS", "event_channels"),
        ],
    );
    for domain in domains {
        let info = &domain.info;
        let (ran, since) = match before.ran.get(&(domain.id(), info.created)) {
            Some(ran) => (info.cpu_time.saturating_sub(*ran), before.uptime),
            None => (info.cpu_time, info.created),
        };
        let permille = permille(ran, uptime.saturating_sub(since));
        table.row(vec![
            Cell::plain(domain.name.clone()),
            Cell::plain(domain.id()),
            Cell::shown(domain.state(), domain.letters()),
            Cell::shown(permille, format!("{}.{} %", permille / 10, permille % 10)),
            Cell::shown(info.cpu_time, seconds(info.cpu_time)),
            Cell::shown(info.pages * PAGE, bytes_text(info.pages * PAGE)),
            Cell::plain(info.online_vcpus),
            Cell::plain(info.grant_frames),
            Cell::plain(info.evtchns),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use guest_abi::control::DomainInfo;

    #[test]
    fn shares_are_by_the_hypervisors_clock() {
        let domain = |domid, created, cpu_time| Domain {
            info: DomainInfo { domid, created, cpu_time, ..DomainInfo::default() },
            name: String::new(),
        };
        let before = Look { uptime: 1000, ran: [((1, 0), 300), ((2, 0), 900)].into() };
        // One that ran on, another one of a number that was known, one that was not seen before.
        let domains = [domain(1, 0, 400), domain(2, 1100, 40), domain(3, 0, 120)];
        let mut text = Vec::new();
        top_table(&domains, &before, 1200).print(crate::output::Format::Json, &mut text).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let shares = |n: usize| value["top"][n]["cpu_permille"].as_u64().unwrap();
        assert_eq!([shares(0), shares(1), shares(2)], [500, 400, 100]);
        let backwards = Look { uptime: 1300, ran: [((1, 0), 500)].into() };
        text.clear();
        top_table(&domains[..1], &backwards, 1200).print(crate::output::Format::Jsonl, &mut text).unwrap();
        assert!(String::from_utf8(text).unwrap().contains("\"cpu_permille\":0"));
    }
}
