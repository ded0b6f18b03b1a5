//! The peers as Raft calls them.

use std::{collections::BTreeMap, io, time::Duration};

use openraft::{
    BasicNode, SnapshotSegmentId, Vote,
    error::{Infallible, InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, SnapshotMismatch, Unreachable},
    network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory},
    raft::{AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest, VoteResponse},
};
use serde::de::DeserializeOwned;

use crate::{
    peer::{Ask, Peer, check},
    storage::TypeConfig,
    throttle::Throttle,
};

/// All peers by number.
#[derive(Clone)]
pub struct Network(pub BTreeMap<u64, Peer>);

/// One peer.
pub struct Target {
    id: u64,
    peer: Option<Peer>,
    refusals: Throttle,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Target;
    async fn new_client(&mut self, target: u64, _: &BasicNode) -> Target {
        Target { id: target, peer: self.0.get(&target).cloned(), refusals: Throttle::default() }
    }
}

type Rpc<E = Infallible> = RPCError<u64, BasicNode, RaftError<u64, E>>;

impl Target {
    async fn call<T: DeserializeOwned, E: std::error::Error>(&self, ask: Ask, ttl: Duration) -> Result<T, Rpc<E>> {
        let Some(peer) = &self.peer else {
            return Err(Unreachable::new(&io::Error::other(format!("server.{} is not in zoo.cfg", self.id))).into());
        };
        match peer.call(&ask, ttl).await {
            Ok(answer) => Ok(answer),
            Err(e) if e.kind() == io::ErrorKind::TimedOut => Err(NetworkError::new(&e).into()),
            Err(e) => Err(Unreachable::new(&e).into()),
        }
    }

    /// An answer that must not reach Raft.
    fn checked(&self, checked: Result<(), String>) -> Result<(), NetworkError> {
        checked.map_err(|e| {
            self.refusals.warn(|| format!("refused an answer of server.{}: {e}", self.id));
            NetworkError::new(&io::Error::other(e))
        })
    }
}

impl RaftNetwork<TypeConfig> for Target {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Rpc> {
        let sent = rpc.vote;
        // A follower may be syncing a large batch: the heartbeat interval, which openraft allows, is too short.
        let answer = self.call(Ask::Append(rpc), option.hard_ttl().max(Duration::from_secs(2))).await?;
        self.checked(check::append_answer(&answer, &sent))?;
        Ok(answer)
    }
    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Rpc<InstallSnapshotError>> {
        let (sent, at) = (rpc.vote, SnapshotSegmentId { id: rpc.meta.snapshot_id.clone(), offset: rpc.offset });
        match self.call::<Option<Vote<u64>>, _>(Ask::Snapshot(rpc), option.hard_ttl()).await? {
            Some(vote) => {
                self.checked(check::higher_vote(&vote, &sent))?;
                Ok(InstallSnapshotResponse { vote })
            }
            None => {
                let expect = SnapshotSegmentId { id: at.id.clone(), offset: 0 };
                let again = InstallSnapshotError::SnapshotMismatch(SnapshotMismatch { expect, got: at });
                Err(RPCError::RemoteError(RemoteError::new(self.id, RaftError::APIError(again))))
            }
        }
    }
    async fn vote(&mut self, rpc: VoteRequest<u64>, option: RPCOption) -> Result<VoteResponse<u64>, Rpc> {
        let sent = rpc.vote;
        let answer = self.call(Ask::Vote(rpc), option.hard_ttl()).await?;
        self.checked(check::vote_answer(&answer, &sent))?;
        Ok(answer)
    }
    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(Duration::from_millis(100)))
    }
}
