//! What one domain may have in the store. The store's own domain and the tools in it have no limits.

/// Limits of an unprivileged connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Nodes that a domain owns.
    pub nodes: u32,
    /// Watches.
    pub watches: u32,
    /// Transactions at once.
    pub transactions: u32,
    /// Nodes that one transaction touches.
    pub transaction_nodes: u32,
    /// Bytes of a value.
    pub entry_size: u32,
    /// Bytes of an absolute path.
    pub path: u32,
    /// Entries of a node's permissions.
    pub permissions: u32,
    /// Answers and events that wait for the domain before its requests wait.
    pub outstanding: u32,
    /// Bytes of events that wait for the domain; past them, each watch has one event that waits.
    pub event_bytes: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            nodes: 1000,
            watches: 128,
            transactions: 10,
            transaction_nodes: 1024,
            entry_size: 2048,
            path: 2048,
            permissions: 5,
            outstanding: 20,
            event_bytes: 64 * 1024,
        }
    }
}

impl Limits {
    /// Every limit: its name on the wire, and where it is.
    pub(crate) fn fields(&mut self) -> [(&'static str, &mut u32); 9] {
        [
            ("nodes", &mut self.nodes),
            ("watches", &mut self.watches),
            ("transactions", &mut self.transactions),
            ("transaction-nodes", &mut self.transaction_nodes),
            ("node-size", &mut self.entry_size),
            ("path-max", &mut self.path),
            ("permissions", &mut self.permissions),
            ("outstanding", &mut self.outstanding),
            ("event-bytes", &mut self.event_bytes),
        ]
    }
}
