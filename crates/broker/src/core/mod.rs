//! Pure state machines: replication of a partition, the controller's decisions, assignment of replicas.
//!
//! Invariant: nothing here does IO or reads a clock. Time comes in as milliseconds, IO is done before an input is given,
//! and what is to be done comes out as a value; so a test can replay a seed.

pub mod assignment;
pub mod controller;
pub mod elections;
pub mod partition;
pub mod quota;
pub mod read_replica;
