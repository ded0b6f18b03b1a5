//! EC2 end to end: the real program against a stand-in for EC2's API (`ec2_cloud`), which keeps the log of all calls, orders
//! faults, and shows what there is. One file per theme; each test has a cloud, directories and state of its own.
//!
//! Needs a Python with the stand-in's requirements: `SEPTET_TEST_EC2_PYTHON`, or the one that `scripts/setup test` makes. Without
//! one the tests are skipped, and say so. Where instances are containers it also needs a Docker daemon and asks for
//! `SEPTET_E2E=1`; see `local_cluster` for what else is read then.
//!
//! Without containers nobody answers at the instances' addresses. Where no host has a public address and one is to be connected
//! to, `up` makes all seven and ends with just that error: so it is driven here, unless a test says otherwise.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "ec2_cluster/as_aws.rs"]
mod as_aws;
#[path = "ec2_cluster/asked.rs"]
mod asked;
#[path = "ec2_cluster/before.rs"]
mod before;
#[path = "ec2_cluster/capacity.rs"]
mod capacity;
#[allow(dead_code)]
#[path = "local_cluster/clients.rs"]
mod clients;
#[path = "ec2_cluster/cloud.rs"]
mod cloud;
#[path = "ec2_cluster/cluster.rs"]
mod cluster;
#[path = "ec2_cluster/data_volume.rs"]
mod data_volume;
#[path = "ec2_cluster/faults.rs"]
mod faults;
#[path = "ec2_cluster/followed.rs"]
mod followed;
#[allow(dead_code)]
#[path = "local_cluster/harness.rs"]
mod harness;
#[path = "ec2_cluster/holds.rs"]
mod holds;
#[path = "ec2_cluster/kills.rs"]
mod kills;
#[path = "ec2_cluster/lease.rs"]
mod lease;
#[path = "ec2_cluster/pages.rs"]
mod pages;
#[path = "ec2_cluster/paired.rs"]
mod paired;
#[path = "ec2_cluster/permissions.rs"]
mod permissions;
#[path = "ec2_cluster/proxy.rs"]
mod proxy;
#[path = "ec2_cluster/removal.rs"]
mod removal;
#[path = "ec2_cluster/rules.rs"]
mod rules;
