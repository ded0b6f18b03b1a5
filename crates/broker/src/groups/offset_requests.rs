//! Offsets of the groups of a shard: commit, fetch, deletion and expiry.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, atomic::Ordering},
};

use kafka_protocol::ResponseError;

use super::{
    MAX_OFFSETS_BYTES,
    core::{Effects, Offsets, Place, State},
    shard::{Hosted, Inner, Shard, offset_error},
    value::{Commit, Entry, Key},
};
use crate::warn_quietly;

/// Tombstones of one batch, at the most.
const TOMBSTONES: usize = 1000;

/// Who commits: without a generation (-1), somebody who assigns partitions without the group.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)]
pub struct Committer {
    pub generation: i32,
    pub member_id: String,
    pub instance_id: Option<String>,
}

impl Committer {
    /// Without membership.
    pub fn simple() -> Self {
        Self { generation: -1, ..Self::default() }
    }
}

impl Shard {
    /// OffsetCommit. Goes on when the caller stops waiting.
    pub async fn commit(self: &Arc<Self>, group: &str, who: &Committer, commits: Vec<(String, i32, Commit)>) -> Result<(), ResponseError> {
        let at = {
            let mut inner = self.active()?;
            let now = self.now();
            match inner.groups.get_mut(group) {
                Some(hosted) => hosted.group.check_commit(&who.member_id, who.instance_id.as_deref(), who.generation, now)?,
                None if who.generation >= 0 => return Err(ResponseError::IllegalGeneration),
                None => {}
            }
            if commits.is_empty() {
                return Ok(());
            }
            self.check_room(&inner, group, &commits)?;
            let key = |topic: &String, partition: i32| Key { group: group.to_owned(), topic: topic.clone(), partition };
            let entries: Vec<Entry> = commits.iter().map(|(t, p, c)| Entry::Offset(key(t, *p), Some(c.clone()))).collect();
            let at = self.append(&mut inner, &entries).map_err(offset_error)?;
            let hosted = self.hosted(&mut inner, group);
            // Each with the offset of its own record: of two for one partition, the later one in the log stays.
            for (i, (topic, partition, _)) in (at..).zip(&commits) {
                hosted.offsets.appended(&(topic.clone(), *partition), i);
            }
            at
        };
        let (this, group) = (self.clone(), group.to_owned());
        // A task of its own: what was appended becomes visible also if the client has gone.
        let waiting = tokio::spawn(async move {
            let result = this.committed(at + commits.len() as i64).await;
            if let Err(e) = result {
                this.failed_to_commit(e);
            }
            let mut inner = this.active()?;
            if let Some(hosted) = inner.groups.get_mut(&group) {
                for (i, (topic, partition, commit)) in (at..).zip(commits) {
                    hosted.offsets.completed(&(topic, partition), i, commit, result.is_ok());
                }
                this.settle(&mut inner, &group, Effects::default());
            }
            result.map_err(offset_error)
        });
        waiting.await.unwrap_or(Err(ResponseError::UnknownServerError))
    }

    fn check_room(&self, inner: &Inner, group: &str, commits: &[(String, i32, Commit)]) -> Result<(), ResponseError> {
        let offsets = inner.groups.get(group).map(|h| &h.offsets);
        let before = |t: &String, p: i32| offsets.and_then(|o| o.get(&(t.clone(), p))).map_or(0, |c| Offsets::weigh(t, &c.metadata));
        let before: usize = commits.iter().map(|(t, p, _)| before(t, *p)).sum();
        let after: usize = commits.iter().map(|(t, _, c)| Offsets::weigh(t, &c.metadata)).sum();
        if after > before && self.usage.offsets.load(Ordering::Relaxed) + (after - before) > MAX_OFFSETS_BYTES {
            warn_quietly!("offset commit refused: committed offsets take {MAX_OFFSETS_BYTES} bytes of memory");
            return Err(ResponseError::InvalidCommitOffsetSize);
        }
        Ok(())
    }

    /// Committed offsets of a group, all without a list.
    pub fn offsets(&self, group: &str, places: Option<&BTreeSet<Place>>) -> Result<Vec<(Place, Commit)>, ResponseError> {
        let inner = self.active()?;
        let Some(hosted) = inner.groups.get(group) else { return Ok(Vec::new()) };
        Ok(match places {
            Some(places) => places.iter().filter_map(|p| Some((p.clone(), hosted.offsets.get(p)?.clone()))).collect(),
            None => hosted.offsets.iter().map(|(k, c)| (k.clone(), c.clone())).collect(),
        })
    }

    /// Memory that they take, in bytes.
    pub fn offsets_weight(&self, group: &str, places: Option<&BTreeSet<Place>>) -> usize {
        let Ok(inner) = self.active() else { return 0 };
        let Some(hosted) = inner.groups.get(group) else { return 0 };
        match places {
            Some(places) => places.iter().filter_map(|p| Some(Offsets::weigh(&p.0, &hosted.offsets.get(p)?.metadata))).sum(),
            None => hosted.offsets.weight(),
        }
    }

    /// Appends tombstones, in as many batches as are needed. Returns the end of the last one.
    fn bury(&self, inner: &mut Inner, tombstones: &[Entry]) -> Result<i64, ResponseError> {
        let mut end = 0;
        for portion in tombstones.chunks(TOMBSTONES) {
            end = self.append(inner, portion)? + portion.len() as i64;
        }
        Ok(end)
    }

