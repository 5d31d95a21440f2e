//! The daemon: one loop that waits for rings, clients, the store and signals.

use crate::clients::{Client, Stage};
use crate::directory::{Directory, Entry};
use crate::history::{self, History};
use crate::limit::{NOTIFICATION, Share};
use crate::protocol::{Granted, Mode, Request, refusal};
use crate::ring::Ring;
use guest_abi::Errno;
use lith_client::SharedPage;
use lith_client::os::{self, Signals, Wait};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Clients at once.
const CLIENTS: usize = 256;
/// History that a client may ask for.
const MOST_HISTORY: u64 = 2 * history::SIZE;
/// How often the store is tried when it is away.
const RETRY: Duration = Duration::from_millis(500);

/// What the daemon wants of the hypervisor.
pub trait Hypervisor {
    /// A mapped ring. Dropping it unmaps it.
    type Page: SharedPage;

    /// Maps a domain's ring: the granted page, or else the frame.
    ///
    /// # Errors
    /// Why not.
    fn map(&mut self, domid: u16, frame: u64) -> Result<Self::Page, String>;

    /// Connects to a domain's port; returns this side's.
    ///
    /// # Errors
    /// Why not.
    fn bind(&mut self, domid: u16, port: u32) -> Result<u32, String>;

    /// Closes a port of this side.
    fn unbind(&mut self, port: u32);

    /// Notifies the other end.
    fn notify(&mut self, port: u32);

    /// Lets a port fire again.
    fn unmask(&mut self, port: u32);

    /// Ports that fired; they are masked until [`Hypervisor::unmask`].
    fn fired(&mut self) -> Vec<u32>;

    /// Readable when [`Hypervisor::fired`] has something.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
}

/// Where the daemon's things are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The socket.
    pub socket: PathBuf,
    /// The histories.
    pub directory: PathBuf,
    /// Bytes of each of a domain's two files.
    pub size: u64,
}

struct Console<P> {
    entry: Entry,
    ring: Ring<P>,
    port: u32,
    history: History,
    share: Share,
    masked: bool,
}

/// The daemon.
pub struct Daemon<H: Hypervisor, D: Directory> {
    options: Options,
    hypervisor: H,
    domains: D,
    consoles: BTreeMap<u16, Console<H::Page>>,
    listener: UnixListener,
    clients: Vec<Client>,
    /// The store was away, or was not asked yet.
    ask_again: bool,
}

