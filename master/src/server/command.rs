//! A client's command: filled in by the leader, logged once, its answer signed for who asked.

use gabion_protocol::error::{ErrorCode, WireError};
use gabion_protocol::ids::{ChunkId, RequestId, ServerId};
use gabion_protocol::keys::Identity;
use gabion_protocol::limits::{BATCH_ROWS_MAX, GRANT_CHUNKS_MAX};
use gabion_protocol::messages::master::{Change, ChunkGrant, Op, Response, ServerAccess};

use super::access::Signer;
use super::placement::seed;
use super::shared::{Master, read_view, row_error};
use crate::plan::placement::Placement;
use crate::state::command::{ClientCommand, ClientRequest};
use crate::state::reply::{GrantedChunk, Outcome};
use crate::state::rows::Batch;
use crate::state::{self, Command, LogAt, Reply, read};

/// A command that needs servers for new chunks.
struct Wish {
    chunks: u8,
    avoid: Vec<ServerId>,
    replicas: u8,
    chunk_bytes: u64,
}

impl Master {
    /// Carries a client's command out, or gives the answer it had.
    ///
    /// # Errors
    /// The refusal; or what the client should do to have the same command carried out.
    pub(super) async fn command(
        &self,
        asker: &Identity,
        request: RequestId,
        answered_below: u64,
        op: Op,
    ) -> Result<Response, WireError> {
        check(&op)?;
        self.has_room_for(asker, request, &op).await?;
        self.may_change(&op).await?;
        let logged = |op| ClientRequest {
            request,
            answered_below,
            wall_ms: wall_ms(),
            op,
        };
        let command = match self.wish(&op).await? {
            None => Command::Client(logged(filled(op, asker, Vec::new()))),
            Some(wish) => self.placed(asker, op, wish, logged).await?,
        };
        let outcome = self.propose(&command).await?.into_wire(&command.cannot())?;
        self.respond(asker, request, outcome).await
    }

    /// What the command needs of the fleet; nothing if it places no chunk, or is to be refused by the log.
    async fn wish(&self, op: &Op) -> Result<Option<Wish>, WireError> {
        let (chunks, avoid, upload, asked) = match op {
            Op::OpenUpload {
                options, chunks, avoid, ..
            }
            | Op::OpenSized {
                options, chunks, avoid, ..
            } if *chunks > 0 => (*chunks, avoid.clone(), None, (options.replicas, options.chunk_bytes)),
            Op::OpenStock {
                replicas,
                chunks,
                avoid,
            } if *chunks > 0 => (*chunks, avoid.clone(), None, (*replicas, None)),
            Op::GrantChunks {
                upload, chunks, avoid, ..
            } if *chunks > 0 => (*chunks, avoid.clone(), Some(*upload), (None, None)),
            _ => return Ok(None),
        };
        let view = if upload.is_some() {
            // An upload that another leader has just logged must be found.
            self.view().await?
        } else {
            // The cluster's defaults never change.
            self.raft.stale_view()
        };
        let sizes = read_view(view, move |view| {
            if let Some(upload) = upload {
                let upload = read::upload(view, upload).map_err(row_error)?;
                return Ok(upload.map(|upload| (upload.content.replicas, upload.content.chunk_bytes)));
            }
            let settings = read::cluster(view).map_err(row_error)?.map(|cluster| cluster.settings);
            let (replicas, chunk_bytes) = asked;
            Ok(settings.map(|settings| {
                (
                    replicas.unwrap_or(settings.replicas),
                    chunk_bytes.unwrap_or(settings.chunk_bytes),
                )
            }))
        });
        Ok(sizes.await?.map(|(replicas, chunk_bytes)| Wish {
            chunks,
            avoid,
            replicas,
            chunk_bytes,
        }))
    }

    /// The command with servers for its chunks; without, if the log would refuse it anyway or knows its answer.
    async fn placed(
        &self,
        asker: &Identity,
        op: Op,
        wish: Wish,
        logged: impl Fn(ClientCommand) -> ClientRequest,
    ) -> Result<Command, WireError> {
        self.mind_tail().await?;
        let wanted = Placement {
            wanted: wish.replicas,
            count: usize::from(wish.chunks),
            chunk_bytes: wish.chunk_bytes,
            avoid: wish.avoid,
            seed: seed(),
        };
        if let Some(chains) = self.place_now(&wanted).await? {
            return Ok(Command::Client(logged(filled(op, asker, chains))));
        }
        let bare = Command::Client(logged(filled(op.clone(), asker, Vec::new())));
        if self.needs_no_servers(bare.clone()).await? {
            return Ok(bare);
        }
        let wait = self.settings.placement_wait;
        let chains = self.place_patiently(wanted, &bare.cannot(), wait).await?;
        Ok(Command::Client(logged(filled(op, asker, chains))))
    }

