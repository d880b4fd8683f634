//! The one path parser, used where a path enters the system, for authorisation and for storage alike.
//!
//! Invariants: a [`FsPath`] is absolute, has no `.`, `..`, empty or over-long component and no NUL; equal places
//! have equal paths; a deserialised path has been parsed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::{DEPTH_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX, SNAPSHOT_DIRECTORY};

/// Why text is not a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// No leading slash.
    #[error("a path starts with /")]
    Relative,
    /// Holds a NUL byte.
    #[error("a path holds no NUL byte")]
    Nul,
    /// Holds `.` or `..`.
    #[error("a path holds no . or .. component")]
    Dots,
    /// Too long in all.
    #[error("a path has at most {PATH_BYTES_MAX} bytes")]
    TooLong,
    /// One name is too long.
    #[error("a name has at most {NAME_BYTES_MAX} bytes")]
    NameTooLong,
    /// Too many components.
    #[error("a path has at most {DEPTH_MAX} components")]
    TooDeep,
    /// The root has no name.
    #[error("the root directory has no name of its own")]
    Root,
}

/// An absolute, normal path: `/` or `/a/b`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FsPath(String);

impl FsPath {
    /// The root directory.
    #[must_use]
    pub fn root() -> Self {
        Self("/".to_owned())
    }

    /// Parses `text`. Repeated and trailing slashes are ignored, as POSIX does.
    ///
    /// # Errors
    /// [`PathError`] says which rule is broken.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong);
        }
        if !text.starts_with('/') {
            return Err(PathError::Relative);
        }
        let mut normal = String::with_capacity(text.len());
        for (depth, name) in text.split('/').filter(|name| !name.is_empty()).enumerate() {
            check_name(name)?;
            if depth == DEPTH_MAX {
                return Err(PathError::TooDeep);
            }
            normal.push('/');
            normal.push_str(name);
        }
        if normal.is_empty() {
            return Ok(Self::root());
        }
        Ok(Self(normal))
    }

    /// The names from the root down.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/').filter(|name| !name.is_empty())
    }

    /// The directory that holds this path and the name in it; `None` for the root.
    #[must_use]
    pub fn parent_and_name(&self) -> Option<(Self, &str)> {
        let (parent, name) = self.0.rsplit_once('/')?;
        if name.is_empty() {
            return None;
        }
        let parent = if parent.is_empty() {
            Self::root()
        } else {
            Self(parent.to_owned())
        };
        Some((parent, name))
    }

    /// The last name; `None` for the root.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.names().next_back()
    }

    /// Whether it leads into a snapshot, where nothing can be written.
    #[must_use]
    pub fn is_in_snapshot(&self) -> bool {
        self.names().any(|name| name == SNAPSHOT_DIRECTORY)
    }

    /// This path with `name` below it.
    ///
    /// # Errors
    /// [`PathError`] if the name or the whole breaks a rule.
    pub fn join(&self, name: &str) -> Result<Self, PathError> {
        check_name(name)?;
        if name.is_empty() || name.contains('/') {
            return Err(PathError::Dots);
        }
        Self::parse(&format!("{}/{name}", self.0))
    }

    /// Whether `other` is this path or lies below it.
    #[must_use]
    pub fn holds(&self, other: &Self) -> bool {
        self.is_root()
            || other
                .0
                .strip_prefix(&self.0)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Whether this is the root directory.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0 == "/"
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Checks one name by the rules of a path's components.
///
/// # Errors
/// [`PathError`] says which rule is broken.
pub fn check_name(name: &str) -> Result<(), PathError> {
    match name {
        "." | ".." => Err(PathError::Dots),
        _ if name.len() > NAME_BYTES_MAX => Err(PathError::NameTooLong),
        _ if name.contains('\0') => Err(PathError::Nul),
        _ => Ok(()),
    }
}

impl fmt::Display for FsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for FsPath {
    type Err = PathError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<String> for FsPath {
    type Error = PathError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<FsPath> for String {
    fn from(path: FsPath) -> Self {
        path.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_refused() {
        let long_name = format!("/{}", "n".repeat(256));
        let long_path = format!("/{}", "n/".repeat(2100));
        let deep = "/d".repeat(129);
        for (text, why) in [
            ("", PathError::Relative),
            ("a/b", PathError::Relative),
            ("/a/../b", PathError::Dots),
            ("/..", PathError::Dots),
            ("/a/./b", PathError::Dots),
            ("/a\0b", PathError::Nul),
            (&long_name, PathError::NameTooLong),
            (&long_path, PathError::TooLong),
            (&deep, PathError::TooDeep),
        ] {
            assert_eq!(FsPath::parse(text), Err(why), "{text:?}");
        }
    }

    #[test]
    fn what_is_normal() {
        for (text, normal) in [
            ("/", "/"),
            ("//", "/"),
            ("/a//b/", "/a/b"),
            ("/...", "/..."),
            ("/a b", "/a b"),
        ] {
            assert_eq!(FsPath::parse(text).unwrap().as_str(), normal);
        }
        let path = FsPath::parse("/a/b").unwrap();
        let (parent, name) = path.parent_and_name().unwrap();
        assert_eq!((parent.as_str(), name), ("/a", "b"));
        assert!(FsPath::root().parent_and_name().is_none());
        assert!(parent.holds(&path) && !path.holds(&parent));
        assert!(!FsPath::parse("/a/bc").unwrap().holds(&path));
        assert!(FsPath::root().join("x/y").is_err() && FsPath::root().join("").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_normal_or_refused(text in "[/.a\0]{0,40}") {
            if let Ok(path) = FsPath::parse(&text) {
                prop_assert_eq!(FsPath::parse(path.as_str()).unwrap(), path.clone());
                prop_assert!(path.names().all(|n| n != ".." && n != "." && !n.contains('\0')));
            }
        }
    }
}
