//! The daemon: one loop that waits for sockets, rings and signals, and takes everybody in turn.

mod links;
mod sockets;
mod xen;

use crate::connection::{ConnectionId, Peer};
use crate::journal::{Entry, Journal, Outcome};
use crate::machine::{Machine, Outside, Step};
use guest_abi::Errno;
use guest_abi::io::{XENSTORE_ERROR_PROTO, XENSTORE_ERROR_RINGIDX};
use links::{Link, Links};
use lith_client::os::{self, Signals, Wait};
use lith_client::{SharedPage, wire};
use sockets::Sockets;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

pub use xen::Xen;

/// Messages of one connection that are answered before others have their turn.
const BURST: usize = 8;
/// Bytes that are read ahead of a connection's messages.
const AHEAD: usize = wire::HEAD + wire::PAYLOAD_MAX;

/// How a domain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It runs, or could.
    Running,
    /// It shut down, and is still there.
    ShutDown,
    /// It is gone or going.
    Gone,
}

/// What the daemon wants of the hypervisor.
pub trait Hypervisor {
    /// A mapped ring. Dropping it unmaps it.
    type Page: SharedPage;

    /// The ring of this domain's kernel, if it has one, and a port that is connected to it.
    ///
    /// # Errors
    /// Why it cannot be reached.
    fn kernel(&mut self) -> Result<Option<(Self::Page, u32)>, String>;

    /// Maps a domain's ring: the granted page, or else the frame.
    ///
    /// # Errors
    /// What the caller of INTRODUCE is told.
    fn map(&mut self, domid: u16, frame: u64) -> Result<Self::Page, Errno>;

    /// Connects to a port that a domain has for the store; returns this side's.
    ///
    /// # Errors
    /// What the caller of INTRODUCE is told.
    fn bind(&mut self, domid: u16, port: u32) -> Result<u32, Errno>;

    /// Closes a port of this side.
    fn unbind(&mut self, port: u32);

    /// Notifies the other end of a port of this side.
    fn notify(&mut self, port: u32);

    /// Ports of this side that were notified, and whether the state of a domain has changed.
    fn fired(&mut self) -> (Vec<u32>, bool);

    /// Readable when [`Hypervisor::fired`] has something.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// How a domain is.
    fn life(&mut self, domid: u16) -> Life;
}

/// The store of a host without a hypervisor: only tools speak to it. For tests, and for trying things out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody;

impl Hypervisor for Nobody {
    type Page = lith_client::Mapping;

    fn kernel(&mut self) -> Result<Option<(Self::Page, u32)>, String> {
        Ok(None)
    }
    fn map(&mut self, _: u16, _: u64) -> Result<Self::Page, Errno> {
        Err(Errno::EINVAL)
    }
    fn bind(&mut self, _: u16, _: u32) -> Result<u32, Errno> {
        Err(Errno::EINVAL)
    }
    fn unbind(&mut self, _: u32) {}
    fn notify(&mut self, _: u32) {}
    fn fired(&mut self) -> (Vec<u32>, bool) {
        (Vec::new(), false)
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    fn life(&mut self, _: u16) -> Life {
        Life::Gone
    }
}

/// Where the daemon's things are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The socket.
    pub socket: PathBuf,
    /// The journal.
    pub state: PathBuf,
    /// What tells one boot from another.
    pub boot: Vec<u8>,
}

/// Descriptors that a daemon leaves to the one that takes its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Legacy {
    /// The listening socket.
    pub listener: Option<RawFd>,
    /// Connections.
    pub connections: Vec<(ConnectionId, RawFd)>,
}

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// To be over.
    Stop,
    /// To start again, by [`Daemon::leave`].
    Restart,
}

/// The daemon.
#[derive(Debug)]
pub struct Daemon<H: Hypervisor> {
    machine: Machine,
    journal: Journal,
    hypervisor: H,
    links: Links<H::Page>,
    sockets: Sockets,
    /// Connections whose ring is to be looked at, notified or not.
    stirred: BTreeSet<ConnectionId>,
    restart: bool,
}

