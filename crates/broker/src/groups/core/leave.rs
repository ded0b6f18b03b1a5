//! LeaveGroup, and the end of a group.

use kafka_protocol::ResponseError;

use super::{Effects, Group, Limits, Now, State};

impl Group {
    /// Takes one member out that LeaveGroup names. Without a member id it is an administrator's, by the instance id.
    pub fn leave(
        &mut self,
        member_id: &str,
        instance_id: Option<&str>,
        limits: &Limits,
        now: Now,
        fx: &mut Effects,
    ) -> Result<(), ResponseError> {
        if self.state == State::Dead {
            return Err(ResponseError::CoordinatorNotAvailable);
        }
        let id = match member_id {
            "" => instance_id.and_then(|i| self.statics.get(i)).cloned().ok_or(ResponseError::UnknownMemberId)?,
            id if self.pending.contains_key(id) => {
                self.pending.remove(id);
                self.complete_if_all_joined(now, fx);
                return Ok(());
            }
            id => {
                self.check_member(id, instance_id)?;
                id.to_owned()
            }
        };
        self.remove_and_rebalance(&id, limits, now, fx);
        Ok(())
    }

    /// DeleteGroups: only a group without members. It is dead then.
    pub fn delete(&mut self, now: Now, fx: &mut Effects) -> Result<(), ResponseError> {
        match self.state {
            State::Empty => {
                self.unload(ResponseError::CoordinatorNotAvailable, now, fx);
                Ok(())
            }
            State::Dead => Err(ResponseError::GroupIdNotFound),
            _ => Err(ResponseError::NonEmptyGroup),
        }
    }
}
