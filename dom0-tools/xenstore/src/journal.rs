//! What happened, in a file, so that a daemon that was killed goes on where it was.
//!
//! The file begins with a snapshot; the input since then follows. The machine does the same again when it gets the same
//! input, so that after a replay it owes each reader exactly the bytes that it owed before. An entry is written before
//! anybody outside can see what follows from it, and a ring's indices are those of the journal, whatever the page says.
//! Each entry has its length and a check sum; what was being written when the daemon died is cut off.
//!
//! The file is meant for `/run`: it knows the boot that it belongs to.

use crate::codec::{Reader, Writer};
use crate::connection::ConnectionId;
use crate::machine::{Machine, Outside, Step};
use crate::ring::Indices;
use guest_abi::Errno;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Bytes of entries after which the file is written anew, when no transaction is open.
const COMPACT: usize = 4 * 1024 * 1024;
/// The same, whatever is open.
const COMPACT_ANYWAY: usize = 64 * 1024 * 1024;
const MAGIC: &[u8; 8] = b"lithxs1\n";

/// What the world answered while a message was handled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Of INTRODUCE.
    pub introduce: Option<Result<(), Errno>>,
    /// Of a command to the daemon.
    pub command: Option<String>,
}

/// Something that happened to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A tool connected.
    Connect,
    /// The kernel's ring was connected.
    ConnectKernel,
    /// A connection was closed.
    Disconnect(ConnectionId),
    /// A connection sent bytes.
    Feed(ConnectionId, Vec<u8>),
    /// A message was answered.
    Step(ConnectionId, Outcome),
    /// So many bytes went out.
    Sent(ConnectionId, usize),
    /// A connection was started over.
    StartOver(ConnectionId),
    /// A connection's ring begins anew.
    RestartStream(ConnectionId),
    /// A domain is gone.
    Gone(u16),
    /// A domain shut down, or goes on.
    ShutDown(u16, bool),
}

/// What a journal holds: the state, and how far each connection's ring was.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// The state.
    pub machine: Machine,
    /// Bytes taken and given, for every connection.
    pub indices: BTreeMap<ConnectionId, Indices>,
}

/// The file, being written.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    boot: Vec<u8>,
    file: File,
    pending: Vec<u8>,
    written: usize,
    indices: BTreeMap<ConnectionId, Indices>,
}

