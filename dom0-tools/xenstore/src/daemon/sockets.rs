//! Tools' connections.

use super::Legacy;
use crate::connection::ConnectionId;
use lith_client::os::{self, Inheritance, Wait};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Connections of tools at once.
const MOST: usize = 1024;

#[derive(Debug)]
pub(crate) struct Sockets {
    listener: UnixListener,
    open: BTreeMap<ConnectionId, UnixStream>,
    readable: Vec<ConnectionId>,
    /// Somebody wants to connect.
    knocks: bool,
}

impl Sockets {
    /// Listens at `path`, or takes over what the last daemon left.
    pub fn open(path: &Path, inheritance: Option<&mut Inheritance>, left: &Legacy) -> io::Result<Sockets> {
        let mut open = BTreeMap::new();
        let mut listener = None;
        if let Some(inheritance) = inheritance {
            listener = left.listener.and_then(|fd| inheritance.take(fd)).map(UnixListener::from);
            for (id, fd) in &left.connections {
                if let Some(fd) = inheritance.take(*fd) {
                    open.insert(*id, UnixStream::from(fd));
                }
            }
        }
        let listener = match listener {
            Some(listener) => listener,
            None => os::listen(path)?,
        };
        listener.set_nonblocking(true)?;
        for socket in open.values() {
            socket.set_nonblocking(true)?;
        }
        Ok(Sockets { listener, open, readable: Vec::new(), knocks: false })
    }

    pub fn has(&self, id: ConnectionId) -> bool {
        self.open.contains_key(&id)
    }

    pub fn accept(&mut self) -> Option<UnixStream> {
        if !self.knocks || self.open.len() >= MOST {
            return None;
        }
        let accepted =
            self.listener.accept().and_then(|(socket, _)| socket.set_nonblocking(true).map(|()| socket));
        self.knocks = accepted.is_ok();
        accepted.ok()
    }

    pub fn insert(&mut self, id: ConnectionId, socket: UnixStream) {
        self.open.insert(id, socket);
        // It may have sent something already.
        self.readable.push(id);
    }

    pub fn remove(&mut self, id: ConnectionId) {
        self.open.remove(&id);
    }

    /// Adds what to wait for, and says whom: reading and writing by `want`.
    pub fn waits<'s>(
        &'s self,
        waits: &mut Vec<Wait<'s>>,
        want: impl Fn(ConnectionId) -> (bool, bool),
    ) -> Vec<ConnectionId> {
        for (id, socket) in &self.open {
            let (read, write) = want(*id);
            waits.push(Wait::new(socket.as_fd(), read, write));
        }
        if self.open.len() < MOST {
            waits.push(Wait::new(self.listener.as_fd(), true, false));
        }
        self.open.keys().copied().collect()
    }

    /// Takes note of what was found of those whom `waits` named; one more is the listener's.
    pub fn note_readable(&mut self, ids: &[ConnectionId], found: &[bool]) {
        self.knocks = found.get(ids.len()).copied().unwrap_or_default();
        self.readable.extend(ids.iter().zip(found).filter(|(_, found)| **found).map(|(id, _)| *id));
    }

    pub fn readable(&mut self) -> Vec<ConnectionId> {
        std::mem::take(&mut self.readable)
    }

    /// Up to `room` bytes that a connection sent; an error when it is closed.
    pub fn read(&mut self, id: ConnectionId, room: usize) -> io::Result<Vec<u8>> {
        let Some(socket) = self.open.get_mut(&id) else { return Ok(Vec::new()) };
        let mut bytes = vec![0; room];
        if room == 0 {
            return Ok(bytes);
        }
        match socket.read(&mut bytes) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => {
                bytes.truncate(len);
                Ok(bytes)
            }
            Err(error) => later(error).map(|()| Vec::new()),
        }
    }

    /// How many of the bytes a connection took.
    pub fn write(&mut self, id: ConnectionId, bytes: &[u8]) -> io::Result<usize> {
        let Some(socket) = self.open.get_mut(&id) else { return Ok(0) };
        socket.write(bytes).or_else(|error| later(error).map(|()| 0))
    }

    /// Leaves everything open for the next program.
    pub fn bequeath(self) -> io::Result<Legacy> {
        let listener = Some(os::bequeath(self.listener.as_fd())?);
        let mut connections = Vec::new();
        for (id, socket) in &self.open {
            connections.push((*id, os::bequeath(socket.as_fd())?));
        }
        // The process is about to be replaced: closing is not for this one.
        std::mem::forget(self);
        Ok(Legacy { listener, connections })
    }
}

fn later(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(()),
        _ => Err(error),
    }
}
