//! Names of nodes.

use guest_abi::Errno;
use guest_abi::io::{XENSTORE_ABS_PATH_MAX, XENSTORE_REL_PATH_MAX};

/// An absolute path that the store accepts: `/`, or components of letters, digits, `-`, `_` and `@`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodePath(Box<str>);

impl NodePath {
    /// The root.
    pub fn root() -> NodePath {
        NodePath("/".into())
    }

    /// A path as a caller gives it; one without a slash in front is below `/local/domain/DOMID`.
    ///
    /// # Errors
    /// `EINVAL` for what is no path.
    pub fn parse(bytes: &[u8], domid: u16) -> Result<NodePath, Errno> {
        let text = std::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
        if text.starts_with('/') {
            return NodePath::absolute(text.to_owned());
        }
        if text.len() > XENSTORE_REL_PATH_MAX as usize {
            return Err(Errno::EINVAL);
        }
        NodePath::absolute(format!("{}{text}", NodePath::home_prefix(domid)))
    }

    fn absolute(text: String) -> Result<NodePath, Errno> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-/_@".contains(&byte);
        let good = text.starts_with('/')
            && text.len() <= XENSTORE_ABS_PATH_MAX as usize
            && text.bytes().all(allowed)
            && !text.contains("//")
            && (text.len() == 1 || !text.ends_with('/'));
        if good { Ok(NodePath(text.into())) } else { Err(Errno::EINVAL) }
    }

    /// What a domain's relative paths begin with.
    pub fn home_prefix(domid: u16) -> String {
        format!("/local/domain/{domid}/")
    }

    /// It as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its components from the root on.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').skip(1).filter(|part| !part.is_empty())
    }

    /// The path above and the last component; `None` for the root.
    pub fn split(&self) -> Option<(NodePath, &str)> {
        let (above, name) = self.0.rsplit_once('/')?;
        if name.is_empty() {
            return None;
        }
        Some((if above.is_empty() { NodePath::root() } else { NodePath(above.into()) }, name))
    }

    /// All paths above it, nearest first, and the path itself before them.
    pub fn upwards(&self) -> impl Iterator<Item = &str> {
        let mut rest = Some(&*self.0);
        std::iter::from_fn(move || {
            let this = rest?;
            rest = match this.rfind('/') {
                Some(0) if this.len() > 1 => Some("/"),
                Some(0) | None => None,
                Some(at) => Some(&this[..at]),
            };
            Some(this)
        })
    }

    /// How many levels it is below `above`; 0 for itself. `None` when it is not below.
    pub fn depth_below(&self, above: &str) -> Option<usize> {
        let rest = if above == "/" { &*self.0 } else { self.0.strip_prefix(above)? };
        match rest {
            "" | "/" => Some(0),
            rest if rest.starts_with('/') => Some(rest.bytes().filter(|byte| *byte == b'/').count()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_path() {
        for good in ["/", "/a", "/local/domain/0/backend/vif/1/0", "/A-b_c@9"] {
            assert_eq!(NodePath::parse(good.as_bytes(), 0).unwrap().as_str(), good);
        }
        for bad in ["", "//", "/a/", "/a//b", "/a b", "/a\n", "/ä", "a/", "@releaseDomain/", "/a:b", "/a\0b"]
        {
            assert!(NodePath::parse(bad.as_bytes(), 0).is_err(), "{bad:?}");
        }
        assert!(NodePath::parse(&[b'/', 0xff], 0).is_err());
    }

    #[test]
    fn lengths_have_their_limits() {
        let long = format!("/{}", "x".repeat(3071));
        assert!(NodePath::parse(long.as_bytes(), 0).is_ok());
        assert!(NodePath::parse(format!("{long}x").as_bytes(), 0).is_err());
        assert!(NodePath::parse("x".repeat(2048).as_bytes(), 1).is_ok());
        assert!(NodePath::parse("x".repeat(2049).as_bytes(), 1).is_err());
    }

    #[test]
    fn relative_paths_are_at_home() {
        assert_eq!(NodePath::parse(b"device/vif", 7).unwrap().as_str(), "/local/domain/7/device/vif");
    }

    #[test]
    fn above_and_below() {
        let path = NodePath::parse(b"/a/b/c", 0).unwrap();
        assert_eq!(path.upwards().collect::<Vec<_>>(), ["/a/b/c", "/a/b", "/a", "/"]);
        assert_eq!(NodePath::root().upwards().collect::<Vec<_>>(), ["/"]);
        assert_eq!(path.depth_below("/a"), Some(2));
        assert_eq!(path.depth_below("/"), Some(3));
        assert_eq!(path.depth_below("/a/b/c"), Some(0));
        assert_eq!(path.depth_below("/a/b/"), None);
        assert_eq!(path.depth_below("/a/bb"), None);
        assert_eq!(path.split().unwrap().0.as_str(), "/a/b");
        assert!(NodePath::root().split().is_none());
    }
}
