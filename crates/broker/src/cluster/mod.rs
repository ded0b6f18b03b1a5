//! The cluster as the coordinator holds it, under Kafka's znode paths.
//!
//! Invariant: what this broker believes is an [`Image`], replaced as a whole; the coordinator is the authority.

pub mod config_changes;
pub mod control;
pub mod controller;
pub mod deletion;
mod election;
pub(crate) mod image;
pub mod partitions;
pub mod producer_ids;
pub mod quota;
mod session;
pub mod topic_configs;
pub mod topic_ids;
pub mod topics;
mod watched;

pub use image::{BrokerInfo, Image, PartitionInfo, TopicInfo};
pub use session::{leave, run, update_registration};

/// Paths, as Kafka's ZkData.scala has them.
pub mod path {
    #![allow(missing_docs)]
    pub const BROKER_IDS: &str = "/brokers/ids";
    pub const TOPICS: &str = "/brokers/topics";
    pub const CONTROLLER: &str = "/controller";
    pub const CONTROLLER_EPOCH: &str = "/controller_epoch";
    pub const CLUSTER_ID: &str = "/cluster/id";
    pub const DELETE_TOPICS: &str = "/admin/delete_topics";
    pub const CONFIG_TOPICS: &str = "/config/topics";
    pub const LOG_DIR_EVENTS: &str = "/log_dir_event_notification";
    pub const LOG_DIR_EVENT: &str = "log_dir_event_";
    pub const PRODUCER_IDS: &str = "/latest_producer_id_block";
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
        LOG_DIR_EVENTS,
        CONFIG_TOPICS,
        "/config/clients",
        "/config/users",
        "/config/brokers",
    ];
}
