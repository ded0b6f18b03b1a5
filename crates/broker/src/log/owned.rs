//! Directories that are open: a second log on one of them would write over what the first has written.

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{LogError, at};

static OPEN: Mutex<Option<HashSet<PathBuf>>> = Mutex::new(None);

fn open() -> MutexGuard<'static, Option<HashSet<PathBuf>>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory that is this log's, until it is dropped.
#[derive(Debug)]
pub struct Owned(PathBuf);

impl Owned {
    /// Takes a directory, which must exist.
    pub fn new(dir: &Path) -> Result<Self, LogError> {
        let path = dir.canonicalize().map_err(at(dir))?;
        if !open().get_or_insert_default().insert(path.clone()) {
            return Err(at(dir)(io::Error::new(io::ErrorKind::ResourceBusy, "the directory is open already")));
        }
        Ok(Self(path))
    }

    /// The directory was renamed.
    pub fn moved(&mut self, dir: &Path) -> Result<(), LogError> {
        let path = dir.canonicalize().map_err(at(dir))?;
        let mut open = open();
        let set = open.get_or_insert_default();
        set.remove(&self.0);
        set.insert(path.clone());
        self.0 = path;
        Ok(())
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        open().get_or_insert_default().remove(&self.0);
    }
}
