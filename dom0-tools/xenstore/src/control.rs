//! Commands to the daemon (`xenstore-control`).

use crate::machine::{Machine, Outside};
use crate::tree::Node;
use guest_abi::Errno;
use std::fmt::Write;

/// What `help` says.
const HELP: &str = "check|help|live-update -s|memreport|print [watches]|quota [set NAME VALUE]";

impl Machine {
    pub(crate) fn control(&mut self, payload: &[u8], outside: &mut dyn Outside) -> Result<Vec<u8>, Errno> {
        let text = std::str::from_utf8(payload).map_err(|_| Errno::EINVAL)?;
        let words: Vec<_> = text.split('\0').filter(|word| !word.is_empty()).collect();
        let answer = match words[..] {
            ["check"] if self.is_consistent() => "OK".to_owned(),
            ["check"] => return Err(Errno::EIO),
            ["help"] => HELP.to_owned(),
            ["print", "watches"] => self.watch_list(),
            ["print", ..] | ["memreport", ..] => self.report(),
            ["quota"] => self.quota_list(),
            ["quota", "set", name, value] => self.set_quota(name, value)?,
            ["quota", domid] => self.quota_use(domid)?,
            _ => outside.command(&words).ok_or(Errno::EINVAL)?,
        };
        Ok((answer + "\0").into_bytes())
    }

    fn report(&self) -> String {
        fn bytes(node: &Node) -> (usize, usize) {
            let children = node.children.iter().map(|(name, child)| (name.len(), bytes(child)));
            children.fold((1, node.value.len()), |sum, (name, (nodes, size))| {
                (sum.0 + nodes, sum.1 + size + name)
            })
        }
        let (nodes, size) = bytes(&self.tree.root);
        let watches: usize = self.watches.at.values().map(Vec::len).sum();
        let transactions: usize = self.connections.values().map(|c| c.transactions.len()).sum();
        let waiting: usize = self.connections.values().map(|c| c.reply_bytes + c.event_bytes).sum();
        format!(
            "nodes {nodes}\nbytes {size}\nwatches {watches}\ntransactions {transactions}\nconnections {}\nwaiting {waiting}\n",
            self.connections.len()
        )
    }

    /// Who watches what; as much of it as a message holds.
    fn watch_list(&self) -> String {
        let watches =
            self.watches.at.iter().flat_map(|(path, there)| there.iter().map(move |watch| (path, watch)));
        let mut text = String::new();
        for (path, watch) in watches {
            let domid =
                self.connections.get(&watch.connection).map_or(0, |connection| connection.peer.domid());
            let line = format!("{domid} {} {path}\n", watch.connection.0);
            if text.len() + line.len() >= lith_client::wire::PAYLOAD_MAX {
                break;
            }
            text += &line;
        }
        text
    }

    fn quota_list(&self) -> String {
        let mut limits = self.limits.clone();
        limits.fields().iter().fold(String::new(), |mut text, (name, value)| {
            let _ = writeln!(text, "{name}: {value}");
            text
        })
    }

    fn quota_use(&self, domid: &str) -> Result<String, Errno> {
        let domid: u16 = domid.parse().map_err(|_| Errno::EINVAL)?;
        let connection =
            self.domain(domid).and_then(|(id, _, _)| self.connections.get(&id)).ok_or(Errno::ENOENT)?;
        Ok(format!(
            "nodes: {}\nwatches: {}\ntransactions: {}\noutstanding: {}\nevent-bytes: {}\n",
            self.tree.owned.get(&domid).copied().unwrap_or(0),
            connection.watches.len(),
            connection.transactions.len(),
            connection.replies,
            connection.event_bytes,
        ))
    }

    fn set_quota(&mut self, name: &str, value: &str) -> Result<String, Errno> {
        let value: u32 = value.parse().map_err(|_| Errno::EINVAL)?;
        let mut fields = self.limits.fields();
        let field = fields.iter_mut().find(|(known, _)| *known == name).ok_or(Errno::EINVAL)?;
        *field.1 = value;
        Ok("OK".to_owned())
    }
}
