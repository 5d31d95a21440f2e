//! Verbs of disks and network interfaces.

use super::Context;
use crate::config::{Disk, Vif, device_number};
use crate::device::{self, Block, CONNECT_LIMIT, DeviceKind, Location, Network, state};
use crate::error::{Error, Kind, Result};
use crate::output::{Cell, Table, left, right};
use serde_json::{Value, json};

/// A disk or interface as the store has it.
pub(super) struct Seen {
    location: Location,
    fields: Vec<(&'static str, String)>,
    state: String,
}

impl Seen {
    fn field(&self, key: &str) -> &str {
        self.fields.iter().find(|(k, _)| *k == key).map_or("", |(_, value)| value)
    }

    pub(super) fn json(&self) -> Value {
        let mut value = json!({"number": self.location.number, "state": self.state});
        for (key, text) in &self.fields {
            value[*key] = text.clone().into();
        }
        value
    }
}

impl Context<'_, '_> {
    fn seen(&self, domid: u32, kind: DeviceKind, fields: &[(&'static str, &str)]) -> Result<Vec<Seen>> {
        let mut all = Vec::new();
        for location in device::of_kind(self.host, domid, kind)? {
            let front = location.front(self.host, "state")?.unwrap_or_default();
            let read = |(key, node): &(&'static str, &str)| {
                Ok((*key, location.back(self.host, node)?.unwrap_or_default()))
            };
            let fields = fields.iter().map(read).collect::<Result<_>>()?;
            all.push(Seen { location, fields, state: state::name(&front).to_owned() });
        }
        Ok(all)
    }

    pub(super) fn disks(&self, domid: u32) -> Result<Vec<Seen>> {
        self.seen(
            domid,
            DeviceKind::Block,
            &[
                ("vdev", "dev"),
                ("target", "params"),
                ("mode", "mode"),
                ("physical_device", "physical-device"),
            ],
        )
    }

    pub(super) fn vifs(&self, domid: u32) -> Result<Vec<Seen>> {
        self.seen(domid, DeviceKind::Network, &[("mac", "mac"), ("bridge", "bridge")])
    }

    pub(super) fn block_attach(&mut self, word: &str, spec: &str) -> Result<()> {
        let domain = self.find_guest(word)?;
        let disk = Disk::parse(spec).map_err(|message| Error::new(Kind::Usage, message))?;
        let location = Block::attach(self.host, domain.id(), &disk)?;
        self.connected("block-attach", &location)
    }

    /// Waits for the frontend; a device that does not connect is taken away again.
    fn connected(&mut self, verb: &str, location: &Location) -> Result<()> {
        let connected = location.wait_connected(self.host, CONNECT_LIMIT);
        if connected.is_err() {
            location.detach(self.host, true)?;
        }
        connected?;
        self.done(verb, Some(location.domid))
    }

    pub(super) fn block_list(&mut self, word: &str) -> Result<()> {
        let domain = self.find(word)?;
        let mut table = Table::new(
            "disks",
            &[
                left("DISK", "vdev"),
                right("NUMBER", "number"),
                left("MODE", "mode"),
                left("STATE", "state"),
                left("DEVICE", "physical_device"),
                left("TARGET", "target"),
            ],
        );
        for disk in self.disks(domain.id())? {
            let cell = |key: &str| Cell::plain(disk.field(key));
            table.row(vec![
                cell("vdev"),
                Cell::plain(disk.location.number),
                cell("mode"),
                Cell::plain(disk.state.clone()),
                cell("physical_device"),
                cell("target"),
            ]);
        }
        self.table(&table)
    }

    pub(super) fn block_detach(&mut self, word: &str, disk: &str, force: bool) -> Result<()> {
        let domain = self.find_guest(word)?;
        let number = device_number(disk)
            .ok_or_else(|| Error::new(Kind::Usage, format!("`{disk}` is not a disk's name or number")))?;
        let location = Location { kind: DeviceKind::Block, domid: domain.id(), number };
        location.detach(self.host, force)?;
        self.done("block-detach", Some(domain.id()))
    }

    pub(super) fn network_attach(&mut self, word: &str, spec: &str) -> Result<()> {
        let domain = self.find_guest(word)?;
        let vif = Vif::parse(spec).map_err(|message| Error::new(Kind::Usage, message))?;
        let number = Network::next_number(self.host, domain.id())?;
        let vif = Network::with_address(&vif, &domain.info.handle, number);
        let location = Network::attach(self.host, domain.id(), number, &vif)?;
        self.connected("network-attach", &location)
    }

    pub(super) fn network_list(&mut self, word: &str) -> Result<()> {
        let domain = self.find(word)?;
        let mut table = Table::new(
            "interfaces",
            &[
                right("NUMBER", "number"),
                left("MAC", "mac"),
                left("STATE", "state"),
                left("BRIDGE", "bridge"),
            ],
        );
        for vif in self.vifs(domain.id())? {
            let cell = |key: &str| Cell::plain(vif.field(key));
            table.row(vec![
                Cell::plain(vif.location.number),
                cell("mac"),
                Cell::plain(vif.state.clone()),
                cell("bridge"),
            ]);
        }
        self.table(&table)
    }

    pub(super) fn network_detach(&mut self, word: &str, vif: &str, force: bool) -> Result<()> {
        let domain = self.find_guest(word)?;
        let mac = crate::config::parse_mac(vif);
        let is_it = |seen: &&Seen| match &mac {
            Some(mac) => seen.field("mac") == mac,
            None => seen.location.number.to_string() == vif,
        };
        let vifs = self.vifs(domain.id())?;
        let found = vifs.iter().find(is_it);
        let missing = || Error::new(Kind::NotFound, format!("{} has no interface {vif}", domain.name));
        found.ok_or_else(missing)?.location.detach(self.host, force)?;
        self.done("network-detach", Some(domain.id()))
    }
}
