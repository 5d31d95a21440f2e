//! Verbs that go on: `top`, `events`.

use super::Context;
use super::look::seconds;
use crate::config::bytes_text;
use crate::domain::{self, Domain};
use crate::error::Result;
use crate::output::{Cell, Format, Table, document, left, right};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

const PAGE: u64 = 4096;
/// How often it is looked for events, besides when the store says that there is one.
const POLL: Duration = Duration::from_millis(500);

impl Context<'_, '_> {
    pub(super) fn top(&mut self, batch: bool, delay: u64, iterations: Option<u64>) -> Result<()> {
        let mut before: BTreeMap<u32, u64> = BTreeMap::new();
        let mut then = self.host.now();
        let mut round = 0;
        while iterations.is_none_or(|most| round < most) {
            if round > 0 {
                self.host.sleep(Duration::from_secs(delay.max(1)));
            }
            round += 1;
            let now = self.host.now();
            let domains = domain::list(self.host)?;
            let table = self.top_table(&domains, &before, now.saturating_sub(then))?;
            if !batch && self.format == Format::Table && self.streams.terminal {
                // To the top of an empty screen.
                write!(self.streams.out, "\x1b[H\x1b[J")?;
            }
            self.table(&table)?;
            self.streams.out.flush()?;
            before = domains.iter().map(|d| (d.id(), d.info.cpu_time)).collect();
            then = now;
        }
        Ok(())
    }

    /// A domain's share of a CPU since the last table, in tenths of a per cent; since its creation in the first one.
    fn top_table(&self, domains: &[Domain], before: &BTreeMap<u32, u64>, span: Duration) -> Result<Table> {
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
        let uptime = self.host.host_info()?.uptime;
        for domain in domains {
            let info = &domain.info;
            let (used, span) = match before.get(&domain.id()) {
                Some(before) => {
                    (info.cpu_time.saturating_sub(*before), u64::try_from(span.as_nanos()).unwrap_or(0))
                }
                None => (info.cpu_time, uptime.saturating_sub(info.created)),
            };
            let permille = used.saturating_mul(1000).checked_div(span).unwrap_or(0);
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
        Ok(table)
    }

    pub(super) fn events(&mut self, count: Option<u64>, timeout: Option<u64>) -> Result<()> {
        let end = timeout.map(|seconds| self.host.now() + Duration::from_secs(seconds));
        let mut printed = 0;
        let mut known = self.snapshot()?;
        loop {
            self.host.wait(&["@introduceDomain".to_owned(), "@releaseDomain".to_owned()], POLL)?;
            let now = self.snapshot()?;
            for (domid, name, what) in changes(&known, &now) {
                self.event(domid, &name, &what)?;
                printed += 1;
                if count.is_some_and(|most| printed >= most) {
                    return Ok(());
                }
            }
            known = now;
            if end.is_some_and(|end| self.host.now() >= end) {
                return Ok(());
            }
        }
    }

    fn snapshot(&self) -> Result<BTreeMap<u32, Domain>> {
        Ok(domain::list(self.host)?.into_iter().map(|d| (d.id(), d)).collect())
    }

    fn event(&mut self, domid: u32, name: &str, what: &str) -> Result<()> {
        let time = self.host.wall_clock();
        if self.format == Format::Table {
            writeln!(self.streams.out, "{time} {domid} {name} {what}")?;
        } else {
            // A stream has no end to wait for: one document a line in either format.
            let value =
                json!({"schema": "event/1", "time": time, "domid": domid, "name": name, "event": what});
            document(value, Format::Jsonl, self.streams.out)?;
        }
        Ok(self.streams.out.flush()?)
    }
}

/// What happened between two looks: domains that came and went, that stopped, paused or got another name.
fn changes(before: &BTreeMap<u32, Domain>, now: &BTreeMap<u32, Domain>) -> Vec<(u32, String, String)> {
    let mut all = Vec::new();
    for (domid, old) in before {
        if !now.contains_key(domid) {
            all.push((*domid, old.name.clone(), "gone".to_owned()));
        }
    }
    for (domid, new) in now {
        let mut add = |what: String| all.push((*domid, new.name.clone(), what));
        let Some(old) = before.get(domid) else {
            add("created".to_owned());
            continue;
        };
        if old.name != new.name {
            add(format!("renamed from {}", old.name));
        }
        let lasting = |d: &Domain| -> Vec<&'static str> {
            d.state().into_iter().filter(|word| !matches!(*word, "running" | "blocked")).collect()
        };
        let (was, is) = (lasting(old), lasting(new));
        for word in is.iter().filter(|word| !was.contains(word)) {
            add(new.reason().filter(|_| *word == "shutdown").unwrap_or(word).to_owned());
        }
        if was.contains(&"paused") && !is.contains(&"paused") {
            add("unpaused".to_owned());
        }
    }
    all
}
