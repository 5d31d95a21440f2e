//! One end of a conversation: what came and was not understood yet, what waits to be sent.

use crate::transaction::Transaction;
use crate::tree::Caller;
use lith_client::wire::{self, Kind, TooLong};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

/// Names a connection; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u32);

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A tool in the store's own domain.
    Socket,
    /// A domain's kernel, through its ring.
    Domain(u16),
}

impl Peer {
    /// The domain.
    pub fn domid(self) -> u16 {
        match self {
            Peer::Socket => 0,
            Peer::Domain(domid) => domid,
        }
    }
}

/// A message that waits to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outgoing {
    Reply(Box<[u8]>),
    /// The payload of an event.
    Event(Arc<[u8]>),
}

impl Outgoing {
    pub fn len(&self) -> usize {
        match self {
            Outgoing::Reply(bytes) => bytes.len(),
            Outgoing::Event(payload) => wire::HEAD + payload.len(),
        }
    }

    /// Its bytes from `from` on, at most `room` of them.
    fn copy(&self, from: usize, room: usize, to: &mut Vec<u8>) {
        let whole;
        let bytes: &[u8] = match self {
            Outgoing::Reply(bytes) => bytes,
            Outgoing::Event(payload) => {
                let mut message = Vec::with_capacity(wire::HEAD + payload.len());
                wire::encode(&mut message, Kind::WatchEvent as u32, 0, 0, &[payload]);
                whole = message;
                &whole
            }
        };
        to.extend(bytes.iter().skip(from).take(room));
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub peer: Peer,
    pub target: Option<u16>,
    pub input: Vec<u8>,
    pub output: VecDeque<Outgoing>,
    /// Bytes of the first message that are sent.
    pub sent: usize,
    pub replies: usize,
    pub reply_bytes: usize,
    pub event_bytes: usize,
    /// Events that wait and of which nothing is sent: the same again would say nothing new.
    waiting: HashSet<Arc<[u8]>>,
    /// Path and token of its watches.
    pub watches: Vec<(Box<str>, Box<[u8]>)>,
    pub transactions: BTreeMap<u32, Transaction>,
    pub last_transaction: u32,
}

impl Connection {
    pub fn new(peer: Peer) -> Connection {
        Connection {
            peer,
            target: None,
            input: Vec::new(),
            output: VecDeque::new(),
            sent: 0,
            replies: 0,
            reply_bytes: 0,
            event_bytes: 0,
            waiting: HashSet::new(),
            watches: Vec::new(),
            transactions: BTreeMap::new(),
            last_transaction: 0,
        }
    }

    pub fn caller(&self) -> Caller {
        Caller { domid: self.peer.domid(), target: self.target }
    }

    /// Whether the input begins with a whole message, or with what can be none.
    pub fn has_message(&self) -> bool {
        let Some(len) = self.input.get(12..wire::HEAD) else { return false };
        let len = u32::from_le_bytes([len[0], len[1], len[2], len[3]]) as usize;
        len > wire::PAYLOAD_MAX || self.input.len() >= wire::HEAD + len
    }

    /// The first whole message of the input.
    pub fn next_message(&mut self) -> Result<Option<wire::Message>, TooLong> {
        let Some((message, len)) = wire::decode(&self.input)? else { return Ok(None) };
        self.input.drain(..len);
        Ok(Some(message))
    }

    pub fn reply(&mut self, bytes: Vec<u8>) {
        self.replies += 1;
        self.reply_bytes += bytes.len();
        self.output.push_back(Outgoing::Reply(bytes.into()));
    }

    pub fn event(&mut self, path: &[u8], token: &[u8]) {
        let payload: Arc<[u8]> = [path, b"\0", token, b"\0"].concat().into();
        if self.waiting.insert(payload.clone()) {
            self.queue_event(payload);
        }
    }

    fn queue_event(&mut self, payload: Arc<[u8]>) {
        let event = Outgoing::Event(payload);
        self.event_bytes += event.len();
        self.output.push_back(event);
    }

    /// Puts back what a snapshot kept.
    pub fn restore_output(&mut self, outgoing: Outgoing, started: bool) {
        match outgoing {
            Outgoing::Reply(bytes) => self.reply(bytes.into()),
            Outgoing::Event(payload) => {
                if !started {
                    self.waiting.insert(payload.clone());
                }
                self.queue_event(payload);
            }
        }
    }

    /// Drops events of which nothing is sent, for too many wait.
    pub fn drop_events(&mut self) {
        let started = usize::from(self.sent > 0);
        let all = std::mem::take(&mut self.output);
        for (index, message) in all.into_iter().enumerate() {
            match message {
                Outgoing::Event(_) if index >= started => self.event_bytes -= message.len(),
                message => self.output.push_back(message),
            }
        }
        self.waiting.clear();
    }

    /// Copies up to `room` bytes of what waits.
    pub fn peek(&self, room: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut from = self.sent;
        for message in &self.output {
            if bytes.len() >= room {
                break;
            }
            message.copy(from, room - bytes.len(), &mut bytes);
            from = 0;
        }
        bytes
    }

    /// Forgets `count` bytes that are sent.
    pub fn sent(&mut self, mut count: usize) {
        while count > 0
            && let Some(first) = self.output.front()
        {
            if let Outgoing::Event(payload) = first
                && self.sent == 0
            {
                self.waiting.remove(payload);
            }
            let len = first.len();
            let part = count.min(len - self.sent);
            self.sent += part;
            count -= part;
            if self.sent == len {
                self.sent = 0;
                match self.output.pop_front() {
                    Some(Outgoing::Reply(_)) => {
                        self.replies -= 1;
                        self.reply_bytes -= len;
                    }
                    _ => self.event_bytes -= len,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_event_waits_once_until_it_is_being_sent() {
        let mut connection = Connection::new(Peer::Socket);
        connection.event(b"/a", b"t");
        connection.event(b"/a", b"t");
        connection.event(b"/b", b"t");
        let len = wire::HEAD + 5;
        assert_eq!(connection.event_bytes, 2 * len);
        connection.sent(1);
        connection.event(b"/a", b"t");
        assert_eq!(connection.event_bytes, 3 * len, "the first is on its way already");
        assert_eq!(connection.peek(usize::MAX).len(), 3 * len - 1);
        connection.sent(3 * len - 1);
        assert_eq!((connection.event_bytes, connection.output.len(), connection.sent), (0, 0, 0));
    }

    #[test]
    fn dropping_events_keeps_replies_and_what_is_half_sent() {
        let mut connection = Connection::new(Peer::Socket);
        connection.event(b"/a", b"t");
        connection.reply(vec![1; 20]);
        connection.event(b"/b", b"t");
        connection.sent(3);
        connection.drop_events();
        assert_eq!(connection.peek(usize::MAX).len(), wire::HEAD + 5 - 3 + 20);
        connection.sent(wire::HEAD + 2 + 20);
        assert_eq!((connection.event_bytes, connection.reply_bytes, connection.replies), (0, 0, 0));
    }
}