impl Journal {
    /// Opens a journal, with the state that it holds if it belongs to this boot; begins an empty one otherwise.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn open(path: &Path, boot: &[u8]) -> io::Result<(Journal, Option<Recovered>)> {
        let recovered = std::fs::read(path).ok().and_then(|bytes| recover(&bytes, boot));
        let mut start = recovered.clone().unwrap_or_default();
        let mut journal = Journal {
            path: path.to_owned(),
            boot: boot.to_owned(),
            file: create(&path.with_extension("new"))?,
            pending: Vec::new(),
            written: 0,
            indices: start.indices.clone(),
        };
        journal.rewrite(&mut start.machine)?;
        // The snapshot ends the transactions that were open.
        Ok((journal, recovered.map(|r| Recovered { machine: start.machine, ..r })))
    }

    /// How far the ring of a connection is, by what was noted.
    pub fn indices(&self, id: ConnectionId) -> Indices {
        self.indices.get(&id).copied().unwrap_or_default()
    }

    /// Says how far the ring of a connection is that this journal has not followed so far.
    pub fn set_indices(&mut self, id: ConnectionId, indices: Indices) {
        self.indices.insert(id, indices);
        let mut to = Writer::default();
        to.number(10);
        to.number(u64::from(id.0));
        to.number(u64::from(indices.taken));
        to.number(u64::from(indices.given));
        frame(&mut self.pending, &to.0);
    }

    /// Notes an entry, to be written by [`Journal::flush`].
    pub fn note(&mut self, entry: &Entry) {
        follow(&mut self.indices, entry);
        frame(&mut self.pending, &encode(entry));
    }

    /// Writes what was noted. Nothing that follows from it may be seen outside before.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        if !self.pending.is_empty() {
            self.file.write_all(&self.pending)?;
            self.written += self.pending.len();
            self.pending.clear();
        }
        Ok(())
    }

    /// Writes the file anew when it has grown long.
    ///
    /// # Errors
    /// When the new file cannot be written; the old one remains.
    pub fn tidy(&mut self, machine: &mut Machine) -> io::Result<()> {
        if self.written > COMPACT_ANYWAY || (self.written > COMPACT && !machine.has_transactions()) {
            self.rewrite(machine)?;
        }
        Ok(())
    }

    /// Writes the file anew.
    ///
    /// # Errors
    /// When the new file cannot be written; the old one remains.
    pub fn rewrite(&mut self, machine: &mut Machine) -> io::Result<()> {
        let known: Vec<_> = machine.connections().map(|(id, _)| id).collect();
        self.indices.retain(|id, _| known.contains(id));
        let mut head = Writer::default();
        head.bytes(&self.boot);
        head.number(self.indices.len() as u64);
        for (id, indices) in &self.indices {
            head.number(u64::from(id.0));
            head.number(u64::from(indices.taken));
            head.number(u64::from(indices.given));
        }
        head.bytes(&machine.save());
        let mut bytes = MAGIC.to_vec();
        frame(&mut bytes, &head.0);
        let scratch = self.path.with_extension("new");
        let mut file = create(&scratch)?;
        file.write_all(&bytes)?;
        std::fs::rename(&scratch, &self.path)?;
        self.file = file;
        self.written = 0;
        self.pending.clear();
        Ok(())
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn follow(indices: &mut BTreeMap<ConnectionId, Indices>, entry: &Entry) {
    match entry {
        Entry::Feed(id, bytes) => {
            let taken = &mut indices.entry(*id).or_default().taken;
            *taken = taken.wrapping_add(bytes.len() as u32);
        }
        Entry::Sent(id, count) => {
            let given = &mut indices.entry(*id).or_default().given;
            *given = given.wrapping_add(*count as u32);
        }
        Entry::StartOver(id) | Entry::RestartStream(id) => drop(indices.insert(*id, Indices::default())),
        Entry::Disconnect(id) => drop(indices.remove(id)),
        Entry::Connect | Entry::ConnectKernel | Entry::Step(..) | Entry::Gone(_) | Entry::ShutDown(..) => {}
    }
}

/// FNV-1a: finds what was torn, not what was forged; the file is the daemon's own.
fn check(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

fn frame(to: &mut Vec<u8>, entry: &[u8]) {
    to.extend_from_slice(&(entry.len() as u32).to_le_bytes());
    to.extend_from_slice(&check(entry).to_le_bytes());
    to.extend_from_slice(entry);
}

/// The first entry, and what is behind it; `None` at the end, and where the file is torn.
fn unframe(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let len = u32::from_le_bytes(*len) as usize;
    let entry = rest.get(..len)?;
    (check(entry) == u32::from_le_bytes(*sum)).then(|| (entry, &rest[len..]))
}

fn encode(entry: &Entry) -> Vec<u8> {
    let mut to = Writer::default();
    match entry {
        Entry::Connect => to.number(1),
        Entry::ConnectKernel => to.number(2),
        Entry::Disconnect(id) => put(&mut to, 3, id.0),
        Entry::Feed(id, bytes) => {
            put(&mut to, 4, id.0);
            to.bytes(bytes);
        }
        Entry::Step(id, outcome) => {
            put(&mut to, 5, id.0);
            to.number(match outcome.introduce {
                None => 0,
                Some(Ok(())) => 1,
                Some(Err(errno)) => 2 + u64::from(errno.0.unsigned_abs()),
            });
            to.number(u64::from(outcome.command.is_some()));
            to.bytes(outcome.command.as_deref().unwrap_or_default().as_bytes());
        }
        Entry::Sent(id, count) => {
            put(&mut to, 6, id.0);
            to.number(*count as u64);
        }
        Entry::StartOver(id) => put(&mut to, 7, id.0),
        Entry::RestartStream(id) => put(&mut to, 11, id.0),
        Entry::Gone(domid) => put(&mut to, 8, u32::from(*domid)),
        Entry::ShutDown(domid, down) => {
            put(&mut to, 9, u32::from(*domid));
            to.number(u64::from(*down));
        }
    }
    to.0
}

fn put(to: &mut Writer, kind: u64, id: u32) {
    to.number(kind);
    to.number(u64::from(id));
}

fn decode(kind: u64, from: &mut Reader<'_>) -> Option<Entry> {
    let id = |from: &mut Reader<'_>| from.small().map(ConnectionId);
    Some(match kind {
        1 => Entry::Connect,
        2 => Entry::ConnectKernel,
        3 => Entry::Disconnect(id(from)?),
        4 => Entry::Feed(id(from)?, from.bytes()?.to_vec()),
        5 => {
            let id = id(from)?;
            let introduce = match from.number()? {
                0 => None,
                1 => Some(Ok(())),
                errno => Some(Err(Errno(i32::try_from(errno - 2).ok()?))),
            };
            let has_command = from.number()? != 0;
            let text = from.text()?.to_owned();
            Entry::Step(id, Outcome { introduce, command: has_command.then_some(text) })
        }
        6 => Entry::Sent(id(from)?, from.small()?),
        7 => Entry::StartOver(id(from)?),
        8 => Entry::Gone(from.small()?),
        9 => Entry::ShutDown(from.small()?, from.number()? != 0),
        11 => Entry::RestartStream(id(from)?),
        _ => return None,
    })
}

/// Answers as the world did.
struct Again<'o>(&'o Outcome);

impl Outside for Again<'_> {
    fn introduce(&mut self, _: u16, _: u64, _: u32) -> Result<(), Errno> {
        self.0.introduce.unwrap_or(Err(Errno::EINVAL))
    }
    fn release(&mut self, _: u16) {}
    fn command(&mut self, _: &[&str]) -> Option<String> {
        self.0.command.clone()
    }
}

