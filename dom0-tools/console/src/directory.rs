//! Which domains there are, by the store.

use lith_client::store::{Result, Store};
use std::os::fd::{AsFd, BorrowedFd};
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

    /// Readable when [`Directory::changed`] has something to say.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
}

/// The store, connected to again when it was away.
#[derive(Debug, Default)]
pub struct ByStore {
    store: Option<Store>,
}

impl ByStore {
    /// Not connected yet.
    pub fn new() -> ByStore {
        ByStore::default()
    }

    fn connect(&mut self) -> Option<&mut Store> {
        if self.store.is_none() {
            let mut store = Store::open().ok()?;
            for path in ["@introduceDomain", "@releaseDomain"] {
                store.watch(path, path).ok()?;
            }
            self.store = Some(store);
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
                Err(_) => {
                    self.store = None;
                    return false;
                }
            }
        }
    }

    fn list(&mut self) -> Option<Vec<Entry>> {
        let listed = list(self.connect()?);
        if listed.is_err() {
            self.store = None;
        }
        listed.ok()
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
