//! Entries on their way to other servers, some of which have to be read from files.
//!
//! Invariant: of two messages with entries for the same server, the one that was asked for first is sent first. A server that gets the
//! later one first lacks what is before it, refuses it, and is asked from the beginning what it has.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::mpsc;

use super::consensus::Input;
use crate::{
    peer::{Ask, Book},
    raft::{Entry, EntryId, Message},
    storage::LogStore,
};

/// Makes a message of entries.
type Make = Box<dyn FnOnce(Vec<Entry>) -> Message + Send>;

struct Reading {
    from: u64,
    last: EntryId,
    make: Make,
}

/// The way to one server: what is read for it, one after the other.
struct Way {
    queue: mpsc::UnboundedSender<Reading>,
    /// what was asked for and is not sent yet
    waiting: Arc<AtomicUsize>,
}

/// Sends entries to other servers. How many wait is bounded by what the core lets be under way.
pub(super) struct Outgoing {
    log: LogStore,
    peers: Arc<Book>,
    inputs: mpsc::UnboundedSender<Input>,
    ways: BTreeMap<u64, Way>,
}

impl Outgoing {
    pub(super) fn new(log: LogStore, peers: Arc<Book>, inputs: mpsc::UnboundedSender<Input>) -> Self {
        Self { log, peers, inputs, ways: BTreeMap::new() }
    }

    /// Whether entries for a server are asked for and not sent yet.
    pub(super) fn is_reading(&self, to: u64) -> bool {
        self.ways.get(&to).is_some_and(|way| way.waiting.load(Ordering::Acquire) > 0)
    }

    /// Sends the entries from an index up to an entry. They are dropped where others have taken their place, or a snapshot.
    pub(super) fn send(&mut self, to: u64, from: u64, last: EntryId, make: impl FnOnce(Vec<Entry>) -> Message + Send + 'static) {
        let way = self.ways.entry(to).or_insert_with(|| {
            let (queue, asked) = mpsc::unbounded_channel();
            let waiting = Arc::new(AtomicUsize::new(0));
            tokio::spawn(read(to, self.log.clone(), self.peers.clone(), self.inputs.clone(), asked, waiting.clone()));
            Way { queue, waiting }
        });
        if way.waiting.load(Ordering::Acquire) == 0
            && let Some(entries) = self.log.in_memory(from, last)
        {
            if let Some(peer) = self.peers.get(to) {
                peer.send(&Ask::Raft(make(entries)));
            }
            return;
        }
        way.waiting.fetch_add(1, Ordering::AcqRel);
        let _ = way.queue.send(Reading { from, last, make: Box::new(make) });
    }
}

/// Reads and sends what one server is to get, until nobody asks any more.
async fn read(
    to: u64,
    log: LogStore,
    peers: Arc<Book>,
    inputs: mpsc::UnboundedSender<Input>,
    mut asked: mpsc::UnboundedReceiver<Reading>,
    waiting: Arc<AtomicUsize>,
) {
    while let Some(Reading { from, last, make }) = asked.recv().await {
        let log = log.clone();
        let found = tokio::task::spawn_blocking(move || log.read(from..=last.index, usize::MAX)).await;
        match found.map_err(std::io::Error::other).flatten() {
            Ok(entries) if entries.last().is_some_and(|e| e.id == last) && entries[0].id.index == from => {
                if let Some(peer) = peers.get(to) {
                    peer.send(&Ask::Raft(make(entries)));
                }
            }
            Ok(_) => {}
            Err(e) => drop(inputs.send(Input::Failed(e.to_string()))),
        }
        waiting.fetch_sub(1, Ordering::AcqRel);
    }
}
