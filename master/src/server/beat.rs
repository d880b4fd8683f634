//! Chunkservers: who registers, who beats, what they are told.
//!
//! A chunkserver speaks for itself only: its name is its proven identity. Every master takes its beats; only an
//! established leader gives orders, and only such as the log holds, seen after a read barrier. What a server reports
//! done is answered after it is logged, so that a server may forget it with the answer, if that names an epoch. Orders to
//! re-read a copy change nothing and need no barrier (`suspects`).

use gabion_protocol::error::{Action, ErrorCode, WireError};
use gabion_protocol::ids::{Epoch, Incarnation, ServerId, StateTime};
use gabion_protocol::keys::Identity;
use gabion_protocol::limits::BATCH_ROWS_MAX;
use gabion_protocol::messages::master::{Beat, Damage, Order, OrderDone, Registration, Response};
use gabion_protocol::process::monotonic;

use super::shared::{Master, read_view, row_error};
use super::suspects::ORDERS_MAX;
use crate::state::key::server::Server;
use crate::state::reply::{Outcome, Refusal};
use crate::state::{Command, conditions, merges, read, repair};

impl Master {
    /// Registers a chunkserver under the name it has proven.
    ///
    /// # Errors
    /// The refusal: another directory, an older copy of one, a name taken over; or where the leader is.
    pub(super) async fn register(
        &self,
        identity: &Identity,
        registration: Registration,
    ) -> Result<Response, WireError> {
        let (address, incarnation) = (registration.address.clone(), registration.incarnation);
        let command = Command::RegisterServer {
            name: identity.id.clone(),
            registration,
        };
        match self.propose(&command).await?.into_wire(&command.cannot())? {
            Outcome::Registered { server } => {
                tracing::info!(%server, name = identity.id, address, %incarnation, "chunkserver registered");
                self.fleet.announce();
                Ok(Response::Registered { server })
            }
            other => Err(unexpected(&command, &other)),
        }
    }

    /// Takes a beat in, and gives orders if this master leads.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] if the server must register (again); [`ErrorCode::StaleDirectory`] if its directory
    /// is not the one that is registered.
    pub(super) async fn beat(&self, identity: &Identity, beat: Beat) -> Result<Response, WireError> {
        let server = beat.server;
        let (known, now) = self
            .read_stale(move |view| {
                let known = match conditions::was_removed(view, server)? {
                    true => Known::Removed,
                    false => read::server(view, server)?.map_or(Known::Not, Known::Row),
                };
                Ok((known, read::now(view)?))
            })
            .await?;
        let epoch = self.epoch();
        match known {
            Known::Row(row) => check(identity, &row, server, beat.incarnation)?,
            Known::Removed => {
                let cannot = format!("c{server} ({}) may not serve", identity.id);
                return Err(Refusal::ServerRemoved { server }.to_wire(&cannot));
            }
            Known::Not if epoch.is_some() => return Err(unknown(server)),
            // A follower may lag behind the registration: it takes nothing in and judges nothing.
            Known::Not => {
                return Ok(self.beat_answer(None, now, Vec::new()));
            }
        }
        self.fleet.beat(server, beat.incarnation, beat.load, monotonic());
        if epoch.is_none() {
            return Ok(self.beat_answer(None, now, Vec::new()));
        }
        self.take_note(server, &beat).await?;
        let mut orders = self.verify_orders(server).await?;
        orders.extend(self.orders(server, identity).await?);
        Ok(self.beat_answer(epoch, now, orders))
    }

    fn beat_answer(&self, epoch: Option<Epoch>, now: StateTime, orders: Vec<Order>) -> Response {
        Response::BeatAnswer {
            epoch,
            now,
            orders,
            masters: self.members().into_iter().map(|(_, address)| address).collect(),
        }
    }

