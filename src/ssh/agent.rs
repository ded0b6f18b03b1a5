//! A running agent on a host: started over the SSH channel, installed first if it is missing; requests are
//! frames that need not wait for one another.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::BytesMut;
use russh::{ChannelMsg, ChannelReadHalf};
use septet_agent_protocol::{Action, HEAD_BYTES, Head, Hello, Outcome, PROTOCOL_VERSION, Request, Response, STATE_DIR, Status, encode};
use tokio::{
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::timeout,
};

use super::{
    Connection, SshError,
    landing::{self, Lands},
};
use crate::{
    engine::bundle::Program,
    ssh::{Blob, BlobSource},
};

/// Time for the agent's first frame.
const HELLO_TIMEOUT: Duration = Duration::from_secs(15);
/// Time for sending the agent to a host.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(120);
/// Bytes of a blob that travel in one frame.
const CHUNK_BYTES: usize = 1024 * 1024;

/// Time for packages and archives.
const INSTALL_ACTION_TIMEOUT: Duration = Duration::from_secs(3600);
/// Time for an action without a limit of its own.
const ACTION_TIMEOUT: Duration = Duration::from_secs(900);
/// What an answer may take beyond its action's limit: requests and blobs before it, the network.
const ANSWER_MARGIN: Duration = Duration::from_secs(180);
/// How often the agent is checked for overdue answers.
const OVERDUE_CHECK: Duration = Duration::from_secs(10);
/// Calls of systemctl that one action may make.
const SYSTEMCTL_CALLS: u32 = 5;

type Answer = oneshot::Sender<Result<Outcome, SshError>>;

/// Answers that are waited for.
#[derive(Default)]
struct Outstanding {
    /// each with the time that its action may take
    answers: HashMap<u64, (Answer, Option<Duration>)>,
    /// since when the agent owes an answer
    since: Option<Instant>,
}

impl Outstanding {
    fn add(&mut self, id: u64, answer: Answer, limit: Option<Duration>) {
        if self.answers.is_empty() {
            self.since = Some(Instant::now());
        }
        self.answers.insert(id, (answer, limit));
    }

    fn take(&mut self, id: u64) -> Option<Answer> {
        let (answer, _) = self.answers.remove(&id)?;
        self.since = (!self.answers.is_empty()).then(Instant::now);
        Some(answer)
    }

    /// How long nothing has been answered, if that is longer than any request may take. The agent performs one after the other.
    fn overdue(&self) -> Option<Duration> {
        let limits: Option<Vec<Duration>> = self.answers.values().map(|(_, limit)| *limit).collect();
        let (silent, longest) = (self.since?.elapsed(), limits?.into_iter().max()?);
        (silent > longest.saturating_add(ANSWER_MARGIN)).then_some(silent)
    }
}

/// How long an action may take; `None` if the user set no limit for a command.
fn limit(action: &Action) -> Option<Duration> {
    match action {
        Action::Command { timeout_s: 0, .. } => None,
        Action::Command { timeout_s, .. } | Action::WaitFor { timeout_s, .. } => Some(Duration::from_secs(*timeout_s)),
        Action::Systemd { timeout_s: Some(s), .. } => Some(Duration::from_secs(*s).saturating_mul(SYSTEMCTL_CALLS)),
        Action::Package { .. } | Action::Unarchive { .. } => Some(INSTALL_ACTION_TIMEOUT),
        _ => Some(ACTION_TIMEOUT),
    }
}

type Waiting = Arc<Mutex<Outstanding>>;

/// A running agent.
pub struct AgentSession {
    /// numeric user id that it runs as
    uid: u32,
    frames: mpsc::Sender<Vec<u8>>,
    waiting: Waiting,
    next: AtomicU64,
    reader: AbortHandle,
    writer: AbortHandle,
}

/// An answer that is on its way.
pub type Pending = oneshot::Receiver<Result<Outcome, SshError>>;

