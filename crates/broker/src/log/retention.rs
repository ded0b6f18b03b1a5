//! What goes from the beginning of a log: by time, by size, and by wish.
//!
//! Invariant: whole segments go, oldest first, and none that holds a record which is to stay. Their files get another
//! name first and are removed later, so that a reader that has begun can end.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Log, LogError, Segment, Slot, at, segment::now_ms};

/// Ending of files that are to be removed.
pub const DELETED: &str = ".deleted";

/// How long records stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// milliseconds; none is for ever
    pub ms: Option<i64>,
    /// bytes of the log; none is without end
    pub bytes: Option<u64>,
}

/// Removes the files of a segment.
pub fn remove(dir: &Path, base: i64) -> Result<(), LogError> {
    for ending in ["log", "index", "timeindex", "txnindex", "snapshot"] {
        let path = dir.join(format!("{base:020}.{ending}"));
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at(&path)(e)),
            _ => {}
        }
    }
    Ok(())
}

/// Files of segments that have gone from a log. They are removed when this is dropped.
#[derive(Debug)]
pub struct Gone(pub(super) Vec<Arc<Slot>>);

impl Gone {
    /// Where they are.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.0.iter().map(|s| s.path()).collect()
    }
}

impl Drop for Gone {
    fn drop(&mut self) {
        for slot in &self.0 {
            let path = slot.path();
            if let Err(e) = fs::remove_file(&path)
                && e.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!("{}: {e}", path.display());
            }
        }
    }
}

impl Log {
    /// Lets go of what is too old or too much, and committed: below an offset. The active segment goes as well once all of its
    /// records are too old.
    pub fn expire(&mut self, retention: Retention, committed: i64) -> Result<Option<Gone>, LogError> {
        let now = now_ms();
        let too_old = |s: &Segment| retention.ms.is_some_and(|ms| now.saturating_sub(s.age_from()) > ms);
        let last = self.segments.len() - 1;
        let old = self.segments.iter().enumerate().take_while(|(i, s)| (*i < last || s.size() > 0) && too_old(s)).count();
        let mut excess = retention.bytes.map_or(0, |bytes| self.size().saturating_sub(bytes));
        let mut large = 0;
        for s in &self.segments[..self.segments.len() - 1] {
            let Some(left) = excess.checked_sub(s.size().into()) else {
                break;
            };
            excess = left;
            large += 1;
        }
        let below = self.segments.iter().take_while(|s| s.next_offset() <= committed).count();
        self.drop_first(old.max(large).min(below))
    }

    /// Lets go of everything below an offset, which is the first that can be read from then on.
    pub fn delete_below(&mut self, offset: i64) -> Result<Option<Gone>, LogError> {
        self.start = self.start.max(offset.min(self.end_offset()));
        if self.epochs.truncate_to(self.start) {
            self.epochs.write()?;
        }
        let start = self.start;
        let whole = self.segments.windows(2).take_while(|w| w[1].base() <= start).count();
        self.drop_first(whole)
    }

    fn drop_first(&mut self, count: usize) -> Result<Option<Gone>, LogError> {
        if count == 0 {
            return Ok(None);
        }
        if count == self.segments.len() {
            let end = self.end_offset();
            self.roll(end)?;
        }
        // What cannot be given another name stays in the log, and so does all behind it.
        let (mut gone, mut failure, mut renamed) = (Vec::new(), None, 0);
        for segment in &self.segments[..count] {
            if let Err(e) = put_aside(segment, &mut gone) {
                failure = Some(e);
                break;
            }
            renamed += 1;
        }
        let base = self.segments[renamed].base();
        if renamed > 0 {
            tracing::info!("{}: {renamed} segments below offset {base} are deleted", self.dir.display());
            self.segments.drain(..renamed);
            self.begins_at(base)?;
        }
        match failure {
            Some(e) => Err(e),
            None => Ok(Some(Gone(gone))),
        }
    }

    fn begins_at(&mut self, base: i64) -> Result<(), LogError> {
        self.remove_snapshots(|offset| offset < base)?;
        self.start = self.start.max(base);
        self.recovery_point = self.recovery_point.max(self.start);
        if self.epochs.truncate_to(self.start) {
            self.epochs.write()?;
        }
        Ok(())
    }
}

/// Gives a segment's files the name under which they wait for their removal.
fn put_aside(segment: &Segment, gone: &mut Vec<Arc<Slot>>) -> Result<(), LogError> {
    for slot in segment.files() {
        let path = slot.path();
        let mut to = path.clone().into_os_string();
        to.push(DELETED);
        slot.rename(Path::new(&to)).map_err(at(&path))?;
        gone.push(slot.clone());
    }
    segment.remove_aborted()
}