    /// Logs what a server removed, and what it found intact or damaged.
    async fn take_note(&self, server: ServerId, beat: &Beat) -> Result<(), WireError> {
        let (mut removed, mut intact) = (Vec::new(), Vec::new());
        for done in &beat.done {
            match done {
                OrderDone::Dropped { chunk, replica } => removed.push((*chunk, *replica)),
                OrderDone::Intact { chunk, replica } => intact.push((*chunk, *replica)),
                OrderDone::Copied { .. } | OrderDone::CopyFailed { .. } | OrderDone::SourceDiffers { .. } => {}
            }
        }
        for done in removed.chunks(BATCH_ROWS_MAX).map(<[_]>::to_vec) {
            self.note(Command::ReplicasDropped { server, done }).await?;
        }
        for intact in intact.chunks(BATCH_ROWS_MAX).map(<[_]>::to_vec) {
            self.note(Command::DamageCleared { server, intact }).await?;
        }
        let others = self.take_builds(&beat.done).await?;
        self.take_copies(server, &others).await?;
        for found in beat.damaged.chunks(BATCH_ROWS_MAX) {
            for Damage { chunk, what, .. } in found {
                tracing::warn!(%server, %chunk, what, "a chunkserver found a damaged copy");
            }
            let found = found.to_vec();
            self.note(Command::DamageFound { server, found }).await?;
            // The chunk has a good copy less: that is looked at now.
            self.repairs.wake();
        }
        Ok(())
    }

    async fn note(&self, command: Command) -> Result<(), WireError> {
        self.propose(&command).await?.into_wire(&command.cannot())?;
        Ok(())
    }

    /// What a server is to remove and to copy. Most of the time nothing, which needs no barrier to know.
    async fn orders(&self, server: ServerId, identity: &Identity) -> Result<Vec<Order>, WireError> {
        let any = self.read_stale(move |view| {
            Ok(!read::drop_orders(view, server, 1)?.is_empty()
                || !repair::copying_on(view, server, 1)?.is_empty()
                || !merges::under_way(view)?.is_empty())
        });
        if !any.await? {
            return Ok(Vec::new());
        }
        let view = self.proven_view().await?;
        let copies = self.copy_orders(server, identity);
        let builds = self.build_orders(server, identity);
        let orders = read_view(view, move |view| {
            let drops = read::drop_orders(view, server, BATCH_ROWS_MAX - ORDERS_MAX).map_err(row_error)?;
            let drop = |(chunk, replica)| Order::Drop { chunk, replica };
            let mut orders: Vec<Order> = drops.into_iter().map(drop).collect();
            orders.extend(copies.of(view).map_err(row_error)?);
            orders.extend(builds.of(view).map_err(row_error)?);
            Ok(orders)
        });
        orders.await
    }
}

/// What the log says of a server that beats.
enum Known {
    Row(Server),
    /// An operator has removed it, or is about to.
    Removed,
    Not,
}

/// Whether the beat comes from the directory that is registered.
pub(super) fn check(
    identity: &Identity,
    row: &Server,
    server: ServerId,
    incarnation: Incarnation,
) -> Result<(), WireError> {
    if row.name != identity.id {
        let message = format!("{identity} beats as c{server}, which is {}", row.name);
        return Err(WireError::new(ErrorCode::WrongRole, message).help("give each chunkserver its own directory"));
    }
    let stale = |why: &str| {
        WireError::new(
            ErrorCode::StaleDirectory,
            format!("c{server} ({}) may not serve: {why}", row.name),
        )
        .help("start it with its newest directory, or with an empty one")
    };
    if row.retired {
        return Err(stale("an empty directory took its name over"));
    }
    if row.incarnation != incarnation {
        return Err(stale("its directory is not the one that is registered"));
    }
    Ok(())
}

pub(super) fn unknown(server: ServerId) -> WireError {
    WireError::new(ErrorCode::NotFound, format!("no chunkserver c{server} is registered"))
        .action(Action::Refresh)
        .help("register (again)")
}

fn unexpected(command: &Command, outcome: &Outcome) -> WireError {
    let message = format!("{}: unexpected outcome {outcome:?}", command.cannot());
    WireError::new(ErrorCode::Internal, message)
}
