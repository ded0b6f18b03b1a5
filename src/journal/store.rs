//! The file: opened, brought to this version's tables, and kept small.

use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior, params};

use super::legacy;
use crate::{
    error::{Error, Result},
    state::{self, State},
};

/// Name of the file in the state directory.
pub const FILE: &str = "journal.db";
/// Version of the tables.
const VERSION: i64 = 1;
/// How long another process's write is waited for.
const BUSY: Duration = Duration::from_secs(1);
/// Executions that are kept.
const MAX_EXECUTIONS: i64 = 1000;
/// Executions whose output is kept.
const MAX_OUTPUTS: i64 = 100;
/// Size of the file from which on the oldest outputs go.
const MAX_BYTES: i64 = 64 * 1024 * 1024;

const TABLES: &str = "
CREATE TABLE instance(
  id INTEGER PRIMARY KEY, cluster TEXT NOT NULL, command TEXT NOT NULL, parameters TEXT NOT NULL,
  began_ms INTEGER NOT NULL, finished INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE INDEX instance_of ON instance(cluster, command, parameters);
CREATE TABLE execution(
  id INTEGER PRIMARY KEY, instance INTEGER NOT NULL REFERENCES instance(id) ON DELETE CASCADE, continues INTEGER,
  started_ms INTEGER NOT NULL, ended_ms INTEGER, status TEXT NOT NULL, exit_code INTEGER, phase TEXT,
  who TEXT NOT NULL, machine TEXT NOT NULL, version TEXT NOT NULL, directory TEXT NOT NULL,
  boot TEXT NOT NULL, pid INTEGER NOT NULL, pid_began INTEGER NOT NULL,
  error TEXT, hint TEXT, left_out INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE INDEX execution_of ON execution(instance);
CREATE TABLE step(
  execution INTEGER NOT NULL REFERENCES execution(id) ON DELETE CASCADE,
  phase TEXT NOT NULL, host TEXT NOT NULL, task TEXT NOT NULL, place TEXT,
  seconds REAL, ok INTEGER NOT NULL, changed INTEGER NOT NULL, failed INTEGER NOT NULL, skipped INTEGER NOT NULL,
  ignored INTEGER NOT NULL, error TEXT,
  PRIMARY KEY(execution, phase, host, task)) STRICT, WITHOUT ROWID;
CREATE TABLE output(
  execution INTEGER NOT NULL REFERENCES execution(id) ON DELETE CASCADE,
  number INTEGER NOT NULL, at_ms INTEGER NOT NULL, event TEXT NOT NULL,
  PRIMARY KEY(execution, number)) STRICT, WITHOUT ROWID;
CREATE TABLE imported(bytes INTEGER NOT NULL) STRICT;
INSERT INTO imported VALUES(0);
";

/// An error of SQLite as one of ours.
pub fn failed(e: &rusqlite::Error) -> Error {
    let path = state::path().map(|p| p.join(FILE).display().to_string()).unwrap_or_else(|_| FILE.into());
    Error::failed(format!("{path}: {e}"))
        .hint("no command needs the journal; move the file aside if it is damaged, and the next command begins a new one")
}

/// Opens the journal of this state directory; made if it is missing.
pub fn open() -> Result<Connection> {
    let state = State::open()?;
    // Made here: closed to others, and no link is followed.
    drop(state.open_file(FILE, false)?);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NOFOLLOW | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(state.path_of(FILE), flags).map_err(|e| failed(&e))?;
    prepare(&mut db).map_err(|e| failed(&e))?;
    let version: i64 = db.query_row("PRAGMA user_version", [], |r| r.get(0)).map_err(|e| failed(&e))?;
    if version != VERSION {
        return Err(Error::failed(format!("{}: tables of version {version}, not {VERSION}", state.path_of(FILE).display()))
            .hint("a newer Septet wrote it: use that one, or move the file aside"));
    }
    legacy::import(&mut db, &state)?;
    Ok(db)
}

/// Sets a connection up; an empty file gets its tables.
pub fn prepare(db: &mut Connection) -> rusqlite::Result<()> {
    db.busy_timeout(BUSY)?;
    if db.query_row("PRAGMA user_version", [], |r| r.get::<_, i64>(0))? == 0 {
        db.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "NORMAL")?;
    db.pragma_update(None, "foreign_keys", true)?;
    let t = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if t.query_row("PRAGMA user_version", [], |r| r.get::<_, i64>(0))? == 0 {
        t.execute_batch(TABLES)?;
        t.pragma_update(None, "user_version", VERSION)?;
    }
    t.commit()
}

/// Removes what is too old: executions, then outputs, then more outputs while the file is too large. What runs stays.
pub fn prune(db: &mut Connection) -> rusqlite::Result<()> {
    prune_to(db, MAX_EXECUTIONS, MAX_OUTPUTS, MAX_BYTES)
}

fn prune_to(db: &mut Connection, executions: i64, outputs: i64, bytes: i64) -> rusqlite::Result<()> {
    let t = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let old = "SELECT id FROM execution WHERE status <> 'running' ORDER BY id DESC LIMIT -1 OFFSET ?1";
    t.execute(&format!("DELETE FROM execution WHERE id IN ({old})"), [executions])?;
    t.execute("DELETE FROM instance WHERE id NOT IN (SELECT instance FROM execution)", [])?;
    t.execute(&format!("DELETE FROM output WHERE execution IN ({old})"), [outputs])?;
    t.commit()?;
    let used = |db: &Connection| -> rusqlite::Result<i64> {
        let of = |name: &str| db.query_row(&format!("PRAGMA {name}"), [], |r| r.get::<_, i64>(0));
        Ok((of("page_count")? - of("freelist_count")?) * of("page_size")?)
    };
    while used(db)? > bytes {
        let oldest = "SELECT min(execution) FROM output WHERE execution IN (SELECT id FROM execution WHERE status <> 'running')";
        let gone = db.execute(&format!("DELETE FROM output WHERE execution = ({oldest})"), params![])?;
        if gone == 0 {
            break;
        }
    }
    db.execute_batch("PRAGMA incremental_vacuum")
}

#[cfg(test)]
pub mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A journal in memory.
    pub fn empty() -> Connection {
        let mut db = Connection::open_in_memory().unwrap();
        prepare(&mut db).unwrap();
        db
    }

    fn count(db: &Connection, of: &str) -> i64 {
        db.query_row(&format!("SELECT count(*) FROM {of}"), [], |r| r.get(0)).unwrap()
    }

    #[test]
    fn what_is_old_goes_and_what_runs_stays() {
        let mut db = empty();
        for n in 1..=10 {
            db.execute("INSERT INTO instance VALUES(?1, 'c', 'up', '{}', 0, 1)", [n]).unwrap();
            let status = if n == 1 { "running" } else { "completed" };
            db.execute(
                "INSERT INTO execution VALUES(?1, ?1, NULL, 0, 1, ?2, 0, NULL, 'w', 'm', 'v', 'd', 'b', 1, 1, NULL, NULL, 0)",
                params![n, status],
            )
            .unwrap();
            for k in 0..20 {
                db.execute("INSERT INTO output VALUES(?1, ?2, 0, ?3)", params![n, k, "x".repeat(2000)]).unwrap();
            }
            db.execute("INSERT INTO step VALUES(?1, 'p', '', '', NULL, 1.0, 0, 0, 0, 0, 0, NULL)", [n]).unwrap();
        }
        prune_to(&mut db, 6, 4, i64::MAX).unwrap();
        assert_eq!((count(&db, "execution"), count(&db, "instance"), count(&db, "step")), (7, 7, 7));
        // Those of the last four, and of the one that runs.
        assert_eq!(count(&db, "output"), 5 * 20);
        assert_eq!(count(&db, "execution WHERE id = 1"), 1);
        prune_to(&mut db, 6, 4, 0).unwrap();
        assert_eq!((count(&db, "output"), count(&db, "output WHERE execution = 1")), (20, 20));
    }
}
