//! What this server answers to others.
//!
//! Invariant: Raft sees no message that [`check`] refuses, and no snapshot that does not decode.

use tokio::sync::OwnedSemaphorePermit;

use super::{Node, consensus::Input};
use crate::{
    peer::{Ask, Serve, check},
    raft::Message,
};

fn encoded<T: serde::Serialize>(answer: Result<T, String>) -> Vec<u8> {
    postcard::to_stdvec(&answer).unwrap_or_default()
}

impl Serve for Node {
    fn lost(&self, server: u64) {
        self.consensus.tell(Input::Lost(server));
    }

    fn deliver(&self, from: u64, message: Message, held: OwnedSemaphorePermit) -> Result<(), String> {
        let term = self.consensus.view.borrow().status.term;
        if let Err(e) = check::message(from, &message, term, &self.log) {
            self.refusals.warn(|| format!("refused a message of server.{from}: {e}"));
            return Err(format!("refused: {e}"));
        }
        self.consensus.tell(Input::Message(from, message, held));
        Ok(())
    }

    async fn serve(&self, from: u64, ask: Ask) -> Vec<u8> {
        let term = self.consensus.view.borrow().status.term;
        let checked = match &ask {
            Ask::Snapshot(part) => check::snapshot(part, term),
            Ask::Propose { commands, .. } => check::proposal(from, commands),
            Ask::Touch(sessions) => check::sessions(sessions),
            Ask::Raft(_) | Ask::ReadIndex | Ask::Status | Ask::Target(_) => Ok(()),
        };
        if let Err(e) = checked {
            self.refusals.warn(|| format!("refused a message of server.{from}: {e}"));
            return encoded::<()>(Err(format!("refused: {e}")));
        }
        match ask {
            // Delivered in their order instead.
            Ask::Raft(_) => encoded::<()>(Err("refused: out of order".into())),
            Ask::Status => encoded(Ok(self.status())),
            Ask::Snapshot(part) => encoded(self.receive_snapshot(from, part).await),
            Ask::Propose { term, commands } => encoded(self.commit(term, commands).await),
            Ask::Target(lines) => encoded(self.take_target(from, &lines)),
            Ask::ReadIndex => encoded(self.consensus.read_index().await),
            Ask::Touch(sessions) => {
                // Only a leader ever forgets them; whoever asks another keeps them for the next.
                if !self.is_leader() {
                    return encoded::<()>(Err("this server does not lead".into()));
                }
                self.hear(sessions);
                encoded(Ok(()))
            }
        }
    }
}
