//! Those who are attached, or about to be.

use crate::protocol::{LINE, Request};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// Bytes that may wait for a client that does not read.
const WAITING: usize = 256 * 1024;
/// Bytes that are read from a client at once.
const PIECE: usize = 1024;

/// What a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It has not asked yet.
    New,
    /// It gets what a domain writes, and may write if so.
    On { domid: u16, writes: bool },
    /// It gets what waits for it, and no more.
    Ending,
}

#[derive(Debug)]
pub(crate) struct Client {
    socket: UnixStream,
    pub stage: Stage,
    line: Vec<u8>,
    output: Vec<u8>,
    /// Bytes that were left out, since nobody read.
    lost: u64,
    /// What it wrote and the domain has not taken.
    pub input: Vec<u8>,
    gone: bool,
}

impl Client {
    pub fn new(socket: UnixStream) -> io::Result<Client> {
        socket.set_nonblocking(true)?;
        Ok(Client {
            socket,
            stage: Stage::New,
            line: Vec::new(),
            output: Vec::new(),
            lost: 0,
            input: Vec::new(),
            gone: false,
        })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether it is to be read: not while the domain has not taken what came before.
    pub fn wants_read(&self) -> bool {
        match self.stage {
            Stage::New => true,
            Stage::On { .. } => self.input.is_empty(),
            Stage::Ending => false,
        }
    }

    pub fn wants_write(&self) -> bool {
        !self.output.is_empty()
    }

    pub fn finished(&self) -> bool {
        self.gone || (self.stage == Stage::Ending && self.output.is_empty())
    }

    /// Reads; a request when its line is complete.
    pub fn read(&mut self) -> Option<Result<Request, ()>> {
        let mut bytes = [0; PIECE];
        match self.socket.read(&mut bytes) {
            Ok(0) => self.gone = true,
            Ok(len) => return self.take(&bytes[..len]),
            Err(error) => self.gone |= !later(&error),
        }
        None
    }

    fn take(&mut self, bytes: &[u8]) -> Option<Result<Request, ()>> {
        if self.stage != Stage::New {
            if let Stage::On { writes: true, .. } = self.stage {
                self.input.extend_from_slice(bytes);
            }
            return None;
        }
        self.line.extend_from_slice(bytes);
        let Some(end) = self.line.iter().position(|byte| *byte == b'\n') else {
            return (self.line.len() > LINE).then_some(Err(()));
        };
        // What comes behind the line is for the domain already.
        self.input = self.line.split_off(end + 1);
        let line = std::str::from_utf8(&self.line[..end]).ok().and_then(Request::parse);
        self.line = Vec::new();
        Some(line.ok_or(()))
    }

    /// Adds to what waits, if the client reads at all.
    pub fn send(&mut self, bytes: &[u8]) {
        if self.output.len() + bytes.len() > WAITING {
            self.lost += bytes.len() as u64;
            return;
        }
        if self.lost > 0 {
            let note = format!("\r\n[{} bytes left out]\r\n", std::mem::take(&mut self.lost));
            self.output.extend_from_slice(note.as_bytes());
        }
        self.output.extend_from_slice(bytes);
    }

    /// Adds history, which is as long as the client asked for.
    pub fn send_history(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    pub fn write(&mut self) {
        while !self.output.is_empty() {
            match self.socket.write(&self.output) {
                Ok(len) => drop(self.output.drain(..len)),
                Err(error) => {
                    self.gone |= !later(&error);
                    return;
                }
            }
        }
    }
}

fn later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
