//! Devices of a domain in the store: a frontend's directory in the guest's part, a backend's in dom0's, and dom0's own
//! end made ready by this command rather than by scripts. All as `blkif.h` and `netif.h` have it and the tools of Xen
//! lay it out, so that Linux's drivers find it.

mod block;
mod network;

pub use block::Block;
pub use network::Network;

use crate::error::{Error, Kind, Result};
use crate::host::{Changes, Host};
use std::time::Duration;

/// How long a frontend may take to connect.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(60);
/// How long a guest may take to let go of a device.
pub const DETACH_LIMIT: Duration = Duration::from_secs(10);

/// States of `xenbus.h`.
pub mod state {
    /// The other end may look at it.
    pub const INITIALISING: &str = "1";
    /// Data flows.
    pub const CONNECTED: &str = "4";
    /// To be let go.
    pub const CLOSING: &str = "5";
    /// Let go.
    pub const CLOSED: &str = "6";

    /// A state's name.
    pub fn name(number: &str) -> &'static str {
        match number {
            "1" => "initialising",
            "2" => "waiting",
            "3" => "initialised",
            "4" => "connected",
            "5" => "closing",
            "6" => "closed",
            "7" => "reconfiguring",
            "8" => "reconfigured",
            _ => "unknown",
        }
    }
}

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// `vbd`
    Block,
    /// `vif`
    Network,
}

impl DeviceKind {
    /// Its word in the store.
    pub fn word(self) -> &'static str {
        match self {
            DeviceKind::Block => "vbd",
            DeviceKind::Network => "vif",
        }
    }

    /// What people call it.
    pub fn noun(self) -> &'static str {
        match self {
            DeviceKind::Block => "disk",
            DeviceKind::Network => "interface",
        }
    }
}

/// Where a device stands in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// What it is.
    pub kind: DeviceKind,
    /// Whose it is.
    pub domid: u32,
    /// Its number in the domain.
    pub number: u32,
}

impl Location {
    /// The guest's directory.
    pub fn frontend(&self) -> String {
        format!("/local/domain/{}/device/{}/{}", self.domid, self.kind.word(), self.number)
    }

    /// dom0's directory.
    pub fn backend(&self) -> String {
        format!("/local/domain/0/backend/{}/{}/{}", self.kind.word(), self.domid, self.number)
    }

    /// A node of the frontend.
    pub fn front(&self, host: &dyn Host, node: &str) -> Result<Option<String>> {
        Ok(host.read(&format!("{}/{node}", self.frontend()))?)
    }

    /// A node of the backend.
    pub fn back(&self, host: &dyn Host, node: &str) -> Result<Option<String>> {
        Ok(host.read(&format!("{}/{node}", self.backend()))?)
    }

    /// Writes both directories: the guest's, which the backend may read, and dom0's, which the guest may. The states come
    /// last, since the drivers look when they change.
    fn publish(&self, host: &dyn Host, front: &[(&str, String)], back: &[(&str, String)]) -> Result<()> {
        let (frontend, backend) = (self.frontend(), self.backend());
        let mut changes = Changes::default();
        changes.make_dir(&frontend, &[(self.domid, 'n'), (0, 'r')]);
        changes.make_dir(&backend, &[(0, 'n'), (self.domid, 'r')]);
        let domid = self.domid.to_string();
        let own_back = [("frontend", frontend.clone()), ("frontend-id", domid), ("online", "1".to_owned())];
        let own_front = [("backend", backend.clone()), ("backend-id", "0".to_owned())];
        for (node, value) in own_back.iter().chain(back) {
            changes.write(format!("{backend}/{node}"), value);
        }
        for (node, value) in own_front.iter().chain(front) {
            changes.write(format!("{frontend}/{node}"), value);
        }
        changes.write(format!("{backend}/state"), state::INITIALISING);
        changes.write(format!("{frontend}/state"), state::INITIALISING);
        Ok(host.change(changes)?)
    }

    /// Waits until the frontend is connected.
    pub fn wait_connected(&self, host: &dyn Host, limit: Duration) -> Result<()> {
        let end = host.now() + limit;
        loop {
            let front = self.front(host, "state")?.unwrap_or_default();
            if front == state::CONNECTED {
                return Ok(());
            }
            if let Some(error) = self.back(host, "hotplug-error")? {
                return Err(Error::new(Kind::Other, error));
            }
            if host.now() >= end {
                return Err(self.not_connected(host, &front)?);
            }
            let paths = [self.frontend(), self.backend()].map(|dir| format!("{dir}/state"));
            host.wait(&paths, end.saturating_sub(host.now()))?;
        }
    }

