//! Descriptors of segment files, opened when they are used and closed again when too many are open.
//!
//! Invariant: between uses, no more than `capacity` files are open, whatever the number of partitions, so that
//! descriptors are left for connections.

use std::{
    fs::{File, OpenOptions},
    io,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use lru::LruCache;

/// The files that are open, least recently used first to go.
#[derive(Debug)]
pub struct Files {
    open: Mutex<LruCache<u64, Arc<File>>>,
    next: AtomicU64,
}

impl Files {
    /// A pool that keeps up to `capacity` files open.
    pub fn new(capacity: usize) -> Arc<Self> {
        let capacity = NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN);
        // Not `LruCache::new`, which makes room for all of them at once.
        let mut open = LruCache::unbounded();
        open.resize(capacity);
        Arc::new(Self { open: Mutex::new(open), next: AtomicU64::new(0) })
    }

    /// Number of files that are open.
    pub fn open(&self) -> usize {
        self.cache().len()
    }

    fn cache(&self) -> MutexGuard<'_, LruCache<u64, Arc<File>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file that is opened when it is used.
#[derive(Debug)]
pub struct Slot {
    id: u64,
    path: Mutex<PathBuf>,
    files: Arc<Files>,
}

impl Slot {
    /// A file at a path. It is created if it does not exist; later it must exist, so that a file that was removed
    /// is an error and not an empty file.
    pub fn create(files: &Arc<Files>, path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?;
        let this = Self { id: files.next.fetch_add(1, Ordering::Relaxed), path: Mutex::new(path), files: files.clone() };
        this.keep(Arc::new(file));
        Ok(this)
    }

    /// Where the file is.
    pub fn path(&self) -> PathBuf {
        self.path.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Renames the file. Readers that come later still find it.
    pub fn rename(&self, to: &Path) -> io::Result<()> {
        let mut path = self.path.lock().unwrap_or_else(PoisonError::into_inner);
        std::fs::rename(&*path, to)?;
        to.clone_into(&mut path);
        Ok(())
    }

    /// The directory was renamed, and the file with it.
    pub fn moved(&self, dir: &Path) {
        let mut path = self.path.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = path.file_name() {
            *path = dir.join(name);
        }
    }

    /// The open file. Callers let go of it soon: a file that is held stays open beyond the pool's capacity.
    pub fn file(&self) -> io::Result<Arc<File>> {
        if let Some(file) = self.files.cache().get(&self.id) {
            return Ok(file.clone());
        }
        // Opened without the lock. Two that come here at once open it twice, and one descriptor is closed again.
        let file = Arc::new(OpenOptions::new().read(true).write(true).open(self.path())?);
        self.keep(file.clone());
        Ok(file)
    }

    fn keep(&self, file: Arc<File>) {
        // The file that makes room is closed outside of the lock.
        let closed = self.files.cache().push(self.id, file);
        drop(closed);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let closed = self.files.cache().pop(&self.id);
        drop(closed);
    }
}
