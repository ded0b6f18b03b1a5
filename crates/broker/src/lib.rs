//! The bundled broker: Kafka's protocol, files and znodes.
//!
//! Purpose: serve Kafka's own clients from Kafka's segment files, registered in a ZooKeeper ensemble as Kafka is.
//! Invariant: a record that was acknowledged is in the segment file and found again after kill -9; the bytes of a
//! batch are kept as they came, but for base offset and leader epoch.
//!
//! | module | what it is |
//! |---|---|
//! | [`config`], [`topic_settings`] | `server.properties`, and what topics set otherwise |
//! | [`batch`], [`log`], [`partition`] | record batches, segment files, one partition's state |
//! | [`log_dir`] | whether the log directory can be used |
//! | [`storage`] | the partitions in the log directory, checkpoints, retention |
//! | [`core`] | state machines without IO: replication, elections, the controller's decisions |
//! | [`replica`] | replicas on this broker: fetching, ISR changes, controlled shutdown |
//! | [`groups`] | committed offsets, in `__consumer_offsets` |
//! | [`cluster`] | registration, controller, what is known of topics and brokers |
//! | [`configs`] | settings as administrators see and change them |
//! | [`fetch_sessions`], [`watch`] | what clients fetch, and what is told of changes |
//! | [`metrics`] | what Prometheus gets |
//! | [`records`] | the records in a batch: checked before they are stored |
//! | [`net`], [`wire`], [`handlers`] | connections and their budgets, checking requests, one file per API |

pub mod batch;
pub mod broker;
pub mod cluster;
pub mod config;
pub mod configs;
pub mod core;
pub mod fetch_sessions;
#[doc(hidden)]
pub mod fuzz;
pub mod groups;
pub mod handlers;
pub mod log;
pub mod log_dir;
pub mod metrics;
pub mod net;
pub mod partition;
pub mod records;
pub mod replica;
pub mod storage;
pub mod topic_settings;
pub mod watch;
pub mod wire;
