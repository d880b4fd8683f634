//! Digests of the copies a chunkserver holds, so that masters and servers compare millions of them by a few bytes.
//!
//! Ids fall into [`BUCKETS`] buckets by blocks of [`BLOCK_IDS`] consecutive ids. Blocks, not single ids by their hash: what
//! is written now lies in the newest blocks, so that a busy server's other buckets stand still and can be compared; and
//! the copies of one bucket are a few ranges of an index that is sorted by id, so that listing them reads nothing else.
//!
//! A bucket's digest is the sum of its copies' fingerprints: adding and removing a copy are one addition each, in any
//! order. Nobody gains by a collision (a server that lies harms its own copies only), so the fingerprint has to spread
//! well and need not be secret. Fingerprints and buckets travel **[format]**: both sides must agree on them.

use crate::ids::{ChunkId, ReplicaNumber, Timeline, VolumeId};

/// Buckets of a server. Their digests fit sixteen beats ([`crate::limits::INVENTORY_DIGESTS`] each), which go by in eight
/// seconds; with a million copies a bucket has about a thousand, which fit one message.
pub const BUCKETS: u16 = 1024;
/// Consecutive ids of one block.
pub const BLOCK_IDS: u64 = 1 << BLOCK_BITS;
const BLOCK_BITS: u32 = 10;

/// One of the [`BUCKETS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket(u16);

impl Bucket {
    /// The bucket of this number; `None` if there is none.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        (number < BUCKETS).then_some(Self(number))
    }

    /// Where a chunk falls.
    #[must_use]
    pub fn of(chunk: ChunkId) -> Self {
        // The remainder is below BUCKETS.
        Self((block(chunk) % u64::from(BUCKETS)) as u16)
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..BUCKETS).map(Self)
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }

    /// The first id from `from` on that falls into this bucket: where to look next in an index sorted by id.
    #[must_use]
    pub fn next(self, from: ChunkId) -> Option<ChunkId> {
        let buckets = u64::from(BUCKETS);
        let ahead = (u64::from(self.0) + buckets - block(from) % buckets) % buckets;
        if ahead == 0 {
            return Some(from);
        }
        let next = block(from) + ahead;
        if next <= u64::MAX >> BLOCK_BITS {
            let counter = next << BLOCK_BITS;
            return Some(ChunkId { counter, ..from });
        }
        let counter = u64::from(self.0) << BLOCK_BITS;
        let next_volume = || Some((VolumeId(from.volume.0.checked_add(1)?), Timeline(0)));
        let same_volume = from.timeline.0.checked_add(1).map(|next| (from.volume, Timeline(next)));
        let (volume, timeline) = same_volume.or_else(next_volume)?;
        Some(ChunkId {
            volume,
            timeline,
            counter,
        })
    }
}

/// The last id of a chunk's block.
#[must_use]
pub fn block_end(chunk: ChunkId) -> ChunkId {
    let counter = chunk.counter | (BLOCK_IDS - 1);
    ChunkId { counter, ..chunk }
}

/// The id after this one, whatever its bucket; `None` after the last.
#[must_use]
pub fn following(chunk: ChunkId) -> Option<ChunkId> {
    if let Some(counter) = chunk.counter.checked_add(1) {
        return Some(ChunkId { counter, ..chunk });
    }
    let last_timeline = chunk.timeline.0 == u32::MAX;
    let volume = if last_timeline {
        VolumeId(chunk.volume.0.checked_add(1)?)
    } else {
        chunk.volume
    };
    Some(ChunkId {
        volume,
        timeline: Timeline(chunk.timeline.0.wrapping_add(1)),
        counter: 0,
    })
}

fn block(chunk: ChunkId) -> u64 {
    chunk.counter >> BLOCK_BITS
}

/// What one copy adds to its bucket's digest.
#[must_use]
pub fn fingerprint(chunk: ChunkId, replica: ReplicaNumber) -> u64 {
    let place = u64::from(chunk.volume.0) << 32 | u64::from(chunk.timeline.0);
    // Each step is a bijection, so copies that differ in one number never have the same fingerprint.
    let mixed = mix(mix(place.wrapping_add(SALT)) ^ chunk.counter);
    mix(mixed ^ replica.0)
}

/// Keeps the fingerprint of all zeros from being zero, which would be no copy.
const SALT: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finalizer of `SplitMix64`: every bit of the input changes every bit of the output with a chance of about a half.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The digests of all buckets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digests(Box<[u64]>);

impl Default for Digests {
    fn default() -> Self {
        Self(vec![0; usize::from(BUCKETS)].into_boxed_slice())
    }
}

impl Digests {
    /// Takes a copy in.
    pub fn add(&mut self, chunk: ChunkId, replica: ReplicaNumber) {
        self.shift(Bucket::of(chunk), fingerprint(chunk, replica));
    }

    /// Takes a copy out that was taken in.
    pub fn remove(&mut self, chunk: ChunkId, replica: ReplicaNumber) {
        self.shift(Bucket::of(chunk), fingerprint(chunk, replica).wrapping_neg());
    }

    /// Adds to a bucket's sum: a fingerprint, its negative, or several of either.
    pub fn shift(&mut self, bucket: Bucket, by: u64) {
        let sum = &mut self.0[usize::from(bucket.0)];
        *sum = sum.wrapping_add(by);
    }

