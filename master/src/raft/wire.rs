//! What masters say to each other **[format]**: our own messages, never openraft's types.
//!
//! Unary requests and answers, and one stream for appends. postcard numbers variants and fields by position, so a new
//! variant goes last and a struct never changes. Entries travel as heads in the message and bodies in the payload,
//! whose CRC is in the message.

use bytes::Bytes;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult, VoteRequest, VoteResponse};
use serde::{Deserialize, Serialize};

use super::codec::{self, CodecError};
use super::promises::Promise;
use super::snapshots::SnapshotFile;
use super::types::{CommittedLeader, Entry, LogId, TypeConfig, Vote, log_id};
use crate::space::Room;

/// A vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VoteDto {
    term: u64,
    node: u64,
    committed: bool,
}

impl From<Vote> for VoteDto {
    fn from(vote: Vote) -> Self {
        Self {
            term: vote.leader_id.term,
            node: vote.leader_id.node_id,
            committed: vote.committed,
        }
    }
}

impl From<VoteDto> for Vote {
    fn from(dto: VoteDto) -> Self {
        if dto.committed {
            Self::new_committed(dto.term, dto.node)
        } else {
            Self::new(dto.term, dto.node)
        }
    }
}

/// A log id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogIdDto {
    term: u64,
    node: u64,
    index: u64,
}

impl From<LogId> for LogIdDto {
    fn from(id: LogId) -> Self {
        Self {
            term: id.leader_id.term,
            node: id.leader_id.node_id,
            index: id.index,
        }
    }
}

impl From<LogIdDto> for LogId {
    fn from(dto: LogIdDto) -> Self {
        log_id(dto.term, dto.node, dto.index)
    }
}

/// A unary request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// How are you?
    Status,
    /// Grant a vote.
    Vote(AskVote),
    /// Would you grant a vote?
    PreVote(AskVote),
    /// One append, answered once: heartbeats.
    Append(Append),
    /// Stand for election now.
    TransferLeader {
        from: VoteDto,
        to: u64,
        last: Option<LogIdDto>,
    },
    /// A snapshot is to be installed; which parts of it are missing?
    OfferSnapshot {
        last: Option<LogIdDto>,
        files: Vec<SnapshotFile>,
    },
    /// A part of a file of the offered snapshot; the bytes are the payload.
    SnapshotPart { file: u32, offset: u64, crc: u32 },
    /// All parts were sent.
    InstallSnapshot { vote: VoteDto, last: Option<LogIdDto> },
    /// What do you know to be on the asker's disk?
    Acked,
    /// How much room has your disk?
    Space,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Response {
    /// To `Status`.
    Status {
        /// Whether it never voted nor logged anything.
        pristine: bool,
        /// Its last log index.
        last_index: u64,
    },
    /// To `Vote` and `PreVote`.
    Vote {
        vote: VoteDto,
        granted: bool,
        last: Option<LogIdDto>,
    },
    /// To `Append`, and to each append of a stream.
    Append(AppendAnswer),
    /// To `TransferLeader`.
    TransferLeader(TransferAnswer),
    /// To `OfferSnapshot`: for each file, how many of its first bytes are there.
    Have(Vec<u64>),
    /// To `SnapshotPart`.
    PartStored,
    /// To `InstallSnapshot`: the vote known there.
    Installed { vote: VoteDto },
    /// To `Acked`.
    Acked {
        /// The latest vote the asker gave.
        voted: Option<LeaderDto>,
        /// Up to where the asker's log is known to be that of this leader.
        matched: Option<(LeaderDto, LogIdDto)>,
    },
    /// To `Space`.
    Space(Room),
}

/// Whom a vote was for, in which term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeaderDto {
    term: u64,
    node: u64,
}

impl From<CommittedLeader> for LeaderDto {
    fn from(leader: CommittedLeader) -> Self {
        Self {
            term: leader.term,
            node: leader.node_id,
        }
    }
}

impl From<LeaderDto> for CommittedLeader {
    fn from(dto: LeaderDto) -> Self {
        log_id(dto.term, dto.node, 0).leader_id
    }
}

impl From<Promise> for Response {
    fn from(promise: Promise) -> Self {
        Self::Acked {
            voted: promise.voted.map(Into::into),
            matched: promise.matched.map(|(leader, last)| (leader.into(), last.into())),
        }
    }
}

/// Asks for a vote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AskVote {
    vote: VoteDto,
    last: Option<LogIdDto>,
    leadership_transfer: bool,
}

impl AskVote {
    /// The candidate's vote, for itself.
    pub(crate) fn vote(&self) -> Vote {
        self.vote.into()
    }
}

impl From<VoteRequest<TypeConfig>> for AskVote {
    fn from(request: VoteRequest<TypeConfig>) -> Self {
        Self {
            vote: request.vote.into(),
            last: request.last_log_id.map(Into::into),
            leadership_transfer: request.leadership_transfer,
        }
    }
}

