//! One run at a time on a cluster: a lock file in the state directory against runs on this machine, then the provider's own lock
//! against others.
//!
//! A run that loses the lock, since it was asleep or could not reach the provider for minutes, ends.
//!
//! Invariant: what others see of a run (lock file, the provider's tags) is user, host, command and start, never its
//! arguments: they may hold secrets.

use std::{
    fs,
    io::{Read, Seek, Write},
    sync::OnceLock,
};

use sha2::{Digest, Sha256};

use crate::{
    clock::now_s,
    error::{Error, Result},
    identity::ClusterName,
    journal::Journal,
    provider::{Holder, Provider},
    state::{self, State},
};

tokio::task_local! {
    /// The cluster whose lock this operation has.
    static HELD: String;
}

/// The command of this process, as `up`.
static COMMAND: OnceLock<&'static str> = OnceLock::new();
/// Longest description of a holder that is shown, in characters.
const MAX_HOLDER: u64 = 300;

/// Says which command this process is, for the locks that it takes.
pub fn set_command(name: &'static str) {
    let _ = COMMAND.set(name);
}

/// Runs a change of a cluster under its lock. A second run is refused with the holder and the start of the first. Within
/// an operation that has the lock already, as `up` within `rename`, it is not taken again.
pub async fn locked<T>(cluster: &ClusterName, provider: &dyn Provider, what: impl Future<Output = Result<T>>) -> Result<T> {
    if HELD.try_with(|held| cluster == held).unwrap_or(false) {
        return what.await;
    }
    let lock = Lock::take(cluster)?;
    provider.hold(&lock.holder).await?;
    let result = tokio::select! {
        biased;
        result = HELD.scope(cluster.to_string(), what) => result,
        // Another run may be changing the cluster by now: what is under way here is cut off, as by a second Ctrl-C.
        why = provider.lost() => Err(Error::failed(format!("stopped, since cluster `{cluster}` may be changed by another run: {why}"))
            .hint("run the same command again; it goes on where this one stopped")),
    };
    provider.release().await;
    result
}

/// Held while a cluster is changed, against other runs on this machine.
struct Lock {
    file: fs::File,
    holder: Holder,
}

/// Who we are to others: which machine and state directory, whatever the process. While we have the lock file there, a run of
/// the same name elsewhere is one of ours that has ended.
pub fn identity() -> Result<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    Ok(identity_of(
        state::number()?,
        &[&read("/etc/machine-id"), &read("/proc/sys/kernel/hostname"), &state::path()?.display().to_string()],
    ))
}

/// The state directory's own number tells machines apart whose systems do not: images leave `/etc/machine-id` empty, and hosts in
/// containers share names. Name and id of the machine are for a directory that several mount, or that was copied.
fn identity_of(number: uuid::Uuid, machine: &[&str]) -> String {
    let mut digest = Sha256::new_with_prefix(number.as_bytes());
    for part in machine {
        digest.update(part.trim());
        digest.update([0]);
    }
    hex::encode(&digest.finalize()[..8])
}

/// The error that another run of this machine has the lock; with what the journal knows of it.
fn at_work(cluster: &ClusterName, holder: &str) -> Error {
    let running = Journal::open().and_then(|j| j.running(cluster)).ok().flatten();
    let place = running.as_ref().map(|e| format!(", begun in {}", e.directory)).unwrap_or_default();
    let e = Error::failed(format!("another run is at work on cluster `{cluster}`: {holder}{place}"));
    match running {
        Some(r) => e.hint(format!("wait until it has ended; `septet history show {}` shows how far it is", r.execution)),
        None => e.hint("wait until it has ended"),
    }
}

impl Lock {
    /// Takes the lock of a cluster.
    fn take(cluster: &ClusterName) -> Result<Self> {
        let locks = State::locks()?;
        let name = state::file_of(cluster, "lock");
        let fail = |e: std::io::Error| Error::failed(format!("{name}: {e}"));
        let mut file = locks.open_file(&name, false)?;
        if file.try_lock().is_err() {
            let mut holder = String::new();
            let _ = file.take(MAX_HOLDER).read_to_string(&mut holder);
            let holder: String = holder.chars().filter(|c| !c.is_control()).collect();
            return Err(at_work(cluster, &holder));
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(fail)?;
        let command = COMMAND.get().copied().unwrap_or("run");
        let text = format!("process {} (septet {command}), since {}", std::process::id(), clock(now_s()));
        writeln!(file, "{text}").map_err(fail)?;
        let machine = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "somebody".into());
        let text = format!("{user} on {}, {text}", machine.trim());
        Ok(Self { file, holder: Holder { id: identity()?, text } })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.file.set_len(0);
    }
}

/// Seconds since 1970 for a person.
pub fn clock(seconds: u64) -> String {
    crate::clock::local_s(seconds)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn machines_without_an_id_of_their_own_are_told_apart() {
        let (one, two) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
        // Containers of one image: no machine id, one home, one name.
        let alike = ["", "ci\n", "/root/.local/state/septet"];
        assert_eq!(identity_of(one, &alike), identity_of(one, &alike));
        assert_ne!(identity_of(one, &alike), identity_of(two, &alike));
        // One state directory on two machines.
        assert_ne!(identity_of(one, &alike), identity_of(one, &["", "build", alike[2]]));
        assert_ne!(identity_of(one, &["a", "b", "c"]), identity_of(one, &["ab", "", "c"]));
    }

    #[test]
    fn a_state_directory_keeps_its_number() {
        let numbers: std::collections::BTreeSet<_> = std::thread::scope(|s| {
            (0..8).map(|_| s.spawn(|| state::number().unwrap())).collect::<Vec<_>>().into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(numbers.len(), 1);
        assert_eq!(identity().unwrap(), identity().unwrap());
    }
}
