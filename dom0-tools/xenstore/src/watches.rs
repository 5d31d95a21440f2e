//! Who wants to know what.

use crate::connection::ConnectionId;
use crate::tree::{Change, Node};
use lith_client::Permission;
use std::collections::BTreeMap;

/// A watch of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Watch {
    pub connection: ConnectionId,
    pub token: Box<[u8]>,
    /// Bytes at the front of a path that the watcher did not give and is not told.
    pub hidden: usize,
    /// Levels below the path that count; all if `None`.
    pub depth: Option<u32>,
}

/// All watches, by the path they are at; special ones begin with `@`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watches {
    pub at: BTreeMap<Box<str>, Vec<Watch>>,
}

/// What a watcher is to be told, if it may know.
pub(crate) struct Hit<'w> {
    pub watch: &'w Watch,
    /// The path that changed, or the watch's own when that went with it.
    pub path: &'w str,
    pub permissions: &'w [Permission],
}

impl Watches {
    pub fn has(&self, path: &str, connection: ConnectionId, token: &[u8]) -> bool {
        let there = self.at.get(path).into_iter().flatten();
        there.into_iter().any(|watch| watch.connection == connection && *watch.token == *token)
    }

    pub fn add(&mut self, path: &str, watch: Watch) {
        self.at.entry(path.into()).or_default().push(watch);
    }

    /// Removes a watch; whether there was one.
    pub fn remove(&mut self, path: &str, connection: ConnectionId, token: &[u8]) -> bool {
        let Some(there) = self.at.get_mut(path) else { return false };
        let before = there.len();
        there.retain(|watch| watch.connection != connection || *watch.token != *token);
        let removed = there.len() < before;
        if there.is_empty() {
            self.at.remove(path);
        }
        removed
    }

    /// Watches that a change of the tree concerns.
    pub fn hits<'w>(&'w self, change: &'w Change) -> Vec<Hit<'w>> {
        let mut hits = Vec::new();
        for at in change.path.upwards() {
            let Some(there) = self.at.get(at) else { continue };
            let Some(depth) = change.path.depth_below(at) else { continue };
            let deep = |watch: &&Watch| watch.depth.is_none_or(|limit| depth <= limit as usize);
            let (path, permissions) = (change.path.as_str(), &*change.permissions);
            hits.extend(there.iter().filter(deep).map(|watch| Hit { watch, path, permissions }));
        }
        if let Some(removed) = &change.removed {
            self.below(change.path.as_str(), removed, &mut hits);
        }
        hits
    }

    /// Watches at nodes that went with the one at `path`: they are told of their own path.
    fn below<'w>(&'w self, path: &str, removed: &'w Node, hits: &mut Vec<Hit<'w>>) {
        let prefix = format!("{path}/");
        let from = (std::ops::Bound::Excluded(&*prefix), std::ops::Bound::Unbounded);
        for (at, there) in self.at.range::<str, _>(from).take_while(|(at, _)| at.starts_with(&prefix)) {
            let mut node = Some(removed);
            for part in at[prefix.len()..].split('/') {
                node = node.and_then(|node| node.children.get(part)).map(|node| &**node);
            }
            if let Some(node) = node {
                let permissions = &*node.permissions;
                hits.extend(there.iter().map(|watch| Hit { watch, path: at, permissions }));
            }
        }
    }

    pub fn at(&self, path: &str) -> impl Iterator<Item = &Watch> {
        self.at.get(path).into_iter().flatten()
    }
}
