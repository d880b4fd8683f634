//! What a person may do next about each refusal: text only, made when it leaves the master.

use gabion_protocol::error::ErrorCode;

use super::Refusal;

impl Refusal {
    /// What a person may do next.
    pub(super) fn help(&self) -> Option<&'static str> {
        let text = match self {
            Self::NotInTrash { .. } => "see what is there: gabion trash list",
            Self::NoPlaceToRestore { .. } => "restore it to another place with --to PATH, or make the directory first",
            Self::PlaceTaken { .. } => "restore it under another name: --to PATH",
            Self::CopiesDiffer { .. } => "give it as many copies as the others have: gabion setrep",
            Self::SourceChanged { .. } => "copy it again, when nobody writes it",
            Self::CopyDiffers { .. } => "it is copied again by itself; check that server's disk",
            Self::FileGone { .. } => "open it anew to write to what has its name now",
            Self::Leased { .. } => "try again when that writer has closed the file, or its lease is over",
            Self::LeaseLost { .. } => "look what is in the file, then open it again",
            Self::TooManyPieces { .. } => "write it in smaller pieces",
            Self::QuotaExceeded { reserved: 0, .. } => {
                "remove something below it, or have an operator raise it: gabion quota set; see what is used: gabion quota get"
            }
            Self::QuotaExceeded { .. } => {
                "wait until writes under way have ended, remove something below it, or have an operator raise it: gabion quota set; see what is used: gabion quota get"
            }
            Self::NoLimit => {
                "say how many: gabion quota set PATH --bytes SIZE --entries N; gabion quota clear takes it away"
            }
            Self::HasSnapshots { .. } => {
                "see which: gabion snapshot list; remove them first, or keep it; a copy ends by itself"
            }
            Self::TooManySnapshots => "remove some: gabion snapshot list, gabion snapshot rm",
            Self::TooManyLinks { .. } => "see whether they lead in a circle: gabion readlink",
            Self::InSnapshot { .. } => "copy what you need out of it, and change that: gabion cp",
            Self::ServerRemoved { .. } => {
                "its copies are held elsewhere: start the chunkserver with an empty directory, and it joins under a new number"
            }
            Self::MaintenanceTime { .. } => "for longer than that, drain it: gabion admin server drain",
            Self::BalanceStopped => "let it go on: gabion admin balance start --apply",
            Self::ServerUnknown { .. } => {
                "keep the directory: either the masters were restored from a backup, or it is of another cluster"
            }
            _ => return self.help_of_code(),
        };
        Some(text)
    }

    /// The same, of refusals whose code says it all.
    fn help_of_code(&self) -> Option<&'static str> {
        let text = match self.code() {
            ErrorCode::Exists => "ask for replacement, or choose another name",
            ErrorCode::NotEmpty => "ask for recursive removal, or empty it first",
            ErrorCode::OutcomeUnknown => "look at the path to see what happened, then decide",
            ErrorCode::Fenced => "begin the upload again",
            ErrorCode::ChecksumMismatch => "upload again; if it repeats, suspect the client's memory",
            ErrorCode::StaleDirectory => {
                "start the chunkserver with its newest directory, or with an empty one under a new name"
            }
            _ => return None,
        };
        Some(text)
    }
}