    /// Tombstones of offsets, and of the group itself if it goes too.
    fn tombstones(group: &str, places: &[Place], generation: Option<i32>) -> Vec<Entry> {
        let offset =
            |(topic, partition): &Place| Entry::Offset(Key { group: group.to_owned(), topic: topic.clone(), partition: *partition }, None);
        let mut out: Vec<Entry> = places.iter().map(offset).collect();
        // One that never had a generation has no record.
        if generation.is_some_and(|g| g > 0) {
            out.push(Entry::Group(group.to_owned(), None));
        }
        out
    }

    /// DeleteGroups: a group without members, with its offsets.
    pub async fn delete_group(self: &Arc<Self>, group: &str) -> Result<(), ResponseError> {
        let end = {
            let mut inner = self.active()?;
            let hosted = inner.groups.get(group).ok_or(ResponseError::GroupIdNotFound)?;
            match hosted.group.state() {
                State::Empty => {}
                State::Dead => return Err(ResponseError::GroupIdNotFound),
                _ => return Err(ResponseError::NonEmptyGroup),
            }
            let places = hosted.offsets.places();
            let tombstones = Self::tombstones(group, &places, Some(hosted.group.generation()));
            let end = self.bury(&mut inner, &tombstones).map_err(offset_error)?;
            let mut fx = Effects::default();
            if let Some(hosted) = inner.groups.get_mut(group) {
                // Nothing waits in an empty group.
                let _ = hosted.group.delete(self.now(), &mut fx);
            }
            self.forget(&mut inner, group);
            end
        };
        self.wait_for_end(end).await
    }

    async fn wait_for_end(&self, end: i64) -> Result<(), ResponseError> {
        if end == 0 {
            return Ok(());
        }
        self.committed(end).await.map_err(|e| {
            self.failed_to_commit(e);
            offset_error(e)
        })
    }

    /// OffsetDelete. Returns the error of each place.
    pub async fn delete_offsets(self: &Arc<Self>, group: &str, places: &[Place]) -> Result<Vec<Option<ResponseError>>, ResponseError> {
        let (errors, end) = {
            let mut inner = self.active()?;
            let hosted = inner.groups.get(group).ok_or(ResponseError::GroupIdNotFound)?;
            let errors: Vec<_> = places.iter().map(|(topic, _)| hosted.group.check_offset_delete(topic).err()).collect();
            // These concern the group, not a topic of it.
            if let Some(e) = errors.iter().flatten().find(|e| **e != ResponseError::GroupSubscribedToTopic) {
                return Err(*e);
            }
            let gone: Vec<_> = places.iter().zip(&errors).filter(|(_, e)| e.is_none()).map(|(p, _)| p.clone()).collect();
            (errors, self.remove_offsets(&mut inner, group, &gone).map_err(offset_error)?)
        };
        self.wait_for_end(end).await?;
        Ok(errors)
    }

    /// Removes those offsets that there are, and the group if nothing is left of it. Returns the end of their tombstones, 0 if
    /// there is none.
    fn remove_offsets(self: &Arc<Self>, inner: &mut Inner, id: &str, places: &[Place]) -> Result<i64, ResponseError> {
        let Some(hosted) = inner.groups.get(id) else { return Ok(0) };
        let there: BTreeSet<Place> = places.iter().filter(|p| hosted.offsets.has(p)).cloned().collect();
        let there: Vec<Place> = there.into_iter().collect();
        let all = hosted.offsets.places().len() == there.len();
        let nothing_left = all && hosted.group.state() == State::Empty && !hosted.group.has_pending();
        let tombstones = Self::tombstones(id, &there, nothing_left.then(|| hosted.group.generation()));
        let end = self.bury(inner, &tombstones)?;
        if let Some(hosted) = inner.groups.get_mut(id) {
            for place in &there {
                hosted.offsets.remove(place);
            }
        }
        match nothing_left {
            true => self.forget(inner, id),
            false => self.settle(inner, id, Effects::default()),
        }
        Ok(end)
    }

    /// Removes the offsets of topics that were deleted. Other requests go on between two groups.
    pub fn topics_deleted(self: &Arc<Self>, topics: &HashSet<String>) {
        self.remove_where("offsets of deleted topics", |hosted| {
            hosted.offsets.places().into_iter().filter(|(t, _)| topics.contains(t)).collect()
        });
    }

    /// Removes offsets whose retention has passed, and groups of which nothing is left. Other requests go on between two groups.
    pub fn expire(self: &Arc<Self>) {
        let retention = self.settings.offsets_retention_ms;
        self.remove_where("expired offsets", |hosted| hosted.offsets.expired(&hosted.group, self.now(), retention));
    }

    fn remove_where(self: &Arc<Self>, what: &str, which: impl Fn(&Hosted) -> Vec<Place>) {
        let ids: Vec<String> = self.active().map_or_else(|_| Vec::new(), |inner| inner.groups.keys().cloned().collect());
        for id in ids {
            let Ok(mut inner) = self.active() else { return };
            let Some(places) = inner.groups.get(&id).map(&which) else { continue };
            match self.remove_offsets(&mut inner, &id, &places) {
                Ok(_) if places.is_empty() => {}
                Ok(_) => tracing::debug!("group {id}: {} {what} are removed", places.len()),
                Err(e) => return tracing::warn!("group {id}: {what} are kept: {e:?}"),
            }
        }
    }
}
