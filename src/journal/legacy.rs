//! Receipts that earlier versions wrote into a file of JSON lines: read once each, so that `history` shows them.

use rusqlite::{Connection, TransactionBehavior, params};
use serde_json::Value;

use super::store::failed;
use crate::{
    error::Result,
    events::{Event, Status},
    state::State,
};

const FILE: &str = "journal.jsonl";

/// A line as it was written.
struct Entry {
    command: String,
    cluster: String,
    began_ms: i64,
    ended_ms: i64,
    what: Value,
}

fn parse(line: &str) -> Option<Entry> {
    let v: Value = serde_json::from_str(line).ok()?;
    let text = |k: &str| Some(v.get(k)?.as_str()?.chars().take(100).collect::<String>());
    let at = v.get("at")?.as_i64()?;
    let what = v.get("what")?.clone();
    let began = what.get("began_at").and_then(Value::as_i64).unwrap_or(at);
    Some(Entry {
        command: text("command")?,
        cluster: text("cluster")?,
        began_ms: began.saturating_mul(1000),
        ended_ms: at.saturating_mul(1000),
        what,
    })
}

/// Reads the lines that were not read before. Whatever is no entry is left out.
pub fn import(db: &mut Connection, state: &State) -> Result<()> {
    let Some(text) = state.read(FILE)? else { return Ok(()) };
    add(db, &text).map_err(|e| failed(&e))
}

fn add(db: &mut Connection, text: &str) -> rusqlite::Result<()> {
    let length = i64::try_from(text.len()).unwrap_or(i64::MAX);
    if db.query_row("SELECT bytes FROM imported", [], |r| r.get::<_, i64>(0))? >= length {
        return Ok(());
    }
    let t = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let done: i64 = t.query_row("SELECT bytes FROM imported", [], |r| r.get(0))?;
    for entry in text.get(usize::try_from(done).unwrap_or(0)..).unwrap_or_default().lines().filter_map(parse) {
        t.execute(
            "INSERT INTO instance(cluster, command, parameters, began_ms, finished) VALUES(?1, ?2, '{}', ?3, 1)",
            params![entry.cluster, entry.command, entry.began_ms],
        )?;
        t.execute(
            "INSERT INTO execution(instance, started_ms, ended_ms, status, exit_code, who, machine, version, directory, boot, pid, pid_began)
             VALUES(?1, ?2, ?3, ?4, 0, '', '', '', '', '', 0, 0)",
            params![t.last_insert_rowid(), entry.began_ms, entry.ended_ms, Status::Completed.name()],
        )?;
        let event = serde_json::to_string(&Event::Receipt { receipt: entry.what }).unwrap_or_default();
        t.execute("INSERT INTO output VALUES(?1, 0, ?2, ?3)", params![t.last_insert_rowid(), entry.ended_ms, event])?;
    }
    t.execute("UPDATE imported SET bytes = ?1", [length])?;
    t.commit()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::journal::{Journal, store::tests::empty};

    #[test]
    fn receipts_are_read_once() {
        let mut db = empty();
        let line = |at: u64| format!("{{\"at\":{at},\"command\":\"down\",\"cluster\":\"local\",\"what\":{{\"began_at\":100}}}}\n");
        let text = format!("{}not json\n{{}}\n", line(105));
        add(&mut db, &text).unwrap();
        add(&mut db, &text).unwrap();
        add(&mut db, &format!("{text}{}", line(200))).unwrap();
        let list = Journal::of(db).list(10, None).unwrap();
        let seen: Vec<(&str, i64, Option<i64>)> = list.iter().map(|e| (e.cluster.as_str(), e.started_ms, e.ended_ms)).collect();
        assert_eq!(seen, [("local", 100_000, Some(200_000)), ("local", 100_000, Some(105_000))]);
    }
}
