//! What happens to a domain after it ended: `on_poweroff`, `on_reboot` and the others, done by a process that stays with
//! the domain, and with the one that takes its place.

use crate::config::{Action, DomainConfig, parse};
use crate::create::{Quiet, create};
use crate::domain::{self, Domain};
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use guest_abi::control::DOMAIN_SHUTDOWN;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// Where the configurations of the domains that run are kept.
const RUN: &str = "/run/xenolith/domains";
/// A domain that ends sooner than this after its start counts as a failed start.
const SHORT_LIFE: Duration = Duration::from_secs(10);
/// After so many failed starts in a row it is not started again.
const MOST_FAILURES: u32 = 5;
/// How often it is looked whether the domain ended, besides when the store says so.
const POLL: Duration = Duration::from_secs(2);

/// The file that a domain was made from, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// The file.
    pub file: String,
    /// Its text.
    pub text: String,
    /// Settings of the command line.
    pub overrides: Vec<String>,
}

impl Recipe {
    /// The configuration that it means.
    pub fn config(&self) -> Result<DomainConfig> {
        Ok(parse(&self.file, &self.text, &self.overrides)?.config)
    }

    /// The same from the file as it is now, if it can still be read and means the same domain.
    pub fn renewed(&self, host: &dyn Host) -> Recipe {
        let text = host.read_file(self.file.as_ref()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let Some(text) = text else { return self.clone() };
        let new = Recipe { text, ..self.clone() };
        let same = |new: &DomainConfig| self.config().is_ok_and(|old| old.name == new.name);
        if new.config().is_ok_and(|config| same(&config)) { new } else { self.clone() }
    }

    fn path(domid: u32) -> PathBuf {
        PathBuf::from(format!("{RUN}/{domid}.json"))
    }

    /// Keeps it for a domain.
    pub fn save(&self, host: &dyn Host, domid: u32) -> Result<()> {
        let document =
            json!({"schema": "recipe/1", "file": self.file, "text": self.text, "overrides": self.overrides});
        Ok(host.write_file(&Self::path(domid), format!("{document:#}\n").as_bytes())?)
    }

    /// That of a domain.
    pub fn load(host: &dyn Host, domid: u32) -> Result<Recipe> {
        let bytes = host.read_file(&Self::path(domid))?;
        let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let overrides = value.get("overrides").and_then(Value::as_array).cloned().unwrap_or_default();
        match (text("file"), text("text")) {
            (Some(file), Some(text)) => {
                let overrides = overrides.iter().filter_map(Value::as_str).map(str::to_owned).collect();
                Ok(Recipe { file, text, overrides })
            }
            _ => Err(Error::new(Kind::Other, format!("{} is not a recipe", Self::path(domid).display()))),
        }
    }

    /// Forgets that of a domain.
    pub fn forget(host: &dyn Host, domid: u32) -> Result<()> {
        Ok(host.remove_file(&Self::path(domid))?)
    }
}

/// Stays with a domain until there is none to stay with; `tell` gets a line for each thing that happens.
pub fn supervise(host: &dyn Host, domid: u32, tell: &mut dyn FnMut(&str)) -> Result<()> {
    let mut domid = domid;
    let mut failed_starts = 0;
    loop {
        let started = host.now();
        let Some(domain) = wait_end(host, domid)? else {
            tell(&format!("domain {domid} is gone"));
            return Recipe::forget(host, domid);
        };
        let recipe = Recipe::load(host, domid)?;
        let action = action_for(&recipe.config()?, domain.info.shutdown_reason);
        let reason = domain.reason().unwrap_or_default();
        tell(&format!("domain {domid} ({}) ended: {reason}; {}", domain.name, action.word()));
        failed_starts = if host.now() < started + SHORT_LIFE { failed_starts + 1 } else { 0 };
        let give_up = failed_starts >= MOST_FAILURES;
        if give_up {
            tell(&format!(
                "{} ended {failed_starts} times right after its start: it is not started again",
                domain.name
            ));
        }
        match act(host, &domain, action, &recipe, give_up, tell)? {
            Some(new) => {
                tell(&format!("{} is domain {new} now", domain.name));
                domid = new;
            }
            None => return Ok(()),
        }
    }
}

/// What a configuration wants when a domain ended for a reason of `sched.h`.
pub fn action_for(config: &DomainConfig, reason: u32) -> Action {
    match reason {
        0 => config.on_poweroff,
        1 => config.on_reboot,
        // A suspended domain is somebody's, who saves it.
        2 => Action::Preserve,
        4 => config.on_watchdog,
        5 => config.on_soft_reset,
        _ => config.on_crash,
    }
}

fn wait_end(host: &dyn Host, domid: u32) -> Result<Option<Domain>> {
    loop {
        match domain::by_id(host, domid)? {
            None => return Ok(None),
            Some(domain) if domain.info.state & DOMAIN_SHUTDOWN != 0 => return Ok(Some(domain)),
            // The store may be starting again; the domain is looked after all the same.
            Some(_) => {
                if host.wait(&["@releaseDomain".to_owned()], POLL).is_err() {
                    host.sleep(POLL);
                }
            }
        }
    }
}

/// Does it; the answer is the domain that took the place of the old one.
fn act(
    host: &dyn Host,
    old: &Domain,
    action: Action,
    recipe: &Recipe,
    give_up: bool,
    tell: &mut dyn FnMut(&str),
) -> Result<Option<u32>> {
    if matches!(action, Action::CoredumpDestroy | Action::CoredumpRestart) {
        // A full disk is no reason to leave a dead domain where a new one shall be.
        match crate::dump::dump(host, old) {
            Ok(file) => tell(&format!("domain {}'s memory is in {}", old.id(), file.display())),
            Err(error) => tell(&format!("there is no dump of domain {}: {}", old.id(), error.message)),
        }
    }
    match action {
        Action::Preserve => return Ok(None),
        Action::RenameRestart => rename_away(host, old)?,
        // A reset in place is a restart to a guest that asked for nothing but a fresh machine.
        Action::Destroy
        | Action::CoredumpDestroy
        | Action::Restart
        | Action::CoredumpRestart
        | Action::SoftReset => {
            let held = domain::teardown(host, old.id())?;
            if held != 0 {
                tell(&format!(
                    "{held} of domain {0}'s pages are still held; `lith show {0}` says by whom",
                    old.id()
                ));
            }
            Recipe::forget(host, old.id())?;
        }
    }
    if give_up || matches!(action, Action::Destroy | Action::CoredumpDestroy) {
        return Ok(None);
    }
    let recipe = recipe.renewed(host);
    let mut config = recipe.config()?;
    if action == Action::RenameRestart {
        // The one that is kept has it.
        config.uuid = None;
    } else if config.uuid.is_none() {
        config.uuid = Some(old.uuid());
    }
    let new = create(host, &config, &mut Quiet)?;
    recipe.save(host, new.domid)?;
    host.unpause(new.domid)?;
    Ok(Some(new.domid))
}

/// Gives a domain's name free: it is `NAME-1` from now on, or the next number that is free.
fn rename_away(host: &dyn Host, old: &Domain) -> Result<()> {
    let names: Vec<String> = domain::list(host)?.into_iter().map(|d| d.name).collect();
    let free = (1..).map(|n| format!("{}-{n}", old.name)).find(|name| !names.contains(name));
    rename(host, old, &free.unwrap_or_default())
}

/// Gives a domain another name.
pub fn rename(host: &dyn Host, domain: &Domain, name: &str) -> Result<()> {
    host.write(&format!("/local/domain/{}/name", domain.id()), name)?;
    host.write(&format!("/vm/{}/name", domain.uuid()), name)?;
    Ok(())
}
