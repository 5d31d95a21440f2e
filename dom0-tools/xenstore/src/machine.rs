//! The state of the store, and how it changes.

use crate::connection::{Connection, ConnectionId, Peer};
use crate::transaction::Transaction;
use crate::tree::{Change, Tree};
use crate::watches::Watches;
use crate::{Limits, NodePath};
use guest_abi::Errno;
use lith_client::Permission;
use lith_client::wire::{self, Kind, Message};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of replies that may wait for a tool before its requests wait.
const TOOL_REPLIES: usize = 256 * 1024;
/// Bytes of events that may wait for the store's own kernel before unprivileged requests wait.
const KERNEL_EVENTS: usize = 256 * 1024;
/// Bytes of events that may wait for a privileged reader at all.
const PRIVILEGED_EVENTS: usize = 4 * 1024 * 1024;

/// The special node of domains that come.
pub(crate) const INTRODUCE: &str = "@introduceDomain";
/// The special node of domains that go.
pub(crate) const RELEASE: &str = "@releaseDomain";

/// What the machine asks of the world around it.
pub trait Outside {
    /// Connects a domain's ring, `frame`, and its port.
    ///
    /// # Errors
    /// What the caller of INTRODUCE is told.
    fn introduce(&mut self, domid: u16, frame: u64, port: u32) -> Result<(), Errno>;

    /// Disconnects a domain's ring.
    fn release(&mut self, domid: u16);

    /// Does what a command to the daemon says, and answers in words; `None` for one that it does not know.
    fn command(&mut self, words: &[&str]) -> Option<String>;
}

/// What became of a connection's next message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is no whole message.
    Idle,
    /// It is answered.
    Done,
    /// There is one, but it has to wait until answers are read.
    Waits,
    /// The connection breaks the protocol, or does not read: close it.
    Broken,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Domain {
    pub connection: Option<ConnectionId>,
    pub frame: u64,
    pub port: u32,
    pub shutdown: bool,
    pub target: Option<u16>,
}

/// The store: everything it knows. The same input always gives the same state and output.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    pub(crate) tree: Tree,
    pub(crate) watches: Watches,
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,
    pub(crate) domains: BTreeMap<u16, Domain>,
    /// Permissions of special nodes that were set.
    pub(crate) special: BTreeMap<Box<str>, Arc<[Permission]>>,
    pub(crate) limits: Limits,
    pub(crate) last_connection: u32,
}

impl Machine {
    /// An empty store.
    pub fn new() -> Machine {
        Machine::default()
    }

    /// Its limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// A tool connects.
    pub fn connect(&mut self) -> ConnectionId {
        self.open(Peer::Socket)
    }

    /// The store's own kernel connects.
    pub fn connect_kernel(&mut self) -> ConnectionId {
        let id = self.open(Peer::Domain(0));
        self.domains.entry(0).or_default().connection = Some(id);
        id
    }

    pub(crate) fn open(&mut self, peer: Peer) -> ConnectionId {
        self.last_connection += 1;
        let id = ConnectionId(self.last_connection);
        self.connections.insert(id, Connection::new(peer));
        id
    }

    /// A connection is closed: its watches and transactions are gone.
    pub fn disconnect(&mut self, id: ConnectionId) {
        self.forget_watches(id);
        self.connections.remove(&id);
        self.domains.values_mut().filter(|domain| domain.connection == Some(id)).for_each(|domain| {
            domain.connection = None;
        });
    }

    pub(crate) fn forget_watches(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        for (path, token) in std::mem::take(&mut connection.watches) {
            self.watches.remove(&path, id, &token);
        }
    }

    /// All connections.
    pub fn connections(&self) -> impl Iterator<Item = (ConnectionId, Peer)> {
        self.connections.iter().map(|(id, connection)| (*id, connection.peer))
    }

    /// A domain's connection, the frame of its ring and its port.
    pub fn domain(&self, domid: u16) -> Option<(ConnectionId, u64, u32)> {
        let domain = self.domains.get(&domid)?;
        Some((domain.connection?, domain.frame, domain.port))
    }

    /// Domains that are connected.
    pub fn domains(&self) -> impl Iterator<Item = u16> {
        self.domains.iter().filter(|(_, domain)| domain.connection.is_some()).map(|(domid, _)| *domid)
    }

