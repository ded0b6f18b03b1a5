//! One run at a time on a cluster, whatever machines they are on: a key pair of an agreed name. Of two imports under one name
//! EC2 accepts one; its tags name the holder, the start and the last heartbeat.
//!
//! Invariant: a hold whose holder is alive is not taken over. One that has ended without giving it back is known by its holder's
//! machine (which holds a lock file of its own first) or by its silence.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use septet_ec2::{Client, KeyPair, Tags, filter};

use super::{
    policy::{explain, explain_first},
    tags,
};
use crate::{
    clock::now_s,
    error::{Error, Result},
    identity::ClusterName,
    provider::{
        Holder,
        heartbeat::{Heartbeat, Lost, SILENCE_S},
    },
    ssh::keys,
};

/// How the tag `septet:cluster` of a lock begins: it belongs to a name, not to a cluster.
const MARK: &str = "lock:";
const HOLDER: &str = "septet:holder";
const WHO: &str = "septet:who";
const SEEN: &str = "septet:seen";

/// The right to change a cluster.
pub struct Hold {
    client: Arc<Client>,
    id: String,
    heartbeat: Heartbeat,
    taken: Instant,
}

impl Hold {
    /// Waits until it is lost.
    pub fn lost(&self) -> impl Future<Output = Lost> + Send + 'static {
        self.heartbeat.lost()
    }

    /// Gives it back.
    pub async fn release(self) {
        drop(self.heartbeat);
        // What stays behind is taken over: by its holder at once, by others after a silence.
        // A key that was imported a moment ago may not be known yet.
        while self.client.delete_key(&self.id).await.is_err_and(|e| e.is_not_found()) && self.taken.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// Whether it is Septet's lock for this name, not a user's key pair with the same name.
fn is_lock(key: &KeyPair, cluster: &ClusterName) -> bool {
    key.tags.contains_key(HOLDER) && key.tags.get(tags::CLUSTER) == Some(&format!("{MARK}{cluster}"))
}

fn is_stale(key: &KeyPair, holder: &Holder, now: u64) -> bool {
    let seen = key.tags.get(SEEN).and_then(|s| s.parse::<u64>().ok());
    key.tags.get(HOLDER) == Some(&holder.id) || seen.is_none_or(|s| now.saturating_sub(s) > SILENCE_S)
}

/// Takes the right to change the cluster of a name.
pub async fn take(client: Arc<Client>, cluster: &ClusterName, holder: &Holder) -> Result<Hold> {
    let name = format!("septet-lock-{cluster}");
    let doing = format!("cannot take the lock of cluster `{cluster}`");
    // The private half of the key is discarded.
    let public = keys::new_host_key("lock")?.public;
    let who: String = holder.text.chars().filter(|c| c.is_ascii() && *c != '`').take(240).collect();
    for _ in 0..6 {
        let tags = Tags::from([
            (tags::CLUSTER.to_owned(), format!("{MARK}{cluster}")),
            (tags::NAME.to_owned(), cluster.to_string()),
            (tags::DISPLAY.to_owned(), name.clone()),
            (HOLDER.to_owned(), holder.id.clone()),
            (WHO.to_owned(), who.clone()),
            (SEEN.to_owned(), now_s().to_string()),
        ]);
        match client.import_key(&name, &public, &tags, false).await {
            Ok(id) => {
                let (of_beat, key) = (client.clone(), id.clone());
                let heartbeat = Heartbeat::start(move |_| beat(of_beat.clone(), name.clone(), key.clone()));
                return Ok(Hold { heartbeat, client, id, taken: Instant::now() });
            }
            Err(e) if e.is_duplicate() || e.is_ambiguous() => {}
            Err(e) if e.is_throttle() => tokio::time::sleep(Duration::from_secs(2)).await,
            Err(e) => return Err(explain_first(&doing, e, client.stats().clock_skew_s)),
        }
        let found = client.key_pairs(&[filter("key-name", &[&name])]).await.map_err(|e| explain(&doing, e))?;
        match found.into_iter().next() {
            Some(key) if !is_lock(&key, cluster) => {
                return Err(crate::observed::foreign(&name, "a key pair"));
            }
            Some(key) if is_stale(&key, holder, now_s()) => client.delete_key(&key.id).await.map_err(|e| explain(&doing, e))?,
            Some(key) => {
                // Somebody else's words: one line of plain text.
                let by: String =
                    key.tags.get(WHO).map_or("somebody", String::as_str).chars().filter(|c| !c.is_control()).take(240).collect();
                return Err(Error::failed(format!("another run is at work on cluster `{cluster}`: {by}")).hint(format!(
                    "wait until it has ended; if it was killed, its hold ends {} minutes after its last sign of life",
                    SILENCE_S / 60
                )));
            }
            None => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
    Err(Error::failed(format!("{doing}: the key pair {name} keeps changing")).hint("run the same command again"))
}

/// A sign of life; whether the lock is still ours.
async fn beat(client: Arc<Client>, name: String, id: String) -> Result<bool> {
    let now = Tags::from([(SEEN.to_owned(), now_s().to_string())]);
    // Of a key pair that is gone this fails, as it does when EC2 does not answer: the list tells.
    let renewed = client.set_tags(std::slice::from_ref(&id), &now).await;
    let doing = "cannot renew the cluster's lock";
    let found = client.key_pairs(&[filter("key-name", &[&name])]).await.map_err(|e| explain(doing, e))?;
    match found.iter().any(|k| k.id == id) {
        false => Ok(false),
        true => renewed.map(|()| true).map_err(|e| explain(doing, e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_ends_with_its_holder_or_with_silence() {
        let us = Holder { id: "us".into(), text: String::new() };
        let key = |holder: &str, seen: &str| KeyPair {
            id: "key-1".into(),
            name: String::new(),
            tags: Tags::from([(HOLDER.into(), holder.into()), (SEEN.into(), seen.into())]),
        };
        assert!(is_stale(&key("us", "1000"), &us, 1001));
        assert!(!is_stale(&key("them", "1000"), &us, 1000 + SILENCE_S));
        assert!(is_stale(&key("them", "1000"), &us, 1001 + SILENCE_S));
        assert!(is_stale(&key("them", "never"), &us, 0));
        // A clock that is behind theirs takes nothing from them.
        assert!(!is_stale(&key("them", "1000"), &us, 10));
    }
}
