//! Linearizable reads: many wait for one round of answers by which a majority confirms the leader.
//!
//! Invariant: a read is answered with the commit index as it was when its round began, which was after the read came,
//! and only after a majority has answered that round.

use super::{Command, Raft, Role};

#[derive(Debug, Default)]
pub(super) struct Reads {
    /// came since the round began
    waiting: Vec<u64>,
    /// round, commit index at its beginning, reads
    active: Option<(u64, u64, Vec<u64>)>,
}

impl Raft {
    /// A read; [`Command::Read`] names its index, or says that it failed.
    pub fn read(&mut self, token: u64) {
        if self.role != Role::Leader {
            self.out.push(Command::Read { token, index: None });
            return;
        }
        self.reads.waiting.push(token);
        self.begin_round();
    }

    /// Begins a round if there are reads for it and none is under way. What earlier leaders committed is known only
    /// once an entry of this term is committed.
    pub(super) fn begin_round(&mut self) {
        if self.reads.active.is_some() || self.reads.waiting.is_empty() || !self.committed_in_own_term() {
            return;
        }
        self.round += 1;
        self.reads.active = Some((self.round, self.commit, std::mem::take(&mut self.reads.waiting)));
        self.send_round();
        self.end_round();
    }

    /// Answers the reads of a round that a majority has confirmed.
    pub(super) fn end_round(&mut self) {
        while let Some((round, index, _)) = self.reads.active {
            let confirmed = |id: &u64| *id == self.me || self.progress.get(id).is_some_and(|p| p.voting && p.round >= round);
            if self.voters().filter(confirmed).count() < self.quorum() {
                return;
            }
            let tokens = self.reads.active.take().map_or_else(Vec::new, |(_, _, tokens)| tokens);
            self.out.extend(tokens.into_iter().map(|token| Command::Read { token, index: Some(index) }));
            self.begin_round();
        }
    }

    pub(super) fn fail_reads(&mut self) {
        let Reads { waiting, active } = std::mem::take(&mut self.reads);
        let tokens = active.into_iter().flat_map(|(_, _, tokens)| tokens).chain(waiting);
        self.out.extend(tokens.map(|token| Command::Read { token, index: None }));
    }
}