impl<H: Hypervisor> Daemon<H> {
    /// Starts where the last daemon of this boot was.
    ///
    /// # Errors
    /// When the socket or the journal cannot be made.
    pub fn start(
        options: &Options,
        hypervisor: H,
        legacy: &mut Option<os::Inheritance>,
        left: &Legacy,
    ) -> io::Result<Self> {
        let (mut journal, recovered) = Journal::open(&options.state, &options.boot)?;
        let fresh = recovered.is_none();
        let mut machine = recovered.map(|recovered| recovered.machine).unwrap_or_default();
        let sockets = Sockets::open(&options.socket, legacy.as_mut(), left)?;
        let lost: Vec<_> = machine
            .connections()
            .filter(|(id, peer)| *peer == Peer::Socket && !sockets.has(*id))
            .map(|(id, _)| id)
            .collect();
        for id in lost {
            machine.disconnect(id);
            journal.note(&Entry::Disconnect(id));
        }
        let mut daemon = Daemon {
            machine,
            journal,
            hypervisor,
            links: Links::default(),
            sockets,
            stirred: BTreeSet::new(),
            restart: false,
        };
        if fresh {
            daemon.describe_itself();
        }
        daemon.link_kernel();
        daemon.link_domains();
        daemon.journal.flush()?;
        daemon.publish(fresh);
        Ok(daemon)
    }

    /// The state, to look at.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The hypervisor.
    pub fn hypervisor(&mut self) -> &mut H {
        &mut self.hypervisor
    }

    /// What tools look for about the domain that they are in.
    fn describe_itself(&mut self) {
        let id = self.machine.connect();
        self.journal.note(&Entry::Connect);
        for payload in ["/local/domain/0/domid\x000", "/local/domain/0/name\0Domain-0"] {
            let mut bytes = Vec::new();
            wire::encode(&mut bytes, wire::Kind::Write as u32, 0, 0, &[payload.as_bytes()]);
            self.machine.feed(id, &bytes);
            self.journal.note(&Entry::Feed(id, bytes));
            self.step(id);
        }
        self.close(id);
    }

    fn link_kernel(&mut self) {
        let (page, port) = match self.hypervisor.kernel() {
            Ok(Some(ring)) => ring,
            Ok(None) => return,
            Err(reason) => {
                return eprintln!("lith-xenstored: this domain's kernel cannot be reached: {reason}");
            }
        };
        let link = match self.machine.domain(0) {
            Some((id, _, _)) => Link::resume(page, port, id, self.journal.indices(id)),
            None => {
                let id = self.machine.connect_kernel();
                self.journal.note(&Entry::ConnectKernel);
                let link = Link::new(page, port, id);
                self.journal.set_indices(id, link.ring.indices());
                link
            }
        };
        self.stirred.insert(link.connection);
        self.links.insert(0, link);
    }

    /// Connects again to the domains that the last daemon knew.
    fn link_domains(&mut self) {
        let known: Vec<_> = self.machine.domains().filter(|domid| *domid != 0).collect();
        for domid in known {
            let Some((id, frame, port)) = self.machine.domain(domid) else { continue };
            if self.hypervisor.life(domid) == Life::Gone {
                self.lose(domid);
                continue;
            }
            let page = self.hypervisor.map(domid, frame);
            match page.and_then(|page| Ok((page, self.hypervisor.bind(domid, port)?))) {
                Ok((page, port)) => {
                    self.links.insert(domid, Link::resume(page, port, id, self.journal.indices(id)));
                    self.stirred.insert(id);
                }
                Err(errno) => eprintln!("lith-xenstored: domain {domid} cannot be reached again: {errno}"),
            }
        }
        self.look_after_domains();
    }

    /// Waits for something and handles it; `Some` when the daemon is to end.
    ///
    /// # Errors
    /// When waiting or the journal fails.
    pub fn turn(&mut self, signals: Option<&Signals>, limit: Option<Duration>) -> io::Result<Option<End>> {
        let fired = self.wait(signals, limit)?;
        while let Some(signal) = signals.and_then(Signals::next) {
            match signal {
                os::SIGHUP => self.restart = true,
                _ => return self.journal.flush().map(|()| Some(End::Stop)),
            }
        }
        let (ports, deaths) = if fired { self.hypervisor.fired() } else { Default::default() };
        self.stirred.extend(ports.iter().filter_map(|port| self.links.connection_at(*port)));
        if deaths {
            self.look_after_domains();
        }
        self.read_rings();
        self.read_sockets();
        self.answer();
        self.write()?;
        self.journal.tidy(&mut self.machine)?;
        Ok(self.restart.then_some(End::Restart))
    }

