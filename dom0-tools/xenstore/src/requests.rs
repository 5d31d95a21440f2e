//! Requests: what they ask, whether they may, and their answers.

use crate::NodePath;
use crate::connection::{Connection, ConnectionId};
use crate::machine::{Event, INTRODUCE, Machine, Outside, RELEASE};
use crate::transaction::{Operation, Transaction};
use crate::tree::{Caller, Need, Node};
use crate::watches::Watch;
use guest_abi::Errno;
use lith_client::Permission;
use lith_client::wire::{self, Kind, Message};

type Answer = Result<Vec<u8>, Errno>;

/// What most requests answer.
fn ok() -> Answer {
    Ok(b"OK\0".to_vec())
}

/// The strings of a payload, each of which must end with a NUL.
fn words(payload: &[u8]) -> Result<Vec<&[u8]>, Errno> {
    let payload = payload.strip_suffix(&[0]).ok_or(Errno::EINVAL)?;
    Ok(payload.split(|byte| *byte == 0).collect())
}

/// Exactly so many strings.
fn exactly<const N: usize>(payload: &[u8]) -> Result<[&[u8]; N], Errno> {
    words(payload)?.try_into().map_err(|_| Errno::EINVAL)
}

fn number<T: std::str::FromStr>(word: &[u8]) -> Result<T, Errno> {
    let text = std::str::from_utf8(word).map_err(|_| Errno::EINVAL)?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Errno::EINVAL);
    }
    text.parse().map_err(|_| Errno::EINVAL)
}

/// A domain's number: not one of those that mean something else.
fn domain(word: &[u8]) -> Result<u16, Errno> {
    number(word).ok().filter(|domid| *domid < guest_abi::xen::DOMID_FIRST_RESERVED).ok_or(Errno::EINVAL)
}

fn texts(permissions: &[Permission]) -> Vec<u8> {
    permissions.iter().flat_map(|entry| (entry.text() + "\0").into_bytes()).collect()
}

fn names(node: &Node) -> Vec<u8> {
    node.children.keys().flat_map(|name| name.bytes().chain([0])).collect()
}

/// One part of a list of names: as many whole names as fit, and an empty one at the end of the list.
fn part(node: &Node, offset: usize) -> Vec<u8> {
    let list = names(node);
    let mut answer = format!("{}\0", node.children_changed).into_bytes();
    let rest = list.get(offset..).unwrap_or_default();
    let mut taken = 0;
    for name in rest.split_inclusive(|byte| *byte == 0) {
        // Room for the empty name behind the last.
        if answer.len() + name.len() + 1 > wire::PAYLOAD_MAX {
            return answer;
        }
        answer.extend_from_slice(name);
        taken += name.len();
    }
    if taken == rest.len() {
        answer.push(0);
    }
    answer
}

impl Machine {
    pub(crate) fn request(
        &mut self,
        id: ConnectionId,
        kind: Kind,
        message: &Message,
        outside: &mut dyn Outside,
        events: &mut Vec<Event>,
    ) -> Answer {
        let payload = &*message.payload;
        let caller = self.connections.get(&id).map(Connection::caller).ok_or(Errno::EIO)?;
        let transaction = message.transaction;
        match kind {
            Kind::Read => self.node(id, transaction, payload, false, |node| Ok(node.value.to_vec())),
            Kind::Directory => self.node(id, transaction, payload, true, |node| Ok(names(node))),
            Kind::GetPerms => self.get_permissions(id, transaction, payload),
            Kind::DirectoryPart => self.directory_part(id, transaction, payload),
            Kind::Write | Kind::Mkdir | Kind::Rm | Kind::SetPerms => {
                self.change(id, transaction, kind, payload, events)
            }
            Kind::Watch => self.watch(id, payload, events),
            Kind::Unwatch => self.unwatch(id, payload),
            Kind::ResetWatches => self.reset(id),
            Kind::TransactionStart => self.start_transaction(id, transaction),
            Kind::TransactionEnd => self.end_transaction(id, transaction, payload, events),
            Kind::GetDomainPath => {
                let domid = domain(exactly::<1>(payload)?[0])?;
                Ok(format!("/local/domain/{domid}\0").into_bytes())
            }
            Kind::IsDomainIntroduced => {
                let domid = domain(exactly::<1>(payload)?[0])?;
                Ok(if self.domain(domid).is_some() { b"T\0".to_vec() } else { b"F\0".to_vec() })
            }
            Kind::WatchEvent | Kind::Error => Err(Errno::ENOSYS),
            Kind::Introduce | Kind::Release | Kind::Resume | Kind::SetTarget | Kind::Control => {
                if !caller.privileged() {
                    return Err(Errno::EACCES);
                }
                self.privileged(kind, payload, outside, events)
            }
        }
    }

