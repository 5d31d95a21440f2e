//! Verbs that only look.

use super::Context;
use crate::config::{CpuSet, bytes_text};
use crate::create::reason_text;
use crate::domain::{self, Domain, reason_word};
use crate::error::{Error, Kind, Result};
use crate::host::{Host, errno_text};
use crate::output::{Cell, Format, Record, Table, document, hidden, left, right};
use crate::supervise::Recipe;
use guest_abi::control::{self, HostInfo};
use serde_json::json;
use std::time::Duration;

const PAGE: u64 = 4096;

impl Context<'_, '_> {
    /// The domains that words mean; all if there are none.
    pub(super) fn chosen(&self, words: &[String]) -> Result<Vec<Domain>> {
        if words.is_empty() { domain::list(self.host) } else { words.iter().map(|w| self.find(w)).collect() }
    }

    pub(super) fn list(&mut self, words: &[String], watch: bool) -> Result<()> {
        loop {
            let mut table = Table::new(
                "list",
                &[
                    left("NAME", "name"),
                    right("ID", "domid"),
                    right("MEMORY", "memory_bytes"),
                    right("VCPUS", "vcpus"),
                    left("STATE", "state"),
                    right("TIME", "cpu_time_ns"),
                    left("UUID", "uuid"),
                ],
            );
            for domain in self.chosen(words)? {
                table.row(list_row(&domain));
            }
            self.table(&table)?;
            if !watch {
                return Ok(());
            }
            self.host.sleep(Duration::from_secs(1));
        }
    }

    pub(super) fn show(&mut self, word: &str) -> Result<()> {
        let domain = self.find(word)?;
        let info = &domain.info;
        let recipe = Recipe::load(self.host, domain.id()).ok();
        let config = recipe.as_ref().and_then(|r| r.config().ok());
        let (holders, held) = self.host.holders(domain.id()).unwrap_or_default();
        let sched = self.host.sched(domain.id()).ok();
        let disks: Vec<_> = self.disks(domain.id())?.into_iter().map(|d| d.json()).collect();
        let vifs: Vec<_> = self.vifs(domain.id())?.into_iter().map(|v| v.json()).collect();
        if self.format != Format::Table {
            let holders: Vec<_> =
                holders.iter().map(|h| json!({"domid": h.domid, "pages": h.pages})).collect();
            let value = json!({
                "schema": "show/1", "domid": domain.id(), "name": domain.name, "uuid": domain.uuid(),
                "state": domain.state(), "shutdown_reason": domain.reason(),
                "memory_bytes": info.pages * PAGE, "memory_max_bytes": info.max_pages * PAGE,
                "vcpus": info.vcpus, "vcpus_online": info.online_vcpus, "vcpus_max": info.max_vcpus,
                "cpu_time_ns": info.cpu_time, "created_ns": info.created,
                "weight": sched.map(|s| s.0), "cap_percent": sched.map(|s| s.1),
                "grant_frames": info.grant_frames, "grant_frames_max": info.max_grant_frames,
                "maptrack": info.maptrack, "maptrack_max": info.max_maptrack,
                "event_channels": info.evtchns, "event_channels_max": info.max_evtchns,
                "pages_held_by_others": held, "holders": holders,
                "disks": disks, "interfaces": vifs,
                "config_file": recipe.map(|r| r.file), "config": config,
            });
            return Ok(document(value, self.format, self.streams.out)?);
        }
        let mut record = Record::new("show");
        record
            .add("name", "Name", Cell::plain(domain.name.clone()))
            .add("domid", "Number", Cell::plain(domain.id()))
            .add("uuid", "UUID", Cell::plain(domain.uuid()))
            .add("state", "State", Cell::plain(state_text(&domain)))
            .add(
                "memory",
                "Memory",
                Cell::plain(of(bytes_text(info.pages * PAGE), bytes_text(info.max_pages * PAGE))),
            )
            .add("vcpus", "vCPUs", Cell::plain(of(info.online_vcpus, info.max_vcpus)))
            .add("cpu_time", "CPU time", Cell::plain(seconds(info.cpu_time)))
            .add(
                "grants",
                "Grant table",
                Cell::plain(usage(info.grant_frames, info.max_grant_frames, "frames")),
            )
            .add("maptrack", "Grants mapped", Cell::plain(usage(info.maptrack, info.max_maptrack, "")))
            .add("evtchns", "Event channels", Cell::plain(usage(info.evtchns, info.max_evtchns, "")));
        if let Some((weight, cap)) = sched {
            let cap = if cap == 0 { "no cap".to_owned() } else { format!("cap {cap} %") };
            record.add("sched", "Share", Cell::plain(format!("weight {weight}, {cap}")));
        }
        for disk in disks {
            record.add("disk", "Disk", Cell::plain(line_of(&disk, &["vdev", "target", "mode", "state"])));
        }
        for vif in vifs {
            record.add("vif", "Interface", Cell::plain(line_of(&vif, &["mac", "bridge", "state"])));
        }
        for holder in holders {
            let text = format!("domain {} holds {} pages", holder.domid, holder.pages);
            record.add("holder", "Held", Cell::plain(text));
        }
        if let Some(recipe) = recipe {
            record.add("config_file", "Configuration", Cell::plain(recipe.file));
        }
        self.record(&record)
    }

