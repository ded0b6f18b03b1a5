//! Hostile members of the account, hosts and clients: what comes from them becomes no path, no command, no signature and nobody's
//! loss. One file per border at which words from outside come in.
//!
//! Tests against the stand-in for EC2 need what `ec2_cluster` needs; those with containers need Docker and `SEPTET_E2E=1`.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "hostile/agent_channel.rs"]
mod agent_channel;
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
#[path = "hostile/openssh.rs"]
mod openssh;
#[path = "hostile/secrets.rs"]
mod secrets;
#[path = "hostile/ssh_server.rs"]
mod ssh_server;
#[path = "hostile/words.rs"]
mod words;
