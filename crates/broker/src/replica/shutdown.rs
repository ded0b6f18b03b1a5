//! Controlled shutdown: the controller moves leaderships away before the broker stops serving.

use std::{io, sync::Arc, time::Duration};

use kafka_protocol::ResponseError;

use super::isr::ask_controller;
use crate::{
    broker::Broker,
    cluster::{
        control::{self, key},
        controller::{Event, ask},
    },
    core::controller::Name,
};

/// How often it is tried (`controlled.shutdown.max.retries`).
const ATTEMPTS: usize = 3;
/// Pause between attempts; Kafka's is 5 s.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest time for all of it.
const LIMIT: Duration = Duration::from_secs(10);

/// Hands leaderships over. What is left after some attempts fails over when the broker is gone.
pub async fn hand_over(broker: &Arc<Broker>) {
    let work = async {
        let mut peer = None;
        for attempt in 1..=ATTEMPTS {
            match ask_once(broker, &mut peer).await {
                Ok(left) if left.is_empty() => {
                    tracing::info!("leaderships are handed over");
                    return;
                }
                Ok(left) => tracing::warn!("{} partitions have no other leader yet (attempt {attempt} of {ATTEMPTS})", left.len()),
                Err(e) => tracing::warn!("controlled shutdown: {e} (attempt {attempt} of {ATTEMPTS})"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    if tokio::time::timeout(LIMIT, work).await.is_err() {
        tracing::warn!("controlled shutdown takes longer than {LIMIT:?}; stopping without it");
    }
}

async fn ask_once(broker: &Arc<Broker>, peer: &mut Option<(i32, crate::net::peer::Peer)>) -> io::Result<Vec<Name>> {
    let failed = |e: ResponseError| io::Error::other(format!("{e:?}"));
    let (id, epoch) = (broker.id(), broker.epoch());
    if let Some(events) = broker.controller() {
        return ask(&events, |reply| Event::Shutdown { id, epoch, reply }).await.and_then(|a| a).map_err(failed);
    }
    let body = control::encode_controlled_shutdown(id, epoch);
    let answer = ask_controller(broker, peer, key::CONTROLLED_SHUTDOWN, 3, &body).await?;
    let (error, left) = control::decode_partitions_answer(&answer, false).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    match ResponseError::try_from_code(error) {
        None => Ok(left.into_iter().map(|(topic, index, _)| (topic, index)).collect()),
        Some(e) => Err(failed(e)),
    }
}
