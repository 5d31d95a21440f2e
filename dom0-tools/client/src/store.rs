//! A client of the store.

use crate::os::{self, Wait};
use crate::wire::{self, Kind, Message};
use guest_abi::Errno;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Where the daemon listens.
pub const SOCKETS: &[&str] = &["/run/xenstored/socket", "/var/run/xenstored/socket"];
/// The way through the kernel, where there is no socket.
pub const DEVICES: &[&str] = &["/dev/xen/xenbus", "/proc/xen/xenbus"];
/// Changes that are on their way together: little enough that neither side waits for room in the socket.
const TOGETHER: usize = 64;
/// How long a daemon may take that is being started again.
pub const RESTART: Duration = Duration::from_secs(10);
/// How long the kernel is waited for, which does not tell that there is no daemon.
const ANSWER: Duration = Duration::from_secs(30);
/// How often a transaction is tried.
const TRIES: u32 = 100;

/// How long a transaction waits that found the store changed: not at first, then longer each time, up to 20 ms; a part of it is by
/// chance, so that those who disturb each other do not go on doing so in step. `elapsed` is the chance.
fn pause(attempt: u32, elapsed: Duration) -> Duration {
    let most = 20_000_u32.min(50 << attempt.saturating_sub(3).min(10));
    if attempt < 3 { Duration::ZERO } else { Duration::from_micros((elapsed.subsec_nanos() % most).into()) }
}

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store refused.
    #[error("{path}: {errno}")]
    Refused {
        /// What the request was about.
        path: String,
        /// Its answer.
        errno: Errno,
    },
    /// The way to the store is closed.
    #[error("the store has closed the connection")]
    Closed,
    /// The store is not there, or the connection failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The answer makes no sense.
    #[error("the store's answer makes no sense: {0}")]
    Protocol(&'static str),
    /// Others changed the same nodes whenever a transaction was tried.
    #[error("a transaction found the store changed {TRIES} times")]
    Contended,
}

impl StoreError {
    /// The store's error number, if it answered.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            StoreError::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// Whether the node does not exist.
    pub fn is_missing(&self) -> bool {
        self.errno() == Some(Errno::ENOENT)
    }
}

/// What the store's client returns.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Something below a watched path changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// What changed.
    pub path: String,
    /// The watch's token.
    pub token: String,
}

/// One entry of a node's permissions; the first names the owner, and what others may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permission {
    /// Whom it is about.
    pub domid: u16,
    /// It may read.
    pub read: bool,
    /// It may write.
    pub write: bool,
}

impl Permission {
    /// Nothing for `domid`; as first entry: owned by `domid`, nothing for others.
    pub const fn none(domid: u16) -> Permission {
        Permission { domid, read: false, write: false }
    }
    /// Reading.
    pub const fn read(domid: u16) -> Permission {
        Permission { domid, read: true, write: false }
    }
    /// Reading and writing.
    pub const fn both(domid: u16) -> Permission {
        Permission { domid, read: true, write: true }
    }

    /// As it is sent: a letter and a number.
    pub fn text(self) -> String {
        let letter = match (self.read, self.write) {
            (false, false) => 'n',
            (true, false) => 'r',
            (false, true) => 'w',
            (true, true) => 'b',
        };
        format!("{letter}{}", self.domid)
    }

    /// From what is sent.
    pub fn parse(text: &str) -> Option<Permission> {
        let (read, write) = match text.as_bytes().first()? {
            b'n' => (false, false),
            b'r' => (true, false),
            b'w' => (false, true),
            b'b' => (true, true),
            _ => return None,
        };
        let digits = &text[1..];
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some(Permission { domid: digits.parse().ok()?, read, write })
    }
}

/// A change of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// As [`Store::write`].
    Write(String, Vec<u8>),
    /// As [`Store::set_permissions`].
    Permissions(String, Vec<Permission>),
}

impl Change {
    fn request(&self) -> (Kind, &str, Vec<u8>) {
        match self {
            Change::Write(path, value) => (Kind::Write, path, [path.as_bytes(), b"\0", value].concat()),
            Change::Permissions(path, list) => (Kind::SetPerms, path, permissions_payload(path, list)),
        }
    }
}

fn permissions_payload(path: &str, list: &[Permission]) -> Vec<u8> {
    let mut payload = path.as_bytes().to_vec();
    for permission in list {
        payload.push(0);
        payload.extend_from_slice(permission.text().as_bytes());
    }
    payload.push(0);
    payload
}

