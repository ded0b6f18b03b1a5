//! Containers and nodes with a TTL: when they go.
//!
//! Invariant: only the leader decides that one is due, by its own clock, in an entry that names its term; whether it
//! still is due is decided again where that is applied, by the time in the entry, so all servers decide alike.

use std::{sync::Arc, time::Duration};

use super::{Node, locked, now_ms};
use crate::state::Ask;

/// Removals of one entry.
const MAX_REMOVALS: usize = 100;

impl Node {
    /// Looks for nodes that are due, from time to time, as ContainerManager of ZooKeeper does.
    pub(super) async fn collect_containers(self: Arc<Self>) {
        let settings = self.config.containers;
        let each = Duration::from_micros(60_000_000 / settings.max_per_minute.max(1));
        loop {
            tokio::time::sleep(Duration::from_millis(settings.check_interval_ms)).await;
            if !self.is_leader() || !self.is_serving() {
                continue;
            }
            let due = locked(&self.state).tree.due(now_ms(), settings.max_never_used_ms);
            for part in due.chunks(MAX_REMOVALS) {
                if !self.is_leader() {
                    break;
                }
                let order = self.order.lock().await;
                let term = self.view().status.term;
                let ask = |path: &String| Ask::Collect { path: path.clone(), never_used_ms: settings.max_never_used_ms, term };
                let commands = part.iter().map(|path| self.own_command(ask(path))).collect();
                if let Err(e) = self.append(order, term, commands).await {
                    tracing::warn!("the end of containers is not known to be committed: {e}");
                    break;
                }
                tokio::time::sleep(each * part.len() as u32).await;
            }
        }
    }
}
