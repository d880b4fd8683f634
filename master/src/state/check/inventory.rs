//! Copies that no row names: none of them is named by a chunk, and they are counted right.

use std::collections::BTreeMap;

use gabion_protocol::ids::{ServerId, StateTime};

use super::{Loaded, Report};
use crate::state::inventory::dropping;
use crate::state::key::dropping::Order;
use crate::state::key::unknown::Unknown;
use crate::state::key::{Key as _, Value as _};

impl Loaded {
    /// The orders that follow from unknown copies.
    pub(super) fn unknown_orders(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let ordered = self.unknown.iter().filter(|(_, state)| *state == Unknown::Dropping);
        ordered
            .map(|(row, _)| (dropping(row).encode(), Order.encode()))
            .collect()
    }

    /// No unknown copy is named by a chunk; counts are right; nothing that is due is passed over.
    pub(super) fn check_inventory(&self, report: &mut Report) {
        let mut counted: BTreeMap<ServerId, u64> = BTreeMap::new();
        for (row, state) in &self.unknown {
            *counted.entry(row.server).or_default() += 1;
            let mut replicas = self
                .chunks
                .get(&row.chunk)
                .into_iter()
                .flat_map(|chunk| &chunk.replicas);
            if replicas.any(|replica| (replica.server, replica.number) == (row.server, row.number)) {
                report.find(format!(
                    "copy {} of chunk {} on c{} is set aside as unknown, and its chunk names it",
                    row.number, row.chunk, row.server
                ));
            }
            let next = self.doubts.get(&row.server).map_or(StateTime(u64::MAX), |doubt| {
                let is_ahead = doubt.walked.is_some_and(|walked| (row.chunk, row.number) > walked);
                if is_ahead { StateTime(0) } else { doubt.next }
            });
            if let Unknown::Kept { until } = state
                && next > *until
            {
                report.find(format!(
                    "chunk {} on c{} is kept longer than it should be",
                    row.chunk, row.server
                ));
            }
        }
        let told = self.doubts.iter().map(|(server, doubt)| (*server, doubt.unknown));
        if told.collect::<BTreeMap<_, _>>() != counted {
            report.find(format!(
                "servers have {counted:?} unknown copies, their rows say {:?}",
                self.doubts
            ));
        }
    }
}