#[derive(Debug)]
enum Way {
    Socket(UnixStream),
    Device(File),
}

impl Way {
    fn read(&self, to: &mut [u8]) -> io::Result<usize> {
        match self {
            Way::Socket(socket) => (&*socket).read(to),
            Way::Device(device) => (&*device).read(to),
        }
    }
    fn write_all(&self, from: &[u8]) -> io::Result<()> {
        match self {
            Way::Socket(socket) => (&*socket).write_all(from),
            Way::Device(device) => (&*device).write_all(from),
        }
    }
}

/// A connection to the store. Requests wait for their answers; events wait in a queue.
#[derive(Debug)]
pub struct Store {
    way: Way,
    input: Vec<u8>,
    events: VecDeque<WatchEvent>,
    request: u32,
    transaction: u32,
}

impl Store {
    /// Connects to the daemon, or through the kernel where there is no socket. A socket at which nobody listens is that of a daemon
    /// which has ended: for so long it is waited for the next one ([`RESTART`], by those who have nothing else to do).
    ///
    /// # Errors
    /// When there is no store.
    pub fn open(patience: Duration) -> Result<Store> {
        Store::open_at(SOCKETS, DEVICES, patience)
    }

    fn open_at(sockets: &[&str], devices: &[&str], patience: Duration) -> Result<Store> {
        let started = Instant::now();
        loop {
            let mut deserted = None;
            for path in sockets {
                match UnixStream::connect(path) {
                    Ok(socket) => return Ok(Store::new(Way::Socket(socket))),
                    Err(source) if source.kind() == io::ErrorKind::ConnectionRefused => {
                        deserted = Some(StoreError::Io { what: format!("nobody listens at {path}"), source });
                    }
                    Err(_) => {}
                }
            }
            match deserted {
                None => break,
                Some(error) if started.elapsed() >= patience => return Err(error),
                Some(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for path in devices {
            // Non-blocking, so that waiting with a limit is possible.
            match OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path) {
                Ok(device) => return Ok(Store::new(Way::Device(device))),
                Err(error) => last = error,
            }
        }
        let all = [sockets, devices].concat().join(", ");
        Err(StoreError::Io { what: format!("no store at any of {all}"), source: last })
    }

    /// Connects to the daemon whose socket is at `path`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(path: &Path) -> Result<Store> {
        let socket = UnixStream::connect(path)
            .map_err(|source| StoreError::Io { what: path.display().to_string(), source })?;
        Ok(Store::new(Way::Socket(socket)))
    }

    fn new(way: Way) -> Store {
        Store { way, input: Vec::new(), events: VecDeque::new(), request: 0, transaction: 0 }
    }

    /// A node's value.
    ///
    /// # Errors
    /// `ENOENT`, `EACCES`.
    pub fn read(&mut self, path: &str) -> Result<Vec<u8>> {
        self.ask(Kind::Read, path, &[path.as_bytes(), b"\0"])
    }

    /// A node's value as text.
    ///
    /// # Errors
    /// As [`Store::read`]; or the value is no UTF-8.
    pub fn read_text(&mut self, path: &str) -> Result<String> {
        String::from_utf8(self.read(path)?).map_err(|_| StoreError::Protocol("a value that is no text"))
    }

    /// A node's value as text, `None` when there is no such node.
    ///
    /// # Errors
    /// As [`Store::read_text`], but for `ENOENT`.
    pub fn read_opt(&mut self, path: &str) -> Result<Option<String>> {
        match self.read_text(path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets a node's value; makes the node and those above it.
    ///
    /// # Errors
    /// `EACCES`, `ENOSPC`.
    pub fn write(&mut self, path: &str, value: impl AsRef<[u8]>) -> Result<()> {
        self.ask(Kind::Write, path, &[path.as_bytes(), b"\0", value.as_ref()]).map(drop)
    }

    /// Makes a node and those above it.
    ///
    /// # Errors
    /// `EACCES`, `ENOSPC`.
    pub fn mkdir(&mut self, path: &str) -> Result<()> {
        self.ask(Kind::Mkdir, path, &[path.as_bytes(), b"\0"]).map(drop)
    }

    /// Removes a node and all below it; that there is none is no error.
    ///
    /// # Errors
    /// `EACCES`.
    pub fn remove(&mut self, path: &str) -> Result<()> {
        match self.ask(Kind::Rm, path, &[path.as_bytes(), b"\0"]) {
            Err(error) if error.is_missing() => Ok(()),
            other => other.map(drop),
        }
    }

    /// Names of a node's children.
    ///
    /// # Errors
    /// `ENOENT`, `EACCES`.
    pub fn directory(&mut self, path: &str) -> Result<Vec<String>> {
        match self.ask(Kind::Directory, path, &[path.as_bytes(), b"\0"]) {
            Ok(names) => Ok(strings(&names)),
            Err(error) if error.errno() == Some(Errno::E2BIG) => self.directory_by_parts(path),
            Err(error) => Err(error),
        }
    }

    fn directory_by_parts(&mut self, path: &str) -> Result<Vec<String>> {
        let mut list = Vec::new();
        let mut generation = Vec::new();
        loop {
            let offset = list.len().to_string();
            let part =
                self.ask(Kind::DirectoryPart, path, &[path.as_bytes(), b"\0", offset.as_bytes(), b"\0"])?;
            let end = part.iter().position(|byte| *byte == 0);
            let end = end.ok_or(StoreError::Protocol("a list without its generation"))?;
            let (first, names) = (part[..end].to_vec(), &part[end + 1..]);
            if !list.is_empty() && first != generation {
                // It changed between two parts.
                list.clear();
                continue;
            }
            generation = first;
            // An empty name ends the list.
            match names {
                [] => return Err(StoreError::Protocol("a list without an end")),
                [0] => return Ok(strings(&list)),
                [names @ .., 0] if names.ends_with(&[0]) => {
                    list.extend_from_slice(names);
                    return Ok(strings(&list));
                }
                names => list.extend_from_slice(names),
            }
        }
    }

    /// A node's permissions.
    ///
    /// # Errors
    /// `ENOENT`, `EACCES`.
    pub fn permissions(&mut self, path: &str) -> Result<Vec<Permission>> {
        let texts = strings(&self.ask(Kind::GetPerms, path, &[path.as_bytes(), b"\0"])?);
        let parsed = texts.iter().map(|text| Permission::parse(text)).collect::<Option<_>>();
        parsed.ok_or(StoreError::Protocol("permissions"))
    }

    /// Sets a node's permissions.
    ///
    /// # Errors
    /// `ENOENT`, `EACCES`, `EPERM` for a new owner.
    pub fn set_permissions(&mut self, path: &str, permissions: &[Permission]) -> Result<()> {
        self.ask(Kind::SetPerms, path, &[&permissions_payload(path, permissions)]).map(drop)
    }

    /// Makes changes in their order, without waiting for the answer to one before the next is asked for.
    ///
    /// # Errors
    /// That of the first that was refused; the others may have been made.
    pub fn change(&mut self, changes: &[Change]) -> Result<()> {
        let mut first = Ok(());
        for some in changes.chunks(TOGETHER) {
            let mut bytes = Vec::new();
            let mut asked = Vec::with_capacity(some.len());
            for (kind, path, payload) in some.iter().map(Change::request) {
                asked.push((kind, path, self.encode(&mut bytes, kind, path, &[&payload])?));
            }
            self.way.write_all(&bytes).map_err(broken)?;
            for (kind, path, request) in asked {
                match self.answer(kind, path, request) {
                    Err(error @ StoreError::Refused { .. }) => first = first.and(Err(error)),
                    other => _ = other?,
                }
            }
        }
        first
    }

    /// Asks for an event whenever something at `path` or below changes; the first comes at once.
    ///
    /// # Errors
    /// `EEXIST` for the same path and token again.
    pub fn watch(&mut self, path: &str, token: &str) -> Result<()> {
        self.outside(Kind::Watch, path, &[path.as_bytes(), b"\0", token.as_bytes(), b"\0"]).map(drop)
    }

    /// Takes [`Store::watch`] back, with its events that wait.
    ///
    /// # Errors
    /// `ENOENT` when there is no such watch.
    pub fn unwatch(&mut self, path: &str, token: &str) -> Result<()> {
        self.outside(Kind::Unwatch, path, &[path.as_bytes(), b"\0", token.as_bytes(), b"\0"])?;
        self.events.retain(|event| event.token != token || !below(&event.path, path));
        Ok(())
    }

    /// Runs `steps` in a transaction, again when others changed what it saw.
    ///
    /// # Errors
    /// What `steps` returns, after which nothing of them is done; [`StoreError::Contended`].
    pub fn transaction<T>(&mut self, mut steps: impl FnMut(&mut Store) -> Result<T>) -> Result<T> {
        if self.transaction != 0 {
            return steps(self);
        }
        let started = Instant::now();
        for attempt in 0..TRIES {
            let id = self.ask(Kind::TransactionStart, "a transaction", &[b"\0"])?;
            self.transaction = number(&id).ok_or(StoreError::Protocol("a transaction's number"))?;
            let result = steps(self);
            let end: &[u8] = if result.is_ok() { b"T\0" } else { b"F\0" };
            let ended = self.ask(Kind::TransactionEnd, "a transaction", &[end]);
            self.transaction = 0;
            match (result, ended) {
                (Err(error), _) => return Err(error),
                (Ok(_), Err(error)) if error.errno() == Some(Errno::EAGAIN) => {
                    std::thread::sleep(pause(attempt, started.elapsed()));
                }
                (Ok(_), Err(error)) => return Err(error),
                (Ok(value), Ok(_)) => return Ok(value),
            }
        }
        Err(StoreError::Contended)
    }

    /// Tells the store of a domain: the frame of its ring, and its port for the store.
    ///
    /// # Errors
    /// The store's.
    pub fn introduce(&mut self, domid: u16, frame: u64, port: u32) -> Result<()> {
        let payload = format!("{domid}\0{frame}\0{port}\0");
        self.outside(Kind::Introduce, &format!("domain {domid}"), &[payload.as_bytes()]).map(drop)
    }

    /// Tells the store to leave a domain.
    ///
    /// # Errors
    /// `ENOENT` when it did not know it.
    pub fn release(&mut self, domid: u16) -> Result<()> {
        self.about(Kind::Release, domid).map(drop)
    }

    /// Whether the store speaks with a domain.
    ///
    /// # Errors
    /// The store's.
    pub fn is_introduced(&mut self, domid: u16) -> Result<bool> {
        Ok(self.about(Kind::IsDomainIntroduced, domid)?.first() == Some(&b'T'))
    }

    /// Tells the store that a domain that shut down goes on.
    ///
    /// # Errors
    /// The store's.
    pub fn resume(&mut self, domid: u16) -> Result<()> {
        self.about(Kind::Resume, domid).map(drop)
    }

    /// Lets `domid` act as `target` in the store.
    ///
    /// # Errors
    /// The store's.
    pub fn set_target(&mut self, domid: u16, target: u16) -> Result<()> {
        let payload = format!("{domid}\0{target}\0");
        self.outside(Kind::SetTarget, &format!("domain {domid}"), &[payload.as_bytes()]).map(drop)
    }

    /// A domain's home.
    ///
    /// # Errors
    /// The store's.
    pub fn domain_path(&mut self, domid: u16) -> Result<String> {
        let path = self.about(Kind::GetDomainPath, domid)?;
        strings(&path).pop().ok_or(StoreError::Protocol("a domain's path"))
    }

    fn about(&mut self, kind: Kind, domid: u16) -> Result<Vec<u8>> {
        self.outside(kind, &format!("domain {domid}"), &[format!("{domid}\0").as_bytes()])
    }

    /// Gives the daemon a command with its arguments; returns its text.
    ///
    /// # Errors
    /// The store's.
    pub fn control(&mut self, words: &[&str]) -> Result<String> {
        let mut payload = words.join("\0").into_bytes();
        payload.push(0);
        let answer = self.outside(Kind::Control, words.first().copied().unwrap_or_default(), &[&payload])?;
        let answer = answer.strip_suffix(&[0]).unwrap_or(&answer);
        Ok(String::from_utf8_lossy(answer).into_owned())
    }

    /// The next event that has come or comes before `limit`; `None` when none does.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn next_event(&mut self, limit: Option<Duration>) -> Result<Option<WatchEvent>> {
        let until = limit.map(|limit| Instant::now() + limit);
        loop {
            while let Some(message) = self.buffered()? {
                self.keep(&message)?;
            }
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if !self.wait(left)? {
                return Ok(None);
            }
            self.receive()?;
        }
    }

    /// True if something came with an answer that [`Store::next_event`] has not looked at. The descriptor does not tell: it may have
    /// nothing more to read.
    pub fn has_unread(&self) -> bool {
        !self.events.is_empty() || !matches!(wire::decode(&self.input), Ok(None))
    }

    fn wait(&self, limit: Option<Duration>) -> Result<bool> {
        let mut waits = [Wait::new(self.as_fd(), true, false)];
        os::wait(&mut waits, limit).map(|found| found > 0).map_err(broken)
    }

    fn outside(&mut self, kind: Kind, path: &str, parts: &[&[u8]]) -> Result<Vec<u8>> {
        let transaction = std::mem::take(&mut self.transaction);
        let result = self.ask(kind, path, parts);
        self.transaction = transaction;
        result
    }

    fn ask(&mut self, kind: Kind, path: &str, parts: &[&[u8]]) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let request = self.encode(&mut bytes, kind, path, parts)?;
        self.way.write_all(&bytes).map_err(broken)?;
        self.answer(kind, path, request)
    }

    /// Appends a request; its number.
    fn encode(&mut self, bytes: &mut Vec<u8>, kind: Kind, path: &str, parts: &[&[u8]]) -> Result<u32> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len > wire::PAYLOAD_MAX {
            return Err(StoreError::Refused { path: path.to_owned(), errno: Errno::E2BIG });
        }
        self.request = self.request.wrapping_add(1);
        bytes.reserve(wire::HEAD + len);
        wire::encode(bytes, kind as u32, self.request, self.transaction, parts);
        Ok(self.request)
    }

