//! Verbs of a domain's life and death.

use super::Context;
use super::look::{ended, too_long};
use crate::cli::{SomeDomains, Waiting};
use crate::device::{self, CONNECT_LIMIT};
use crate::domain::{self, Domain};
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::supervise::{Recipe, rename};
use guest_abi::control::{DOMAIN_PAUSED, DOMAIN_SHUTDOWN};
use std::time::Duration;

impl Context<'_, '_> {
    /// The domains meant; never dom0.
    fn some(&self, some: &SomeDomains) -> Result<Vec<Domain>> {
        if some.all {
            return Ok(domain::list(self.host)?.into_iter().filter(|d| d.id() != 0).collect());
        }
        some.domains.iter().map(|word| self.find_guest(word)).collect()
    }

    /// Does something to each; all are tried, the first error is the answer.
    pub(super) fn each(
        &mut self,
        verb: &str,
        some: &SomeDomains,
        act: impl Fn(&dyn Host, &Domain) -> Result<()>,
    ) -> Result<()> {
        let mut result = Ok(());
        for domain in self.some(some)? {
            let done = act(self.host, &domain).map_err(|e| e.context(&domain.name));
            let done = done.and_then(|()| self.done(verb, Some(domain.id())));
            result = result.and(done);
        }
        result
    }

    pub(super) fn destroy(&mut self, some: &SomeDomains) -> Result<()> {
        self.each("destroy", some, |host, domain| {
            let held = domain::teardown(host, domain.id())?;
            Recipe::forget(host, domain.id())?;
            match held {
                0 => Ok(()),
                _ => Err(Error::new(Kind::Other, format!("it ended, but others hold {held} of its pages"))
                    .hint(format!("`lith show {}` says who", domain.id()))),
            }
        })
    }

    pub(super) fn shutdown(
        &mut self,
        some: &SomeDomains,
        waiting: &Waiting,
        then_destroy: bool,
    ) -> Result<()> {
        let domains = self.some(some)?;
        ask(self.host, &domains, "poweroff")?;
        if !waiting.wait && !then_destroy {
            return self.each("shutdown", some, |_, _| Ok(()));
        }
        let end = self.host.now() + Duration::from_secs(waiting.timeout);
        let mut result = Ok(());
        for domain in &domains {
            let mut stopped = self.wait_stopped(domain, end);
            if stopped.is_err() && then_destroy {
                self.remark(&format!("{} does not power off; it is destroyed", domain.name));
                stopped = domain::teardown(self.host, domain.id()).map(drop);
            }
            result = result.and(stopped.and_then(|()| self.done("shutdown", Some(domain.id()))));
        }
        result
    }

    pub(super) fn reboot(&mut self, some: &SomeDomains, waiting: &Waiting) -> Result<()> {
        let domains = self.some(some)?;
        ask(self.host, &domains, "reboot")?;
        let end = self.host.now() + Duration::from_secs(waiting.timeout);
        for domain in &domains {
            if waiting.wait {
                self.wait_stopped(domain, end)?;
            }
            self.done("reboot", Some(domain.id()))?;
        }
        Ok(())
    }

    fn wait_stopped(&self, domain: &Domain, end: Duration) -> Result<()> {
        loop {
            let now = domain::by_id(self.host, domain.id())?;
            if now.is_none_or(|d| d.info.state & DOMAIN_SHUTDOWN != 0) {
                return Ok(());
            }
            if self.host.now() >= end {
                let read = format!("/local/domain/{}/control/shutdown", domain.id());
                let ignored = self.host.read(&read)?.is_some_and(|word| !word.is_empty());
                let error = match ignored {
                    true => Error::new(
                        Kind::GuestRefused,
                        format!("{} has not even seen the request", domain.name),
                    ),
                    false => too_long(format!("{} saw the request, but still runs", domain.name)),
                };
                return Err(error.hint("`lith logs` shows its console; `lith destroy` ends it"));
            }
            self.host.wait(&["@releaseDomain".to_owned()], Duration::from_millis(500))?;
        }
    }

