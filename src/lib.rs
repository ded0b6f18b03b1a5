//! Septet: a real Kafka cluster under your own name.
//!
//! | module | what it is |
//! |---|---|
//! | [`cli`] | one file per command |
//! | [`inventory`], [`yaml`], [`template`] | what the user writes |
//! | [`provider`], [`observed`], [`plan`] | hosts that exist, and the steps to those that are wanted |
//! | [`ssh`] | connections and agents |
//! | [`project`], [`playbook`], [`modules`] | tasks, where they come from and how they run |
//! | [`rolling`] | hosts one after the other, under a gate |
//! | [`engine`], [`releases`] | what is deployed |
//! | [`health`], [`operations`], [`journal`] | whether it works, what the commands do, what they did |
//! | [`events`], [`clock`] | what a run tells, and when |
//! | [`report`], [`error`], [`visible`] | what the user sees, and that a terminal obeys none of it |

pub mod address;
pub mod cli;
pub mod clock;
pub mod engine;
pub mod error;
pub mod events;
pub mod health;
pub mod identity;
pub mod inventory;
pub mod journal;
pub mod modules;
pub mod observed;
pub mod operations;
pub mod plan;
pub mod playbook;
pub mod project;
pub mod provider;
pub mod releases;
pub mod report;
pub mod rolling;
pub mod ssh;
pub mod state;
pub mod stop;
pub mod template;
pub mod visible;
pub mod yaml;
