//! Deleting topics. A child of `/admin/delete_topics` says that a topic is to go. Each broker that has a replica removes
//! it and says so by a child of its number; then the controller removes the topic's znodes, and the wish last.
//!
//! Invariant: data is removed only for a wish that is written down, never because a topic is not there: a coordinator
//! that lost its data deletes nothing. A broker that is away does its part when it comes back.

use std::collections::BTreeSet;

use zookeeper_client as zk;

use super::{
    Image, path,
    session::{PERSISTENT, ignore_exists},
    topics::check_name,
};

fn wish(topic: &str) -> String {
    format!("{}/{topic}", path::DELETE_TOPICS)
}

/// Success, also when the node is gone already.
fn ignore_missing<T>(result: Result<T, zk::Error>) -> Result<(), zk::Error> {
    match result {
        Ok(_) | Err(zk::Error::NoNode) => Ok(()),
        Err(e) => Err(e),
    }
}

/// Writes down that a topic is to go.
pub async fn request(client: &zk::Client, topic: &str) -> Result<(), zk::Error> {
    ignore_exists(client.create(&wish(topic), b"", &PERSISTENT).await)
}

/// Says that this broker has removed its replicas of a topic.
pub async fn confirm(client: &zk::Client, topic: &str, broker: i32) -> Result<(), zk::Error> {
    let made = client.create(&format!("{}/{broker}", wish(topic)), b"", &PERSISTENT).await;
    match ignore_exists(made) {
        // The controller has finished.
        Err(zk::Error::NoNode) => return Ok(()),
        other => other?,
    }
    // So that the controller looks.
    ignore_missing(client.set_data(path::SIGNAL, b"deleted", None).await)
}

/// Removes the znodes of topics whose replicas are gone. `version` is that of `/controller_epoch`, which fences.
pub async fn finish(client: &zk::Client, version: i32, deleting: &[String], image: &Image) -> Result<(), zk::Error> {
    for topic in deleting {
        if check_name(topic).is_err() {
            continue;
        }
        let done: BTreeSet<i32> = match client.list_children(&wish(topic)).await {
            Ok(list) => list.iter().filter_map(|n| n.parse().ok()).collect(),
            Err(zk::Error::NoNode) => continue,
            Err(e) => return Err(e),
        };
        if all_done(image, topic, &done) {
            remove(client, version, topic, &done).await?;
        }
    }
    Ok(())
}

/// Whether every broker with a replica has removed it.
fn all_done(image: &Image, topic: &str, done: &BTreeSet<i32>) -> bool {
    let mut replicas = image.topics.get(topic).into_iter().flat_map(|t| t.partitions.values().flat_map(|p| &p.replicas));
    replicas.all(|id| done.contains(id))
}

async fn remove(client: &zk::Client, version: i32, topic: &str, done: &BTreeSet<i32>) -> Result<(), zk::Error> {
    let at = format!("{}/{topic}", path::TOPICS);
    let partitions = format!("{at}/partitions");
    let numbers = match client.list_children(&partitions).await {
        Ok(list) => list,
        Err(zk::Error::NoNode) => Vec::new(),
        Err(e) => return Err(e),
    };
    for n in numbers {
        let at = format!("{partitions}/{n}");
        if !delete(client, version, &[format!("{at}/state"), at]).await? {
            return Ok(());
        }
    }
    // The topic and the wish go together: a topic that is made anew must not meet the wish.
    let mut rest = vec![partitions, at, format!("{}/{topic}", path::CONFIG_TOPICS)];
    rest.extend(done.iter().map(|id| format!("{}/{id}", wish(topic))));
    rest.push(wish(topic));
    if delete(client, version, &rest).await? {
        tracing::info!("topic {topic} is deleted");
    }
    Ok(())
}

/// Deletes those znodes that are there, at once. `false` if this is to be tried again, or is not this broker's any more.
async fn delete(client: &zk::Client, version: i32, paths: &[String]) -> Result<bool, zk::Error> {
    let mut multi = client.new_multi_writer();
    multi.add_check_version(path::CONTROLLER_EPOCH, version)?;
    for path in paths {
        if client.check_stat(path).await?.is_some() {
            multi.add_delete(path, None)?;
        }
    }
    match multi.commit().await {
        Ok(_) => Ok(true),
        Err(zk::MultiWriteError::OperationFailed { index: 0, .. }) => {
            tracing::warn!("another controller has taken over");
            Ok(false)
        }
        // A broker has confirmed just now, or the like.
        Err(zk::MultiWriteError::OperationFailed { .. }) => Ok(false),
        Err(e) => Err(e.into()),
    }
}
