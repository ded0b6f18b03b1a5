//! The local Docker cluster end to end: the real program, driven as a user drives it, with docker, kcat, kazoo and
//! librdkafka as the judges. One file per theme; each test has its own cluster, directory and state.
//!
//! Needs a Docker daemon and takes minutes, so it asks for `SEPTET_E2E=1`. Also read: `SEPTET_BUNDLE` (directory of the
//! agent, the coordinator and the broker; else they lie beside `septet`) and `SEPTET_TEST_PYTHON` (a python that has
//! kazoo and confluent-kafka; else `python3`).
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "local_cluster/clients.rs"]
mod clients;
#[path = "local_cluster/daemon.rs"]
mod daemon;
#[path = "local_cluster/everyday.rs"]
mod everyday;
#[path = "local_cluster/faults.rs"]
mod faults;
#[path = "local_cluster/harness.rs"]
mod harness;
#[path = "local_cluster/inspect.rs"]
mod inspect;
#[path = "local_cluster/interruptions.rs"]
mod interruptions;
#[path = "local_cluster/lost_data.rs"]
mod lost_data;
#[path = "local_cluster/neighbours.rs"]
mod neighbours;
#[path = "local_cluster/not_running.rs"]
mod not_running;
#[path = "local_cluster/plan_file.rs"]
mod plan_file;
#[path = "local_cluster/rename.rs"]
mod rename;
#[path = "local_cluster/rename_cut_off.rs"]
mod rename_cut_off;
#[path = "local_cluster/repairs.rs"]
mod repairs;
#[path = "local_cluster/restart.rs"]
mod restart;
#[path = "local_cluster/two_users.rs"]
mod two_users;
#[path = "local_cluster/upgrade.rs"]
mod upgrade;
#[path = "local_cluster/upgraded_programs.rs"]
mod upgraded_programs;
#[path = "local_cluster/watch.rs"]
mod watch;
#[path = "local_cluster/writer.rs"]
mod writer;