    /// Waits; whether the hypervisor may have something.
    fn wait(&mut self, signals: Option<&Signals>, limit: Option<Duration>) -> io::Result<bool> {
        let busy = !self.stirred.is_empty() || self.machine.all_ready().next().is_some();
        let mut waits = Vec::new();
        waits.extend(self.hypervisor.fd().map(|fd| Wait::new(fd, true, false)));
        let hypervisor = waits.len();
        waits.extend(signals.map(|signals| Wait::new(signals.as_fd(), true, false)));
        let others = waits.len();
        let machine = &self.machine;
        let ids = self.sockets.waits(&mut waits, |id| (machine.unread(id) < AHEAD, machine.has_output(id)));
        let limit = if busy { Some(Duration::ZERO) } else { limit };
        os::wait(&mut waits, limit)?;
        let readable = |wait: &Wait<'_>| wait.readable();
        let found: Vec<_> = waits[others..].iter().map(readable).collect();
        // One that has no descriptor is asked each time.
        let fired = waits[..hypervisor].iter().all(readable);
        drop(waits);
        self.sockets.note_readable(&ids, &found);
        Ok(fired)
    }

    fn read_rings(&mut self) {
        for id in std::mem::take(&mut self.stirred) {
            let Some((domid, link)) = self.links.by_connection(id) else { continue };
            if link.broken {
                continue;
            }
            if domid != 0 && link.ring.wants_reset() {
                link.ring.reset();
                self.machine.start_over(id);
                self.journal.note(&Entry::StartOver(id));
                continue;
            }
            let room = AHEAD.saturating_sub(self.machine.unread(id));
            match link.ring.take(room) {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => {
                    self.machine.feed(id, &bytes);
                    self.journal.note(&Entry::Feed(id, bytes));
                    link.touched = true;
                }
                Err(_) => link.give_up(XENSTORE_ERROR_RINGIDX),
            }
        }
    }

    fn read_sockets(&mut self) {
        while let Some(socket) = self.sockets.accept() {
            let id = self.machine.connect();
            self.journal.note(&Entry::Connect);
            self.sockets.insert(id, socket);
        }
        for id in self.sockets.readable() {
            match self.sockets.read(id, AHEAD.saturating_sub(self.machine.unread(id))) {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => {
                    self.machine.feed(id, &bytes);
                    self.journal.note(&Entry::Feed(id, bytes));
                }
                Err(_) => self.close(id),
            }
        }
    }

    fn answer(&mut self) {
        let ready: Vec<_> = self.machine.all_ready().collect();
        for id in ready {
            for _ in 0..BURST {
                if !self.machine.ready(id) || !self.step(id) {
                    break;
                }
            }
        }
        let hopeless: Vec<_> = self.machine.hopeless().collect();
        hopeless.into_iter().for_each(|id| self.close(id));
    }

    /// Answers one message; whether there may be more.
    fn step(&mut self, id: ConnectionId) -> bool {
        let mut world = World {
            hypervisor: &mut self.hypervisor,
            links: &mut self.links,
            outcome: Outcome::default(),
            restart: false,
            introduced: None,
        };
        let step = self.machine.step(id, &mut world);
        let (outcome, introduced) = (world.outcome, world.introduced.take());
        self.restart |= world.restart;
        match step {
            Step::Done => {
                self.journal.note(&Entry::Step(id, outcome));
                if let Some((domid, page, port)) = introduced {
                    self.link_new(domid, page, port);
                }
                true
            }
            Step::Broken => {
                match self.links.by_connection(id) {
                    Some((_, link)) => {
                        link.give_up(XENSTORE_ERROR_PROTO);
                        self.machine.start_over(id);
                        self.journal.note(&Entry::StartOver(id));
                    }
                    None => self.close(id),
                }
                false
            }
            Step::Idle | Step::Waits => false,
        }
    }

    fn link_new(&mut self, domid: u16, page: H::Page, port: u32) {
        let Some((id, _, _)) = self.machine.domain(domid) else { return self.hypervisor.unbind(port) };
        let link = Link::new(page, port, id);
        self.machine.restart_stream(id);
        self.journal.note(&Entry::RestartStream(id));
        self.journal.set_indices(id, link.ring.indices());
        self.links.insert(domid, link);
        self.stirred.insert(id);
    }

