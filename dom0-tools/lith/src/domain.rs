//! Domains by name, and what the store says about them.

use crate::device;
use crate::error::{Error, Kind, Result};
use crate::host::{Changes, Host};
use guest_abi::control::{self, DomainInfo};
use std::time::Duration;

/// A domain and its name.
#[derive(Clone, Debug)]
pub struct Domain {
    /// What the hypervisor says.
    pub info: DomainInfo,
    /// Its name; empty if the store has none.
    pub name: String,
}

impl Domain {
    /// Its number.
    pub fn id(&self) -> u32 {
        self.info.domid
    }

    /// Its UUID in the usual form.
    pub fn uuid(&self) -> String {
        uuid_text(&self.info.handle)
    }

    /// It is being made, or its making was broken off: nothing in it can run yet.
    pub fn is_building(&self) -> bool {
        const ENDED: u32 = control::DOMAIN_SHUTDOWN | control::DOMAIN_DYING;
        let info = &self.info;
        let is_held = info.state & (control::DOMAIN_PAUSED | ENDED) == control::DOMAIN_PAUSED;
        is_held && info.online_vcpus == 0 && info.cpu_time == 0
    }

    /// An error if it is being made, and so cannot be held or let go on.
    pub fn complete(&self) -> Result<()> {
        if self.is_building() {
            return Err(Error::new(Kind::WrongState, "the domain is being made")
                .hint("`lith create` ends when it is complete"));
        }
        Ok(())
    }

    /// Its state, as words: an empty list is a domain that could run and has no CPU.
    pub fn state(&self) -> Vec<&'static str> {
        let state = self.info.state;
        let mut words = Vec::new();
        let flags = [
            (control::DOMAIN_RUNNING, "running"),
            (control::DOMAIN_BLOCKED, "blocked"),
            (control::DOMAIN_PAUSED, "paused"),
            (control::DOMAIN_DYING, "dying"),
        ];
        words.extend(flags.iter().filter(|(flag, _)| state & flag != 0).map(|(_, word)| *word));
        if self.is_building() {
            words.push("building");
        }
        if state & control::DOMAIN_SHUTDOWN != 0 {
            words.push(if self.info.shutdown_reason == 3 { "crashed" } else { "shutdown" });
        }
        words
    }

    /// Why it ended.
    pub fn reason(&self) -> Option<&'static str> {
        (self.info.state & control::DOMAIN_SHUTDOWN != 0).then(|| reason_word(self.info.shutdown_reason))
    }

    /// The same in the six letters of `xl list`.
    pub fn letters(&self) -> String {
        let state = self.info.state;
        let letter = |flag: u32, c: char| if state & flag != 0 { c } else { '-' };
        let crashed = state & control::DOMAIN_SHUTDOWN != 0 && self.info.shutdown_reason == 3;
        [
            letter(control::DOMAIN_RUNNING, 'r'),
            letter(control::DOMAIN_BLOCKED, 'b'),
            letter(control::DOMAIN_PAUSED, 'p'),
            letter(control::DOMAIN_SHUTDOWN, 's'),
            if crashed { 'c' } else { '-' },
            letter(control::DOMAIN_DYING, 'd'),
        ]
        .iter()
        .collect()
    }
}

/// `SHUTDOWN_*` of `sched.h`.
pub fn reason_word(reason: u32) -> &'static str {
    match reason {
        0 => "poweroff",
        1 => "reboot",
        2 => "suspend",
        3 => "crash",
        4 => "watchdog",
        5 => "soft-reset",
        _ => "unknown",
    }
}

