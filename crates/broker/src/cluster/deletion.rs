//! Deleting topics. A child of `/admin/delete_topics` says that a topic is to go. The controller has its replicas deleted
//! (StopReplica); when all have confirmed, it removes the topic's znodes, and the wish last.
//!
//! Invariant: data is removed only for a wish that is written down, never because a topic is not there: a coordinator
//! that lost its data deletes nothing. A broker that is away does its part when it comes back.

use septet_zookeeper as zk;

use super::{
    controller::ControllerError,
    path,
    session::{PERSISTENT, ignore_exists},
};

fn wish(topic: &str) -> String {
    format!("{}/{topic}", path::DELETE_TOPICS)
}

/// Writes down that a topic is to go.
pub async fn request(client: &zk::Client, topic: &str) -> Result<(), zk::Error> {
    ignore_exists(client.create(&wish(topic), b"", &PERSISTENT).await)
}

/// Waits until a topic's znode is gone.
pub async fn gone(client: &zk::Client, topic: &str) -> Result<(), zk::Error> {
    let at = format!("{}/{topic}", path::TOPICS);
    loop {
        let (stat, watch) = client.check_and_watch_stat(&at).await?;
        if stat.is_none() {
            return Ok(());
        }
        watch.changed().await;
    }
}

/// Removes a topic's znodes, and the wish. `version` is that of `/controller_epoch`, which fences.
pub async fn remove(client: &zk::Client, version: i32, topic: &str) -> Result<(), ControllerError> {
    let at = format!("{}/{topic}", path::TOPICS);
    let partitions = format!("{at}/partitions");
    let children = |list: Result<Vec<String>, zk::Error>| match list {
        Ok(list) => Ok(list),
        Err(zk::Error::NoNode) => Ok(Vec::new()),
        Err(e) => Err(e),
    };
    for n in children(client.list_children(&partitions).await)? {
        let at = format!("{partitions}/{n}");
        delete(client, version, &[format!("{at}/state"), at]).await?;
    }
    // The topic and the wish go together: a topic that is made anew must not meet the wish.
    let mut rest = vec![partitions, at, format!("{}/{topic}", path::CONFIG_TOPICS)];
    // Earlier versions had brokers confirm by children of the wish.
    rest.extend(children(client.list_children(&wish(topic)).await)?.iter().map(|n| format!("{}/{n}", wish(topic))));
    rest.push(wish(topic));
    delete(client, version, &rest).await
}

/// Deletes those znodes that are there, at once.
async fn delete(client: &zk::Client, version: i32, paths: &[String]) -> Result<(), ControllerError> {
    let mut multi = client.new_multi_writer();
    multi.add_check_version(path::CONTROLLER_EPOCH, version)?;
    for path in paths {
        if client.check_stat(path).await?.is_some() {
            multi.add_delete(path, None)?;
        }
    }
    match multi.commit().await {
        Ok(_) => Ok(()),
        Err(zk::MultiWriteError::OperationFailed { index: 0, .. }) => Err(ControllerError::Superseded),
        Err(e) => Err(ControllerError::Coordinator(e.into())),
    }
}
