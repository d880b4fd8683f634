//! Everything of large chunks in the place of small ones: rows and commands.

use super::*;
use crate::state::key::fragmented::{Fragmented, FragmentedKey};
use crate::state::key::merge::{Merge, MergeKey, Piece};
use crate::state::merges::{MergePlan, MergeStep};

pub(super) fn all(golden: &mut Golden) {
    let file = Ino(0x1234);
    let changed = StateTime(300);
    golden.row("fragmented", &FragmentedKey(file), &Fragmented { changed });
    let piece = |crc| Piece {
        chunk: CHUNK,
        chunk_offset: 300,
        length: 301,
        crc,
    };
    let row = Merge {
        file,
        offset: 302,
        pieces: vec![piece(None), piece(Some(0xdead_beef))],
    };
    golden.row("merge", &MergeKey(CHUNK), &row);
    let seal = Seal {
        chunk: CHUNK,
        generation: Generation(1),
        file_offset: 302,
        length: 602,
        crc: 0xdead_beef,
        members: vec![SERVER],
    };
    let plan = MergePlan {
        file,
        from: 302,
        to: 904,
        targets: vec![SERVER, ServerId(4)],
    };
    for (name, step) in [
        ("begin", MergeStep::Begin(plan)),
        ("exchange", MergeStep::Exchange { seal }),
        ("give_up", MergeStep::GiveUp { chunk: CHUNK }),
        ("settle", MergeStep::Settle { file, changed }),
    ] {
        golden.command(&format!("merge.{name}"), &Command::Merge(step));
    }
}