fn locked<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads frames from a channel's messages.
struct Frames {
    channel: ChannelReadHalf,
    buffer: BytesMut,
    stderr: String,
    code: Option<u32>,
}

impl Frames {
    async fn next<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, SshError> {
        loop {
            if self.buffer.len() >= HEAD_BYTES {
                let mut head = [0u8; HEAD_BYTES];
                head.copy_from_slice(&self.buffer[..HEAD_BYTES]);
                let head = Head::parse(&head).map_err(|e| SshError::Agent(e.to_string()))?;
                let length = HEAD_BYTES + head.body_len();
                if self.buffer.len() >= length {
                    let frame = self.buffer.split_to(length);
                    return head.decode(&frame[HEAD_BYTES..]).map(|(m, _)| m).map_err(|e| SshError::Agent(e.to_string()));
                }
            }
            match self.channel.wait().await {
                Some(ChannelMsg::Data { data }) => self.buffer.extend_from_slice(&data),
                Some(ChannelMsg::ExtendedData { data, .. }) if self.stderr.len() < 4096 => {
                    self.stderr.push_str(&String::from_utf8_lossy(&data))
                }
                Some(ChannelMsg::ExitStatus { exit_status }) => self.code = Some(exit_status),
                Some(ChannelMsg::Close) | None => {
                    return Err(match (self.code, self.stderr.trim()) {
                        (Some(code), words) => SshError::Agent(format!("ended with {code}: {words}")),
                        (None, "") => SshError::Lost("it ended while the agent worked".into()),
                        (None, words) => SshError::Lost(words.to_owned()),
                    });
                }
                Some(_) => {}
            }
        }
    }
}

impl AgentSession {
    /// Starts the agent as a user (`None`: the one that logged in). It may be missing or damaged.
    pub(super) async fn start(connection: &Connection, program: &Program, become_user: Option<&str>) -> Result<Self, Start> {
        let path = agent_path(program);
        let (sudo, lead) = become_user.map(|user| connection.sudo(user)).unwrap_or_default();
        let (read, write) = connection.start(&format!("{sudo}{path}"), false).await.map_err(Start::Failed)?.split();
        if let Some(lead) = lead {
            write.data_bytes(bytes::Bytes::from(lead)).await.map_err(|e| Start::Failed(SshError::Lost(e.to_string())))?;
        }
        let mut frames = Frames { channel: read, buffer: BytesMut::new(), stderr: String::new(), code: None };
        let hello: Hello = match timeout(HELLO_TIMEOUT, frames.next()).await {
            Err(_) => {
                return Err(Start::Failed(SshError::Agent("it does not say hello".into())));
            }
            Ok(Err(SshError::Agent(words))) => {
                // 126 and 127 are the shell's, 1 with these words is sudo's: there is no such program yet.
                let missing =
                    matches!(frames.code, Some(126 | 127)) || words.contains("command not found") || words.contains("No such file");
                return Err(if missing { Start::Missing(words) } else { Start::Failed(SshError::Agent(words)) });
            }
            Ok(Err(e)) => return Err(Start::Failed(e)),
            Ok(Ok(hello)) => hello,
        };
        if hello.digest != program.digest {
            // Other bytes under our name: what lies there was changed.
            let _ = write.close().await;
            return Err(Start::Missing("another program lies in its place".into()));
        }
        if hello.protocol != PROTOCOL_VERSION {
            return Err(Start::Failed(SshError::Agent(format!(
                "its protocol is {}, this program's is {PROTOCOL_VERSION}: septet and septet-agent are not of one build",
                hello.protocol
            ))));
        }
        let waiting: Waiting = Arc::default();
        let (sender, mut queue) = mpsc::channel::<Vec<u8>>(64);
        let writer = tokio::spawn(async move {
            while let Some(frame) = queue.recv().await {
                if write.data_bytes(bytes::Bytes::from(frame)).await.is_err() {
                    return;
                }
            }
            let _ = write.eof().await;
        });
        let abort = writer.abort_handle();
        let answers = waiting.clone();
        let reader = tokio::spawn(async move {
            let error = loop {
                match timeout(OVERDUE_CHECK, frames.next::<Response>()).await {
                    Ok(Ok(response)) => {
                        if let Some(w) = locked(&answers).take(response.id) {
                            let _ = w.send(Ok(response.outcome));
                        }
                    }
                    Ok(Err(e)) => break e,
                    Err(_) => {}
                }
                if let Some(silent) = locked(&answers).overdue() {
                    break SshError::Agent(format!("no answer for {} s", silent.as_secs()));
                }
            };
            abort.abort();
            for (_, (w, _)) in locked(&answers).answers.drain() {
                let _ = w.send(Err(error.clone()));
            }
        });
        Ok(Self {
            uid: hello.uid,
            frames: sender,
            waiting,
            next: AtomicU64::new(1),
            reader: reader.abort_handle(),
            writer: writer.abort_handle(),
        })
    }

