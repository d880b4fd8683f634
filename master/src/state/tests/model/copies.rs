//! Copies in the model: a copy is another file with the same content, and nothing else.

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
            self.tree = tree;
            let told = (file.length, file.crc, file.children, file.replicas);
            assert_eq!(Ok(told), self.file(&to).map(|file| file.told()));
        }
    }

    fn copied(
        &self,
        sources: &[FsPath],
        to: &FsPath,
        replace: bool,
        parents: bool,
    ) -> Expected<BTreeMap<FsPath, Node>> {
        let found: Vec<_> = sources
            .iter()
            .map(|source| self.file(source))
            .collect::<Expected<_>>()?;
        if let [source] = sources
            && self.straight(source, true) == self.straight(to, true)
        {
            return Err(ErrorCode::Exists);
        }
        let mut whole = File::clone(&found[0]);
        for next in &found[1..] {
            whole = whole.followed_by(next)?;
        }
        let file = Node::File { file: Rc::new(whole) };
        self.appeared(to, replace, parents, file)
    }

    fn file(&self, path: &FsPath) -> Expected<Rc<File>> {
        match self.walk(&self.straight(path, true)?)? {
            Node::Directory | Node::Link { .. } => Err(ErrorCode::IsDirectory),
            Node::File { file } => Ok(Rc::clone(file)),
        }
    }

    fn copy_part(&mut self, upload: usize, source: &FsPath) {
        let Some((at, mut draft, mine)) = self.draft(upload) else {
            return;
        };
        let expected = mine.and_then(|()| draft.content.followed_by(&*self.file(source)?));
        let command = ClientCommand::CopyExtents {
            upload: draft.ino,
            generation: draft.generation,
            source: source.clone(),
            offset: 0,
            version: None,
        };
        if let Some((outcome, content)) = self.compare(command, expected) {
            let length = content.length() - draft.content.length();
            draft.whole.append(0, length);
            draft.content = content;
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
            assert_eq!((now, crc), (draft.content.length(), draft.content.crc()));
            self.drafts[at] = draft;
        }
    }
}
