//! Transactions: a copy of the tree, what was looked at in it, and what is to be done.
//!
//! At its end a transaction is done again on the tree as it is then, provided that nothing it looked at has changed.
//! Two transactions that make different nodes in one directory do not disturb each other.

use crate::tree::{Caller, Change, Tree};
use crate::{Limits, NodePath};
use guest_abi::Errno;
use lith_client::Permission;
use std::collections::BTreeMap;

/// A change of the tree that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Write(NodePath, Box<[u8]>),
    Mkdir(NodePath),
    Remove(NodePath),
    SetPermissions(NodePath, Box<[Permission]>),
}

impl Operation {
    pub fn path(&self) -> &NodePath {
        match self {
            Operation::Write(path, _)
            | Operation::Mkdir(path)
            | Operation::Remove(path)
            | Operation::SetPermissions(path, _) => path,
        }
    }

    /// Does it, and says what changed. An error changes nothing.
    pub fn apply(&self, tree: &mut Tree, caller: Caller, limits: &Limits) -> Result<Option<Change>, Errno> {
        match self {
            Operation::Write(path, value) => tree.write(caller, path, value, limits).map(Some),
            Operation::Mkdir(path) => tree.mkdir(caller, path, limits),
            Operation::Remove(path) => tree.remove(caller, path),
            Operation::SetPermissions(path, permissions) => {
                tree.set_permissions(caller, path, permissions, limits).map(Some)
            }
        }
    }
}

/// An open transaction.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    /// The tree when it began.
    base: Tree,
    /// The tree as it sees it.
    pub view: Tree,
    /// Paths that it looked at, and whether at their children too.
    seen: BTreeMap<NodePath, bool>,
    operations: Vec<Operation>,
    /// It will fail: the daemon was started again meanwhile, or it looked at too much.
    pub doomed: bool,
}

impl Transaction {
    pub fn new(tree: &Tree) -> Transaction {
        Transaction {
            base: tree.clone(),
            view: tree.clone(),
            seen: BTreeMap::new(),
            operations: Vec::new(),
            doomed: false,
        }
    }

    /// One that is open, sees `tree` and will fail.
    pub fn doomed(tree: &Tree) -> Transaction {
        Transaction { doomed: true, ..Transaction::new(tree) }
    }

    /// Notes that the answer depends on this path. Room for it is limited for an unprivileged caller.
    pub fn look(&mut self, path: &NodePath, children: bool, room: Option<u32>) -> Result<(), Errno> {
        self.see(path.clone(), children, room)?;
        // Why it is not there, and whether the caller may know, is for the nearest node above to say, and for the topmost
        // that is missing: as long as that is, all below are.
        let nearest = self.base.nearest(path).0.len();
        if nearest == path.as_str().len() {
            return Ok(());
        }
        let missing = path.upwards().take_while(|at| at.len() > nearest).last().unwrap_or(path.as_str());
        for at in [missing, &path.as_str()[..nearest]] {
            if let Ok(at) = NodePath::parse(at.as_bytes(), 0) {
                self.see(at, false, room)?;
            }
        }
        Ok(())
    }

    fn see(&mut self, path: NodePath, children: bool, room: Option<u32>) -> Result<(), Errno> {
        let full = room.is_some_and(|room| self.seen.len() >= room as usize);
        match self.seen.get_mut(&path) {
            Some(seen) => *seen |= children,
            None if full => return Err(Errno::ENOSPC),
            None => drop(self.seen.insert(path, children)),
        }
        Ok(())
    }

    /// Does a change in its own tree.
    pub fn apply(&mut self, operation: Operation, caller: Caller, limits: &Limits) -> Result<(), Errno> {
        if !caller.privileged() && self.operations.len() >= 4 * limits.transaction_nodes as usize {
            return Err(Errno::ENOSPC);
        }
        operation.apply(&mut self.view, caller, limits)?;
        self.operations.push(operation);
        Ok(())
    }

    fn conflicts(&self, now: &Tree) -> bool {
        self.seen.iter().any(|(path, children)| {
            let stamp = |tree: &Tree| {
                let node = tree.get(path.as_str())?;
                Some((node.changed, if *children { node.children_changed } else { 0 }))
            };
            stamp(&self.base) != stamp(now)
        })
    }

    /// Does all of it in `tree`, or nothing.
    pub fn commit(&self, tree: &mut Tree, caller: Caller, limits: &Limits) -> Result<Vec<Change>, Errno> {
        if self.doomed || self.conflicts(tree) {
            return Err(Errno::EAGAIN);
        }
        let mut result = tree.clone();
        let mut changes = Vec::new();
        for operation in &self.operations {
            changes.extend(operation.apply(&mut result, caller, limits)?);
        }
        *tree = result;
        Ok(changes)
    }
}
