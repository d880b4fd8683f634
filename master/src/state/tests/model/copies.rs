//! Copies in the model: a copy is another file with the same content, and nothing else.

use gabion_protocol::messages::master::CopyFiles;

use super::*;

#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Files to one, in one step.
    Files {
        sources: Vec<FsPath>,
        to: FsPath,
        replace: bool,
        parents: bool,
    },
    /// A file to the end of an upload.
    Part { upload: usize, source: FsPath },
}

pub(super) fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (proptest::collection::vec(any_path(), 1..4), any_path(), any::<bool>(), any::<bool>())
            .prop_map(|(sources, to, replace, parents)| Step::Files { sources, to, replace, parents }),
        1 => (0usize..4, any_path()).prop_map(|(upload, source)| Step::Part { upload, source }),
    ]
}

impl Model {
    pub(super) fn copy_step(&mut self, step: Step) {
        match step {
            Step::Files {
                sources,
                to,
                replace,
                parents,
            } => self.copy(sources, to, replace, parents),
            Step::Part { upload, source } => self.copy_part(upload, &source),
        }
    }

    fn copy(&mut self, sources: Vec<FsPath>, to: FsPath, replace: bool, parents: bool) {
        let expected = self.copied(&sources, &to, replace, parents);
        let command = ClientCommand::Copy(CopyFiles {
            sources,
            to: to.clone(),
            replace,
            parents,
            keep_time: false,
        });
        if let Some((outcome, tree)) = self.compare(command, expected) {
            let file = entry(Ok(outcome));
            let shown = Node::File {
                length: file.length,
                crc: file.crc,
                chunks: file.children,
            };
            assert_eq!(Some(&shown), tree.get(&to));
            self.tree = tree;
        }
    }

    fn copied(
        &self,
        sources: &[FsPath],
        to: &FsPath,
        replace: bool,
        parents: bool,
    ) -> Expected<BTreeMap<FsPath, Node>> {
        if sources == [to.clone()] {
            return Err(ErrorCode::Exists);
        }
        let (mut whole, mut chunks) = (Running::default(), 0);
        for source in sources {
            let (length, crc, more) = self.file(source)?;
            whole.append(crc, length);
            chunks += more;
        }
        let file = Node::File {
            length: whole.len(),
            crc: whole.crc(),
            chunks,
        };
        self.appeared(to, replace, parents, file)
    }

    /// Length, CRC and chunks of a file.
    fn file(&self, path: &FsPath) -> Expected<(u64, u32, u64)> {
        match self.walk(path)? {
            Node::Directory => Err(ErrorCode::IsDirectory),
            Node::File { length, crc, chunks } => Ok((*length, *crc, *chunks)),
        }
    }

    fn copy_part(&mut self, upload: usize, source: &FsPath) {
        let Some((at, mut draft, mine)) = self.draft(upload) else {
            return;
        };
        let expected = mine.and_then(|()| self.file(source));
        let command = ClientCommand::CopyExtents {
            upload: draft.ino,
            generation: draft.generation,
            source: source.clone(),
            offset: 0,
            version: None,
        };
        if let Some((outcome, (length, crc, chunks))) = self.compare(command, expected) {
            draft.whole.append(crc, length);
            draft.chunks += chunks;
            draft.lease = self.now + SETTINGS.upload_lease_ms;
            let Outcome::Copied {
                next,
                more,
                length: now,
                crc,
                ..
            } = outcome
            else {
                panic!("{outcome:?}");
            };
            assert_eq!((next, more), (length, false));
            assert_eq!((now, crc), (draft.whole.len(), Some(draft.whole.crc())));
            self.drafts[at] = draft;
        }
    }
}