/// A UUID as people write it.
pub fn uuid_text(uuid: &[u8; 16]) -> String {
    let hex: String = uuid.iter().map(|b| format!("{b:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The bytes of a UUID.
pub fn uuid_bytes(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let mut bytes = [0; 16];
    if digits.len() != 32 || !digits.is_ascii() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

/// All domains with their names.
pub fn list(host: &dyn Host) -> Result<Vec<Domain>> {
    host.domains()?.into_iter().map(|info| named(host, info)).collect()
}

fn named(host: &dyn Host, info: DomainInfo) -> Result<Domain> {
    // Without a store there are no names, and what the hypervisor knows is still to be seen.
    let name = host.read(&format!("/local/domain/{}/name", info.domid)).ok().flatten();
    let name = name.unwrap_or_else(|| if info.domid == 0 { "Domain-0".to_owned() } else { String::new() });
    Ok(Domain { info, name })
}

/// The domain with a number.
pub fn by_id(host: &dyn Host, domid: u32) -> Result<Option<Domain>> {
    host.domain(domid)?.map(|info| named(host, info)).transpose()
}

/// Of a UUID, what says as much as the whole: its first group. A domain's number never has so many digits.
const UUID_BEGINNING: usize = 8;

/// The domain that a word means: a number, a name, a UUID, or at least the first eight digits of one UUID alone. A name is written whole, because
/// a script that ends `web` must not end `web-2` when `web` has gone by itself.
pub fn find(host: &dyn Host, word: &str) -> Result<Domain> {
    let all = list(host)?;
    let exact = all.iter().find(|d| d.id().to_string() == word || d.name == word || d.uuid() == word);
    if let Some(domain) = exact {
        return Ok(domain.clone());
    }
    let begins = |d: &&Domain| word.len() >= UUID_BEGINNING && d.uuid().starts_with(word);
    let names = |domains: &[&Domain]| {
        domains.iter().map(|d| format!("{} ({})", d.name, d.id())).collect::<Vec<_>>().join(", ")
    };
    let matching: Vec<&Domain> = all.iter().filter(begins).collect();
    match matching.as_slice() {
        [one] => Ok((*one).clone()),
        [] => {
            let longer: Vec<&Domain> =
                all.iter().filter(|d| !word.is_empty() && d.name.starts_with(word)).collect();
            let hint = if longer.is_empty() {
                "`lith list` shows those that there are".to_owned()
            } else {
                format!("names are written whole, as {}", names(&longer))
            };
            Err(Error::new(Kind::NotFound, format!("there is no domain `{word}`")).hint(hint))
        }
        several => Err(Error::new(Kind::Usage, format!("`{word}` may be any of {}", names(several)))),
    }
}

/// Ends a domain and removes all of it: vCPUs, devices, store. The answer is how many of its pages others still hold.
pub fn teardown(host: &dyn Host, domid: u32) -> Result<u64> {
    // First, so that nothing of it runs while its devices go.
    let destroyed = host.destroy(domid);
    let devices = device::remove_all(host, domid);
    let store = forget(host, domid);
    destroyed?;
    devices.and(store)?;
    wait_gone(host, domid)
}

/// Removes a domain from the store.
pub fn forget(host: &dyn Host, domid: u32) -> Result<()> {
    let path = format!("/local/domain/{domid}");
    let vm = host.read(&format!("{path}/vm"))?;
    // It may not have been introduced yet.
    let _ = host.release(domid);
    host.remove(&path)?;
    host.remove(&format!("/libxl/{domid}"))?;
    if let Some(vm) = vm.filter(|vm| vm.starts_with("/vm/")) {
        host.remove(&vm)?;
    }
    Ok(())
}

/// dom0's backends let go of a domain's pages a moment after its devices went.
fn wait_gone(host: &dyn Host, domid: u32) -> Result<u64> {
    for _ in 0..50 {
        if host.domain(domid)?.is_none() {
            return Ok(0);
        }
        host.sleep(Duration::from_millis(100));
    }
    Ok(host.holders(domid).map_or(0, |(_, pages)| pages))
}

/// A domain's part of the store, as Xen's tools lay it out (`xenstore-paths(7)`).
pub struct StoreEntry<'a> {
    /// Whose.
    pub domid: u32,
    /// Its name.
    pub name: &'a str,
    /// Its UUID.
    pub uuid: &'a str,
    /// Memory it has, in KiB.
    pub target_kib: u64,
    /// Memory it may have, in KiB.
    pub max_kib: u64,
    /// vCPUs that it may have.
    pub max_vcpus: u32,
    /// vCPUs that shall be up.
    pub vcpus: u32,
    /// Frame and port of the store's ring.
    pub store: (u64, u32),
    /// Frame and port of the console's ring.
    pub console: (u64, u32),
}

impl StoreEntry<'_> {
    /// Writes it, and introduces the domain to the store.
    pub fn write(&self, host: &dyn Host) -> Result<()> {
        let domid = self.domid;
        let path = format!("/local/domain/{domid}");
        let read_only = [(0, 'n'), (domid, 'r')];
        let own = [(domid, 'n')];
        let vm = format!("/vm/{}", self.uuid);
        let mut changes = Changes::default();
        for dir in [path.clone(), vm.clone()] {
            changes.make_dir(&dir, &read_only);
        }
        for dir in ["cpu", "memory", "device", "control", "console", "store"] {
            changes.make_dir(&format!("{path}/{dir}"), &read_only);
        }
        for dir in [
            "control/shutdown",
            "control/sysrq",
            "control/feature-poweroff",
            "control/feature-reboot",
            "control/feature-suspend",
            "device/suspend/event-channel",
            "data",
            "drivers",
            "feature",
            "attr",
            "error",
        ] {
            changes.make_dir(&format!("{path}/{dir}"), &own);
        }
        for (node, value) in [("uuid", self.uuid), ("name", self.name), ("image/ostype", "linux")] {
            changes.write(format!("{vm}/{node}"), value);
        }
        changes.write(format!("{vm}/start_time"), host.wall_clock().to_string());
        for (node, value) in [
            ("vm", vm),
            ("name", self.name.to_owned()),
            ("domid", domid.to_string()),
            ("memory/target", self.target_kib.to_string()),
            ("memory/static-max", self.max_kib.to_string()),
            ("store/ring-ref", self.store.0.to_string()),
            ("store/port", self.store.1.to_string()),
            ("control/platform-feature-multiprocessor-suspend", "1".to_owned()),
            ("control/platform-feature-xs_reset_watches", "1".to_owned()),
        ] {
            changes.write(format!("{path}/{node}"), value);
        }
        for vcpu in 0..self.max_vcpus {
            changes.write(format!("{path}/cpu/{vcpu}/availability"), availability(vcpu < self.vcpus));
        }
        self.console(&mut changes, &path);
        host.change(changes)?;
        Ok(host.introduce(domid, self.store.0, self.store.1)?)
    }

    /// The console daemon looks for these when the domain is introduced.
    fn console(&self, changes: &mut Changes, path: &str) {
        let console = format!("{path}/console");
        for (node, value) in [
            ("type", "xenconsoled".to_owned()),
            ("limit", "1048576".to_owned()),
            ("output", "pty".to_owned()),
            ("ring-ref", self.console.0.to_string()),
            ("port", self.console.1.to_string()),
        ] {
            changes.write(format!("{console}/{node}"), value);
        }
        changes.make_dir(&format!("{console}/tty"), &[(0, 'n'), (self.domid, 'r')]);
    }
}

/// What the store shall say of dom0: its name, and the memory that its balloon driver holds it to.
pub fn write_dom0(host: &dyn Host) -> Result<()> {
    let info = host.domain(0)?.ok_or_else(|| Error::new(Kind::Hypervisor, "there is no dom0"))?;
    let path = "/local/domain/0";
    let mut changes = Changes::default();
    changes.make_dir(path, &[(0, 'n')]);
    for (node, value) in [("domid", "0"), ("name", "Domain-0")] {
        changes.write(format!("{path}/{node}"), value);
    }
    let kib = (info.pages * 4).to_string();
    for node in ["memory/target", "memory/static-max"] {
        if host.read(&format!("{path}/{node}"))?.is_none() {
            changes.write(format!("{path}/{node}"), kib.clone());
        }
    }
    Ok(host.change(changes)?)
}

/// The word for a vCPU that shall be up or not.
pub fn availability(online: bool) -> &'static str {
    if online { "online" } else { "offline" }
}
