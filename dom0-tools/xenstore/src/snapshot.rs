//! The whole state as bytes.
//!
//! Open transactions are kept by number only: they fail at their end, as if somebody had changed what they saw.

use crate::codec::{Reader, Writer};
use crate::connection::{Connection, ConnectionId, Outgoing, Peer};
use crate::machine::{Domain, Machine};
use crate::transaction::Transaction;
use crate::tree::{Node, Tree};
use crate::watches::Watch;
use lith_client::Permission;
use std::collections::BTreeMap;
use std::sync::Arc;

const FORMAT: u64 = 1;
/// Nodes nest no deeper than a path has slashes.
const DEEPEST: usize = 1 << 12;

impl Machine {
    /// All of it. Dooms open transactions, so that this store and the one made from the bytes stay the same.
    pub fn save(&mut self) -> Vec<u8> {
        self.doom_transactions();
        let mut to = Writer::default();
        to.number(FORMAT);
        for (_, value) in self.limits.clone().fields() {
            to.number(u64::from(*value));
        }
        to.number(self.tree.clock);
        save_node(&mut to, &self.tree.root);
        to.number(u64::from(self.last_connection));
        to.number(self.connections.len() as u64);
        for (id, connection) in &self.connections {
            self.save_connection(&mut to, *id, connection);
        }
        to.number(self.domains.len() as u64);
        for (domid, domain) in &self.domains {
            save_domain(&mut to, *domid, domain);
        }
        to.number(self.special.len() as u64);
        for (name, entries) in &self.special {
            to.bytes(name.as_bytes());
            save_permissions(&mut to, entries);
        }
        to.0
    }

    fn save_connection(&self, to: &mut Writer, id: ConnectionId, connection: &Connection) {
        to.number(u64::from(id.0));
        match connection.peer {
            Peer::Socket => to.number(0),
            Peer::Domain(domid) => to.number(1 + u64::from(domid)),
        }
        to.number(connection.target.map_or(0, |target| 1 + u64::from(target)));
        to.bytes(&connection.input);
        to.number(connection.sent as u64);
        to.number(connection.output.len() as u64);
        for message in &connection.output {
            let (kind, bytes): (_, &[u8]) = match message {
                Outgoing::Reply(bytes) => (0, bytes),
                Outgoing::Event(payload) => (1, payload),
            };
            to.number(kind);
            to.bytes(bytes);
        }
        to.number(connection.watches.len() as u64);
        for (path, token) in &connection.watches {
            let watch = self.watches.at(path).find(|watch| watch.connection == id && watch.token == *token);
            to.bytes(path.as_bytes());
            to.bytes(token);
            to.number(watch.map_or(0, |watch| watch.hidden as u64));
            to.number(watch.and_then(|watch| watch.depth).map_or(0, |depth| 1 + u64::from(depth)));
        }
        to.number(u64::from(connection.last_transaction));
        to.number(connection.transactions.len() as u64);
        for number in connection.transactions.keys() {
            to.number(u64::from(*number));
        }
    }

    /// The state that [`Machine::save`] wrote; `None` for anything else.
    pub fn load(bytes: &[u8]) -> Option<Machine> {
        let mut from = Reader(bytes);
        let mut machine = Machine::new();
        if from.number()? != FORMAT {
            return None;
        }
        for (_, value) in machine.limits.fields() {
            *value = from.small()?;
        }
        let clock = from.number()?;
        let root = Arc::new(load_node(&mut from, 0)?);
        machine.tree = Tree { owned: count(&root), root, clock };
        machine.last_connection = from.small()?;
        for _ in 0..from.number()? {
            machine.load_connection(&mut from)?;
        }
        for _ in 0..from.number()? {
            let (domid, domain) = load_domain(&mut from)?;
            machine.domains.insert(domid, domain);
        }
        for _ in 0..from.number()? {
            let name = from.text()?.into();
            machine.special.insert(name, load_permissions(&mut from)?);
        }
        (from.0.is_empty() && machine.is_consistent()).then_some(machine)
    }

