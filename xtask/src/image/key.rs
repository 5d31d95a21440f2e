//! Cache keys: a hash of everything a cached file was made from.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

/// A hash under construction. Equal within one toolchain, which is pinned; another one rebuilds.
#[derive(Clone, Default)]
pub struct Key(DefaultHasher);

impl Key {
    /// An empty key.
    pub fn new() -> Self {
        Self::default()
    }

    /// The key of this and one thing more.
    #[must_use]
    pub fn with<T: Hash + ?Sized>(mut self, part: &T) -> Self {
        part.hash(&mut self.0);
        self
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0.finish())
    }
}
