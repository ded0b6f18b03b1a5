//! DeleteRecords: the first offset that can be read moves on, at the leader at once, at its followers with their next fetches.
//!
//! Invariant: records are deleted, and the new offsets are on the disk, when [`handle`] returns; only waiting for followers is left then.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use kafka_protocol::{
    ResponseError,
    messages::{
        DeleteRecordsRequest, DeleteRecordsResponse, TopicName,
        delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult},
    },
};

use crate::{
    broker::Broker,
    cluster::{Image, topics::is_internal},
    log::LogError,
    storage::Led,
    watch::{Changes, Watch},
};

/// Longest wait for followers, in milliseconds.
const MAX_WAIT_MS: i32 = 3_600_000;

/// A partition whose records are deleted here.
#[derive(Debug)]
struct Wait {
    led: Arc<Led>,
    /// offset below which every living replica is to have deleted
    wanted: i64,
}

#[derive(Debug)]
struct One {
    index: i32,
    /// the lowest first offset of all living replicas, as far as it is known
    low: Result<i64, ResponseError>,
    /// until all replicas have deleted
    wait: Option<Wait>,
}

impl One {
    /// Looks where the replicas are.
    fn look(&mut self, image: &Image) {
        let Some(wait) = &self.wait else { return };
        self.low = wait.led.partition.low_watermark(|id| image.brokers.contains_key(&id));
        if self.low.is_err() || self.low.is_ok_and(|low| low >= wait.wanted) {
            self.wait = None;
        }
    }
}

/// What was deleted, and what is waited for.
#[derive(Debug)]
pub struct Deleted {
    topics: Vec<(TopicName, Vec<One>)>,
    until: Instant,
}

fn delete(broker: &Broker, topic: &str, index: i32, offset: i64) -> Result<(Wait, bool), ResponseError> {
    if is_internal(topic) {
        return Err(ResponseError::InvalidTopicException);
    }
    let Some(led) = broker.led(topic, index) else {
        return Err(broker.image().not_led(topic, index));
    };
    let settings = led.partition.settings();
    if !settings.deletes {
        // As on Kafka: what is compacted is not to lose its beginning.
        return Err(ResponseError::PolicyViolation);
    }
    let (wanted, moved, gone) = led.partition.delete_below(offset)?;
    if let Some(gone) = gone {
        broker.storage.remove_later(gone, settings);
    }
    Ok((Wait { led, wanted }, moved))
}

/// Deletes, and brings that to the disk.
pub fn handle(broker: &Broker, request: &DeleteRecordsRequest) -> Deleted {
    let until = Instant::now() + Duration::from_millis(request.timeout_ms.clamp(0, MAX_WAIT_MS) as u64);
    let mut moved = false;
    let mut one = |topic: &str, index: i32, offset: i64| match delete(broker, topic, index, offset) {
        Ok((wait, new)) => {
            moved |= new;
            One { index, low: Ok(-1), wait: Some(wait) }
        }
        Err(e) => One { index, low: Err(e), wait: None },
    };
    let mut topics: Vec<_> = request
        .topics
        .iter()
        .map(|t| (t.name.clone(), t.partitions.iter().map(|p| one(t.name.as_str(), p.partition_index, p.offset)).collect::<Vec<_>>()))
        .collect();
    let written = if moved { broker.storage.checkpoint() } else { Ok(()) };
    if let Err(LogError { path, source }) = &written {
        tracing::error!("{}: {source}", path.display());
    }
    let image = broker.image();
    for one in topics.iter_mut().flat_map(|(_, list)| list) {
        if written.is_err() && one.wait.take().is_some() {
            one.low = Err(ResponseError::KafkaStorageError);
        }
        one.look(&image);
    }
    Deleted { topics, until }
}

impl Deleted {
    /// Whether nothing is waited for.
    pub fn is_done(&self) -> bool {
        self.topics.iter().all(|(_, list)| list.iter().all(|one| one.wait.is_none()))
    }

    /// Waits until every living replica has deleted, or the time is up.
    pub async fn replicated(mut self, broker: &Broker) -> Self {
        let changes = Arc::<Changes>::default();
        let mut images = broker.image.subscribe();
        let mut list: Vec<&mut One> = self.topics.iter_mut().flat_map(|(_, list)| list).filter(|one| one.wait.is_some()).collect();
        let watch = |(slot, one): (usize, &&mut One)| Some(one.wait.as_ref()?.led.partition.watchers().add(&changes, slot as u32));
        let _watches: Vec<Watch> = list.iter().enumerate().filter_map(watch).collect();
        let mut left = list.len();
        // What has changed before it was watched.
        let mut changed: Vec<u32> = (0..left as u32).collect();
        loop {
            let image = images.borrow_and_update().clone();
            for slot in changed {
                if let Some(one) = list.get_mut(slot as usize).filter(|one| one.wait.is_some()) {
                    one.look(&image);
                    left -= usize::from(one.wait.is_none());
                }
            }
            if left == 0 {
                break;
            }
            let left_time = self.until.saturating_duration_since(Instant::now());
            changed = tokio::select! {
                () = changes.woken() => changes.take(),
                // A replica whose broker is gone is not waited for.
                _ = images.changed() => (0..list.len() as u32).collect(),
                () = tokio::time::sleep(left_time) => break,
            };
        }
        self
    }

    /// The answer.
    pub fn response(self) -> DeleteRecordsResponse {
        let partition = |one: One| {
            let answer = DeleteRecordsPartitionResult::default().with_partition_index(one.index);
            match (one.low, one.wait) {
                (Ok(low), None) => answer.with_low_watermark(low),
                (Ok(low), Some(_)) => answer.with_low_watermark(low).with_error_code(ResponseError::RequestTimedOut.code()),
                (Err(e), _) => answer.with_low_watermark(-1).with_error_code(e.code()),
            }
        };
        let topics = self.topics.into_iter().map(|(name, list)| {
            DeleteRecordsTopicResult::default().with_name(name).with_partitions(list.into_iter().map(partition).collect())
        });
        DeleteRecordsResponse::default().with_topics(topics.collect())
    }
}