    /// Tries a command out on the rows as they are, to see whether it would be refused, or ran before.
    async fn needs_no_servers(&self, command: Command) -> Result<bool, WireError> {
        let view = self.view().await?;
        let id = self.id;
        read_view(view, move |view| {
            let at = LogAt {
                index: view.applied_index().map_err(row_error)?.saturating_add(1),
                term: 0,
                leader: id,
            };
            let tried = state::apply(&mut Batch::new(view), at, &command).map_err(row_error)?;
            Ok(match tried {
                Reply(Err(_)) => true,
                Reply(Ok(Outcome::Upload { chunks, .. } | Outcome::Chunks(chunks))) => !chunks.is_empty(),
                Reply(Ok(_)) => true,
            })
        })
        .await
    }

    /// The answer that travels: grants are signed now, also those of a command that ran long ago.
    async fn respond(&self, asker: &Identity, request: RequestId, outcome: Outcome) -> Result<Response, WireError> {
        Ok(match outcome {
            Outcome::Done | Outcome::Ticked { .. } | Outcome::Repaired { .. } => Response::Done,
            Outcome::Entry(entry) => Response::Entry(entry),
            Outcome::Removed {
                files,
                directories,
                bytes,
            } => Response::Removed {
                files,
                directories,
                bytes,
            },
            Outcome::Trashed {
                ino,
                files,
                directories,
                bytes,
                keep_ms,
            } => Response::Trashed {
                ino,
                files,
                directories,
                bytes,
                keep_ms,
            },
            Outcome::Snapshot(info) => Response::Snapshot(info),
            Outcome::TreeCopied(progress) => Response::TreeCopied(progress),
            Outcome::Copied {
                version,
                next,
                more,
                length,
                crc,
            } => Response::Copied {
                version,
                next,
                more,
                length,
                crc,
            },
            Outcome::Registered { server } => Response::Registered { server },
            Outcome::Marked { index } => Response::Marked { index },
            Outcome::Upload {
                upload,
                generation,
                chunk_bytes,
                replicas,
                chunks,
            } => {
                let (chunks, servers) = self.signed(asker, request, chunks).await?;
                Response::Upload {
                    upload,
                    generation,
                    chunk_bytes,
                    replicas,
                    chunks,
                    servers,
                }
            }
            Outcome::Resumed {
                upload,
                generation,
                chunk_bytes,
                replicas,
                length,
                crc,
            } => Response::Resumed {
                upload,
                generation,
                chunk_bytes,
                replicas,
                length,
                crc,
            },
            Outcome::Spliced { offset, length } => Response::Spliced { offset, length },
            Outcome::Truncated { length } => Response::Truncated { length },
            Outcome::ReplicasSet { next } => Response::ReplicasSet { next },
            Outcome::WriteLease { lease, until } => Response::WriteLease { lease, until },
            Outcome::Chunks(chunks) => {
                let (chunks, servers) = self.signed(asker, request, chunks).await?;
                Response::Chunks { chunks, servers }
            }
        })
    }

    async fn signed(
        &self,
        asker: &Identity,
        request: RequestId,
        granted: Vec<GrantedChunk>,
    ) -> Result<(Vec<ChunkGrant>, Vec<ServerAccess>), WireError> {
        let (keys, asker) = (self.keys.clone(), asker.clone());
        // The command was applied here before its answer came, so that these rows hold what it made.
        read_view(self.raft.stale_view(), move |view| {
            let mut signer = Signer::new(&keys, view, &asker, request.session).map_err(row_error)?;
            let grants = signer.grants(&granted).map_err(row_error)?;
            Ok((grants, signer.accesses()))
        })
        .await
    }
}

/// What can be refused without looking.
fn check(op: &Op) -> Result<(), WireError> {
    let too_many = |what: &str, asked: usize, most: usize| {
        if asked <= most {
            return Ok(());
        }
        let message = format!("{asked} {what} asked, at most {most} are possible");
        Err(WireError::new(ErrorCode::LimitExceeded, message))
    };
    match op {
        Op::OpenUpload { chunks, avoid, .. }
        | Op::OpenSized { chunks, avoid, .. }
        | Op::OpenStock { chunks, avoid, .. } => {
            too_many("chunks", usize::from(*chunks), GRANT_CHUNKS_MAX)?;
            too_many("servers to avoid", avoid.len(), BATCH_ROWS_MAX)
        }
        Op::GrantChunks {
            chunks,
            avoid,
            abandoned,
            ..
        } => {
            too_many("chunks", usize::from(*chunks), GRANT_CHUNKS_MAX)?;
            too_many("servers to avoid", avoid.len(), BATCH_ROWS_MAX)?;
            too_many("chunks to give up", abandoned.len(), BATCH_ROWS_MAX)
        }
        Op::SealChunks { seals, .. } | Op::Commit { seals, .. } => too_many("seals", seals.len(), BATCH_ROWS_MAX),
        Op::Renew { uploads } => too_many("uploads", uploads.len(), BATCH_ROWS_MAX),
        Op::Mkdir { .. }
        | Op::AbortUpload { .. }
        | Op::Rename { .. }
        | Op::Remove { .. }
        | Op::ReportDamage { .. }
        | Op::CreateFile { .. }
        | Op::PutFile { .. }
        | Op::MoveToTrash { .. }
        | Op::Restore { .. }
        | Op::SetAttributes { .. }
        | Op::CopyExtents { .. }
        | Op::ResumeUpload { .. }
        | Op::ChangeAttributes { .. }
        | Op::SetCondition { .. }
        | Op::SetBalance { .. }
        | Op::CreateSnapshot { .. }
        | Op::RemoveSnapshot { .. }
        | Op::ResumeSized { .. }
        | Op::SetQuota { .. }
        | Op::CopyTree(_)
        | Op::Link(_) => Ok(()),
        Op::Copy(copy) => too_many("files", copy.sources.len(), BATCH_ROWS_MAX),
        Op::ChangeFile(change) => match &change.what {
            Change::Splice { seals, .. } => too_many("seals", seals.len(), BATCH_ROWS_MAX),
            Change::Truncate { .. } | Change::SetReplicas { .. } | Change::TakeLease { .. } | Change::EndLease => {
                Ok(())
            }
        },
        Op::EmptyTrash { entries } => too_many("things in the trash", entries.len(), BATCH_ROWS_MAX),
    }
}

