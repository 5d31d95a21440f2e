//! A machine with hands: requests by name, answers as text.
#![allow(dead_code)]

use guest_abi::Errno;
use lith_client::wire::{self, Kind, Message};
use lith_xenstore::{ConnectionId, Machine, Outside, Step};

/// A world in which every domain can be introduced.
pub struct World;

impl Outside for World {
    fn introduce(&mut self, _: u16, _: u64, _: u32) -> Result<(), Errno> {
        Ok(())
    }
    fn release(&mut self, _: u16) {}
    fn command(&mut self, _: &[&str]) -> Option<String> {
        None
    }
}

/// The machine, and everything that came out of it and was not asked for yet.
pub struct Hands {
    pub machine: Machine,
    pub tool: ConnectionId,
    next: u32,
}

pub type Answer = Result<String, Errno>;

impl Hands {
    pub fn new() -> Hands {
        let mut machine = Machine::new();
        let tool = machine.connect();
        Hands { machine, tool, next: 100 }
    }

    /// A domain with a home of its own.
    pub fn domain(&mut self, domid: u16) -> ConnectionId {
        self.ok(self.tool, Kind::Introduce, &format!("{domid}\0{}\0{}\0", 1000 + domid, 5));
        let home = format!("/local/domain/{domid}");
        self.ok(self.tool, Kind::Mkdir, &format!("{home}\0"));
        self.ok(self.tool, Kind::SetPerms, &format!("{home}\0n{domid}\0"));
        self.machine.domain(domid).unwrap().0
    }

    /// Sends a request and returns its answer; events that come with it stay.
    pub fn ask_in(&mut self, id: ConnectionId, transaction: u32, kind: Kind, payload: &[u8]) -> Answer {
        self.next += 1;
        let mut bytes = Vec::new();
        Message::new(kind, self.next, transaction, payload.to_vec()).encode(&mut bytes);
        let before = self.machine.peek(id, usize::MAX);
        self.machine.feed(id, &bytes);
        assert_eq!(self.machine.step(id, &mut World), Step::Done, "{kind:?}");
        let after = self.machine.peek(id, usize::MAX);
        let messages = messages(&after[before.len()..]);
        let reply = messages.iter().find(|message| message.request == self.next).expect("a reply");
        assert_eq!(reply.transaction, transaction);
        assert_eq!(messages.iter().filter(|m| m.kind != Kind::WatchEvent as u32).count(), 1);
        if reply.kind == Kind::Error as u32 {
            return Err(wire::error_number(&reply.payload));
        }
        assert_eq!(reply.kind, kind as u32);
        Ok(String::from_utf8_lossy(&reply.payload).into_owned())
    }

    pub fn ask(&mut self, id: ConnectionId, kind: Kind, payload: &str) -> Answer {
        self.ask_in(id, 0, kind, payload.as_bytes())
    }

    pub fn ok(&mut self, id: ConnectionId, kind: Kind, payload: &str) -> String {
        self.ask(id, kind, payload).unwrap_or_else(|errno| panic!("{kind:?} {payload:?}: {errno}"))
    }

    pub fn begin(&mut self, id: ConnectionId) -> u32 {
        self.ok(id, Kind::TransactionStart, "\0").trim_end_matches('\0').parse().unwrap()
    }

    /// Events that wait for a connection, as `path token`; everything that waits is read.
    pub fn events(&mut self, id: ConnectionId) -> Vec<String> {
        let bytes = self.machine.peek(id, usize::MAX);
        self.machine.sent(id, bytes.len());
        messages(&bytes)
            .iter()
            .filter(|message| message.kind == Kind::WatchEvent as u32)
            .map(|message| {
                assert_eq!((message.request, message.transaction), (0, 0));
                String::from_utf8_lossy(&message.payload).trim_end_matches('\0').replace('\0', " ")
            })
            .collect()
    }
}

pub fn messages(mut bytes: &[u8]) -> Vec<Message> {
    let mut all = Vec::new();
    while let Some((message, len)) = wire::decode(bytes).expect("whole messages") {
        all.push(message);
        bytes = &bytes[len..];
    }
    assert!(bytes.is_empty(), "half a message");
    all
}
