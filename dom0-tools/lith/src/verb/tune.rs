//! Verbs that change what a domain has: vCPUs, memory, shares.

use super::Context;
use crate::config::{CpuSet, bytes_text, parse_memory};
use crate::domain::availability;
use crate::error::{Error, Kind, Result};
use crate::output::{Cell, Table, left, right};
use std::time::Duration;

const PAGE: u64 = 4096;

impl Context<'_, '_> {
    pub(super) fn vcpu_set(&mut self, word: &str, vcpus: u32) -> Result<()> {
        let domain = self.find(word)?;
        let most = domain.info.vcpus;
        if vcpus == 0 || vcpus > most {
            return Err(Error::new(Kind::Usage, format!("{} can have 1 to {most} vCPUs", domain.name))
                .hint("`maxvcpus` in the configuration sets how many it may have"));
        }
        for vcpu in 0..most {
            let path = format!("/local/domain/{}/cpu/{vcpu}/availability", domain.id());
            self.host.write(&path, availability(vcpu < vcpus))?;
        }
        self.done("vcpu-set", Some(domain.id()))
    }

    pub(super) fn vcpu_pin(&mut self, word: &str, vcpu: &str, hard: &str, soft: Option<&str>) -> Result<()> {
        let domain = self.find(word)?;
        let usage = |message: String| Error::new(Kind::Usage, message);
        let vcpus = match vcpu {
            "all" => 0..domain.info.vcpus,
            number => {
                let number: u32 =
                    number.parse().map_err(|_| usage(format!("`{number}` is neither a vCPU nor `all`")))?;
                if number >= domain.info.vcpus {
                    return Err(Error::new(Kind::NotFound, format!("{} has no vCPU {number}", domain.name)));
                }
                number..number + 1
            }
        };
        let cpus = self.host.host_info()?.max_cpus;
        let map = |text: &str| match text {
            "-" => Ok(None),
            text => CpuSet::parse(text).map(|set| Some(set.bitmap(cpus))).map_err(usage),
        };
        let (hard, soft) = (map(hard)?, map(soft.unwrap_or("-"))?);
        for vcpu in vcpus {
            self.host.set_affinity(domain.id(), vcpu, hard.as_deref(), soft.as_deref())?;
        }
        self.done("vcpu-pin", Some(domain.id()))
    }

    pub(super) fn mem_set(&mut self, word: &str, memory: &str, timeout: u64) -> Result<()> {
        let domain = self.find(word)?;
        let pages = pages(memory)?;
        if pages > domain.info.max_pages {
            let most = bytes_text(domain.info.max_pages * PAGE);
            return Err(Error::new(Kind::WrongState, format!("{} may have {most} at most", domain.name))
                .hint("`lith mem-max` raises that"));
        }
        let more = pages.saturating_sub(domain.info.pages);
        let free = self.host.host_info()?.free_pages;
        if more > free {
            let (more, free) = (bytes_text(more * PAGE), bytes_text(free * PAGE));
            return Err(Error::new(
                Kind::Resources,
                format!("{} needs {more} more, and {free} are free", domain.name),
            ));
        }
        self.host.write(&format!("/local/domain/{}/memory/target", domain.id()), &(pages * 4).to_string())?;
        self.wait_memory(domain.id(), pages, timeout)?;
        self.done("mem-set", Some(domain.id()))
    }

    /// Waits until a domain has as many pages as it was told, give or take what Linux keeps aside.
    fn wait_memory(&self, domid: u32, pages: u64, timeout: u64) -> Result<()> {
        let end = self.host.now() + Duration::from_secs(timeout);
        loop {
            let info = self.host.domain(domid)?;
            let now = info.map_or(0, |info| info.pages);
            if info.is_none() || now.abs_diff(pages) <= pages / 64 + 1024 {
                return Ok(());
            }
            if self.host.now() >= end {
                let (now, wanted) = (bytes_text(now * PAGE), bytes_text(pages * PAGE));
                let text = format!("the guest has {now} after {timeout} s instead of {wanted}");
                return Err(Error::new(Kind::GuestRefused, text)
                    .hint("its balloon driver goes on; a guest without memory to spare gives none back"));
            }
            self.host.sleep(Duration::from_millis(100));
        }
    }

    pub(super) fn mem_max(&mut self, word: &str, memory: &str) -> Result<()> {
        let domain = self.find(word)?;
        let pages = pages(memory)?;
        if pages < domain.info.pages {
            let has = bytes_text(domain.info.pages * PAGE);
            return Err(Error::new(Kind::WrongState, format!("{} has {has}", domain.name))
                .hint("`lith mem-set` first"));
        }
        self.host.set_max_pages(domain.id(), pages)?;
        self.host
            .write(&format!("/local/domain/{}/memory/static-max", domain.id()), &(pages * 4).to_string())?;
        self.done("mem-max", Some(domain.id()))
    }

    pub(super) fn sched(&mut self, word: Option<&str>, weight: Option<u32>, cap: Option<u32>) -> Result<()> {
        if let (Some(word), true) = (word, weight.is_some() || cap.is_some()) {
            let domain = self.find(word)?;
            if weight.is_some_and(|w| !(1..=65535).contains(&w)) {
                return Err(Error::new(Kind::Usage, "a weight is a number from 1 to 65535"));
            }
            self.host.set_sched(domain.id(), weight, cap)?;
            return self.done("sched", Some(domain.id()));
        }
        let words: Vec<String> = word.map(str::to_owned).into_iter().collect();
        let mut table = Table::new(
            "sched",
            &[
                left("NAME", "name"),
                right("ID", "domid"),
                right("WEIGHT", "weight"),
                right("CAP", "cap_percent"),
            ],
        );
        for domain in self.chosen(&words)? {
            let (weight, cap) = self.host.sched(domain.id())?;
            let cap = Cell::shown(cap, if cap == 0 { "-".to_owned() } else { format!("{cap} %") });
            table.row(vec![
                Cell::plain(domain.name.clone()),
                Cell::plain(domain.id()),
                Cell::plain(weight),
                cap,
            ]);
        }
        self.table(&table)
    }
}

fn pages(memory: &str) -> Result<u64> {
    let bytes = parse_memory(memory).filter(|bytes| (1 << 20..1 << 44).contains(bytes));
    bytes.map(|bytes| bytes / PAGE).ok_or_else(|| {
        Error::new(Kind::Usage, format!("`{memory}` is not an amount of memory"))
            .hint("a number counts MiB; 512M and 4G are understood too")
    })
}
