//! A session: its state, the protocol of one connection without IO ([`wire`]), and the task that does the IO ([`driver`]).

pub mod driver;
pub mod state;
pub mod wire;