impl From<AskVote> for VoteRequest<TypeConfig> {
    fn from(dto: AskVote) -> Self {
        Self {
            vote: dto.vote.into(),
            last_log_id: dto.last.map(Into::into),
            leadership_transfer: dto.leadership_transfer,
        }
    }
}

impl From<VoteResponse<TypeConfig>> for Response {
    fn from(response: VoteResponse<TypeConfig>) -> Self {
        Self::Vote {
            vote: response.vote.into(),
            granted: response.vote_granted,
            last: response.last_log_id.map(Into::into),
        }
    }
}

/// What became of a wish to hand leadership over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TransferAnswer {
    /// The receiver stands for election.
    Accepted,
    /// The receiver knows a newer vote.
    VoteChanged { expected: VoteDto, actual: VoteDto },
    /// The receiver's log is not complete.
    LogNotFlushed {
        expected: Option<LogIdDto>,
        actual: Option<LogIdDto>,
    },
}

/// The head of an entry; its body is a part of the payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct EntryHead {
    id: LogIdDto,
    kind: u8,
    len: u32,
}

/// Appends entries, or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Append {
    vote: VoteDto,
    previous: Option<LogIdDto>,
    commit: Option<LogIdDto>,
    entries: Vec<EntryHead>,
    payload_crc: u32,
}

impl Append {
    /// The leader's vote.
    pub(crate) fn vote(&self) -> Vote {
        self.vote.into()
    }

    /// The message and payload of a request.
    pub(crate) fn encode(request: AppendEntriesRequest<TypeConfig>) -> Result<(Self, Bytes), CodecError> {
        let mut heads = Vec::with_capacity(request.entries.len());
        let mut bodies = Vec::with_capacity(request.entries.len());
        for entry in &request.entries {
            let (kind, body) = codec::payload_parts(&entry.payload)?;
            heads.push(EntryHead {
                id: entry.log_id.into(),
                kind,
                len: u32::try_from(body.len()).unwrap_or(u32::MAX),
            });
            bodies.push(body);
        }
        let payload: Bytes = if let [only] = bodies.as_slice() {
            only.clone()
        } else {
            bodies.concat().into()
        };
        let message = Self {
            vote: request.vote.into(),
            previous: request.prev_log_id.map(Into::into),
            commit: request.leader_commit.map(Into::into),
            entries: heads,
            payload_crc: crc32fast::hash(&payload),
        };
        Ok((message, payload))
    }

    /// The request of [`Self::encode`]. Bodies are slices of one copy of `payload`: the log's tail cache keeps them
    /// for long, and a slice of the payload itself would keep its whole pooled buffer, many times its size.
    pub(crate) fn decode(self, payload: &Bytes) -> Result<AppendEntriesRequest<TypeConfig>, CodecError> {
        let what = "append request";
        let computed = crc32fast::hash(payload);
        if computed != self.payload_crc {
            let stored = self.payload_crc;
            return Err(CodecError::Crc { what, computed, stored });
        }
        let mut rest = Bytes::copy_from_slice(payload);
        let mut entries = Vec::with_capacity(self.entries.len());
        for head in self.entries {
            let len = head.len as usize;
            if rest.len() < len {
                return Err(CodecError::Length {
                    what,
                    got: payload.len(),
                });
            }
            entries.push(Entry {
                log_id: head.id.into(),
                payload: codec::payload_from(head.kind, rest.split_to(len))?,
            });
        }
        if !rest.is_empty() {
            return Err(CodecError::Length {
                what,
                got: payload.len(),
            });
        }
        Ok(AppendEntriesRequest {
            vote: self.vote.into(),
            prev_log_id: self.previous.map(Into::into),
            entries,
            leader_commit: self.commit.map(Into::into),
        })
    }
}

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum AppendAnswer {
    /// The log matches the leader's up to here.
    Matches(Option<LogIdDto>),
    /// The log has something else, or nothing, at this log id.
    Conflict(LogIdDto),
    /// The receiver knows a newer vote.
    HigherVote(VoteDto),
}

impl From<StreamAppendResult<TypeConfig>> for AppendAnswer {
    fn from(result: StreamAppendResult<TypeConfig>) -> Self {
        match result {
            Ok(last) => Self::Matches(last.map(Into::into)),
            Err(StreamAppendError::Conflict(id)) => Self::Conflict(id.into()),
            Err(StreamAppendError::HigherVote(vote)) => Self::HigherVote(vote.into()),
        }
    }
}

