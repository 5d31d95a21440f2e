//! Which domains there are, by the store.

use lith_client::store::{Result, Store};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

/// A domain with a console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub domid: u16,
    /// Its name.
    pub name: String,
    /// Frame of its ring.
    pub frame: u64,
    /// Its port for the console.
    pub port: u32,
}

/// Where domains are looked up.
pub trait Directory {
    /// Whether they may have changed since this was asked last.
    fn changed(&mut self) -> bool;

    /// All that have a console; `None` when nobody can be asked just now.
    fn list(&mut self) -> Option<Vec<Entry>>;

    /// True if [`Directory::changed`] has something to say that came while [`Directory::list`] asked: nothing announces it any more.
    fn has_unread(&self) -> bool;

    /// Readable when something comes that [`Directory::changed`] tells.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
}

/// The store, connected to again when it was away.
#[derive(Debug, Default)]
pub struct ByStore {
    store: Option<Store>,
    /// Its socket, if not the usual one.
    socket: Option<PathBuf>,
    /// Domains whose names are watched.
    named: BTreeSet<u16>,
}

impl ByStore {
    /// Not connected yet.
    pub fn new() -> ByStore {
        ByStore::default()
    }

    /// Not connected yet, to a store that listens at `socket`.
    pub fn at(socket: PathBuf) -> ByStore {
        ByStore { socket: Some(socket), ..ByStore::default() }
    }

    fn connect(&mut self) -> Option<&mut Store> {
        if self.store.is_none() {
            let mut store = match &self.socket {
                Some(socket) => Store::connect(socket).ok()?,
                // Consoles go on without it.
                None => Store::open(Duration::ZERO).ok()?,
            };
            for path in ["@introduceDomain", "@releaseDomain"] {
                store.watch(path, path).ok()?;
            }
            self.store = Some(store);
            self.named.clear();
        }
        self.store.as_mut()
    }
}

impl Directory for ByStore {
    fn changed(&mut self) -> bool {
        let Some(store) = &mut self.store else { return self.connect().is_some() };
        let mut changed = false;
        loop {
            match store.next_event(Some(Duration::ZERO)) {
                Ok(Some(_)) => changed = true,
                Ok(None) => return changed,
                // Whatever happens meanwhile is found when it is there again.
                Err(_) => {
                    self.store = None;
                    return true;
                }
            }
        }
    }

    fn list(&mut self) -> Option<Vec<Entry>> {
        self.connect()?;
        let store = self.store.as_mut()?;
        let listed = list(store).and_then(|entries| {
            watch_names(store, &mut self.named, &entries)?;
            Ok(entries)
        });
        if listed.is_err() {
            self.store = None;
        }
        listed.ok()
    }

    fn has_unread(&self) -> bool {
        self.store.as_ref().is_some_and(Store::has_unread)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.store.as_ref().map(AsFd::as_fd)
    }
}

fn list(store: &mut Store) -> Result<Vec<Entry>> {
    let mut all = Vec::new();
    for domid in store.directory("/local/domain")? {
        let Ok(domid) = domid.parse::<u16>() else { continue };
        if domid != 0 && store.is_introduced(domid)? {
            all.extend(entry(store, domid)?);
        }
    }
    Ok(all)
}

/// A name that changes is told from here on, once more than it was read.
fn watch_names(store: &mut Store, named: &mut BTreeSet<u16>, entries: &[Entry]) -> Result<()> {
    let now: BTreeSet<u16> = entries.iter().map(|entry| entry.domid).collect();
    let path = |domid: &u16| format!("/local/domain/{domid}/name");
    for gone in named.difference(&now) {
        store.unwatch(&path(gone), "name")?;
    }
    for new in now.difference(named) {
        store.watch(&path(new), "name")?;
    }
    *named = now;
    Ok(())
}

/// A domain's console, if it has one that is this daemon's.
fn entry(store: &mut Store, domid: u16) -> Result<Option<Entry>> {
    let home = format!("/local/domain/{domid}");
    let kind = store.read_opt(&format!("{home}/console/type"))?;
    if kind.is_some_and(|kind| kind != "xenconsoled") {
        return Ok(None);
    }
    let frame = store.read_opt(&format!("{home}/console/ring-ref"))?;
    let port = store.read_opt(&format!("{home}/console/port"))?;
    let name = store.read_opt(&format!("{home}/name"))?;
    let (Some(frame), Some(port)) = (frame.and_then(|f| f.parse().ok()), port.and_then(|p| p.parse().ok()))
    else {
        return Ok(None);
    };
    let name = name.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("domain-{domid}"));
    Ok(Some(Entry { domid, name, frame, port }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lith_client::wire::{self, Kind};
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    /// A store that takes two watches, then dies.
    fn die_young(listener: &UnixListener) {
        let (mut socket, _) = listener.accept().unwrap();
        let mut input = Vec::new();
        for _ in 0..2 {
            let message = loop {
                if let Some((message, len)) = wire::decode(&input).unwrap() {
                    input.drain(..len);
                    break message;
                }
                let mut bytes = [0; 256];
                let len = socket.read(&mut bytes).unwrap();
                input.extend_from_slice(&bytes[..len]);
            };
            let mut answer = Vec::new();
            wire::encode(&mut answer, Kind::Watch as u32, message.request, 0, &[b"OK\0"]);
            socket.write_all(&answer).unwrap();
        }
    }

    #[test]
    fn a_store_that_went_away_is_asked_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let mut domains = ByStore::at(path.clone());
        for _ in 0..2 {
            std::thread::scope(|scope| {
                let store = scope.spawn(|| die_young(&listener));
                assert!(domains.changed(), "it is there");
                store.join().unwrap();
            });
            assert!(domains.fd().is_some());
            assert!(domains.changed(), "it has gone: what is there has to be asked again");
            assert!(domains.fd().is_none());
        }
        drop(listener);
        assert_eq!(domains.list(), None, "nobody there");
    }
}
