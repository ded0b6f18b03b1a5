//! What a start does about a compaction that a kill has interrupted.
//!
//! Invariant: afterwards the log has the old segments, or the new one in their place; nothing of both, and no file is left over.

use std::{fs, io, path::Path};

use super::{
    LogError, at,
    cleaner::{CLEANED, ENDINGS, SWAP, file, remove_if_there},
    sync_dir,
};
use crate::batch::{HEAD_BYTES, Head};

/// Finishes or undoes, when a log is opened, what a kill has interrupted.
pub fn recover(dir: &Path) -> Result<(), LogError> {
    let mut swaps = Vec::new();
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        names.extend(entry.map_err(at(dir))?.file_name().into_string());
    }
    for name in &names {
        if name.ends_with(CLEANED) {
            remove_if_there(&dir.join(name))?;
        }
        swaps.extend(name.strip_suffix(".log.swap").and_then(|n| n.parse::<i64>().ok()).filter(|_| name.len() == 29));
    }
    for base in &swaps {
        let next = next_offset(&file(dir, *base, "log", SWAP), *base)?;
        tracing::info!("{}: a compaction is finished: segment {base}, offsets below {next}", dir.display());
        let bases = names.iter().filter_map(|n| n.strip_suffix(".log").filter(|n| n.len() == 20)?.parse::<i64>().ok());
        for old in bases.filter(|old| *old == *base || (*base..next).contains(old)) {
            for ending in ENDINGS.iter().rev() {
                // Of the same name, one that has been renamed already is the new one.
                if old != *base || file(dir, old, ending, SWAP).exists() {
                    remove_if_there(&file(dir, old, ending, ""))?;
                }
            }
        }
        for ending in ENDINGS {
            let from = file(dir, *base, ending, SWAP);
            match fs::rename(&from, file(dir, *base, ending, "")) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at(&from)(e)),
                _ => {}
            }
        }
    }
    // Without its log, an index was renamed before the rest was.
    for name in names.iter().filter(|n| n.ends_with(SWAP)) {
        remove_if_there(&dir.join(name))?;
    }
    if swaps.is_empty() { Ok(()) } else { sync_dir(dir) }
}

/// The offset behind the last batch of a complete segment.
fn next_offset(path: &Path, base: i64) -> Result<i64, LogError> {
    let read = || -> io::Result<i64> {
        let file = fs::File::open(path)?;
        let (size, mut position, mut next) = (file.metadata()?.len(), 0, base);
        let mut bytes = [0; HEAD_BYTES];
        while position < size {
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, position)?;
            let head = Head::parse(&bytes).filter(|h| h.base_offset >= next && h.last_offset_delta >= 0);
            let head = head.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("damaged at byte {position}")))?;
            next = head.last_offset() + 1;
            position += head.size as u64;
        }
        Ok(next)
    };
    read().map_err(at(path))
}
