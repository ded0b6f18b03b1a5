//! Membership of the groups of a shard: join, sync, heartbeat, leave, and what DescribeGroups and ListGroups ask for.

use std::sync::{Arc, atomic::Ordering};

use kafka_protocol::ResponseError;

use super::{
    MAX_GROUPS_BYTES,
    core::{Answer, Description, Effects, Join, Joined, State, Sync, Synced},
    shard::{Hosted, Shard},
};
use crate::warn_quietly;

impl Shard {
    fn has_room(&self, bytes: usize) -> bool {
        let room = self.usage.groups.load(Ordering::Relaxed) + bytes <= MAX_GROUPS_BYTES;
        if !room {
            warn_quietly!("a member of a group is refused: groups take {MAX_GROUPS_BYTES} bytes of memory");
        }
        room
    }

    /// JoinGroup: waits until the next generation begins. A caller that stops waiting leaves the member as it is.
    pub async fn join(self: &Arc<Self>, group: &str, join: Join) -> Joined {
        let id = join.member_id.clone();
        let limits = &self.settings.limits;
        if !(limits.min_session_ms..=limits.max_session_ms).contains(&join.session_timeout_ms) {
            return Joined::error(&id, ResponseError::InvalidSessionTimeout);
        }
        let waiting = {
            let mut inner = match self.active() {
                Ok(inner) => inner,
                Err(e) => return Joined::error(&id, e),
            };
            if !id.is_empty() && !inner.groups.contains_key(group) {
                return Joined::error(&id, ResponseError::UnknownMemberId);
            }
            let bytes: usize = 1000 + join.protocols.iter().map(|(n, m)| 60 + n.len() + m.len()).sum::<usize>();
            let have = inner.groups.get(group).map_or(0, |h| h.group.member_weight(&id));
            // A member that comes back as it was is not refused.
            if bytes > have + 1000 && !self.has_room(bytes) {
                return Joined::error(&id, ResponseError::GroupMaxSizeReached);
            }
            let (token, waiting) = inner.waiter();
            let mut fx = Effects::default();
            self.hosted(&mut inner, group).group.join(token, join, limits, self.now(), &mut fx);
            self.settle(&mut inner, group, fx);
            waiting
        };
        match waiting.await {
            Ok(Answer::Join(joined)) => joined,
            _ => Joined::error(&id, ResponseError::NotCoordinator),
        }
    }

    /// SyncGroup: waits until the leader's assignment is committed.
    pub async fn sync(self: &Arc<Self>, group: &str, sync: Sync) -> Synced {
        let waiting = {
            let mut inner = match self.active() {
                Ok(inner) => inner,
                // What was under way is lost; the member begins at JoinGroup.
                Err(ResponseError::CoordinatorLoadInProgress) => return Synced::error(ResponseError::RebalanceInProgress),
                Err(e) => return Synced::error(e),
            };
            if !inner.groups.contains_key(group) {
                return Synced::error(ResponseError::UnknownMemberId);
            }
            if !self.has_room(sync.assignments.iter().map(|(_, a)| a.len()).sum()) {
                return Synced::error(ResponseError::UnknownServerError);
            }
            let (token, waiting) = inner.waiter();
            let mut fx = Effects::default();
            self.hosted(&mut inner, group).group.sync(token, sync, self.now(), &mut fx);
            self.settle(&mut inner, group, fx);
            waiting
        };
        match waiting.await {
            Ok(Answer::Sync(synced)) => synced,
            _ => Synced::error(ResponseError::NotCoordinator),
        }
    }

    /// Heartbeat.
    pub fn heartbeat(&self, group: &str, member_id: &str, instance_id: Option<&str>, generation: i32) -> Result<(), ResponseError> {
        let mut inner = match self.active() {
            Ok(inner) => inner,
            // The member goes on until it is known whether it may.
            Err(ResponseError::CoordinatorLoadInProgress) => return Ok(()),
            Err(e) => return Err(e),
        };
        let hosted = inner.groups.get_mut(group).ok_or(ResponseError::UnknownMemberId)?;
        hosted.group.heartbeat(member_id, instance_id, generation, self.now())
    }

    /// LeaveGroup: member and instance id of each. Returns the error of each.
    pub fn leave(self: &Arc<Self>, group: &str, members: &[(&str, Option<&str>)]) -> Result<Vec<Option<ResponseError>>, ResponseError> {
        let mut inner = self.active()?;
        let Some(hosted) = inner.groups.get_mut(group) else {
            return Ok(members.iter().map(|_| Some(ResponseError::UnknownMemberId)).collect());
        };
        let (mut fx, now) = (Effects::default(), self.now());
        let limits = &self.settings.limits;
        let errors = members.iter().map(|(id, instance)| hosted.group.leave(id, *instance, limits, now, &mut fx).err()).collect();
        self.settle(&mut inner, group, fx);
        Ok(errors)
    }

    /// DescribeGroups. A group that does not exist is dead.
    pub fn describe(&self, group: &str) -> Result<Description, ResponseError> {
        Ok(self.active()?.groups.get(group).map_or_else(Description::dead, |h| h.group.describe()))
    }

    /// Memory that a group takes, in bytes.
    pub fn weight(&self, group: &str) -> usize {
        self.inner().groups.get(group).map_or(0, |h| h.group_bytes)
    }

    /// All groups: name, protocol type, state. Nothing while they are loaded.
    pub fn list(&self) -> Vec<(String, String, State)> {
        let inner = self.inner();
        let one = |(id, h): (&String, &Hosted)| (id.clone(), h.group.protocol_type().unwrap_or_default().to_owned(), h.group.state());
        inner.groups.iter().map(one).collect()
    }
}