    /// What dom0's driver says is wrong with it.
    fn backend_error(&self, host: &dyn Host) -> Option<String> {
        let node = format!(
            "/local/domain/0/error/backend/{}/{}/{}/error",
            self.kind.word(),
            self.domid,
            self.number
        );
        host.read(&node).ok().flatten().filter(|text| !text.is_empty())
    }

    fn not_connected(&self, host: &dyn Host, front: &str) -> Result<Error> {
        let back = self.back(host, "state")?.unwrap_or_default();
        let word = self.kind.word();
        let said =
            |dir: String| host.read(&format!("{dir}/error")).ok().flatten().filter(|text| !text.is_empty());
        let front_error = said(format!("/local/domain/{}/error/device/{word}/{}", self.domid, self.number));
        let back_error = self.backend_error(host);
        let message = format!(
            "the guest's {} {} did not connect: the frontend is {}, the backend {}",
            self.kind.noun(),
            self.number,
            state::name(front),
            state::name(&back)
        );
        let hint = match (front_error, back_error, front, back.as_str()) {
            (_, Some(error), ..) => format!("dom0's driver says: {error}"),
            (Some(error), ..) => format!("the guest's driver says: {error}"),
            (.., "1") => format!("no driver in dom0 took it: modprobe xen-{}", driver(self.kind, "back")),
            (.., "1" | "2", _) => {
                format!("no driver in the guest took it: xen-{} is missing there", driver(self.kind, "front"))
            }
            _ => "`lith doctor` looks closer".to_owned(),
        };
        Ok(Error::new(Kind::TimedOut, message).hint(hint))
    }

    /// Asks the guest to let go, and takes the device away when it did, or at once with `force`.
    pub fn detach(&self, host: &dyn Host, force: bool) -> Result<()> {
        let backend = self.backend();
        if self.back(host, "state")?.is_none() {
            return Err(Error::new(
                Kind::NotFound,
                format!("there is no {} {}", self.kind.noun(), self.number),
            ));
        }
        if !force {
            host.write(&format!("{backend}/online"), "0")?;
            host.write(&format!("{backend}/state"), state::CLOSING)?;
            self.wait_closed(host)?;
        }
        self.withdraw(host)
    }

    fn wait_closed(&self, host: &dyn Host) -> Result<()> {
        let end = host.now() + DETACH_LIMIT;
        while self.back(host, "state")?.is_some_and(|now| now != state::CLOSED) {
            if host.now() >= end {
                let front = self.front(host, "state")?.unwrap_or_default();
                return Err(Error::new(
                    Kind::GuestRefused,
                    format!(
                        "the guest does not let go of {} {}: its end is {}",
                        self.kind.noun(),
                        self.number,
                        state::name(&front)
                    ),
                )
                .hint("it may be in use there (mounted, say); --force takes it away all the same"));
            }
            let paths = [format!("{}/state", self.backend())];
            host.wait(&paths, end.saturating_sub(host.now()))?;
        }
        Ok(())
    }

    /// Removes it from the store and from dom0.
    fn withdraw(&self, host: &dyn Host) -> Result<()> {
        let loop_device = self.back(host, "xenolith-loop")?;
        host.remove(&self.backend())?;
        host.remove(&self.frontend())?;
        if let Some(device) = loop_device {
            // The backend's own hold ends when it sees the node gone; the kernel then lets go of the file.
            host.detach_loop(&device)?;
        }
        Ok(())
    }
}

fn driver(kind: DeviceKind, end: &str) -> String {
    match kind {
        DeviceKind::Block => format!("blk{end}"),
        DeviceKind::Network => format!("net{end}"),
    }
}

/// All devices of a domain.
pub fn all(host: &dyn Host, domid: u32) -> Result<Vec<Location>> {
    let mut found = Vec::new();
    for kind in [DeviceKind::Block, DeviceKind::Network] {
        found.extend(of_kind(host, domid, kind)?);
    }
    Ok(found)
}

/// Its devices of one kind, by number.
pub fn of_kind(host: &dyn Host, domid: u32, kind: DeviceKind) -> Result<Vec<Location>> {
    let dir = format!("/local/domain/0/backend/{}/{domid}", kind.word());
    let mut numbers: Vec<u32> = host.list(&dir)?.iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers.into_iter().map(|number| Location { kind, domid, number }).collect())
}

/// Takes all devices of a domain away, which is ending or gone. All are tried; the first error is the answer.
pub fn remove_all(host: &dyn Host, domid: u32) -> Result<()> {
    let mut result = Ok(());
    for device in all(host, domid)? {
        result = result.and(device.withdraw(host));
    }
    for kind in [DeviceKind::Block, DeviceKind::Network] {
        host.remove(&format!("/local/domain/0/backend/{}/{domid}", kind.word()))?;
    }
    result
}