    /// A connection sent bytes.
    pub fn feed(&mut self, id: ConnectionId, bytes: &[u8]) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.input.extend_from_slice(bytes);
        }
    }

    /// Bytes of a connection that are not understood yet: a reader need not bring more than a whole message.
    pub fn unread(&self, id: ConnectionId) -> usize {
        self.connections.get(&id).map_or(0, |connection| connection.input.len())
    }

    /// Whether a connection has a whole message that may be answered now.
    pub fn ready(&self, id: ConnectionId) -> bool {
        self.connections.get(&id).is_some_and(|connection| self.is_ready(connection))
    }

    fn is_ready(&self, connection: &Connection) -> bool {
        connection.has_message() && !self.must_wait(connection)
    }

    /// Connections with a whole message that may be answered now.
    pub fn all_ready(&self) -> impl Iterator<Item = ConnectionId> {
        self.those(|connection| self.is_ready(connection))
    }

    /// Connections that are to be closed, for their readers do not read.
    pub fn hopeless(&self) -> impl Iterator<Item = ConnectionId> {
        self.those(|connection| connection.peer == Peer::Socket && connection.event_bytes > PRIVILEGED_EVENTS)
    }

    /// Connections that something waits for.
    pub fn with_output(&self) -> impl Iterator<Item = ConnectionId> {
        self.those(|connection| !connection.output.is_empty())
    }

    fn those(&self, are: impl Fn(&Connection) -> bool) -> impl Iterator<Item = ConnectionId> {
        self.connections.iter().filter(move |(_, connection)| are(connection)).map(|(id, _)| *id)
    }

    /// A connection's ring begins anew, with the same watches: a domain was introduced once more.
    pub fn restart_stream(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            let new = Connection::new(connection.peer);
            let old = std::mem::replace(connection, new);
            connection.target = old.target;
            connection.watches = old.watches;
        }
    }

    /// Starts a connection over, as its other side did: nothing is left of what was said.
    pub fn start_over(&mut self, id: ConnectionId) {
        self.forget_watches(id);
        if let Some(connection) = self.connections.get_mut(&id) {
            let target = connection.target;
            *connection = Connection::new(connection.peer);
            connection.target = target;
        }
    }

    fn must_wait(&self, connection: &Connection) -> bool {
        if connection.peer == Peer::Socket || connection.caller().privileged() {
            return connection.reply_bytes >= TOOL_REPLIES;
        }
        connection.replies >= self.limits.outstanding as usize || self.congested()
    }

    /// The kernel that serves everybody's devices is behind: whoever makes events for it waits.
    fn congested(&self) -> bool {
        let kernel = self.domains.get(&0).and_then(|domain| self.connections.get(&domain.connection?));
        kernel.is_some_and(|kernel| kernel.event_bytes >= KERNEL_EVENTS)
    }

    /// Answers a connection's next message.
    pub fn step(&mut self, id: ConnectionId, outside: &mut dyn Outside) -> Step {
        let Some(connection) = self.connections.get(&id) else { return Step::Broken };
        if self.must_wait(connection) {
            return Step::Waits;
        }
        let Some(connection) = self.connections.get_mut(&id) else { return Step::Broken };
        match connection.next_message() {
            Ok(Some(message)) => {
                self.answer(id, &message, outside);
                Step::Done
            }
            Ok(None) => Step::Idle,
            Err(_) => Step::Broken,
        }
    }

    /// Up to `room` bytes that wait for a connection.
    pub fn peek(&self, id: ConnectionId, room: usize) -> Vec<u8> {
        self.connections.get(&id).map_or_else(Vec::new, |connection| connection.peek(room))
    }

    /// Whether anything waits for a connection.
    pub fn has_output(&self, id: ConnectionId) -> bool {
        self.connections.get(&id).is_some_and(|connection| !connection.output.is_empty())
    }

    /// So many of the bytes that wait are with the other side.
    pub fn sent(&mut self, id: ConnectionId, count: usize) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.sent(count);
        }
    }

    /// A domain shut down, or goes on: who watches is told once.
    pub fn shut_down(&mut self, domid: u16, shutdown: bool) {
        let Some(domain) = self.domains.get_mut(&domid) else { return };
        if std::mem::replace(&mut domain.shutdown, shutdown) != shutdown && shutdown {
            self.fire_special(RELEASE, domid);
        }
    }

    /// A domain is gone, with all that it owned.
    pub fn gone(&mut self, domid: u16) {
        let Some(domain) = self.domains.remove(&domid) else { return };
        if let Some(id) = domain.connection {
            self.disconnect(id);
        }
        for other in self.domains.values_mut().filter(|other| other.target == Some(domid)) {
            other.target = None;
        }
        for connection in self.connections.values_mut().filter(|c| c.target == Some(domid)) {
            connection.target = None;
        }
        for change in self.tree.forget_domain(domid) {
            self.fire(&change);
        }
        let special = self.special.values_mut();
        special.for_each(|entries| {
            *entries = entries.iter().filter(|e| e.domid == 0 || e.domid != domid).copied().collect();
        });
        self.fire_special(RELEASE, domid);
    }

    /// Open transactions will fail with `EAGAIN`: they are not kept in a snapshot.
    pub fn doom_transactions(&mut self) {
        for connection in self.connections.values_mut() {
            // What they see from now on is what they will see when they are loaded again.
            connection.transactions.values_mut().for_each(|open| *open = Transaction::doomed(&self.tree));
        }
    }

    /// Whether a transaction is open.
    pub fn has_transactions(&self) -> bool {
        let mut connections = self.connections.values();
        connections.any(|connection| connection.transactions.values().any(|transaction| !transaction.doomed))
    }

    fn answer(&mut self, id: ConnectionId, message: &Message, outside: &mut dyn Outside) {
        let mut events = Vec::new();
        let result = match Kind::from_number(message.kind) {
            Some(kind) => self.request(id, kind, message, outside, &mut events),
            None => Err(Errno::ENOSYS),
        };
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let mut bytes = Vec::new();
        match &result {
            Ok(payload) if payload.len() <= wire::PAYLOAD_MAX => {
                wire::encode(&mut bytes, message.kind, message.request, message.transaction, &[payload]);
            }
            refused => {
                let errno = refused.as_ref().err().copied().unwrap_or(Errno::E2BIG);
                let name = wire::error_name(errno).as_bytes();
                let kind = Kind::Error as u32;
                wire::encode(&mut bytes, kind, message.request, message.transaction, &[name, b"\0"]);
            }
        }
        connection.reply(bytes);
        for event in events {
            self.announce(event);
        }
    }

    fn announce(&mut self, event: Event) {
        match event {
            Event::Changed(change) => self.fire(&change),
            Event::Special(name, domid) => self.fire_special(name, domid),
            Event::First(id, path, token) => self.tell(id, &path, &token),
        }
    }

    /// Tells those who watch and may read.
    fn fire(&mut self, change: &Change) {
        let mut tell = Vec::new();
        for hit in self.watches.hits(change) {
            let Some(connection) = self.connections.get(&hit.watch.connection) else { continue };
            let caller = connection.caller();
            let above = change.parent.as_deref().is_some_and(|parent| caller.may_read(parent));
            if above || caller.may_read(hit.permissions) {
                let path = hit.path.get(hit.watch.hidden..).unwrap_or(hit.path);
                tell.push((hit.watch.connection, path.as_bytes().to_vec(), hit.watch.token.clone()));
            }
        }
        for (id, path, token) in tell {
            self.tell(id, &path, &token);
        }
    }

    fn fire_special(&mut self, name: &'static str, domid: u16) {
        let exact = format!("{name}/{domid}");
        let named = self.watches.at(name).map(|watch| {
            let path = if watch.depth == Some(1) { exact.as_str() } else { name };
            (watch.connection, path.as_bytes().to_vec(), watch.token.clone())
        });
        let exactly = self.watches.at(&exact);
        let exactly = exactly.map(|watch| (watch.connection, exact.as_bytes().to_vec(), watch.token.clone()));
        let tell: Vec<_> = named.chain(exactly).filter(|(id, _, _)| self.may_know(*id, name)).collect();
        for (id, path, token) in tell {
            self.tell(id, &path, &token);
        }
    }

    fn may_know(&self, id: ConnectionId, special: &str) -> bool {
        let Some(connection) = self.connections.get(&id) else { return false };
        let caller = connection.caller();
        caller.privileged() || self.special.get(special).is_some_and(|entries| caller.may_read(entries))
    }

    fn tell(&mut self, id: ConnectionId, path: &[u8], token: &[u8]) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.event(path, token);
        let limit = match connection.peer {
            Peer::Domain(0) => PRIVILEGED_EVENTS,
            Peer::Domain(_) => self.limits.event_bytes as usize,
            // The daemon closes it.
            Peer::Socket => return,
        };
        if connection.event_bytes > limit {
            self.summarise(id);
        }
    }

    /// Instead of all that happened, says of each watch that something did.
    fn summarise(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.drop_events();
        for (path, token) in connection.watches.clone() {
            let hidden = self.watches.at(&path).find(|w| w.connection == id && w.token == token);
            let hidden = hidden.map_or(0, |watch| watch.hidden);
            connection.event(path.get(hidden..).unwrap_or(&path).as_bytes(), &token);
        }
    }

    /// Whether what is kept twice agrees.
    pub fn is_consistent(&self) -> bool {
        let watches: usize = self.watches.at.values().map(Vec::len).sum();
        let known: usize = self.connections.values().map(|connection| connection.watches.len()).sum();
        self.tree.is_consistent() && watches == known
    }

    /// A node's value, for the daemon's own use and for tests.
    pub fn value(&self, path: &str) -> Option<&[u8]> {
        NodePath::parse(path.as_bytes(), 0).ok().and_then(|path| Some(&*self.tree.get(path.as_str())?.value))
    }
}

/// Something that watchers are told after the reply.
pub(crate) enum Event {
    Changed(Change),
    Special(&'static str, u16),
    First(ConnectionId, Vec<u8>, Vec<u8>),
}
