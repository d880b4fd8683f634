//! A whole small chunk along the chain: one request, one answer, one group-committed sync on each hop.

use std::time::Duration;

use bytes::Bytes;
use gabion_protocol::frame::Kind;
use gabion_protocol::limits::SMALL_CHUNK_BYTES;
use gabion_protocol::messages::data::{Request, Response, WriteSpec};
use gabion_protocol::{ErrorCode, ServerId, WireError};

use tokio::time::{Instant, timeout_at};

use super::{Pipeline, Share, from_below, new_chunk, rest_of};
use crate::disk::Packet;

/// Longest wait for the rest of the chain.
const BELOW: Duration = Duration::from_secs(5);

impl Pipeline {
    /// Stores the chunk here and on every later hop, side by side.
    pub(crate) async fn put_small(
        &self,
        spec: WriteSpec,
        crcs: Vec<u32>,
        payload: Bytes,
        share: &Share,
    ) -> Result<Response, WireError> {
        let (_, grant) = self.admit(&spec)?;
        if payload.len() as u64 > SMALL_CHUNK_BYTES {
            let message = format!(
                "chunk {} has {} bytes: too many for one request, open a stream",
                spec.chunk,
                payload.len()
            );
            return Err(WireError::new(ErrorCode::InvalidArgument, message));
        }
        let _memory = self.reserve(share, payload.len() as u64)?;
        // Checked once here, before anything is passed on.
        let packet = Packet::verify(spec.chunk, 0, crcs, payload).map_err(|e| e.to_wire())?;
        let below = async {
            match rest_of(&spec) {
                Some((server, rest)) => self
                    .put_below(server, rest, &packet)
                    .await
                    .map_err(|error| from_below(server, error)),
                None => Ok(None),
            }
        };
        let own = self.store.put_small(new_chunk(&spec, &grant), packet.clone());
        let (own, below) = tokio::join!(own, below);
        let (length, crc) = own.map_err(|e| e.to_wire())?;
        match below? {
            None => Ok(Response::Sealed { length, crc }),
            Some(theirs) if theirs == (length, crc) => Ok(Response::Sealed { length, crc }),
            Some(_) => Err(WireError::new(
                ErrorCode::Protocol,
                "the next server of the chain sealed something else",
            )),
        }
    }

    async fn put_below(
        &self,
        server: ServerId,
        rest: WriteSpec,
        packet: &Packet,
    ) -> Result<Option<(u64, u32)>, WireError> {
        let late = || WireError::new(ErrorCode::Timeout, format!("server {server} did not answer within 5 s"));
        let deadline = Instant::now() + BELOW;
        let connected = timeout_at(deadline, self.peers.connection(server)).await;
        let connection = connected.unwrap_or_else(|_| Err(late()))?;
        let request = Request::PutSmall {
            spec: rest,
            crcs: packet.crcs().to_vec(),
        };
        let call = connection.call(Kind::DataRequest, &request, packet.bytes().clone(), BELOW);
        let answer = timeout_at(deadline, call).await.unwrap_or_else(|_| Err(late()));
        match answer.inspect_err(|error| self.peers.note(server, &connection, error))? {
            (Response::Sealed { length, crc }, _) => Ok(Some((length, crc))),
            _ => Err(WireError::new(
                ErrorCode::Protocol,
                format!("server {server} answered something else"),
            )),
        }
    }
}
