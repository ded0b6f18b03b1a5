//! Apache Kafka as the engine, end to end in local containers: the same harness and judges as `local_cluster`, and Kafka's own
//! tools. Archives of 3.9.1 and 4.1.1 are needed: see `support/archives.rs`. Java comes with the node image, from an
//! archive, or from Debian's mirrors where containers reach them.
//!
//! Needs a Docker daemon and takes minutes, so it asks for `SEPTET_E2E=1`.
#![allow(clippy::unwrap_used, missing_docs, dead_code)]

#[path = "support/archives.rs"]
mod archives;
#[path = "apache_cluster/bad_input.rs"]
mod bad_input;
#[path = "local_cluster/clients.rs"]
mod clients;
#[path = "apache_cluster/combined.rs"]
mod combined;
#[path = "local_cluster/harness.rs"]
mod harness;
#[path = "apache_cluster/java.rs"]
mod java;
#[path = "apache_cluster/kraft.rs"]
mod kraft;
#[path = "apache_cluster/metadata_quorum.rs"]
mod metadata_quorum;
#[path = "apache_cluster/steps.rs"]
mod steps;
#[path = "apache_cluster/upgrade.rs"]
mod upgrade;
#[path = "local_cluster/watch.rs"]
mod watch;
#[path = "local_cluster/writer.rs"]
mod writer;
#[path = "apache_cluster/zookeeper.rs"]
mod zookeeper;
