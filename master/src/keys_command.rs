//! `gabion-master keys`: makes the root key, and issues keys from it. Works on files alone; no master needs to run.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use gabion_protocol::keys::{Holder, Identity, KeyFile, KeyFileError, Role};

/// What to do with keys.
#[derive(Debug, Clone, Subcommand)]
pub enum KeysCommand {
    /// Draw a new cluster's root key. Masters need it, nobody else may have it.
    New {
        /// The file to make; an existing one is never replaced.
        #[arg(long)]
        out: PathBuf,
    },
    /// Issue a key from the root key.
    Issue {
        /// The root key's file.
        #[arg(long)]
        root: PathBuf,
        /// What its holder may do.
        #[arg(long)]
        role: IssuedRole,
        /// Its holder's name; a chunkserver's is the name in its configuration.
        #[arg(long)]
        id: String,
        /// The file to make; an existing one is never replaced.
        #[arg(long)]
        out: PathBuf,
    },
}

/// Roles that keys are issued for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IssuedRole {
    /// Uses files.
    Client,
    /// Uses files and runs the cluster.
    Operator,
    /// Keeps bytes.
    Chunkserver,
}

impl From<IssuedRole> for Role {
    fn from(role: IssuedRole) -> Self {
        match role {
            IssuedRole::Client => Self::Client,
            IssuedRole::Operator => Self::Operator,
            IssuedRole::Chunkserver => Self::Chunkserver,
        }
    }
}

/// Longest name of a key's holder: it travels in every hello.
const ID_BYTES_MAX: usize = 64;

/// Why no key was made.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// The holder's name is no name.
    #[error("--id {0:?} is no name: use 1 to {ID_BYTES_MAX} letters, digits, dots, dashes or underscores")]
    Id(String),
}

/// Does it, and says in a sentence what was done.
///
/// # Errors
/// [`KeysError`]; nothing was written then.
pub fn run(command: &KeysCommand) -> Result<String, KeysError> {
    match command {
        KeysCommand::New { out } => {
            let root = KeyFile::new_root();
            root.create(out)?;
            Ok(format!(
                "made the root key of cluster {} in {}",
                root.cluster,
                out.display()
            ))
        }
        KeysCommand::Issue { root, role, id, out } => {
            let named = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            if id.is_empty() || id.len() > ID_BYTES_MAX || !id.bytes().all(named) {
                return Err(KeysError::Id(id.clone()));
            }
            let identity = Identity {
                role: (*role).into(),
                id: id.clone(),
            };
            let issued = KeyFile::load_for(root, &Holder::Root)?.issue(identity);
            issued.create(out)?;
            Ok(format!("issued the key of {} in {}", issued.holder, out.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_issued_once_and_from_the_root_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let new = KeysCommand::New { out: path("root.key") };
        run(&new).unwrap();
        assert!(run(&new).is_err(), "a root key is never replaced");
        let issue = |root: &str, id: &str, out: &str| KeysCommand::Issue {
            root: path(root),
            role: IssuedRole::Client,
            id: id.to_owned(),
            out: path(out),
        };
        run(&issue("root.key", "ann", "ann.key")).unwrap();
        let root = KeyFile::load(&path("root.key")).unwrap();
        let ann = KeyFile::load(&path("ann.key")).unwrap();
        let identity = Identity {
            role: Role::Client,
            id: "ann".to_owned(),
        };
        assert_eq!(ann.key, root.key.identity_key(root.cluster, &identity));
        assert!(
            run(&issue("root.key", "ann", "ann.key")).is_err(),
            "nor is an issued one"
        );
        assert!(matches!(
            run(&issue("ann.key", "bob", "bob.key")),
            Err(KeysError::File(KeyFileError::WrongHolder { .. }))
        ));
        assert!(matches!(
            run(&issue("root.key", "../x", "x.key")),
            Err(KeysError::Id(_))
        ));
    }
}
