//! Hints are followed: each has a test that does what it says, or shows it where there is nothing to do but to correct an input.
//!
//! Invariant: `hints/registry.tsv` has a line for every hint in the sources, with the test; one without a line fails the first test.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

#[path = "hints/commands.rs"]
mod commands;
#[path = "hints/inputs.rs"]
mod inputs;
#[path = "hints/left_out.rs"]
mod left_out;
#[path = "hints/registry.rs"]
mod registry;