    /// Sends what waits: first the journal, then what is seen outside.
    fn write(&mut self) -> io::Result<()> {
        let waiting: Vec<_> = self.machine.with_output().collect();
        for id in &waiting {
            let Some((_, link)) = self.links.by_connection(*id) else { continue };
            match link.ring.room() {
                _ if link.broken => {}
                Ok(0) => {}
                Ok(room) => {
                    let bytes = self.machine.peek(*id, room);
                    link.ring.give(&bytes);
                    link.touched = true;
                    self.machine.sent(*id, bytes.len());
                    self.journal.note(&Entry::Sent(*id, bytes.len()));
                }
                Err(_) => link.give_up(XENSTORE_ERROR_RINGIDX),
            }
        }
        self.journal.flush()?;
        self.publish(false);
        for id in waiting {
            if !self.sockets.has(id) {
                continue;
            }
            match self.sockets.write(id, &self.machine.peek(id, 64 * 1024)) {
                Ok(0) => {}
                Ok(count) => {
                    self.machine.sent(id, count);
                    self.journal.note(&Entry::Sent(id, count));
                }
                Err(_) => self.close(id),
            }
        }
        Ok(())
    }

    fn publish(&mut self, everybody: bool) {
        for link in self.links.all() {
            if std::mem::take(&mut link.touched) || everybody {
                link.ring.publish();
                self.hypervisor.notify(link.port);
            }
        }
        self.look_again();
    }

    /// Finds the rings that go on without being notified. A guest need only notify of requests when this side had taken
    /// all earlier ones, and of room when there was none: as far as the ring said, and it says so only from `publish` on.
    fn look_again(&mut self) {
        for link in self.links.all().filter(|link| !link.broken) {
            let id = link.connection;
            let requests = self.machine.unread(id) < AHEAD && link.ring.has_more();
            let room = || link.ring.room().is_ok_and(|room| room > 0);
            if requests || self.machine.has_output(id) && room() {
                self.stirred.insert(id);
            }
        }
    }

    fn close(&mut self, id: ConnectionId) {
        self.sockets.remove(id);
        self.machine.disconnect(id);
        self.journal.note(&Entry::Disconnect(id));
    }

    fn look_after_domains(&mut self) {
        let known: Vec<_> = self.machine.domains().filter(|domid| *domid != 0).collect();
        for domid in known {
            match self.hypervisor.life(domid) {
                Life::Running => {}
                Life::ShutDown => {
                    self.machine.shut_down(domid, true);
                    self.journal.note(&Entry::ShutDown(domid, true));
                }
                Life::Gone => self.lose(domid),
            }
        }
    }

    fn lose(&mut self, domid: u16) {
        if let Some(link) = self.links.remove(domid) {
            self.hypervisor.unbind(link.port);
        }
        self.machine.gone(domid);
        self.journal.note(&Entry::Gone(domid));
    }

    /// Makes everything ready for the daemon that takes this one's place, and says what it gets.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn leave(mut self) -> io::Result<Legacy> {
        self.journal.flush()?;
        self.sockets.bequeath()
    }
}

/// What the machine may do while it answers.
struct World<'d, H: Hypervisor> {
    hypervisor: &'d mut H,
    links: &'d mut Links<H::Page>,
    outcome: Outcome,
    restart: bool,
    introduced: Option<(u16, H::Page, u32)>,
}

impl<H: Hypervisor> World<'_, H> {
    fn connect(&mut self, domid: u16, frame: u64, port: u32) -> Result<(), Errno> {
        if let Some(old) = self.links.remove(domid) {
            self.hypervisor.unbind(old.port);
        }
        let page = self.hypervisor.map(domid, frame)?;
        let port = self.hypervisor.bind(domid, port)?;
        self.introduced = Some((domid, page, port));
        Ok(())
    }
}

impl<H: Hypervisor> Outside for World<'_, H> {
    fn introduce(&mut self, domid: u16, frame: u64, port: u32) -> Result<(), Errno> {
        let result = self.connect(domid, frame, port);
        self.outcome.introduce = Some(result);
        result
    }

    fn release(&mut self, domid: u16) {
        if let Some(link) = self.links.remove(domid) {
            self.hypervisor.unbind(link.port);
        }
    }

    fn command(&mut self, words: &[&str]) -> Option<String> {
        let answer = match words {
            ["live-update", "-s", ..] => {
                self.restart = true;
                "OK"
            }
            ["live-update", "-a"] | ["log" | "logfile", ..] => "OK",
            _ => return None,
        };
        self.outcome.command = Some(answer.to_owned());
        self.outcome.command.clone()
    }
}

#[cfg(test)]
#[path = "daemon_tests.rs"]
mod tests;
