//! Hostile hosts, members of the account and clients: what comes from them becomes no path, no command and no signature. One file
//! per theme.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "hostile/agent_channel.rs"]
mod agent_channel;
#[path = "hostile/openssh.rs"]
mod openssh;
#[path = "hostile/ssh_server.rs"]
mod ssh_server;
#[path = "hostile/words.rs"]
mod words;