    /// A bucket's digest; 0 for an empty one.
    #[must_use]
    pub fn of(&self, bucket: Bucket) -> u64 {
        self.0[usize::from(bucket.0)]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn chunk(volume: u16, timeline: u32, counter: u64) -> ChunkId {
        ChunkId {
            volume: VolumeId(volume),
            timeline: Timeline(timeline),
            counter,
        }
    }

    fn any_copy() -> impl Strategy<Value = (ChunkId, ReplicaNumber)> {
        (0u16..2, 0u32..3, 0u64..5_000_000, 0u64..50)
            .prop_map(|(volume, timeline, counter, number)| (chunk(volume, timeline, counter), ReplicaNumber(number)))
    }

    fn digests<'a>(copies: impl IntoIterator<Item = &'a (ChunkId, ReplicaNumber)>) -> Digests {
        let mut digests = Digests::default();
        for (chunk, replica) in copies {
            digests.add(*chunk, *replica);
        }
        digests
    }

    proptest! {
        /// The order in which copies come and go is of no matter; what is left is.
        #[test]
        fn a_digest_is_of_a_set(copies in proptest::collection::btree_set(any_copy(), 0..60), seed: u64, gone in 0usize..30) {
            let mut shuffled: Vec<_> = copies.iter().copied().collect();
            shuffled.sort_by_key(|(chunk, replica)| fingerprint(*chunk, *replica) ^ seed);
            let mut other = digests(&shuffled);
            prop_assert_eq!(&other, &digests(&copies));
            for (chunk, replica) in shuffled.iter().take(gone) {
                other.remove(*chunk, *replica);
            }
            prop_assert_eq!(other, digests(shuffled.iter().skip(gone)));
        }

        /// One copy more, one less, or one with another number: its bucket tells, and no other does.
        #[test]
        fn every_single_difference_is_seen(copies in proptest::collection::btree_set(any_copy(), 1..60), one in any_copy(), at: prop::sample::Index) {
            let before = digests(&copies);
            let mut changed = copies.clone();
            if !changed.insert(one) {
                changed.remove(&one);
            }
            let after = digests(&changed);
            for bucket in Bucket::all() {
                prop_assert_eq!(before.of(bucket) != after.of(bucket), bucket == Bucket::of(one.0));
            }
            let (chunk, replica) = *copies.iter().nth(at.index(copies.len())).unwrap();
            let mut renumbered = before.clone();
            renumbered.remove(chunk, replica);
            renumbered.add(chunk, ReplicaNumber(replica.0 + 1000));
            prop_assert_ne!(renumbered.of(Bucket::of(chunk)), before.of(Bucket::of(chunk)));
        }

        /// Going from one `next` to the next meets exactly the ids of a bucket.
        #[test]
        fn looking_for_a_bucket_skips_nothing(copies in proptest::collection::btree_set(any_copy(), 0..60), number in 0..BUCKETS) {
            let bucket = Bucket::new(number).unwrap();
            let ids: BTreeSet<ChunkId> = copies.iter().map(|(chunk, _)| *chunk).collect();
            let expected: Vec<_> = ids.iter().copied().filter(|id| Bucket::of(*id) == bucket).collect();
            let (mut found, mut from) = (Vec::new(), bucket.next(chunk(0, 0, 0)));
            while let Some(at) = from {
                prop_assert_eq!(Bucket::of(at), bucket);
                let Some(id) = ids.range(at..).next() else { break };
                if Bucket::of(*id) == bucket {
                    found.push(*id);
                    from = following(*id).and_then(|next| bucket.next(next));
                } else {
                    from = bucket.next(*id);
                }
            }
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn the_ends_of_the_id_space() {
        let last = chunk(u16::MAX, u32::MAX, u64::MAX);
        assert_eq!(following(last), None);
        assert_eq!(Bucket::of(last).next(last), Some(last));
        assert_eq!(Bucket::new(0).unwrap().next(last), None);
        let end = chunk(0, 1, u64::MAX);
        assert_eq!(following(end), Some(chunk(0, 2, 0)));
        assert_eq!(Bucket::new(3).unwrap().next(end), Some(chunk(0, 2, 3 * BLOCK_IDS)));
        assert_eq!(block_end(chunk(0, 1, 1024)), chunk(0, 1, 2047));
        assert_eq!(Bucket::new(BUCKETS), None);
    }

    /// Both sides of a rolling upgrade must agree.
    #[test]
    fn golden_fingerprints() {
        let of = |volume, timeline, counter, number| {
            let chunk = chunk(volume, timeline, counter);
            (Bucket::of(chunk).number(), fingerprint(chunk, ReplicaNumber(number)))
        };
        let told = [
            of(0, 1, 1, 1),
            of(0, 1, 1024, 2),
            of(0, 2, 1 << 20, 3),
            of(1, 1, u64::MAX, u64::MAX),
        ];
        let golden = include_str!("golden/fingerprints.txt");
        let lines: Vec<_> = told
            .iter()
            .map(|(bucket, sum)| format!("{bucket} {sum:016x}"))
            .collect();
        assert_eq!(lines, golden.lines().collect::<Vec<_>>());
    }

    /// A million neighbouring ids fill the range evenly: no two fingerprints are the same, and each bit is set in half of
    /// them.
    #[test]
    fn neighbouring_ids_have_far_fingerprints() {
        let mut prints: Vec<u64> = (0..1 << 20)
            .map(|n| fingerprint(chunk(0, 1, n), ReplicaNumber(3 * n)))
            .collect();
        for bit in 0..64 {
            let ones = prints.iter().filter(|print| **print >> bit & 1 == 1).count();
            assert!((1 << 19) - 4000 < ones && ones < (1 << 19) + 4000, "bit {bit}: {ones}");
        }
        prints.sort_unstable();
        prints.dedup();
        assert_eq!(prints.len(), 1 << 20);
    }
}
