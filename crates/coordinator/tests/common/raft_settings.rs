//! For tests of the Raft core alone.

use septet_coordinator::raft::Settings;

/// Settings of the core for a server, as the driver has them, but for an end of terms that is far away.
pub fn settings(me: u64) -> Settings {
    Settings {
        me,
        election_ticks: 60,
        lease_ticks: 40,
        heartbeat_ticks: 5,
        max_term: 1_000_000,
        max_message_bytes: 1 << 20,
        max_inflight_bytes: 8 << 20,
        max_uncommitted_bytes: 64 << 20,
    }
}
