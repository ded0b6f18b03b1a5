//! What others may do: tags and labels of a hostile member of the account, hosts that are not what they say, secrets that others
//! could read. One file per border at which words from outside come in.
//!
//! Tests against the stand-in for EC2 need what `ec2_cluster` needs; those with containers need Docker and `SEPTET_E2E=1`.
#![allow(clippy::unwrap_used, missing_docs)]

#[allow(dead_code)]
#[path = "ec2_cluster/cloud.rs"]
mod cloud;
#[allow(dead_code)]
#[path = "ec2_cluster/cluster.rs"]
mod cluster;
#[path = "hostile/docker_labels.rs"]
mod docker_labels;
#[path = "hostile/ec2_tags.rs"]
mod ec2_tags;
#[path = "hostile/hardening.rs"]
mod hardening;
#[allow(dead_code)]
#[path = "local_cluster/harness.rs"]
mod harness;
#[path = "hostile/secrets.rs"]
mod secrets;
