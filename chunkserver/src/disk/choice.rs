//! Which of a server's disks gets a new chunk: each in proportion to its free space, so that all of them work and they fill
//! up together, where the one with the most room alone would get everything. Pure.
//!
//! Weighted rendezvous hashing: each disk draws a number from the chunk's and its own, and the highest gets the chunk. Which
//! disk that is depends on nothing else, so no state is kept.

use gabion_protocol::ChunkId;

use super::identity::DiskId;

/// What a disk with so many bytes free draws for a chunk: the highest draw gets it.
pub(super) fn draw(chunk: ChunkId, disk: DiskId, free: u64) -> f64 {
    let mut state = 0;
    for bytes in [&chunk.to_bytes()[..], &disk.0[..]] {
        for word in bytes.chunks(8) {
            let mut whole = [0; 8];
            whole[..word.len()].copy_from_slice(word);
            state = mix(state ^ u64::from_le_bytes(whole));
        }
    }
    // Within (0, 1): the logarithm is finite and below 0.
    let uniform = ((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    free as f64 / -uniform.ln()
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use gabion_protocol::{Timeline, VolumeId};

    use super::*;

    #[test]
    fn each_disk_gets_its_part_of_the_chunks() {
        const CHUNKS: u64 = 40_000;
        let free = [1_u64 << 40, 2 << 40, 5 << 40, 0];
        let mut got = [0; 4];
        for counter in 0..CHUNKS {
            let chunk = ChunkId {
                volume: VolumeId(0),
                timeline: Timeline(1),
                counter,
            };
            let draws = free
                .iter()
                .zip(0..)
                .map(|(free, number)| draw(chunk, DiskId([number; 16]), *free));
            let best = draws.enumerate().max_by(|(_, one), (_, other)| one.total_cmp(other));
            got[best.unwrap().0] += 1;
        }
        for (got, part) in got.into_iter().zip([1, 2, 5, 0]) {
            let expected = CHUNKS * part / 8;
            assert!(
                got >= expected * 95 / 100 && got <= expected * 105 / 100,
                "{got} of {expected}"
            );
        }
    }
}