    /// Whether it can read the host's store, which is root's alone.
    pub(super) fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// A number that no request of this session has had.
    pub fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether the agent has ended.
    pub fn is_closed(&self) -> bool {
        self.reader.is_finished() || self.writer.is_finished()
    }

    /// Sends a request; the answer comes when it comes. The request's id is set here.
    pub async fn send(&self, mut request: Request, tail: &[u8]) -> Result<Pending, SshError> {
        request.id = self.next_id();
        let frame = encode(&request, tail).map_err(|e| SshError::Agent(e.to_string()))?;
        let (answer, wait) = oneshot::channel();
        locked(&self.waiting).add(request.id, answer, limit(&request.action));
        // Looked at after it is in the list: the reader empties the list when it ends.
        if self.is_closed() || self.frames.send(frame).await.is_err() {
            locked(&self.waiting).take(request.id);
            return Err(SshError::Lost("the agent has ended".into()));
        }
        Ok(wait)
    }

    /// Sends one action and waits for its outcome.
    pub async fn perform(&self, action: Action, check: bool) -> Result<Outcome, SshError> {
        let request = Request { id: 0, batch: u64::MAX, check, ignore_errors: true, no_log: false, action };
        let wait = self.send(request, &[]).await?;
        wait.await.map_err(|_| SshError::Lost("the agent has ended".into()))?
    }

    /// Asks the agent to begin nothing of what it was sent so far. What it has in hand goes on to its end.
    pub async fn cancel(&self) -> Result<(), SshError> {
        let request = Request { id: 0, batch: u64::MAX, check: false, ignore_errors: true, no_log: false, action: Action::Cancel };
        self.send(request, &[]).await.map(drop)
    }

    /// Sends a blob: to the host's store, or, if it is private, for one use of this agent.
    pub async fn put(&self, blob: &Blob) -> Result<(), SshError> {
        let mut chunks = Chunks::open(&blob.source)?;
        let total = chunks.total;
        let (mut answers, mut offset) = (Vec::new(), 0);
        loop {
            let chunk = chunks.next()?;
            // An empty blob is one empty chunk.
            if chunk.is_empty() && offset > 0 {
                break;
            }
            let action = Action::PutBlob { digest: blob.digest.clone(), offset, total, private: blob.private };
            let request = Request { id: 0, batch: u64::MAX, check: false, ignore_errors: true, no_log: false, action };
            answers.push(self.send(request, &chunk).await?);
            offset += chunk.len() as u64;
            if offset >= total {
                break;
            }
        }
        for answer in answers {
            let outcome = answer.await.map_err(|_| SshError::Lost("the agent has ended".into()))??;
            match outcome.status {
                Status::Failed => return Err(SshError::Agent(outcome.msg)),
                Status::NotRun => return Err(SshError::Agent("the transfer was cancelled".into())),
                _ => {}
            }
        }
        Ok(())
    }
}

