//! Nodes: values, permissions, children.
//!
//! A tree is cheap to copy: copies share nodes until one of them changes. A transaction works on such a copy.

use crate::{Limits, NodePath};
use guest_abi::Errno;
use lith_client::Permission;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The domain.
    pub domid: u16,
    /// The domain it also acts as.
    pub target: Option<u16>,
}

impl Caller {
    /// Whether it may do everything.
    pub fn privileged(self) -> bool {
        self.domid == 0
    }

    fn is(self, domid: u16) -> bool {
        self.domid == domid || self.target == Some(domid)
    }

    /// What it may do by these permissions: read, write, change them.
    pub(crate) fn rights(self, permissions: &[Permission]) -> (bool, bool, bool) {
        let Some(first) = permissions.first() else { return (false, false, false) };
        if self.privileged() || self.is(first.domid) {
            return (true, true, true);
        }
        let entry = permissions[1..].iter().find(|entry| self.is(entry.domid)).unwrap_or(first);
        (entry.read, entry.write, false)
    }

    pub(crate) fn may_read(self, permissions: &[Permission]) -> bool {
        self.rights(permissions).0
    }
}

/// What a request needs to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Read,
    Write,
    Own,
}

impl Need {
    fn met(self, caller: Caller, permissions: &[Permission]) -> bool {
        let (read, write, own) = caller.rights(permissions);
        match self {
            Need::Read => read,
            Need::Write => write,
            Need::Own => own,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub value: Arc<[u8]>,
    pub permissions: Arc<[Permission]>,
    pub children: BTreeMap<Box<str>, Arc<Node>>,
    /// When value or permissions changed last.
    pub changed: u64,
    /// When a child came or went last.
    pub children_changed: u64,
}

impl Node {
    fn owner(&self) -> u16 {
        self.permissions.first().map_or(0, |first| first.domid)
    }
}

/// Something that happened to a node, for those who watch.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub path: NodePath,
    /// Who may read these may know.
    pub permissions: Arc<[Permission]>,
    pub parent: Option<Arc<[Permission]>>,
    /// What went with the node.
    pub removed: Option<Arc<Node>>,
}

/// All nodes, and how many each domain owns.
#[derive(Clone, Debug)]
pub struct Tree {
    pub(crate) root: Arc<Node>,
    pub(crate) owned: BTreeMap<u16, u32>,
    pub(crate) clock: u64,
}

impl Default for Tree {
    fn default() -> Tree {
        let permissions: Arc<[Permission]> = Arc::new([Permission::none(0)]);
        let node = Node {
            value: Arc::new([]),
            permissions,
            children: BTreeMap::new(),
            changed: 1,
            children_changed: 1,
        };
        let mut tree = Tree { root: Arc::new(node), owned: BTreeMap::from([(0, 1)]), clock: 1 };
        let tools = Caller { domid: 0, target: None };
        for path in ["/tool/xenstored", "/local/domain"] {
            // Cannot fail: a privileged caller and a good path.
            if let Ok(path) = NodePath::parse(path.as_bytes(), 0) {
                let _ = tree.mkdir(tools, &path, &Limits::default());
            }
        }
        tree
    }
}

impl Tree {
    pub(crate) fn get(&self, path: &str) -> Option<&Node> {
        let mut node = &self.root;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            node = node.children.get(part)?;
        }
        Some(node)
    }

    fn get_mut(&mut self, path: &NodePath) -> Option<&mut Node> {
        let mut node = Arc::make_mut(&mut self.root);
        for part in path.components() {
            node = Arc::make_mut(node.children.get_mut(part)?);
        }
        Some(node)
    }

