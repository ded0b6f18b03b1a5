//! Requests of one connection that are under way at once.
//!
//! Invariant: requests are begun in the order in which they came, each after the ordered part of the one before it, and
//! answers leave in the same order. What is under way for one connection is bounded in number and in bytes.

use std::{io, sync::Arc};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesOrdered};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::answer::{Answer, Piece};
use crate::{handlers::RequestError, metrics::Timer};

/// Memory of answers of one connection that are not written, in bytes. Larger answers have shares of the budget, and
/// are alone.
const MAX_BYTES: usize = 64 * 1024;
/// What a request counts for at least, in bytes.
const MIN_BYTES: usize = 512;
/// Requests that may be under way on one connection.
pub const MAX_IN_FLIGHT: usize = MAX_BYTES / MIN_BYTES;

/// The rest of a request, which runs while later ones of the connection are handled. `None` if it wants no answer.
pub type Rest = BoxFuture<'static, Result<Option<Answer>, RequestError>>;

/// What handling a request came to.
pub enum Outcome {
    /// The answer.
    Answer(Answer),
    /// The ordered part is done, such as an append; the answer comes from the rest.
    Later {
        /// memory that the answer may take, in bytes
        bytes: usize,
        /// makes the answer
        rest: Rest,
    },
    /// No answer is wanted.
    None,
}

impl From<Answer> for Outcome {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

enum Work {
    Ready(Answer),
    Rest(Rest),
}

struct InFlight {
    work: Work,
    /// runs until the answer is written
    timer: Option<Timer>,
    /// given back when the answer is written
    room: OwnedSemaphorePermit,
}

/// Takes outcomes in the order of requests.
#[derive(Debug)]
pub struct Queue {
    room: Arc<Semaphore>,
    sender: mpsc::UnboundedSender<InFlight>,
}

/// Gives out answers in the order of requests.
pub struct Answers {
    receiver: mpsc::UnboundedReceiver<InFlight>,
    outstanding: FuturesOrdered<BoxFuture<'static, Finished>>,
    ended: bool,
}

/// An answer, and what is kept until it is written.
type Finished = (Result<Option<Answer>, RequestError>, (OwnedSemaphorePermit, Option<Timer>));

/// The two ends for one connection.
pub fn pipeline() -> (Queue, Answers) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let queue = Queue { room: Arc::new(Semaphore::new(MAX_BYTES)), sender };
    (queue, Answers { receiver, outstanding: FuturesOrdered::new(), ended: false })
}

fn memory(answer: &Answer) -> usize {
    answer.pieces.iter().map(|p| if let Piece::Bytes(b) = p { b.len() } else { 0 }).sum()
}

impl Queue {
    /// Puts an outcome behind those before it. Waits while the connection has too much under way.
    pub async fn put(&self, outcome: Outcome, timer: Option<Timer>) -> io::Result<()> {
        let (bytes, work) = match outcome {
            Outcome::Answer(answer) => (memory(&answer), Work::Ready(answer)),
            Outcome::Later { bytes, rest } => (bytes, Work::Rest(rest)),
            Outcome::None => return Ok(()),
        };
        let bytes = bytes.clamp(MIN_BYTES, MAX_BYTES) as u32;
        let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        let room = self.room.clone().acquire_many_owned(bytes).await.map_err(closed)?;
        self.sender.send(InFlight { work, timer, room }).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Whether every answer has been written.
    pub fn is_idle(&self) -> bool {
        self.room.available_permits() == MAX_BYTES
    }
}

impl Answers {
    /// The next answer, with its place, which is to be kept until it is written. `None` after the [`Queue`] was dropped and all
    /// answers were given out.
    pub async fn next(&mut self) -> Option<Finished> {
        loop {
            if self.ended && self.outstanding.is_empty() {
                return None;
            }
            tokio::select! {
                biased;
                Some(next) = self.outstanding.next(), if !self.outstanding.is_empty() => return Some(next),
                more = self.receiver.recv(), if !self.ended => match more {
                    None => self.ended = true,
                    // The usual case: nothing is before it, so it need not be queued.
                    Some(InFlight { work: Work::Ready(answer), timer, room }) if self.outstanding.is_empty() => return Some((Ok(Some(answer)), (room, timer))),
                    Some(InFlight { work, timer, room }) => self.outstanding.push_back(Box::pin(async move {
                        match work {
                            Work::Ready(answer) => (Ok(Some(answer)), (room, timer)),
                            Work::Rest(rest) => (rest.await, (room, timer)),
                        }
                    })),
                },
            }
        }
    }

