//! Kafka's checkpoint files: text with a version, a count, and a line for each entry; and the file that says that a
//! broker has stopped cleanly.
//!
//! Invariant: a file is replaced as a whole, and is on the disk before it is there.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::{LogError, at};

/// Offsets up to which logs are on the disk.
pub const RECOVERY_POINTS: &str = "recovery-point-offset-checkpoint";
/// High watermarks.
pub const HIGH_WATERMARKS: &str = "replication-offset-checkpoint";
/// First offsets, where they are not those of the first segment.
pub const LOG_STARTS: &str = "log-start-offset-checkpoint";
/// Offsets up to which logs are compacted.
pub const CLEANED: &str = "cleaner-offset-checkpoint";
/// Is there after a clean stop, until the next start.
const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";
/// What Kafka 3.9 writes into it.
const CLEAN_SHUTDOWN_TEXT: &str = "{\"version\":0,\"brokerEpoch\":-1}";
/// Version of the format.
const VERSION: &str = "0";

/// Offsets by topic and partition.
pub type Offsets = BTreeMap<(String, i32), i64>;

/// Replaces a file.
pub fn replace(path: &Path, text: &str) -> Result<(), LogError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let write = || -> io::Result<()> {
        fs::write(&temporary, text)?;
        fs::File::open(&temporary)?.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(at(path))
}

/// The lines behind version and count; `None` if the file does not have so many.
pub fn lines(text: &str) -> Option<Vec<&str>> {
    let mut lines = text.lines();
    if lines.next()?.trim() != VERSION {
        return None;
    }
    let count: usize = lines.next()?.trim().parse().ok()?;
    let rest: Vec<&str> = lines.filter(|l| !l.trim().is_empty()).collect();
    (rest.len() == count).then_some(rest)
}

/// The text of a file with these lines.
pub fn text(lines: &[String]) -> String {
    let mut out = format!("{VERSION}\n{}\n", lines.len());
    lines.iter().for_each(|l| {
        out.push_str(l);
        out.push('\n');
    });
    out
}

/// The offsets in a file's text; `None` if it cannot be understood.
pub fn parse(text: &str) -> Option<Offsets> {
    let one = |line: &str| {
        let mut words = line.split_whitespace();
        let entry = ((words.next()?.to_owned(), words.next()?.parse().ok()?), words.next()?.parse().ok()?);
        words.next().is_none().then_some(entry)
    };
    lines(text)?.into_iter().map(one).collect()
}

/// Reads a file of offsets. One that is missing is empty; of one that cannot be understood, this is logged, and it is
/// empty too: what it says can be found out from the logs.
pub fn read(dir: &Path, name: &str) -> Result<Offsets, LogError> {
    let path = dir.join(name);
    let content = match fs::read_to_string(&path) {
        Ok(t) => t,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Offsets::new()),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => String::new(),
        Err(e) => return Err(at(&path)(e)),
    };
    match parse(&content) {
        Some(offsets) => Ok(offsets),
        None => {
            tracing::warn!("{}: not a checkpoint file of version {VERSION}; ignored", path.display());
            Ok(Offsets::new())
        }
    }
}

/// Writes a file of offsets.
pub fn write(dir: &Path, name: &str, offsets: &Offsets) -> Result<(), LogError> {
    let lines: Vec<String> = offsets.iter().map(|((topic, partition), offset)| format!("{topic} {partition} {offset}")).collect();
    replace(&dir.join(name), &text(&lines))
}

/// Whether the last stop was a clean one. Asked once: from now on it is not.
pub fn take_clean_shutdown(dir: &Path) -> Result<bool, LogError> {
    let path = dir.join(CLEAN_SHUTDOWN);
    match fs::remove_file(&path) {
        Ok(()) => fs::File::open(dir).and_then(|d| d.sync_all()).map(|()| true).map_err(at(&path)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(at(&path)(e)),
    }
}

/// Says that everything is on the disk.
pub fn write_clean_shutdown(dir: &Path) -> Result<(), LogError> {
    replace(&dir.join(CLEAN_SHUTDOWN), CLEAN_SHUTDOWN_TEXT)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn files_are_written_as_kafka_writes_them_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let offsets: Offsets = [(("b".to_owned(), 0), 5), (("a".to_owned(), 10), 7), (("a".to_owned(), 9), 0)].into();
        write(dir.path(), RECOVERY_POINTS, &offsets).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join(RECOVERY_POINTS)).unwrap(), "0\n3\na 9 0\na 10 7\nb 0 5\n");
        assert_eq!(read(dir.path(), RECOVERY_POINTS).unwrap(), offsets);
        assert_eq!(read(dir.path(), LOG_STARTS).unwrap(), Offsets::new());
        for bad in ["", "1\n0\n", "0\n2\na 0 1\n", "0\n1\na 0\n", "0\n1\na 0 1 2\n", "0\nx\n", "0\n1\na 0 -\n"] {
            fs::write(dir.path().join(LOG_STARTS), bad).unwrap();
            assert_eq!(read(dir.path(), LOG_STARTS).unwrap(), Offsets::new(), "{bad:?}");
        }
    }

    #[test]
    fn a_clean_stop_is_known_once() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!take_clean_shutdown(dir.path()).unwrap());
        write_clean_shutdown(dir.path()).unwrap();
        assert!(take_clean_shutdown(dir.path()).unwrap());
        assert!(!take_clean_shutdown(dir.path()).unwrap());
    }
}