impl From<AppendAnswer> for StreamAppendResult<TypeConfig> {
    fn from(answer: AppendAnswer) -> Self {
        match answer {
            AppendAnswer::Matches(last) => Ok(last.map(Into::into)),
            AppendAnswer::Conflict(id) => Err(StreamAppendError::Conflict(id.into())),
            AppendAnswer::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use gabion_protocol::messages::{decode, encode};
    use openraft::EntryPayload;

    use super::*;
    use crate::raft::types::LoggedCommand;
    use crate::space::Level;

    fn append() -> AppendEntriesRequest<TypeConfig> {
        let command = |index, text: &'static str| Entry {
            log_id: log_id(2, 1, index),
            payload: EntryPayload::Normal(LoggedCommand(text.into())),
        };
        AppendEntriesRequest {
            vote: Vote::new_committed(2, 1),
            prev_log_id: Some(log_id(1, 3, 6)),
            entries: vec![command(7, "seven"), command(8, "eight")],
            leader_commit: Some(log_id(1, 3, 5)),
        }
    }

    #[test]
    fn golden_append() {
        let (message, payload) = Append::encode(append()).unwrap();
        assert_eq!(&payload[..], b"seveneight");
        let bytes = encode(&Request::Append(message.clone()));
        let mut expected = vec![3, 2, 1, 1, 1, 1, 3, 6, 1, 1, 3, 5, 2, 2, 1, 7, 1, 5, 2, 1, 8, 1, 5];
        // postcard writes the CRC as a varint.
        expected.extend([0xaa; 0]);
        assert_eq!(&bytes[..expected.len()], &expected[..]);
        let back = message.decode(&payload).unwrap();
        assert_eq!(format!("{back:?}"), format!("{:?}", append()));
    }

    #[test]
    fn golden_requests_and_responses() {
        let vote = VoteDto::from(Vote::new(5, 2));
        let id = LogIdDto::from(log_id(4, 3, 9));
        let ask = AskVote {
            vote,
            last: Some(id),
            leadership_transfer: true,
        };
        let file = SnapshotFile {
            name: "a".into(),
            bytes: 3,
            crc: 1,
        };
        let requests = [
            (Request::Status, vec![0]),
            (Request::Vote(ask.clone()), vec![1, 5, 2, 0, 1, 4, 3, 9, 1]),
            (Request::PreVote(ask), vec![2, 5, 2, 0, 1, 4, 3, 9, 1]),
            (
                Request::TransferLeader {
                    from: vote,
                    to: 3,
                    last: None,
                },
                vec![4, 5, 2, 0, 3, 0],
            ),
            (
                Request::OfferSnapshot {
                    last: Some(id),
                    files: vec![file],
                },
                vec![5, 1, 4, 3, 9, 1, 1, b'a', 3, 1],
            ),
            (
                Request::SnapshotPart {
                    file: 1,
                    offset: 2,
                    crc: 3,
                },
                vec![6, 1, 2, 3],
            ),
            (Request::InstallSnapshot { vote, last: None }, vec![7, 5, 2, 0, 0]),
            (Request::Acked, vec![8]),
            (Request::Space, vec![9]),
        ];
        for (request, golden) in requests {
            assert_eq!(encode(&request), golden);
            assert_eq!(decode::<Request>(&golden).unwrap(), request);
        }
        let responses = [
            (
                Response::Status {
                    pristine: true,
                    last_index: 7,
                },
                vec![0, 1, 7],
            ),
            (
                Response::Vote {
                    vote,
                    granted: true,
                    last: None,
                },
                vec![1, 5, 2, 0, 1, 0],
            ),
            (
                Response::Append(AppendAnswer::Matches(Some(id))),
                vec![2, 0, 1, 4, 3, 9],
            ),
            (Response::Append(AppendAnswer::Conflict(id)), vec![2, 1, 4, 3, 9]),
            (Response::Append(AppendAnswer::HigherVote(vote)), vec![2, 2, 5, 2, 0]),
            (Response::TransferLeader(TransferAnswer::Accepted), vec![3, 0]),
            (Response::Have(vec![1, 2]), vec![4, 2, 1, 2]),
            (Response::PartStored, vec![5]),
            (Response::Installed { vote }, vec![6, 5, 2, 0]),
            (
                Response::Acked {
                    voted: Some(LeaderDto { term: 5, node: 2 }),
                    matched: Some((LeaderDto { term: 4, node: 3 }, id)),
                },
                vec![7, 1, 5, 2, 1, 4, 3, 4, 3, 9],
            ),
            (
                Response::Space(Room {
                    level: Level::Low,
                    free: 2,
                    needed: 3,
                    dir: "d".into(),
                }),
                vec![8, 1, 2, 3, 1, b'd'],
            ),
        ];
        for (response, golden) in responses {
            assert_eq!(encode(&response), golden);
            assert_eq!(decode::<Response>(&golden).unwrap(), response);
        }
    }

    #[test]
    fn a_damaged_append_is_an_error() {
        let (message, payload) = Append::encode(append()).unwrap();
        let mut bad = payload.to_vec();
        bad[3] ^= 1;
        assert!(message.clone().decode(&bad.into()).is_err());
        assert!(message.clone().decode(&payload.slice(1..)).is_err());
        let mut longer = message;
        longer.entries[1].len = 6;
        assert!(longer.decode(&payload).is_err());
    }
}