    fn privileged(
        &mut self,
        kind: Kind,
        payload: &[u8],
        outside: &mut dyn Outside,
        events: &mut Vec<Event>,
    ) -> Answer {
        match kind {
            Kind::Introduce => self.introduce(payload, outside, events),
            Kind::Release => self.release(payload, outside),
            Kind::Resume => {
                let domid = domain(exactly::<1>(payload)?[0])?;
                self.domain(domid).ok_or(Errno::ENOENT)?;
                self.shut_down(domid, false);
                ok()
            }
            Kind::SetTarget => self.set_target(payload),
            _ => self.control(payload, outside),
        }
    }

    fn path(&self, id: ConnectionId, word: &[u8]) -> Result<NodePath, Errno> {
        NodePath::parse(word, self.connections.get(&id).map_or(0, |c| c.peer.domid()))
    }

    /// Runs `read` on a node that the caller may read.
    fn node(
        &mut self,
        id: ConnectionId,
        transaction: u32,
        payload: &[u8],
        children: bool,
        read: impl FnOnce(&Node) -> Answer,
    ) -> Answer {
        let path = self.path(id, exactly::<1>(payload)?[0])?;
        self.node_at(id, transaction, &path, children, read)
    }

    fn node_at(
        &mut self,
        id: ConnectionId,
        transaction: u32,
        path: &NodePath,
        children: bool,
        read: impl FnOnce(&Node) -> Answer,
    ) -> Answer {
        let connection = self.connections.get_mut(&id).ok_or(Errno::EIO)?;
        let caller = connection.caller();
        let tree = if transaction == 0 {
            &self.tree
        } else {
            let open = connection.transactions.get_mut(&transaction).ok_or(Errno::ENOENT)?;
            let room = (!caller.privileged()).then_some(self.limits.transaction_nodes);
            open.look(path, children, room)?;
            &open.view
        };
        read(tree.allowed(caller, path, Need::Read)?)
    }

    fn get_permissions(&mut self, id: ConnectionId, transaction: u32, payload: &[u8]) -> Answer {
        let [word] = exactly(payload)?;
        if word.starts_with(b"@") {
            let caller = self.connections.get(&id).map(Connection::caller);
            if !caller.is_some_and(Caller::privileged) {
                return Err(Errno::EACCES);
            }
            let name = std::str::from_utf8(word).map_err(|_| Errno::EINVAL)?;
            return Ok(texts(self.special.get(name).map_or(&[Permission::none(0)], |entries| entries)));
        }
        self.node(id, transaction, payload, false, |node| Ok(texts(&node.permissions)))
    }

    fn directory_part(&mut self, id: ConnectionId, transaction: u32, payload: &[u8]) -> Answer {
        let [path, offset] = exactly(payload)?;
        let offset = number::<u32>(offset)?;
        let path = self.path(id, path)?;
        self.node_at(id, transaction, &path, true, |node| Ok(part(node, offset as usize)))
    }

