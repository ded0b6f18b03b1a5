//! The cluster as the coordinator holds it, under Kafka's znode paths.
//!
//! Invariant: what this broker believes is an [`Image`], replaced as a whole; the coordinator is the authority.

mod controller;
pub mod deletion;
mod follower;
mod image;
pub mod producer_ids;
pub mod quota;
mod session;
pub mod topic_ids;
pub mod topics;

pub use image::{BrokerInfo, Image, PartitionInfo, TopicInfo};
pub use session::{leave, run};

/// Paths, as Kafka's ZkData.scala has them; `SIGNAL` is our own.
pub mod path {
    #![allow(missing_docs)]
    pub const BROKER_IDS: &str = "/brokers/ids";
    pub const TOPICS: &str = "/brokers/topics";
    pub const CONTROLLER: &str = "/controller";
    pub const CONTROLLER_EPOCH: &str = "/controller_epoch";
    pub const CLUSTER_ID: &str = "/cluster/id";
    pub const DELETE_TOPICS: &str = "/admin/delete_topics";
    pub const CONFIG_TOPICS: &str = "/config/topics";
    pub const PRODUCER_IDS: &str = "/latest_producer_id_block";
    /// Written by the controller after it changed a partition's state, so that one watch tells of all of them.
    pub const SIGNAL: &str = "/septet_state_changes";
    /// Made at the start, as Kafka makes them.
    pub const PERSISTENT: &[&str] = &[
        "/consumers",
        BROKER_IDS,
        TOPICS,
        "/config/changes",
        DELETE_TOPICS,
        "/brokers/seqid",
        "/isr_change_notification",
        PRODUCER_IDS,
        "/log_dir_event_notification",
        CONFIG_TOPICS,
        "/config/clients",
        "/config/users",
        "/config/brokers",
        SIGNAL,
    ];
}
