//! Reads that leave a watch, and watches of their own.

use super::{Client, Result, read_children, read_data};
use crate::{
    error::Error,
    jute::Reader,
    protocol::{Stat, op},
    session::wire::{Answer, WatchRequest},
    watch::{
        AddWatchMode,
        table::Kind,
        watcher::{OneshotWatcher, PersistentWatcher},
    },
};

impl Client {
    /// Sends a read with its watch flag set.
    async fn watching(&self, op: i32, path: &str, kind: Kind) -> Result<Answer> {
        let path = self.root.absolute(path)?;
        let watch = Some(WatchRequest { kind, path: path.clone() });
        self.request(op, watch, |w| w.string(&path).bool(true)).await
    }

    fn oneshot(&self, answer: &mut Answer) -> Result<OneshotWatcher> {
        // Without an error there is one; see `Wire::answer`.
        let handle = answer.watch.take().ok_or(Error::ConnectionLoss)?;
        Ok(OneshotWatcher::new(handle, self.root.clone()))
    }

    /// As [`Client::get_data`], with a watch for a change of the data or the deletion of the node.
    pub async fn get_and_watch_data(&self, path: &str) -> Result<(Vec<u8>, Stat, OneshotWatcher)> {
        let mut answer = ok(self.watching(op::GET_DATA, path, Kind::Data).await?)?;
        let (data, stat) = read_data(&mut Reader(&answer.body))?;
        Ok((data, stat, self.oneshot(&mut answer)?))
    }

    /// As [`Client::check_stat`], with a watch for the creation, a change of the data, or the deletion of the node.
    pub async fn check_and_watch_stat(&self, path: &str) -> Result<(Option<Stat>, OneshotWatcher)> {
        let mut answer = self.watching(op::EXISTS, path, Kind::Exist).await?;
        if answer.err == Error::NoNode.code() {
            return Ok((None, self.oneshot(&mut answer)?));
        }
        let mut answer = ok(answer)?;
        let stat = Stat::read(&mut Reader(&answer.body))?;
        Ok((Some(stat), self.oneshot(&mut answer)?))
    }

    /// As [`Client::list_children`], with a watch for a change of the list or the deletion of the node.
    pub async fn list_and_watch_children(&self, path: &str) -> Result<(Vec<String>, OneshotWatcher)> {
        let (children, _, watcher) = self.get_and_watch_children(path).await?;
        Ok((children, watcher))
    }

    /// As [`Client::get_children`], with a watch for a change of the list or the deletion of the node.
    pub async fn get_and_watch_children(&self, path: &str) -> Result<(Vec<String>, Stat, OneshotWatcher)> {
        let mut answer = ok(self.watching(op::GET_CHILDREN2, path, Kind::Child).await?)?;
        let (children, stat) = read_children(&mut Reader(&answer.body))?;
        Ok((children, stat, self.oneshot(&mut answer)?))
    }

    /// Watches a node that need not exist, until the watcher is dropped (addWatch, since ZooKeeper 3.6).
    ///
    /// A server keeps one mode per session and path: the later of two watches with different modes on one path replaces the other
    /// (ZOOKEEPER-4466). One-shot watches may be set on the same path.
    pub async fn watch(&self, path: &str, mode: AddWatchMode) -> Result<PersistentWatcher> {
        let path = self.root.absolute(path)?;
        let (kind, code) = match mode {
            AddWatchMode::Persistent => (Kind::Persistent, 0),
            AddWatchMode::PersistentRecursive => (Kind::Recursive, 1),
        };
        let watch = Some(WatchRequest { kind, path: path.clone() });
        let mut answer = ok(self.request(op::ADD_WATCH, watch, |w| w.string(&path).int(code)).await?)?;
        let handle = answer.watch.take().ok_or(Error::ConnectionLoss)?;
        Ok(PersistentWatcher::new(handle, self.root.clone()))
    }
}

fn ok(answer: Answer) -> Result<Answer> {
    if answer.err == 0 { Ok(answer) } else { Err(Error::from_code(answer.err)) }
}
