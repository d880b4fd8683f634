//! Uploads that outlive their client, as the model sees them: drafts with an owner.

use gabion_protocol::keys::{Identity, Role};

use super::*;

/// How long they are kept after their lease.
const KEEP_MS: u64 = 3_000;

impl Model {
    /// Whether a file may be begun on the way to a path.
    pub(super) fn may_begin(&self, path: &FsPath, replace: bool, parents: bool) -> Expected<()> {
        let path = self.straight(path, replace)?;
        match self.walk(&path) {
            Ok(Node::Directory) => Err(ErrorCode::IsDirectory),
            Ok(Node::File { .. } | Node::Link { .. }) if !replace => Err(ErrorCode::Exists),
            Ok(Node::File { .. } | Node::Link { .. }) => Ok(()),
            Err(ErrorCode::NotFound) => {
                let (parent, _) = path.parent_and_name().unwrap();
                let there = parents || self.tree.contains_key(&parent);
                if there { Ok(()) } else { Err(ErrorCode::NotFound) }
            }
            Err(code) => Err(code),
        }
    }

    pub(super) fn resume(&mut self, path: FsPath, owner: usize, replace: bool, parents: bool) {
        let expected = self.may_begin(&path, replace, parents);
        let command = ClientCommand::ResumeUpload {
            path: path.clone(),
            options: UploadOptions {
                replace,
                parents,
                ..options()
            },
            owner: Identity {
                role: Role::Client,
                id: owner.to_string(),
            },
            keep_ms: KEEP_MS,
        };
        let Some((outcome, ())) = self.compare(command, expected) else {
            return;
        };
        let Outcome::Resumed {
            upload,
            generation,
            length,
            crc,
            ..
        } = outcome
        else {
            panic!("{outcome:?}");
        };
        let left = |draft: &Draft| draft.owner == Some(owner) && draft.path == path;
        let (mut draft, begun) = match self.drafts.iter().position(left) {
            Some(at) => {
                let draft = self.drafts.remove(at);
                let taken = UploadGeneration(draft.generation.0 + 1);
                (draft.clone(), (draft.ino, taken, draft.whole))
            }
            None => {
                let begun = (upload, UploadGeneration(1), Running::default());
                assert!(self.drafts.iter().all(|draft| draft.ino != upload), "it was another's");
                (Draft::begun(upload, path, Some(owner)), begun)
            }
        };
        assert_eq!(
            (upload, generation, (length, crc)),
            (begun.0, begun.1, (begun.2.len(), begun.2.crc()))
        );
        draft.generation = generation;
        draft.session = self.clients[self.active].client.session;
        draft.replace = replace;
        draft.parents = parents;
        draft.lease = self.now + SETTINGS.upload_lease_ms;
        draft.open.clear();
        self.drafts.push(draft);
    }

    /// Time has passed: what has no lease any more is gone, or kept without what was open.
    pub(super) fn expire_drafts(&mut self) {
        let now = self.now;
        self.drafts.retain_mut(|draft| {
            if draft.lease > now {
                return true;
            }
            let is_kept = draft.owner.is_some() && draft.lease + KEEP_MS > now;
            if is_kept && !draft.open.is_empty() {
                draft.open.clear();
                draft.generation = UploadGeneration(draft.generation.0 + 1);
                draft.session = NOBODY;
            }
            is_kept
        });
    }
}

/// No client has it.
const NOBODY: SessionId = SessionId {
    opened: StateTime(0),
    random: 0,
};

impl Draft {
    fn begun(ino: Ino, path: FsPath, owner: Option<usize>) -> Self {
        Self {
            ino,
            generation: UploadGeneration(1),
            session: NOBODY,
            path,
            replace: false,
            parents: false,
            lease: 0,
            open: Vec::new(),
            whole: Running::default(),
            content: File::empty(),
            owner,
        }
    }
}
