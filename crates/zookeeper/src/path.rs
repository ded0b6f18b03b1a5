//! Paths: validity as PathUtils.java has it, and the root below which a client works.

use std::sync::Arc;

use crate::error::Error;

/// Whether ZooKeeper accepts a path.
pub fn is_valid(path: &str) -> bool {
    let forbidden = |c: char| matches!(c, '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..='\u{ffff}');
    path == "/"
        || path.starts_with('/')
            && !path.ends_with('/')
            && path[1..].split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains(forbidden))
}

/// The path below which a client works: empty, or valid and not `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root(Arc<str>);

impl Default for Root {
    fn default() -> Self {
        Self("".into())
    }
}

impl Root {
    /// This root with a path below it.
    pub fn join(&self, path: &str) -> Result<Self, Error> {
        match path {
            "/" => Ok(self.clone()),
            path if is_valid(path) => Ok(Self(format!("{}{path}", self.0).into())),
            _ => Err(Error::BadArguments("not a valid path for a root")),
        }
    }

    /// The path as the client shows it: `/` without a root.
    pub fn as_str(&self) -> &str {
        if self.0.is_empty() { "/" } else { &self.0 }
    }

    /// The server's path for one of the client's.
    pub fn absolute(&self, path: &str) -> Result<String, Error> {
        if !is_valid(path) {
            return Err(Error::BadArguments("not a valid path"));
        }
        Ok(if path == "/" { self.as_str().to_owned() } else { format!("{}{path}", self.0) })
    }

    /// As [`Root::absolute`], for a sequential node: the server appends a number, so that the path may end with `/`.
    pub fn absolute_sequential(&self, path: &str) -> Result<String, Error> {
        self.absolute(&format!("{path}0")).map(|mut p| {
            p.pop();
            p
        })
    }

    /// The client's path for one of the server's. One that is not below the root is left as it is.
    pub fn relative(&self, path: String) -> String {
        match path.strip_prefix(&*self.0) {
            Some("") if !self.0.is_empty() => "/".to_owned(),
            Some(rest) if rest.starts_with('/') && !self.0.is_empty() => rest.to_owned(),
            _ => path,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_checked_as_zookeeper_does() {
        for good in ["/", "/a", "/a/b", "/a.b", "/...", "/ä/\u{1f600}", "/a b"] {
            assert!(is_valid(good), "{good:?}");
        }
        for bad in
            ["", "a", "a/b", "/a/", "//", "/a//b", "/.", "/a/..", "/a/./b", "/\u{0}", "/a\u{1f}", "/\u{7f}", "/\u{e000}", "/\u{ffff}"]
        {
            assert!(!is_valid(bad), "{bad:?}");
        }
    }

    #[test]
    fn roots_are_put_before_paths_and_taken_off() {
        let none = Root::default();
        let root = none.join("/kafka").unwrap().join("/a").unwrap();
        for (root, path, absolute) in [(&none, "/", "/"), (&none, "/x", "/x"), (&root, "/", "/kafka/a"), (&root, "/x/y", "/kafka/a/x/y")] {
            assert_eq!(root.absolute(path).unwrap(), absolute);
            assert_eq!(root.relative(absolute.to_owned()), path);
        }
        assert_eq!((none.as_str(), root.as_str()), ("/", "/kafka/a"));
        assert_eq!(root.relative("/kafka/ab".into()), "/kafka/ab");
        assert_eq!(root.join("/").unwrap(), root);
        assert!(root.join("x").is_err() && root.absolute("x").is_err() && root.absolute("/x/").is_err());
        assert_eq!(root.absolute_sequential("/x/").unwrap(), "/kafka/a/x/");
        assert_eq!(none.absolute_sequential("/n-").unwrap(), "/n-");
        assert!(none.absolute_sequential("n-").is_err());
    }
}