    pub(super) fn console(&mut self, word: &str) -> Result<()> {
        let domain = self.find_guest(word)?;
        Ok(self.host.console(domain.id(), &domain.name)?)
    }

    pub(super) fn logs(&mut self, word: &str, follow: bool) -> Result<()> {
        // One that is gone is found by its whole name only.
        let found = self.find(word).ok();
        let name = found.as_ref().map_or(word, |d| d.name.as_str()).to_owned();
        let domid = found.map(|d| d.id());
        let mut printed = 0;
        loop {
            let log = match (self.host.console_log(domid, &name), domid) {
                (Err(error), Some(domid)) => ring_text(self.host, domid).ok().flatten().ok_or(error)?,
                (log, _) => log?,
            };
            // A log that is shorter than before was begun anew.
            let from = if printed <= log.len() { printed } else { 0 };
            self.streams.out.write_all(&log[from..])?;
            self.streams.out.flush()?;
            printed = log.len();
            if !follow {
                return Ok(());
            }
            self.host.sleep(Duration::from_millis(250));
        }
    }

    pub(super) fn domid(&mut self, word: &str) -> Result<()> {
        let domain = self.find(word)?;
        match self.format {
            Format::Table => Ok(writeln!(self.streams.out, "{}", domain.id())?),
            _ => Ok(document(
                json!({"schema": "domid/1", "domid": domain.id()}),
                self.format,
                self.streams.out,
            )?),
        }
    }

    pub(super) fn domname(&mut self, word: &str) -> Result<()> {
        let domain = self.find(word)?;
        match self.format {
            Format::Table => Ok(writeln!(self.streams.out, "{}", domain.name)?),
            _ => Ok(document(
                json!({"schema": "domname/1", "name": domain.name}),
                self.format,
                self.streams.out,
            )?),
        }
    }

    pub(super) fn vcpu_list(&mut self, words: &[String]) -> Result<()> {
        let cpus = self.host.host_info()?.max_cpus;
        let mut table = Table::new(
            "vcpus",
            &[
                left("NAME", "name"),
                right("ID", "domid"),
                right("VCPU", "vcpu"),
                right("CPU", "cpu"),
                left("STATE", "state"),
                right("TIME", "cpu_time_ns"),
                right("WAITED", "waited_ns"),
                hidden("blocked_ns"),
                hidden("offline_ns"),
                left("MAY RUN ON", "hard"),
                left("PREFERS", "soft"),
            ],
        );
        for domain in self.chosen(words)? {
            for vcpu in 0..domain.info.vcpus {
                let info = self.host.vcpu(domain.id(), vcpu)?;
                let (hard, soft) = self.host.affinity(domain.id(), vcpu)?;
                let online = info.flags & control::VCPU_ONLINE != 0;
                // By `RUNSTATE_*`, all of one moment: their sum is the vCPU's age.
                let [_, waited, blocked, offline] = info.time;
                let word = match info.flags {
                    _ if !online => "offline",
                    flags if flags & control::VCPU_RUNNING != 0 => "running",
                    flags if flags & control::VCPU_BLOCKED != 0 => "blocked",
                    _ => "waiting",
                };
                table.row(vec![
                    Cell::plain(domain.name.clone()),
                    Cell::plain(domain.id()),
                    Cell::plain(vcpu),
                    if online { Cell::plain(info.cpu) } else { Cell::plain(()) },
                    Cell::plain(word),
                    Cell::shown(info.cpu_time, seconds(info.cpu_time)),
                    Cell::shown(waited, seconds(waited)),
                    Cell::plain(blocked),
                    Cell::plain(offline),
                    Cell::plain(CpuSet::from_bitmap(&hard, cpus).to_string()),
                    Cell::plain(CpuSet::from_bitmap(&soft, cpus).to_string()),
                ]);
            }
        }
        self.table(&table)
    }

