//! Sessions with their replies, and chunkservers with their names.

use super::{Loaded, ReplyKey, Report};

impl Loaded {
    pub(super) fn check_sessions(&self, report: &mut Report) {
        if self.sessions != self.due {
            report.find("sessions and the rows that end them differ".to_owned());
        }
        for (key, answered) in &self.replies {
            if !self.sessions.contains(&key.session.to_bytes()) {
                report.find(format!("a reply belongs to session {}, which is missing", key.session));
            }
            if ReplyKey::of(key.session, answered.sequence) != *key {
                report.find(format!(
                    "reply {} of session {} lies in a wrong slot",
                    answered.sequence, key.session
                ));
            }
        }
    }

    pub(super) fn check_servers(&self, report: &mut Report) {
        for (id, server) in &self.servers {
            let named = self.names.get(&server.name) == Some(id);
            if named == server.retired {
                report.find(format!(
                    "c{id} has its name {:?} and is retired, or neither",
                    server.name
                ));
            }
        }
        for id in self.conditions.iter().filter(|id| !self.servers.contains_key(id)) {
            report.find(format!("c{id} has a condition and is not registered"));
        }
        for (name, id) in &self.names {
            if self.servers.get(id).is_none_or(|server| server.name != *name) {
                report.find(format!(
                    "the name {name:?} leads to c{id}, which has another or is missing"
                ));
            }
        }
    }
}