/// The command of `asker` as it is logged.
pub(super) fn filled(op: Op, asker: &Identity, placements: Vec<Vec<ServerId>>) -> ClientCommand {
    match op {
        Op::Mkdir { path, parents, mode } => ClientCommand::Mkdir { path, parents, mode },
        Op::OpenUpload { path, options, .. } => ClientCommand::OpenUpload {
            path,
            options,
            placements,
        },
        Op::GrantChunks {
            upload,
            generation,
            abandoned,
            ..
        } => ClientCommand::GrantChunks {
            upload,
            generation,
            placements,
            abandoned: distinct(abandoned),
        },
        Op::SealChunks {
            upload,
            generation,
            seals,
        } => ClientCommand::SealChunks {
            upload,
            generation,
            seals,
        },
        Op::Commit {
            upload,
            generation,
            seals,
            length,
            crc,
        } => ClientCommand::Commit {
            upload,
            generation,
            seals,
            length,
            crc,
        },
        Op::AbortUpload { upload, generation } => ClientCommand::AbortUpload { upload, generation },
        Op::Renew { uploads } => ClientCommand::Renew { uploads },
        Op::Rename { from, to, replace } => ClientCommand::Rename { from, to, replace },
        Op::Remove { path, recursive } => ClientCommand::Remove { path, recursive },
        Op::ReportDamage {
            chunk,
            server,
            replica,
            what,
        } => ClientCommand::ReportDamage {
            chunk,
            server,
            replica,
            what,
        },
        Op::CreateFile { path, options } => ClientCommand::CreateFile { path, options },
        Op::OpenStock { replicas, .. } => ClientCommand::OpenStock { replicas, placements },
        Op::PutFile {
            path,
            options,
            stock,
            generation,
            seal,
        } => ClientCommand::PutFile {
            path,
            options,
            stock,
            generation,
            seal,
        },
        Op::MoveToTrash { path, recursive } => ClientCommand::MoveToTrash { path, recursive },
        Op::Restore { what, to } => ClientCommand::Restore { what, to },
        Op::EmptyTrash { entries } => ClientCommand::EmptyTrash { entries },
        Op::SetAttributes {
            path,
            mode,
            modified_ms,
        } => ClientCommand::SetAttributes {
            path,
            mode,
            modified_ms,
        },
        Op::Copy(copy) => ClientCommand::Copy(copy),
        Op::CopyExtents {
            upload,
            generation,
            source,
            offset,
            version,
        } => ClientCommand::CopyExtents {
            upload,
            generation,
            source,
            offset,
            version,
        },
        Op::ResumeUpload { path, options, keep_ms } => ClientCommand::ResumeUpload {
            path,
            options,
            owner: asker.clone(),
            keep_ms,
        },
        Op::ChangeAttributes { path, change } => ClientCommand::ChangeAttributes { path, change },
        Op::ChangeFile(change) => ClientCommand::ChangeFile(change),
        Op::SetCondition { server, change, .. } => ClientCommand::SetCondition { server, change },
        Op::SetBalance { runs } => ClientCommand::SetBalance { runs },
        Op::CreateSnapshot { path, name } => ClientCommand::CreateSnapshot { path, name },
        Op::RemoveSnapshot { path, name } => ClientCommand::RemoveSnapshot { path, name },
        Op::OpenSized {
            path, options, room, ..
        } => ClientCommand::OpenSized {
            path,
            options,
            placements,
            room,
        },
        Op::ResumeSized {
            path,
            options,
            keep_ms,
            length,
        } => ClientCommand::ResumeSized {
            path,
            options,
            owner: asker.clone(),
            keep_ms,
            length,
        },
        Op::SetQuota { path, change } => ClientCommand::SetQuota { path, change },
        Op::CopyTree(step) => ClientCommand::CopyTree(step),
        Op::Link(change) => ClientCommand::Link(change),
    }
}

fn distinct(mut chunks: Vec<ChunkId>) -> Vec<ChunkId> {
    chunks.sort_unstable();
    chunks.dedup();
    chunks
}

/// The wall clock, for people only: nothing is decided by it.
pub(super) fn wall_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
