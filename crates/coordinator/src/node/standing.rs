//! Whether this server has a vote, and how an ensemble is formed for the first time.
//!
//! A server whose directory is blank does not know whether it is new, or lost what it had acknowledged. In an ensemble
//! that has data it has no vote, as a voter or as a candidate, until it has all that was committed when it came: what
//! it lost could otherwise be outvoted. A new ensemble is formed only when each server of `zoo.cfg` has said that it
//! has nothing either, and that it would form the same one.
//!
//! Invariant: the file `joining` is there from before the first message of Raft until the server has caught up.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{Node, consensus::Input};
use crate::{
    peer::{Ask, Peer},
    storage::{StorageFault, at, sync_parent},
};

const STATUS_TIMEOUT: Duration = Duration::from_secs(1);
/// A question that cannot be answered yet is repeated after this.
const PAUSE: Duration = Duration::from_millis(300);

/// Time after which a server that cannot catch up says so, and again six times as late.
const LINE_PAUSE: Duration = Duration::from_secs(10);

/// This server's part in elections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// blank, and it is not known yet whether the ensemble has data
    Undecided,
    /// blank at its start in an ensemble that has data: no vote before it has caught up
    Joining,
    /// has a vote
    Full,
}

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// whether there are entries behind the first, or it knows of a server that has some
    pub formed: bool,
    /// its directory was blank, and it has not caught up since
    pub blank: bool,
    /// the voters of its zoo.cfg: those of the ensemble that it would form
    pub voters: BTreeSet<u64>,
}

fn listed(voters: &BTreeSet<u64>) -> String {
    voters.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

/// The mark of a server that was blank at its start.
#[derive(Debug)]
pub(super) struct Mark(PathBuf);

impl Mark {
    /// Marks a directory that is blank; says whether it is marked, now or since an earlier start.
    pub fn set(dir: &Path) -> Result<(Self, bool), StorageFault> {
        let mark = Self(dir.join("joining"));
        fs::create_dir_all(dir).map_err(at(dir))?;
        let mut blank = true;
        for entry in fs::read_dir(dir).map_err(at(dir))? {
            let name = entry.map_err(at(dir))?.file_name();
            let name = name.to_string_lossy();
            blank &= !(name == "vote" || name == "purged" || name == "snapshot" || name.starts_with("log."));
        }
        if blank && !mark.0.exists() {
            File::create(&mark.0).and_then(|f| f.sync_all()).and_then(|()| sync_parent(&mark.0)).map_err(at(&mark.0))?;
        }
        let marked = mark.0.exists();
        Ok((mark, marked))
    }

    fn remove(&self) -> std::io::Result<()> {
        match fs::remove_file(&self.0) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
            _ => sync_parent(&self.0),
        }
    }
}

impl Node {
    /// This server's part in elections.
    pub fn standing(&self) -> Standing {
        *self.standing.borrow()
    }

    /// What other servers are told.
    pub(super) fn status(&self) -> Status {
        let has_entries = self.view().status.last.index > 0;
        Status {
            formed: has_entries || self.standing() == Standing::Joining,
            blank: self.standing() != Standing::Full,
            voters: self.config.membership().voters,
        }
    }

    /// Finds this server's standing, and forms the ensemble if it is new.
    pub(super) async fn settle(self: Arc<Self>) {
        if self.standing() == Standing::Undecided {
            if self.learn_whether_formed().await {
                tracing::info!("this server's directory was blank and the ensemble has data: no vote before it has caught up");
                self.standing.send_replace(Standing::Joining);
            } else {
                self.take_vote().await;
            }
        }
        if self.standing() == Standing::Joining {
            self.wait_until_caught_up().await;
            tracing::info!("caught up with the ensemble: this server votes");
            self.take_vote().await;
        }
        self.form_ensemble().await;
    }

    /// Asks the others until one has data, or all have said that they have none and would form the same ensemble: two different ones could
    /// each find a majority.
    async fn learn_whether_formed(&self) -> bool {
        let mine = self.config.membership().voters;
        let mut logged = Vec::new();
        loop {
            let ask = |(id, peer): (u64, Peer)| (id, tokio::spawn(async move { peer.call::<Status>(&Ask::Status, STATUS_TIMEOUT).await }));
            let asked: Vec<_> = self.peers.all().into_iter().map(ask).collect();
            let mut silent = Vec::new();
            for (id, answer) in asked {
                match answer.await {
                    Ok(Ok(status)) if status.formed => return true,
                    Ok(Ok(status)) if status.voters != mine => {
                        silent.push(format!(
                            "server.{id}, whose zoo.cfg has the voters {} and not {}",
                            listed(&status.voters),
                            listed(&mine)
                        ));
                    }
                    Ok(Ok(_)) => {}
                    // What observers have, voters have.
                    _ if self.config.members.get(&id).is_some_and(|m| m.observer) => {}
                    _ => silent.push(format!("server.{id}")),
                }
            }
            // A leader may have written here meanwhile.
            if self.status().formed {
                return true;
            }
            if silent.is_empty() {
                return false;
            }
            if silent != logged {
                tracing::info!(
                    "this server's directory is blank; a new ensemble is formed once all answer and agree on it: waiting for {}",
                    silent.join(", ")
                );
                logged = silent;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Until this server has applied all that was committed at some time since it started.
    async fn wait_until_caught_up(&self) {
        let mut next_line = Instant::now() + LINE_PAUSE;
        while let Err(e) = self.catch_up().await {
            if Instant::now() > next_line {
                tracing::warn!(
                    "this server was blank and cannot catch up ({e}), so it has no vote (hint: start the servers that have data; if this one \
                     is new, restart them one at a time with its line server.{} in their zoo.cfg; if they are no majority, stop all and \
                     copy version-2 from the one with the newest data to a blank one)",
                    self.config.id
                );
                next_line += 6 * LINE_PAUSE;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn take_vote(&self) {
        while let Err(e) = self.mark.remove() {
            tracing::error!("{}: {e}", self.mark.0.display());
            tokio::time::sleep(PAUSE).await;
        }
        self.consensus.tell(Input::Voting);
        self.standing.send_replace(Standing::Full);
    }

    /// The first formation. All servers take the same one, so it does not matter which of them is elected. The log takes nothing more
    /// once a write to it failed: the server ends then, as for any other, and waits for room when it is started again.
    async fn form_ensemble(&self) {
        if !self.view().status.blank {
            return;
        }
        let membership = self.config.membership();
        if let Err(e) = self.log.form(membership.clone()).await {
            return self.consensus.tell(Input::Failed(format!("the ensemble cannot be formed: {e}")));
        }
        self.machine.form(membership.clone());
        self.consensus.tell(Input::Form(membership));
    }
}