    fn answer(&mut self, kind: Kind, path: &str, request: u32) -> Result<Vec<u8>> {
        loop {
            let message = self.next_message()?;
            if message.kind == Kind::WatchEvent as u32 {
                self.keep(&message)?;
            } else if message.request != request {
                return Err(StoreError::Protocol("an answer to another question"));
            } else if message.kind == Kind::Error as u32 {
                let errno = wire::error_number(&message.payload);
                return Err(StoreError::Refused { path: path.to_owned(), errno });
            } else if message.kind == kind as u32 {
                return Ok(message.payload);
            } else {
                return Err(StoreError::Protocol("an answer of another kind"));
            }
        }
    }

    fn keep(&mut self, message: &Message) -> Result<()> {
        let mut words = strings(&message.payload).into_iter();
        match (words.next(), words.next()) {
            (Some(path), Some(token)) if message.kind == Kind::WatchEvent as u32 => {
                self.events.push_back(WatchEvent { path, token });
                Ok(())
            }
            _ => Err(StoreError::Protocol("an event")),
        }
    }

    fn next_message(&mut self) -> Result<Message> {
        let until = Instant::now() + ANSWER;
        loop {
            if let Some(message) = self.buffered()? {
                return Ok(message);
            }
            let left = until.saturating_duration_since(Instant::now());
            if matches!(self.way, Way::Device(_)) && !self.wait(Some(left))? {
                return Err(broken(io::ErrorKind::TimedOut.into()));
            }
            self.receive()?;
        }
    }

