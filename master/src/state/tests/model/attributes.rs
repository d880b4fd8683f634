//! Attributes, as the model sees them: they belong to whatever has an inode number, wherever it is.

use gabion_protocol::messages::master::AttributeChange;

use super::*;

impl Model {
    /// Gives a file or directory an owner; an empty one takes it away.
    pub(super) fn own(&mut self, path: FsPath, owner: &str) {
        let expected = self.straight(&path, true).and_then(|path| self.walk(&path).map(drop));
        let command = ClientCommand::ChangeAttributes {
            path,
            change: AttributeChange::Owner {
                owner: Some(owner.to_owned()),
                group: None,
            },
        };
        if let Some((outcome, ())) = self.compare(command, expected) {
            self.owners.insert(entry(Ok(outcome)).ino, owner.to_owned());
        }
    }

    /// Everything that has a name has the owner it was given, and nothing else has one.
    pub(super) fn compare_owners(&self) {
        for path in self.tree.keys() {
            let ino = read::stat(&self.machine.rows, path).unwrap().ino;
            let told = read::attributes(&self.machine.rows, path).unwrap();
            let expected = self.owners.get(&ino).map_or("", String::as_str);
            assert_eq!(told.owner, expected, "{path}");
        }
    }
}