    fn change(
        &mut self,
        id: ConnectionId,
        transaction: u32,
        kind: Kind,
        payload: &[u8],
        events: &mut Vec<Event>,
    ) -> Answer {
        let end = payload.iter().position(|byte| *byte == 0).ok_or(Errno::EINVAL)?;
        let (word, rest) = (&payload[..end], &payload[end + 1..]);
        let caller = self.connections.get(&id).map(Connection::caller).ok_or(Errno::EIO)?;
        if kind == Kind::SetPerms && word.starts_with(b"@") {
            return self.set_special(caller, word, rest);
        }
        let path = self.path(id, word)?;
        let operation = match kind {
            Kind::Write => Operation::Write(path, rest.into()),
            Kind::SetPerms => Operation::SetPermissions(path, permissions(rest)?.into()),
            _ if !rest.is_empty() => return Err(Errno::EINVAL),
            Kind::Mkdir => Operation::Mkdir(path),
            _ => Operation::Remove(path),
        };
        if transaction == 0 {
            let change = operation.apply(&mut self.tree, caller, &self.limits)?;
            events.extend(change.map(Event::Changed));
        } else {
            let connection = self.connections.get_mut(&id).ok_or(Errno::EIO)?;
            let open = connection.transactions.get_mut(&transaction).ok_or(Errno::ENOENT)?;
            let room = (!caller.privileged()).then_some(self.limits.transaction_nodes);
            open.look(operation.path(), false, room)?;
            open.apply(operation, caller, &self.limits)?;
        }
        ok()
    }

    fn set_special(&mut self, caller: Caller, word: &[u8], rest: &[u8]) -> Answer {
        if !caller.privileged() {
            return Err(Errno::EACCES);
        }
        let name =
            [INTRODUCE, RELEASE].into_iter().find(|name| name.as_bytes() == word).ok_or(Errno::EINVAL)?;
        self.special.insert(name.into(), permissions(rest)?.into());
        ok()
    }

    fn watch(&mut self, id: ConnectionId, payload: &[u8], events: &mut Vec<Event>) -> Answer {
        let words = words(payload)?;
        let (given, token, depth) = match words[..] {
            [path, token] => (path, token, None),
            [path, token, b""] => (path, token, None),
            [path, token, depth] => (path, token, Some(number::<u32>(depth)?)),
            _ => return Err(Errno::EINVAL),
        };
        let path = self.watch_path(id, given)?;
        let connection = self.connections.get_mut(&id).ok_or(Errno::EIO)?;
        if self.watches.has(&path, id, token) {
            return Err(Errno::EEXIST);
        }
        if !connection.caller().privileged() && connection.watches.len() >= self.limits.watches as usize {
            return Err(Errno::E2BIG);
        }
        connection.watches.push((path.as_str().into(), token.into()));
        let hidden = path.len() - given.len();
        self.watches.add(&path, Watch { connection: id, token: token.into(), hidden, depth });
        events.push(Event::First(id, given.to_vec(), token.to_vec()));
        ok()
    }

    /// What is watched: a path, or a special node.
    fn watch_path(&self, id: ConnectionId, word: &[u8]) -> Result<String, Errno> {
        match word.strip_prefix(b"@") {
            None => Ok(self.path(id, word)?.as_str().to_owned()),
            Some([]) => Err(Errno::EINVAL),
            Some(special) => {
                // It has to look like a path, with the sign in the place of the slash.
                let path = NodePath::parse(&[b"/", special].concat(), 0)?;
                Ok(format!("@{}", &path.as_str()[1..]))
            }
        }
    }

    fn unwatch(&mut self, id: ConnectionId, payload: &[u8]) -> Answer {
        let words = words(payload)?;
        let ([given, token] | [given, token, _]) = words[..] else { return Err(Errno::EINVAL) };
        let path = self.watch_path(id, given)?;
        if !self.watches.remove(&path, id, token) {
            return Err(Errno::ENOENT);
        }
        let connection = self.connections.get_mut(&id).ok_or(Errno::EIO)?;
        connection.watches.retain(|(at, of)| **at != *path || **of != *token);
        ok()
    }