    fn buffered(&mut self) -> Result<Option<Message>> {
        match wire::decode(&self.input) {
            Ok(Some((message, len))) => {
                self.input.drain(..len);
                Ok(Some(message))
            }
            Ok(None) => Ok(None),
            Err(_) => Err(StoreError::Protocol("a message that is too long")),
        }
    }

    fn receive(&mut self) -> Result<()> {
        let mut bytes = [0; 4096];
        loop {
            match self.way.read(&mut bytes) {
                Ok(0) => return Err(StoreError::Closed),
                Ok(len) => {
                    self.input.extend_from_slice(&bytes[..len]);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(None)?;
                }
                Err(error) => return Err(broken(error)),
            }
        }
    }
}

impl AsFd for Store {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.way {
            Way::Socket(socket) => socket.as_fd(),
            Way::Device(device) => device.as_fd(),
        }
    }
}

fn broken(source: io::Error) -> StoreError {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    match source.kind() {
        BrokenPipe | ConnectionReset => StoreError::Closed,
        _ => StoreError::Io { what: "the store".to_owned(), source },
    }
}

fn below(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || above == "/")
}

/// The strings of a payload, each ended by a NUL.
fn strings(payload: &[u8]) -> Vec<String> {
    let payload = payload.strip_suffix(&[0]).unwrap_or(payload);
    if payload.is_empty() {
        return Vec::new();
    }
    payload.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned()).collect()
}

fn number(payload: &[u8]) -> Option<u32> {
    strings(payload).first()?.parse().ok()
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