    fn load_connection(&mut self, from: &mut Reader<'_>) -> Option<()> {
        let id = ConnectionId(from.small()?);
        let peer = match from.small::<u32>()? {
            0 => Peer::Socket,
            domid => Peer::Domain(u16::try_from(domid - 1).ok()?),
        };
        let mut connection = Connection::new(peer);
        connection.target = option(from)?;
        connection.input = from.bytes()?.to_vec();
        connection.sent = from.small()?;
        for index in 0..from.number()? {
            let outgoing = match (from.number()?, from.bytes()?) {
                (0, bytes) => Outgoing::Reply(bytes.into()),
                (1, payload) => Outgoing::Event(payload.into()),
                _ => return None,
            };
            connection.restore_output(outgoing, index == 0 && connection.sent > 0);
        }
        for _ in 0..from.number()? {
            let (path, token) = (from.text()?, from.bytes()?);
            let (hidden, depth) = (from.small()?, option::<u32>(from)?);
            connection.watches.push((path.into(), token.into()));
            self.watches.add(path, Watch { connection: id, token: token.into(), hidden, depth });
        }
        connection.last_transaction = from.small()?;
        for _ in 0..from.number()? {
            connection.transactions.insert(from.small()?, Transaction::doomed(&self.tree));
        }
        self.connections.insert(id, connection);
        Some(())
    }
}

/// A number that may be missing: 0, or one more than it.
fn option<T: TryFrom<u64>>(from: &mut Reader<'_>) -> Option<Option<T>> {
    match from.number()? {
        0 => Some(None),
        value => T::try_from(value - 1).ok().map(Some),
    }
}

fn save_permissions(to: &mut Writer, entries: &[Permission]) {
    to.number(entries.len() as u64);
    for entry in entries {
        to.number(u64::from(entry.domid) << 2 | u64::from(entry.write) << 1 | u64::from(entry.read));
    }
}

fn load_permissions(from: &mut Reader<'_>) -> Option<Arc<[Permission]>> {
    let count = from.number()?;
    let entry = |word: u64| {
        let domid = u16::try_from(word >> 2).ok()?;
        Some(Permission { domid, read: word & 1 != 0, write: word & 2 != 0 })
    };
    (0..count).map(|_| entry(from.number()?)).collect()
}

fn save_node(to: &mut Writer, node: &Node) {
    to.bytes(&node.value);
    save_permissions(to, &node.permissions);
    to.number(node.changed);
    to.number(node.children_changed);
    to.number(node.children.len() as u64);
    for (name, child) in &node.children {
        to.bytes(name.as_bytes());
        save_node(to, child);
    }
}

fn load_node(from: &mut Reader<'_>, depth: usize) -> Option<Node> {
    if depth > DEEPEST {
        return None;
    }
    let value = from.bytes()?.into();
    let permissions = load_permissions(from)?;
    let (changed, children_changed) = (from.number()?, from.number()?);
    let mut children = BTreeMap::new();
    for _ in 0..from.number()? {
        let name = from.text()?.into();
        children.insert(name, Arc::new(load_node(from, depth + 1)?));
    }
    Some(Node { value, permissions, children, changed, children_changed })
}

fn count(root: &Node) -> BTreeMap<u16, u32> {
    fn add(node: &Node, owned: &mut BTreeMap<u16, u32>) {
        *owned.entry(node.permissions.first().map_or(0, |first| first.domid)).or_insert(0) += 1;
        node.children.values().for_each(|child| add(child, owned));
    }
    let mut owned = BTreeMap::new();
    add(root, &mut owned);
    owned
}

fn save_domain(to: &mut Writer, domid: u16, domain: &Domain) {
    to.number(u64::from(domid));
    to.number(domain.connection.map_or(0, |id| 1 + u64::from(id.0)));
    to.number(domain.frame);
    to.number(u64::from(domain.port));
    to.number(u64::from(domain.shutdown));
    to.number(domain.target.map_or(0, |target| 1 + u64::from(target)));
}

fn load_domain(from: &mut Reader<'_>) -> Option<(u16, Domain)> {
    let domid = from.small()?;
    let connection = option::<u32>(from)?.map(ConnectionId);
    let (frame, port, shutdown) = (from.number()?, from.small()?, from.number()? != 0);
    Some((domid, Domain { connection, frame, port, shutdown, target: option(from)? }))
}