    pub(super) fn dmesg(&mut self, follow: bool, clear: bool) -> Result<()> {
        let (mut text, mut next) = self.host.read_log(None, clear)?;
        loop {
            if self.format == Format::Table {
                self.streams.out.write_all(&text)?;
            } else {
                for line in String::from_utf8_lossy(&text).lines() {
                    document(json!({"schema": "dmesg/1", "line": line}), Format::Jsonl, self.streams.out)?;
                }
            }
            self.streams.out.flush()?;
            if !follow {
                return Ok(());
            }
            self.host.sleep(Duration::from_millis(500));
            (text, next) = self.host.read_log(Some(next), false)?;
        }
    }

    pub(super) fn info(&mut self, only_memory: bool) -> Result<()> {
        let info = self.host.host_info()?;
        let version = self.host.version()?;
        let mut record = Record::new("info");
        if !only_memory {
            let hypervisor = version.hypervisor;
            let number =
                format!("{}.{}.{}", hypervisor >> 32, hypervisor >> 16 & 0xffff, hypervisor & 0xffff);
            record
                .add("hypervisor", "Hypervisor", Cell::plain(reason_text(&info.version)))
                .add("version", "Version", Cell::plain(number))
                .add("control_abi", "Control interface", Cell::plain(version.abi))
                .add("uptime_ns", "Up", Cell::shown(info.uptime, seconds(info.uptime)))
                .add("cpus", "CPUs", Cell::plain(info.online_cpus))
                .add("cores_per_socket", "Cores a socket", Cell::plain(info.cores_per_socket))
                .add("threads_per_core", "Threads a core", Cell::plain(info.threads_per_core))
                .add("nodes", "Memory nodes", Cell::plain(info.nodes))
                .add("cpu_khz", "TSC", Cell::shown(info.cpu_khz, format!("{} MHz", info.cpu_khz / 1000)))
                .add("domains", "Domains", Cell::plain(info.domains))
                .add("vcpus", "vCPUs", Cell::plain(info.vcpus));
        }
        memory_identity(&mut record, &info);
        self.record(&record)
    }

    pub(super) fn why(&mut self, word: Option<&str>) -> Result<()> {
        let domid = word
            .map(|word| self.find(word).map(|d| d.id()).or_else(|e| word.parse().map_err(|_| e)))
            .transpose()?;
        let mut table = Table::new(
            "why",
            &[
                right("TIME", "time_ns"),
                left("OPERATION", "operation"),
                left("DOMAIN", "domid"),
                left("ERROR", "errno"),
                left("REASON", "reason"),
            ],
        );
        for failure in self.host.failures(0)? {
            // To ask for a domain that is not there is how one learns that; no operation failed.
            let question = failure.op == control::OP_DOMAIN_INFO;
            if question || domid.is_some_and(|domid| failure.domid != domid) {
                continue;
            }
            let operation = control::OPERATIONS.iter().find(|(op, ..)| *op == failure.op);
            let domain = if failure.domid == control::ANY_DOMID {
                Cell::plain(())
            } else {
                Cell::plain(failure.domid)
            };
            table.row(vec![
                Cell::shown(failure.time, seconds(failure.time)),
                Cell::plain(operation.map_or("-", |(_, name, _)| name)),
                domain,
                Cell::shown(failure.errno, errno_text(i32::try_from(failure.errno).unwrap_or(0))),
                Cell::plain(reason_text(&failure.reason)),
            ]);
        }
        self.table(&table)
    }
}

