//! A group as DescribeGroups and ListGroups show it.

use bytes::Bytes;

use super::{Group, State};

/// A group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Description {
    pub state: &'static str,
    pub protocol_type: String,
    /// empty unless the group is stable
    pub protocol: String,
    pub members: Vec<MemberDescription>,
}

impl Description {
    /// Of a group that does not exist.
    pub fn dead() -> Self {
        Self { state: State::Dead.name(), protocol_type: String::new(), protocol: String::new(), members: Vec::new() }
    }
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct MemberDescription {
    pub id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    /// empty unless the group is stable
    pub metadata: Bytes,
    /// empty unless the group is stable
    pub assignment: Bytes,
}

impl Group {
    /// Describes it.
    pub fn describe(&self) -> Description {
        let stable = self.state == State::Stable;
        let protocol = if stable { self.protocol.clone().unwrap_or_default() } else { String::new() };
        let members = self.members.values().map(|m| MemberDescription {
            id: m.id.clone(),
            instance_id: m.instance_id.clone(),
            client_id: m.client_id.clone(),
            client_host: m.client_host.clone(),
            metadata: if stable { m.metadata(&protocol) } else { Bytes::new() },
            assignment: if stable { m.assignment.clone() } else { Bytes::new() },
        });
        let members = members.collect();
        Description { state: self.state.name(), protocol_type: self.protocol_type.clone().unwrap_or_default(), protocol, members }
    }
}