/// Does an entry to a machine.
pub fn apply(machine: &mut Machine, entry: &Entry) {
    match entry {
        Entry::Connect => drop(machine.connect()),
        Entry::ConnectKernel => drop(machine.connect_kernel()),
        Entry::Disconnect(id) => machine.disconnect(*id),
        Entry::Feed(id, bytes) => machine.feed(*id, bytes),
        Entry::Step(id, outcome) => {
            let step = machine.step(*id, &mut Again(outcome));
            debug_assert_eq!(step, Step::Done);
        }
        Entry::Sent(id, count) => machine.sent(*id, *count),
        Entry::StartOver(id) => machine.start_over(*id),
        Entry::RestartStream(id) => machine.restart_stream(*id),
        Entry::Gone(domid) => machine.gone(*domid),
        Entry::ShutDown(domid, down) => machine.shut_down(*domid, *down),
    }
}

/// The state that a journal's bytes hold; `None` when they belong to another boot or begin with nonsense.
pub fn recover(bytes: &[u8], boot: &[u8]) -> Option<Recovered> {
    let (head, mut rest) = unframe(bytes.strip_prefix(MAGIC)?)?;
    let mut head = Reader(head);
    if head.bytes()? != boot {
        return None;
    }
    let mut recovered = Recovered::default();
    for _ in 0..head.number()? {
        let id = ConnectionId(head.small()?);
        recovered.indices.insert(id, Indices { taken: head.small()?, given: head.small()? });
    }
    recovered.machine = Machine::load(head.bytes()?)?;
    while let Some((entry, behind)) = unframe(rest) {
        rest = behind;
        let mut from = Reader(entry);
        let kind = from.number()?;
        if kind == 10 {
            let id = ConnectionId(from.small()?);
            recovered.indices.insert(id, Indices { taken: from.small()?, given: from.small()? });
            continue;
        }
        let entry = decode(kind, &mut from)?;
        apply(&mut recovered.machine, &entry);
        follow(&mut recovered.indices, &entry);
    }
    Some(recovered)
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
