//! Rings of domains, with their ports.

use crate::connection::ConnectionId;
use crate::ring::{Indices, Ring};
use lith_client::SharedPage;
use std::collections::BTreeMap;

/// A domain's ring and port.
#[derive(Debug)]
pub(crate) struct Link<P> {
    pub ring: Ring<P>,
    /// This side's port.
    pub port: u32,
    pub connection: ConnectionId,
    /// The guest is to be told of what was taken and given.
    pub touched: bool,
    /// It broke the protocol: nothing until it is introduced again.
    pub broken: bool,
}

impl<P: SharedPage> Link<P> {
    pub fn new(page: P, port: u32, connection: ConnectionId) -> Link<P> {
        Link { ring: Ring::new(page), port, connection, touched: true, broken: false }
    }

    pub fn resume(page: P, port: u32, connection: ConnectionId, indices: Indices) -> Link<P> {
        Link { ring: Ring::resume(page, indices), port, connection, touched: true, broken: false }
    }

    pub fn give_up(&mut self, error: u32) {
        self.broken = true;
        self.ring.complain(error);
    }
}

/// All rings, by domain.
#[derive(Debug)]
pub(crate) struct Links<P> {
    by_domain: BTreeMap<u16, Link<P>>,
    by_port: BTreeMap<u32, ConnectionId>,
    domains: BTreeMap<ConnectionId, u16>,
}

impl<P> Default for Links<P> {
    fn default() -> Links<P> {
        Links { by_domain: BTreeMap::new(), by_port: BTreeMap::new(), domains: BTreeMap::new() }
    }
}

impl<P> Links<P> {
    pub fn insert(&mut self, domid: u16, link: Link<P>) {
        self.remove(domid);
        self.by_port.insert(link.port, link.connection);
        self.domains.insert(link.connection, domid);
        self.by_domain.insert(domid, link);
    }

    pub fn remove(&mut self, domid: u16) -> Option<Link<P>> {
        let link = self.by_domain.remove(&domid)?;
        self.by_port.remove(&link.port);
        self.domains.remove(&link.connection);
        Some(link)
    }

    pub fn connection_at(&self, port: u32) -> Option<ConnectionId> {
        self.by_port.get(&port).copied()
    }

    pub fn by_connection(&mut self, id: ConnectionId) -> Option<(u16, &mut Link<P>)> {
        let domid = *self.domains.get(&id)?;
        Some((domid, self.by_domain.get_mut(&domid)?))
    }

    pub fn all(&mut self) -> impl Iterator<Item = &mut Link<P>> {
        self.by_domain.values_mut()
    }
}