impl<H: Hypervisor, D: Directory> Daemon<H, D> {
    /// Listens, and looks for domains.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(options: Options, hypervisor: H, domains: D) -> io::Result<Daemon<H, D>> {
        let listener = os::listen(&options.socket)?;
        let mut daemon = Daemon {
            options,
            hypervisor,
            domains,
            consoles: BTreeMap::new(),
            listener,
            clients: Vec::new(),
            ask_again: true,
        };
        daemon.look_for_domains();
        Ok(daemon)
    }

    /// The hypervisor.
    pub fn hypervisor(&mut self) -> &mut H {
        &mut self.hypervisor
    }

    /// The directory.
    pub fn directory(&mut self) -> &mut D {
        &mut self.domains
    }

    /// Waits for something and handles it; whether the daemon is to go on.
    ///
    /// # Errors
    /// When waiting fails.
    pub fn turn(&mut self, signals: Option<&Signals>, limit: Option<Duration>) -> io::Result<bool> {
        let readable = self.wait(signals, limit)?;
        while let Some(signal) = signals.and_then(Signals::next) {
            if signal != os::SIGHUP {
                return Ok(false);
            }
            for console in self.consoles.values_mut() {
                let _ = console.history.reopen();
            }
        }
        if self.domains.changed() || self.ask_again {
            self.look_for_domains();
        }
        self.read_rings();
        self.read_clients(&readable);
        self.write_rings();
        self.accept();
        self.clients.iter_mut().for_each(Client::write);
        self.clients.retain(|client| !client.finished());
        Ok(true)
    }

    /// Waits; which clients can be read.
    fn wait(&mut self, signals: Option<&Signals>, limit: Option<Duration>) -> io::Result<Vec<bool>> {
        let now = Instant::now();
        let masked = self.consoles.values_mut().filter(|console| console.masked);
        let shares = masked.filter_map(|console| console.share.wait(now));
        let retry = self.ask_again.then_some(RETRY);
        let unread = self.domains.has_unread().then_some(Duration::ZERO);
        let limit = shares.chain(limit).chain(retry).chain(unread).min();
        let mut waits: Vec<_> =
            self.clients.iter().map(|c| Wait::new(c.fd(), c.wants_read(), c.wants_write())).collect();
        let clients = waits.len();
        if clients < CLIENTS {
            waits.push(Wait::new(self.listener.as_fd(), true, false));
        }
        waits.extend(self.hypervisor.fd().map(|fd| Wait::new(fd, true, false)));
        waits.extend(self.domains.fd().map(|fd| Wait::new(fd, true, false)));
        waits.extend(signals.map(|signals| Wait::new(signals.as_fd(), true, false)));
        os::wait(&mut waits, limit)?;
        Ok(waits[..clients].iter().map(Wait::readable).collect())
    }

    fn look_for_domains(&mut self) {
        let Some(entries) = self.domains.list() else {
            self.ask_again = true;
            return;
        };
        self.ask_again = false;
        let known: Vec<_> = self.consoles.keys().copied().collect();
        for domid in known {
            let same = entries.iter().any(|entry| {
                let old = &self.consoles[&domid].entry;
                (entry.domid, entry.frame, entry.port) == (domid, old.frame, old.port)
            });
            if !same {
                self.lose(domid);
            }
        }
        let mut new = Vec::new();
        for entry in entries {
            match self.consoles.get_mut(&entry.domid) {
                Some(console) if console.entry.name != entry.name => {
                    console.history.rename(&entry.name);
                    console.entry.name = entry.name;
                }
                Some(_) => {}
                None => new.push(entry),
            }
        }
        // Last: one may have a name that another had before.
        new.into_iter().for_each(|entry| self.connect(entry));
    }

    fn connect(&mut self, entry: Entry) {
        let mapped = self.hypervisor.map(entry.domid, entry.frame);
        match mapped.and_then(|page| Ok((page, self.hypervisor.bind(entry.domid, entry.port)?))) {
            Ok((page, port)) => {
                let history = History::open(&self.options.directory, &entry.name, self.options.size);
                let (ring, share) = (Ring::new(page), Share::new(Instant::now()));
                // Read it: it may have written before anybody listened.
                let console = Console { ring, port, history, share, masked: true, entry };
                self.consoles.insert(console.entry.domid, console);
            }
            Err(reason) => eprintln!("lith-consoled: no console of {}: {reason}", entry.name),
        }
    }

    /// Takes what is left in the ring of a domain that is gone, and ends its clients.
    fn lose(&mut self, domid: u16) {
        let Some(mut console) = self.consoles.remove(&domid) else { return };
        let bytes = console.ring.take(usize::MAX);
        console.history.append(&bytes);
        self.hypervisor.unbind(console.port);
        for client in &mut self.clients {
            if matches!(client.stage, Stage::On { domid: on, .. } if on == domid) {
                client.send(&bytes);
                client.stage = Stage::Ending;
            }
        }
    }

    fn read_rings(&mut self) {
        for port in self.hypervisor.fired() {
            if let Some(console) = self.consoles.values_mut().find(|console| console.port == port) {
                console.masked = true;
                console.share.take(NOTIFICATION as usize);
            }
        }
        let now = Instant::now();
        for console in self.consoles.values_mut().filter(|console| console.masked) {
            if console.share.wait(now).is_some() {
                continue;
            }
            let bytes = console.ring.take(console.share.left(now));
            console.share.take(bytes.len());
            console.history.append(&bytes);
            let on = |client: &&mut Client| matches!(client.stage, Stage::On { domid, .. } if domid == console.entry.domid);
            self.clients.iter_mut().filter(on).for_each(|client| client.send(&bytes));
            console.ring.publish();
            if !bytes.is_empty() {
                self.hypervisor.notify(console.port);
            }
            console.masked = false;
            self.hypervisor.unmask(console.port);
        }
    }

    fn read_clients(&mut self, readable: &[bool]) {
        for index in 0..self.clients.len() {
            if !readable.get(index).copied().unwrap_or(false) {
                continue;
            }
            match self.clients[index].read() {
                None => {}
                Some(Ok(request)) => self.serve(index, &request),
                Some(Err(())) => self.refuse(index, Errno::EINVAL, "a line that is no request"),
            }
        }
    }

    fn refuse(&mut self, index: usize, errno: Errno, text: &str) {
        let client = &mut self.clients[index];
        client.send(refusal(errno, text).as_bytes());
        client.stage = Stage::Ending;
    }

    fn find(&self, who: &str) -> Option<&Entry> {
        let entries = || self.consoles.values().map(|console| &console.entry);
        let named = entries().find(|entry| entry.name == who);
        named.or_else(|| entries().find(|entry| who.parse() == Ok(entry.domid)))
    }

    fn serve(&mut self, index: usize, request: &Request) {
        let entry = self.find(&request.who).cloned();
        let name = entry.as_ref().map_or(request.who.as_str(), |entry| &entry.name);
        let past = history::read(&self.options.directory, name, request.history.min(MOST_HISTORY));
        let missing = entry.is_none() && (request.mode == Mode::Attach || past.is_err());
        if missing {
            let text = format!("no domain {} has a console", request.who);
            return self.refuse(index, Errno::ENOENT, &text);
        }
        let granted = Granted { domid: entry.as_ref().map(|entry| entry.domid), name: name.to_owned() };
        let client = &mut self.clients[index];
        client.send_history(granted.line().as_bytes());
        client.send_history(&past.unwrap_or_default());
        client.stage = match (entry, request.mode) {
            (Some(entry), Mode::Attach) => Stage::On { domid: entry.domid, writes: true },
            (Some(entry), Mode::Follow) => Stage::On { domid: entry.domid, writes: false },
            (None, _) | (_, Mode::Log) => Stage::Ending,
        };
        if request.mode != Mode::Attach {
            client.input.clear();
        }
    }

    fn write_rings(&mut self) {
        for client in &mut self.clients {
            let Stage::On { domid, writes: true } = client.stage else { continue };
            let Some(console) = self.consoles.get_mut(&domid) else { continue };
            let given = console.ring.give(&client.input);
            if given > 0 {
                client.input.drain(..given);
                console.ring.publish();
                self.hypervisor.notify(console.port);
            }
        }
    }

    fn accept(&mut self) {
        while self.clients.len() < CLIENTS
            && let Ok((socket, _)) = self.listener.accept()
        {
            self.clients.extend(Client::new(socket));
        }
    }
}

#[cfg(test)]
#[path = "daemon_tests.rs"]
mod tests;