    /// Whether others wait behind the answer that was given out last.
    pub fn has_more(&self) -> bool {
        !self.outstanding.is_empty() || !self.receiver.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use bytes::Bytes;
    use proptest::prelude::*;
    use tokio::sync::oneshot;

    use super::*;

    fn answer(n: u32) -> Answer {
        Bytes::copy_from_slice(&n.to_be_bytes()).into()
    }

    fn number(answer: &Answer) -> u32 {
        match &answer.pieces[0] {
            Piece::Bytes(b) => u32::from_be_bytes(b[..4].try_into().unwrap()),
            Piece::File(_) => panic!("no file"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 200, ..ProptestConfig::default() })]

        /// Rests that end in any order: answers come in the order of requests.
        #[test]
        fn answers_leave_in_the_order_of_requests(kinds in prop::collection::vec(0u8..4, 1..60), order in any::<u64>()) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (queue, mut answers) = pipeline();
                let (mut want, mut open) = (Vec::new(), Vec::new());
                for (n, kind) in (0u32..).zip(&kinds) {
                    let outcome = match kind {
                        0 => answer(n).into(),
                        1 => Outcome::None,
                        _ => {
                            let (sender, receiver) = oneshot::channel();
                            open.push(sender);
                            let silent = *kind == 3;
                            Outcome::Later { bytes: 0, rest: Box::pin(async move {
                                receiver.await.unwrap();
                                Ok((!silent).then(|| answer(n)))
                            }) }
                        }
                    };
                    if *kind != 1 && *kind != 3 {
                        want.push(n);
                    }
                    queue.put(outcome, None).await.unwrap();
                }
                drop(queue);
                let finish = async {
                    let mut seed = order | 1;
                    while !open.is_empty() {
                        seed ^= seed << 13;
                        seed ^= seed >> 7;
                        seed ^= seed << 17;
                        open.swap_remove(seed as usize % open.len()).send(()).unwrap();
                        tokio::task::yield_now().await;
                    }
                };
                let collect = async {
                    let mut got = Vec::new();
                    while let Some((result, _room)) = answers.next().await {
                        got.extend(result.unwrap().as_ref().map(number));
                    }
                    got
                };
                let ((), got) = tokio::join!(finish, collect);
                assert_eq!(got, want);
            });
        }
    }

    #[tokio::test]
    async fn number_and_bytes_are_bounded() {
        let full = |queue: Queue, outcome: Outcome| async move {
            let waits = tokio::time::timeout(Duration::from_millis(50), queue.put(outcome, None)).await.is_err();
            (queue, waits)
        };
        let (queue, mut answers) = pipeline();
        assert!(queue.is_idle());
        for n in 0..MAX_IN_FLIGHT {
            queue.put(answer(n as u32).into(), None).await.unwrap();
        }
        let (queue, waits) = full(queue, answer(0).into()).await;
        assert!(waits, "one more than {MAX_IN_FLIGHT}");
        // Given out is not written yet.
        let (_, room) = answers.next().await.unwrap();
        let (queue, waits) = full(queue, answer(0).into()).await;
        assert!(waits && !queue.is_idle());
        drop(room);
        queue.put(answer(0).into(), None).await.unwrap();
        while answers.has_more() {
            drop(answers.next().await.unwrap());
        }
        assert!(queue.is_idle());
        // A large one is alone.
        queue.put(Outcome::Later { bytes: 1 << 30, rest: Box::pin(async { Ok(None) }) }, None).await.unwrap();
        let (queue, waits) = full(queue, answer(0).into()).await;
        assert!(waits);
        drop(answers.next().await.unwrap());
        assert!(queue.is_idle());
        drop(answers);
        assert!(queue.put(answer(0).into(), None).await.is_err(), "the connection has ended");
    }

    #[tokio::test]
    async fn the_end_of_a_connection_drops_what_is_outstanding() {
        let (queue, answers) = pipeline();
        let (sender, receiver) = oneshot::channel::<()>();
        let rest = async move {
            let _ = receiver.await;
            Ok(None)
        };
        queue.put(Outcome::Later { bytes: 0, rest: Box::pin(rest) }, None).await.unwrap();
        drop(answers);
        assert!(sender.is_closed());
    }
}
