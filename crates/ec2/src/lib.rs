//! What Septet asks of EC2, and nothing more: a typed client over the AWS SDK.
//!
//! It is a crate of its own because the SDK takes minutes to build and its types are many: here they end. Whoever uses this crate
//! sees plain values, one kind of error, and calls that all have a time limit.
//!
//! Invariants: no call waits without an end; a call that creates something carries its tags in itself; a call that has no client
//! token of its own is not repeated blindly, its caller looks first whether it has happened.

mod client;
mod describe;
mod error;
mod instances;
mod model;
mod network;
mod preflight;

pub use client::{Client, Settings, Stats};
pub use error::ApiError;
pub use model::{
    Filter, Gateway, Group, Image, Instance, InstanceState, Interface, KeyPair, Launch, NewVolume, Offering, RouteTable, Rule, RuleSource,
    Subnet, Tags, TypeInfo, Volume, Vpc, filter, tag_filter,
};
pub use preflight::Identity;
