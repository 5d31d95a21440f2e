//! `events`.

use super::Context;
use crate::domain::{self, Domain};
use crate::error::Result;
use crate::output::{Format, document};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// How often it is looked for events, besides when the store says that there is one.
const POLL: Duration = Duration::from_millis(500);

impl Context<'_, '_> {
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