    /// The nearest node at or above a path, and its path.
    pub(crate) fn nearest<'p>(&self, path: &'p NodePath) -> (&'p str, &Node) {
        path.upwards().find_map(|at| Some((at, self.get(at)?))).unwrap_or(("/", &self.root))
    }

    /// A node that the caller may use so. Whether a node exists is told only to who may use what is above it.
    pub(crate) fn allowed(&self, caller: Caller, path: &NodePath, need: Need) -> Result<&Node, Errno> {
        let (at, node) = self.nearest(path);
        if !need.met(caller, &node.permissions) {
            return Err(Errno::EACCES);
        }
        if at == path.as_str() { Ok(node) } else { Err(Errno::ENOENT) }
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn change(&self, path: &NodePath, removed: Option<Arc<Node>>) -> Change {
        let parent = path.split().and_then(|(above, _)| self.get(above.as_str()));
        let node = removed.as_deref().or_else(|| self.get(path.as_str())).unwrap_or(&self.root);
        let (permissions, parent) = (node.permissions.clone(), parent.map(|node| node.permissions.clone()));
        Change { path: path.clone(), permissions, parent, removed }
    }

    /// Sets a value, making what is missing.
    pub(crate) fn write(
        &mut self,
        caller: Caller,
        path: &NodePath,
        value: &[u8],
        limits: &Limits,
    ) -> Result<Change, Errno> {
        if !caller.privileged() && value.len() > limits.entry_size as usize {
            return Err(Errno::ENOSPC);
        }
        match self.allowed(caller, path, Need::Write) {
            Ok(_) => {}
            Err(Errno::ENOENT) => self.make(caller, path, limits)?,
            Err(errno) => return Err(errno),
        }
        let now = self.tick();
        let node = self.get_mut(path).ok_or(Errno::EIO)?;
        node.value = value.into();
        node.changed = now;
        Ok(self.change(path, None))
    }

    /// Makes a node that is not there.
    pub(crate) fn mkdir(
        &mut self,
        caller: Caller,
        path: &NodePath,
        limits: &Limits,
    ) -> Result<Option<Change>, Errno> {
        match self.allowed(caller, path, Need::Write) {
            Ok(_) => Ok(None),
            Err(Errno::ENOENT) => {
                self.make(caller, path, limits)?;
                Ok(Some(self.change(path, None)))
            }
            // One that is there already need not be writable.
            Err(errno) if self.get(path.as_str()).is_none() => Err(errno),
            Err(_) => self.allowed(caller, path, Need::Read).map(|_| None),
        }
    }

    /// Makes a path's missing nodes. New ones have the permissions of what they are in, and the caller as owner.
    fn make(&mut self, caller: Caller, path: &NodePath, limits: &Limits) -> Result<(), Errno> {
        if !caller.privileged() && path.as_str().len() > limits.path as usize {
            return Err(Errno::ENOSPC);
        }
        let (at, above) = self.nearest(path);
        let missing = path.components().count() - at.split('/').filter(|part| !part.is_empty()).count();
        let permissions = inherited(caller, &above.permissions);
        let owner = permissions[0].domid;
        let owned = self.owned.get(&owner).copied().unwrap_or(0);
        let owned =
            u32::try_from(missing).ok().and_then(|more| owned.checked_add(more)).ok_or(Errno::ENOSPC)?;
        if !caller.privileged() && owned > limits.nodes {
            return Err(Errno::ENOSPC);
        }
        self.owned.insert(owner, owned);
        let now = self.tick();
        let mut node = Arc::make_mut(&mut self.root);
        for part in path.components() {
            if !node.children.contains_key(part) {
                let new = Node {
                    value: Arc::new([]),
                    permissions: permissions.clone(),
                    children: BTreeMap::new(),
                    changed: now,
                    children_changed: now,
                };
                node.children.insert(part.into(), Arc::new(new));
                node.children_changed = now;
            }
            node = match node.children.get_mut(part) {
                Some(child) => Arc::make_mut(child),
                None => return Err(Errno::EIO),
            };
        }
        Ok(())
    }

    /// Removes a node and all below it; `None` when there is none but its parent exists.
    pub(crate) fn remove(&mut self, caller: Caller, path: &NodePath) -> Result<Option<Change>, Errno> {
        let Some((above, _)) = path.split() else { return Err(Errno::EINVAL) };
        match self.allowed(caller, path, Need::Write) {
            Ok(_) => self.take(path).map(Some),
            Err(Errno::ENOENT) if self.get(above.as_str()).is_some() => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn take(&mut self, path: &NodePath) -> Result<Change, Errno> {
        let (above, name) = path.split().ok_or(Errno::EINVAL)?;
        let now = self.tick();
        let parent = self.get_mut(&above).ok_or(Errno::ENOENT)?;
        let removed = parent.children.remove(name).ok_or(Errno::ENOENT)?;
        parent.children_changed = now;
        self.disown(&removed);
        Ok(self.change(path, Some(removed)))
    }

    fn disown(&mut self, node: &Node) {
        self.account(node.owner(), -1);
        for child in node.children.values() {
            self.disown(child);
        }
    }

    fn account(&mut self, owner: u16, by: i32) {
        let count = self.owned.entry(owner).or_insert(0);
        *count = count.saturating_add_signed(by);
        if *count == 0 {
            self.owned.remove(&owner);
        }
    }

    /// Sets permissions.
    pub(crate) fn set_permissions(
        &mut self,
        caller: Caller,
        path: &NodePath,
        permissions: &[Permission],
        limits: &Limits,
    ) -> Result<Change, Errno> {
        let first = permissions.first().ok_or(Errno::EINVAL)?;
        if !caller.privileged() && permissions.len() > limits.permissions as usize {
            return Err(Errno::ENOSPC);
        }
        let owner = self.allowed(caller, path, Need::Own)?.owner();
        if !caller.privileged() && owner != first.domid {
            return Err(Errno::EPERM);
        }
        let now = self.tick();
        let node = self.get_mut(path).ok_or(Errno::EIO)?;
        node.permissions = permissions.into();
        node.changed = now;
        if owner != first.domid {
            self.account(owner, -1);
            self.account(first.domid, 1);
        }
        Ok(self.change(path, None))
    }

    /// Removes what a domain that is gone owned, and its name from the permissions of others, so that a domain that gets
    /// its number later does not get its rights.
    pub(crate) fn forget_domain(&mut self, domid: u16) -> Vec<Change> {
        if domid == 0 {
            return Vec::new();
        }
        let (mut doomed, mut named) = (Vec::new(), Vec::new());
        find_domain(&self.root, domid, &mut String::new(), &mut doomed, &mut named);
        let parse = |path: String| NodePath::parse(path.as_bytes(), 0).ok();
        let changes = doomed.into_iter().filter_map(parse).filter_map(|path| self.take(&path).ok()).collect();
        for path in named.into_iter().filter_map(parse) {
            let now = self.tick();
            if let Some(node) = self.get_mut(&path) {
                let kept = node.permissions.iter().enumerate();
                let kept = kept.filter(|(index, entry)| *index == 0 || entry.domid != domid);
                node.permissions = kept.map(|(_, entry)| *entry).collect();
                node.changed = now;
            }
        }
        changes
    }

    /// Whether the numbers of nodes owned are what they are said to be.
    pub(crate) fn is_consistent(&self) -> bool {
        fn count(node: &Node, owned: &mut BTreeMap<u16, u32>) {
            *owned.entry(node.owner()).or_insert(0) += 1;
            node.children.values().for_each(|child| count(child, owned));
        }
        let mut owned = BTreeMap::new();
        count(&self.root, &mut owned);
        owned == self.owned
    }
}

/// Paths of the topmost nodes that `domid` owns, and of other nodes that name it.
fn find_domain(
    node: &Node,
    domid: u16,
    path: &mut String,
    doomed: &mut Vec<String>,
    named: &mut Vec<String>,
) {
    if node.permissions.iter().skip(1).any(|entry| entry.domid == domid) {
        named.push(if path.is_empty() { "/".to_owned() } else { path.clone() });
    }
    for (name, child) in &node.children {
        let len = path.len();
        path.push('/');
        path.push_str(name);
        if child.owner() == domid {
            doomed.push(path.clone());
        } else {
            find_domain(child, domid, path, doomed, named);
        }
        path.truncate(len);
    }
}

fn inherited(caller: Caller, above: &Arc<[Permission]>) -> Arc<[Permission]> {
    if caller.privileged() || above.first().is_some_and(|first| first.domid == caller.domid) {
        return above.clone();
    }
    let mut permissions = above.to_vec();
    if let Some(first) = permissions.first_mut() {
        first.domid = caller.domid;
    }
    permissions.into()
}