/// A blob's bytes, piece by piece.
struct Chunks {
    total: u64,
    from: Box<dyn std::io::Read + Send>,
}

impl Chunks {
    fn open(source: &BlobSource) -> Result<Self, SshError> {
        let fail = |path: &std::path::Path, e: std::io::Error| SshError::Agent(format!("{}: {e}", path.display()));
        match source {
            BlobSource::Bytes(bytes) => {
                let held = std::io::Cursor::new(SharedBytes(bytes.clone()));
                Ok(Self { total: bytes.len() as u64, from: Box::new(held) })
            }
            BlobSource::File(path) => {
                let file = std::fs::File::open(path).map_err(|e| fail(path, e))?;
                let total = file.metadata().map_err(|e| fail(path, e))?.len();
                Ok(Self { total, from: Box::new(file) })
            }
        }
    }

    fn next(&mut self) -> Result<Vec<u8>, SshError> {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let read = std::io::Read::read_to_end(&mut std::io::Read::take(&mut self.from, CHUNK_BYTES as u64), &mut chunk);
        read.map_err(|e| SshError::Agent(format!("reading what is to be sent: {e}")))?;
        Ok(chunk)
    }
}

/// Bytes that are shared, as a slice.
struct SharedBytes(Arc<Vec<u8>>);

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for AgentSession {
    fn drop(&mut self) {
        // The writer ends by itself and closes the agent's input; the reader would wait for ever.
        self.reader.abort();
    }
}

/// Why an agent does not run.
pub(super) enum Start {
    /// there is none, or another one under its name, or it cannot be executed: what the host reported
    Missing(String),
    /// something else
    Failed(SshError),
}

/// Where an agent lies on its host.
pub(super) fn agent_path(program: &Program) -> String {
    format!("{STATE_DIR}/agent/{}", program.digest)
}

/// Puts the agent on a host under its digest, checked there before it gets its name.
pub(super) async fn install(connection: &Connection, program: &Program) -> Result<(), SshError> {
    let digest = &program.digest;
    let script = landing::script(&agent_path(program), digest, Lands::Program);
    let (sudo, lead) = connection.sudo("root");
    let command = format!("{sudo}sh -c {}", quote(&script));
    let mut bytes = lead.unwrap_or_default();
    bytes.extend(program.read().map_err(|e| SshError::Agent(e.message))?);
    let out = connection.exec(&command, &bytes, INSTALL_TIMEOUT).await?;
    if out.code == Some(0) {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&out.stderr).trim().to_owned();
    Err(SshError::Agent(format!("cannot be installed: {words}")))
}

/// A word for a shell.
pub fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn command(timeout_s: u64) -> Action {
        Action::Command {
            argv: vec!["x".into()],
            chdir: None,
            creates: None,
            removes: None,
            stdin: None,
            environment: Default::default(),
            timeout_s,
            check_safe: false,
            expand: false,
        }
    }

    #[test]
    fn an_agent_that_answers_nothing_is_overdue_after_its_longest_request() {
        let mut out = Outstanding::default();
        assert_eq!(out.overdue(), None);
        out.add(1, oneshot::channel().0, limit(&command(10)));
        out.add(2, oneshot::channel().0, limit(&command(100)));
        let silent = |out: &mut Outstanding, s: u64| out.since = Instant::now().checked_sub(Duration::from_secs(s));
        silent(&mut out, 270);
        assert_eq!(out.overdue(), None);
        silent(&mut out, 290);
        assert!(out.overdue().is_some());
        out.take(1).unwrap();
        assert_eq!(out.overdue(), None, "an answer came");
        out.add(3, oneshot::channel().0, limit(&command(0)));
        silent(&mut out, 100_000);
        assert_eq!(out.overdue(), None, "the user set no limit");
        out.add(4, oneshot::channel().0, limit(&command(u64::MAX)));
        out.take(3).unwrap();
        silent(&mut out, 100_000);
        assert_eq!(out.overdue(), None);
    }
}
