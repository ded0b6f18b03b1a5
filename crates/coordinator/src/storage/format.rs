//! The version of what is in a data directory: a file `format` with a number. A directory without one is of format 1.
//!
//! | format | difference |
//! |---|---|
//! | 1 | |
//! | 2 | the command that ends several sessions in a term; the mark `joining` |
//! | 3 | ACLs, null data, containers and TTLs: another form of changes and of snapshots, see [`crate::format2`] |
//! | 4 | a version in each record; term and vote, entries and memberships of our own consensus, see `earlier` |
//! | 5 | heads and marks in the files of the log, see `log/segment.rs`; entries and snapshots are those of format 4 |

use std::{fs, io, path::Path};

use super::{StorageFault, at, replace_file};

/// The format that is written. Older ones are read, and are of this format from then on.
pub const FORMAT: u32 = 5;

/// Refuses a directory of a later format, before anything in it is read; marks one of an earlier format.
pub fn check(dir: &Path) -> Result<(), StorageFault> {
    fs::create_dir_all(dir).map_err(at(dir))?;
    let path = dir.join("format");
    let found = match fs::read(&path) {
        Ok(text) => String::from_utf8_lossy(&text).trim().to_owned(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => "1".into(),
        Err(e) => return Err(at(&path)(e)),
    };
    match found.parse::<u32>() {
        Ok(FORMAT) => Ok(()),
        Ok(n) if (1..FORMAT).contains(&n) => replace_file(&path, format!("{FORMAT}\n").as_bytes()).map_err(at(&path)),
        _ => Err(StorageFault::Format { path, found, known: FORMAT }),
    }
}