    fn reset(&mut self, id: ConnectionId) -> Answer {
        self.forget_watches(id);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.transactions.clear();
        }
        ok()
    }

    fn start_transaction(&mut self, id: ConnectionId, transaction: u32) -> Answer {
        let connection = self.connections.get_mut(&id).ok_or(Errno::EIO)?;
        if transaction != 0 {
            return Err(Errno::EBUSY);
        }
        let limited = !connection.caller().privileged();
        if limited && connection.transactions.len() >= self.limits.transactions as usize {
            return Err(Errno::ENOSPC);
        }
        let mut number = connection.last_transaction;
        loop {
            number = number.wrapping_add(1).max(1);
            if !connection.transactions.contains_key(&number) {
                break;
            }
        }
        connection.last_transaction = number;
        connection.transactions.insert(number, Transaction::new(&self.tree));
        Ok(format!("{number}\0").into_bytes())
    }

    fn end_transaction(
        &mut self,
        id: ConnectionId,
        transaction: u32,
        payload: &[u8],
        events: &mut Vec<Event>,
    ) -> Answer {
        let commit = match payload {
            b"T\0" => true,
            b"F\0" => false,
            _ => return Err(Errno::EINVAL),
        };
        let connection = self.connections.get_mut(&id).ok_or(Errno::EIO)?;
        let ended = connection.transactions.remove(&transaction).ok_or(Errno::ENOENT)?;
        if commit {
            let changes = ended.commit(&mut self.tree, connection.caller(), &self.limits)?;
            events.extend(changes.into_iter().map(Event::Changed));
        }
        ok()
    }

    fn introduce(&mut self, payload: &[u8], outside: &mut dyn Outside, events: &mut Vec<Event>) -> Answer {
        let words = words(payload)?;
        let ([domid, frame, port] | [domid, frame, port, _]) = words[..] else { return Err(Errno::EINVAL) };
        let (domid, port) = (domain(domid)?, number::<u32>(port)?);
        // Signed, by the protocol; no frame has a number that would make the sign count.
        let frame = number::<u64>(frame)?;
        if domid == 0 || port == 0 {
            return Err(Errno::EINVAL);
        }
        outside.introduce(domid, frame, port)?;
        let known = self.domains.get(&domid).and_then(|domain| domain.connection);
        let connection = match known {
            Some(id) => id,
            None => self.open(crate::Peer::Domain(domid)),
        };
        let domain = self.domains.entry(domid).or_default();
        (domain.connection, domain.frame, domain.port) = (Some(connection), frame, port);
        let target = domain.target;
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.target = target;
        }
        events.push(Event::Special(INTRODUCE, domid));
        ok()
    }

    fn release(&mut self, payload: &[u8], outside: &mut dyn Outside) -> Answer {
        let domid = domain(exactly::<1>(payload)?[0])?;
        if domid == 0 {
            return Err(Errno::EINVAL);
        }
        self.domain(domid).ok_or(Errno::ENOENT)?;
        outside.release(domid);
        self.gone(domid);
        ok()
    }

    fn set_target(&mut self, payload: &[u8]) -> Answer {
        let [domid, target] = exactly(payload)?;
        let (domid, target) = (domain(domid)?, domain(target)?);
        let (connection, _, _) = self.domain(domid).ok_or(Errno::ENOENT)?;
        self.domain(target).ok_or(Errno::ENOENT)?;
        if let Some(domain) = self.domains.get_mut(&domid) {
            domain.target = Some(target);
        }
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.target = Some(target);
        }
        ok()
    }
}

fn permissions(payload: &[u8]) -> Result<Vec<Permission>, Errno> {
    // Some callers leave out the last NUL.
    let payload = payload.strip_suffix(&[0]).unwrap_or(payload);
    let parse = |word: &[u8]| Permission::parse(std::str::from_utf8(word).ok()?);
    payload.split(|byte| *byte == 0).map(|word| parse(word).ok_or(Errno::EINVAL)).collect()
}