fn list_row(domain: &Domain) -> Vec<Cell> {
    let info = &domain.info;
    let bytes = info.pages * PAGE;
    vec![
        Cell::plain(if domain.name.is_empty() { "(no name)".to_owned() } else { domain.name.clone() }),
        Cell::plain(domain.id()),
        Cell::shown(bytes, bytes_text(bytes)),
        Cell::shown(info.online_vcpus, info.online_vcpus.to_string()),
        Cell::shown(domain.state(), state_text(domain)),
        Cell::shown(info.cpu_time, seconds(info.cpu_time)),
        Cell::plain(domain.uuid()),
    ]
}

fn state_text(domain: &Domain) -> String {
    let words = domain.state();
    let text = if words.is_empty() { "waiting".to_owned() } else { words.join(",") };
    match domain.reason() {
        Some(reason) if reason != "crash" => format!("{text} ({reason})"),
        _ => text,
    }
}

/// What waits in a domain's console ring (`io/console.h`) when no daemon takes it out.
fn ring_text(host: &dyn Host, domid: u32) -> Result<Option<Vec<u8>>> {
    const OUT: usize = 1024;
    const OUT_LEN: u32 = 2048;
    const OUT_CONS: usize = 3072 + 8;
    let mfn = host.read(&format!("/local/domain/{domid}/console/ring-ref"))?;
    let Some(mfn) = mfn.and_then(|mfn| mfn.parse().ok()) else { return Ok(None) };
    let page = host.read_frame(domid, mfn)?;
    let word = |at: usize| page.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
    let (consumed, produced) = (word(OUT_CONS), word(OUT_CONS + 4));
    let waiting = produced.wrapping_sub(consumed).min(OUT_LEN);
    let byte = |n: u32| page[OUT + (consumed.wrapping_add(n) % OUT_LEN) as usize];
    Ok((page.len() == PAGE as usize).then(|| (0..waiting).map(byte).collect()))
}

/// The one identity of memory: the parts are what there is.
fn memory_identity(record: &mut Record, info: &HostInfo) {
    let guests = info.domain_pages.saturating_sub(info.dom0_pages);
    let parts = [
        ("free_bytes", "  free", info.free_pages),
        ("dom0_bytes", "  dom0", info.dom0_pages),
        ("guests_bytes", "  guests", guests),
        ("claimed_bytes", "  claimed", info.outstanding_pages),
        ("hypervisor_bytes", "  hypervisor", info.hypervisor_pages),
    ];
    let sum = parts.iter().map(|(_, _, pages)| pages).sum::<u64>();
    let total = info.total_pages * PAGE;
    record.add(
        "total_bytes",
        "Memory",
        Cell::shown(total, format!("{} ({} pages)", bytes_text(total), info.total_pages)),
    );
    for (key, title, pages) in parts {
        record.add(
            key,
            title,
            Cell::shown(pages * PAGE, format!("{} ({pages} pages)", bytes_text(pages * PAGE))),
        );
    }
    record.add(
        "adds_up",
        "  adds up",
        Cell::shown(sum == info.total_pages, if sum == info.total_pages { "yes" } else { "no" }),
    );
}

pub(super) fn seconds(ns: u64) -> String {
    format!("{}.{} s", ns / 1_000_000_000, ns / 100_000_000 % 10)
}

fn of(now: impl std::fmt::Display, most: impl std::fmt::Display) -> String {
    format!("{now} of {most}")
}

/// How much of a limit is used, and a warning from four fifths on.
fn usage(now: u32, most: u32, unit: &str) -> String {
    let near = u64::from(now) * 5 >= u64::from(most) * 4 && most > 0;
    format!("{now} of {most} {unit}{}", if near { " (near its limit)" } else { "" }).trim_end().to_owned()
}

fn line_of(value: &serde_json::Value, keys: &[&str]) -> String {
    let word = |key: &&str| value.get(*key).and_then(|v| v.as_str()).unwrap_or("-").to_owned();
    keys.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// What ended a domain, for messages.
pub(super) fn ended(domain: &Domain) -> String {
    format!("{} ended: {}", domain.name, reason_word(domain.info.shutdown_reason))
}

/// That something took too long.
pub(super) fn too_long(what: impl Into<String>) -> Error {
    Error::new(Kind::TimedOut, what)
}