    pub(super) fn rename(&mut self, word: &str, name: &str) -> Result<()> {
        let domain = self.find_guest(word)?;
        let digits = name.bytes().all(|b| b.is_ascii_digit());
        if digits || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+:@".contains(c)) {
            return Err(Error::new(Kind::Usage, format!("`{name}` cannot be a domain's name")));
        }
        if domain::list(self.host)?.iter().any(|d| d.name == name && d.id() != domain.id()) {
            return Err(Error::new(Kind::WrongState, format!("there is a domain {name} already")));
        }
        rename(self.host, &domain, name)?;
        self.done("rename", Some(domain.id()))
    }

    pub(super) fn wait_for(&mut self, word: &str, until: &str, timeout: u64) -> Result<()> {
        let end = self.host.now() + Duration::from_secs(timeout);
        let (what, text) = until.split_once('=').map_or((until, None), |(what, text)| (what, Some(text)));
        let known = matches!(
            (what, text),
            ("running" | "stopped" | "gone" | "connected", None) | ("console", Some(_))
        );
        if !known {
            return Err(Error::new(Kind::Usage, format!("`{until}` is nothing to wait for"))
                .hint("there are running, stopped, gone, connected and console=TEXT"));
        }
        let first = self.find(word);
        let domain = match first {
            // One that is gone has stopped, and one that is to come may run.
            Err(error) if error.kind != Kind::NotFound => return Err(error),
            Err(_) if matches!(what, "stopped" | "gone") => return self.done("wait", None),
            Err(_) => None,
            Ok(domain) => Some(domain),
        };
        let mut domain = domain;
        loop {
            let now = match &domain {
                Some(domain) => domain::by_id(self.host, domain.id())?,
                None => self.find(word).ok(),
            };
            if self.is_so(now.as_ref(), what, text)? {
                return self.done("wait", now.map(|d| d.id()));
            }
            domain = domain.or(now);
            if self.host.now() >= end {
                let state = domain.map_or_else(|| "there is no such domain".to_owned(), |d| state_of(&d));
                return Err(too_long(format!("{word} is not {until} after {timeout} s: {state}")));
            }
            self.host.wait(
                &["@introduceDomain".to_owned(), "@releaseDomain".to_owned()],
                Duration::from_millis(200),
            )?;
        }
    }

    fn is_so(&self, domain: Option<&Domain>, what: &str, text: Option<&str>) -> Result<bool> {
        let Some(domain) = domain else { return Ok(matches!(what, "stopped" | "gone")) };
        let over = domain.info.state & DOMAIN_SHUTDOWN != 0;
        Ok(match what {
            "stopped" => over,
            "gone" => false,
            "running" if over => return Err(Error::new(Kind::WrongState, ended(domain))),
            "running" => domain.info.state & DOMAIN_PAUSED == 0 && domain.info.cpu_time > 0,
            "connected" => {
                let devices = device::all(self.host, domain.id())?;
                let connected =
                    |d: &device::Location| d.wait_connected(self.host, CONNECT_LIMIT.min(Duration::ZERO));
                devices.iter().all(|d| connected(d).is_ok())
            }
            _ => {
                let log = self.host.console_log(Some(domain.id()), &domain.name).unwrap_or_default();
                let text = text.unwrap_or_default().as_bytes();
                text.is_empty() || log.windows(text.len()).any(|window| window == text)
            }
        })
    }
}

/// Asks domains to end: `poweroff`, `reboot`.
pub(super) fn ask(host: &dyn Host, domains: &[Domain], word: &str) -> Result<()> {
    for domain in domains {
        let state = domain.info.state;
        if state & DOMAIN_SHUTDOWN != 0 {
            continue;
        }
        if state & DOMAIN_PAUSED != 0 {
            return Err(Error::new(Kind::WrongState, format!("{} is paused, and cannot do it", domain.name))
                .hint("`lith unpause` first, or `lith destroy`"));
        }
        host.write(&format!("/local/domain/{}/control/shutdown", domain.id()), word)?;
    }
    Ok(())
}

fn state_of(domain: &Domain) -> String {
    let words = domain.state();
    format!("it is {}", if words.is_empty() { "waiting for a CPU".to_owned() } else { words.join(" and ") })
}
