//! The client: requests as methods. All that is sent is sent in the order in which the futures are first polled; none waits for the
//! answer of the one before.

mod connector;
pub mod multi;
mod watching;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot};

pub use connector::Connector;

use crate::{
    acl::{Acl, Acls, AuthUser},
    create::{CreateMode, CreateOptions, Created},
    error::Error,
    jute::{JuteError, Reader, Writer},
    path::Root,
    protocol::{Stat, op},
    session::{
        state::{SessionId, SessionInfo, SessionState, Shared, StateWatcher},
        wire::{Answer, Request, WatchRequest},
    },
};

type Result<T> = std::result::Result<T, Error>;

/// Bounds of requests that are not answered yet.
#[derive(Debug, Clone)]
struct Queue {
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    max_request: usize,
}

impl Queue {
    /// What a request takes besides its frame, in bytes; about.
    const OVERHEAD: usize = 256;
}

/// A handle of a session. When the last one is dropped, the session is closed.
#[derive(Debug, Clone)]
pub struct Client {
    sender: mpsc::UnboundedSender<Request>,
    queue: Queue,
    shared: Arc<Shared>,
    root: Root,
}

impl Client {
    /// A client with the default settings.
    pub fn connector() -> Connector {
        Connector::default()
    }

    /// [`Connector::connect`] with the default settings.
    pub async fn connect(servers: &str) -> Result<Self> {
        Self::connector().connect(servers).await
    }

    /// The same session below a path of this client. The path need not exist.
    ///
    /// # Errors
    /// [`Error::BadArguments`] if the path is not valid.
    pub fn chroot(mut self, path: &str) -> Result<Self> {
        self.root = self.root.join(path)?;
        Ok(self)
    }

    /// The path below which this client works.
    pub fn path(&self) -> &str {
        self.root.as_str()
    }

    /// Id of the session.
    pub fn session_id(&self) -> SessionId {
        self.shared.info().id
    }

    /// The time-out that the server granted.
    pub fn session_timeout(&self) -> Duration {
        self.shared.info().timeout
    }

    /// What another client needs to go on with the session.
    pub fn session(&self) -> SessionInfo {
        self.shared.info().clone()
    }

    /// State of the session.
    pub fn state(&self) -> SessionState {
        self.shared.state()
    }

    /// Follows the state of the session.
    pub fn state_watcher(&self) -> StateWatcher {
        StateWatcher(self.shared.state.subscribe())
    }

    fn frame(op: i32, body: impl FnOnce(&mut Writer) -> &mut Writer) -> Vec<u8> {
        let mut w = Writer::framed();
        w.int(0).int(op);
        body(&mut w);
        w.frame()
    }

    /// Sends a request when there is room for it, and waits for the answer.
    async fn request(&self, op: i32, watch: Option<WatchRequest>, body: impl FnOnce(&mut Writer) -> &mut Writer) -> Result<Answer> {
        let frame = Self::frame(op, body);
        let bytes = frame.len() - 4;
        if bytes > self.queue.max_request {
            return Err(Error::RequestTooLarge { bytes, limit: self.queue.max_request });
        }
        let over = |_| self.shared.state().error();
        let one = self.queue.requests.clone().acquire_owned().await.map_err(over)?;
        let weight = (bytes + Queue::OVERHEAD) as u32;
        let all = self.queue.bytes.clone().acquire_many_owned(weight).await.map_err(over)?;
        self.send(Request { op, frame, watch, reply: oneshot::channel().0, _permits: Some((one, all)) }).await
    }

    async fn send(&self, mut request: Request) -> Result<Answer> {
        let (reply, answer) = oneshot::channel();
        request.reply = reply;
        let over = || match self.shared.state() {
            state if state.is_terminated() => state.error(),
            // The runtime is going away.
            _ => Error::ClientClosed,
        };
        self.sender.send(request).map_err(|_| over())?;
        answer.await.unwrap_or_else(|_| Err(over()))
    }

    /// A request whose error code is an error.
    async fn call(&self, op: i32, body: impl FnOnce(&mut Writer) -> &mut Writer) -> Result<Bytes> {
        let answer = self.request(op, None, body).await?;
        if answer.err == 0 { Ok(answer.body) } else { Err(Error::from_code(answer.err)) }
    }

    async fn ask<T>(
        &self,
        op: i32,
        body: impl FnOnce(&mut Writer) -> &mut Writer,
        read: impl FnOnce(&mut Reader<'_>) -> std::result::Result<T, JuteError>,
    ) -> Result<T> {
        let answer = self.call(op, body).await?;
        Ok(read(&mut Reader(&answer))?)
    }

    /// Creates a node.
    pub async fn create(&self, path: &str, data: &[u8], options: &CreateOptions<'_>) -> Result<Created> {
        let (op, _, _) = options.encode()?;
        let path = create_path(&self.root, path, options)?;
        let read = |r: &mut Reader<'_>| Ok((r.string()?, Stat::read(r)?));
        let (path, stat) = self.ask(op, |w| write_create(w, &path, data, options), read).await?;
        Ok(Created { path: self.root.relative(path), stat })
    }

    /// Creates a node, and its parents if they are missing; one that exists is success. Not atomic.
    pub async fn mkdir(&self, path: &str, options: &CreateOptions<'_>) -> Result<()> {
        if !matches!(options.mode, CreateMode::Persistent | CreateMode::Container) {
            return Err(Error::BadArguments("only persistent nodes and containers may be parents"));
        }
        // From the node up to the first parent that exists, and down again.
        let mut end = path.len();
        let mut up = true;
        loop {
            match self.create(path.get(..end).unwrap_or(path), b"", options).await {
                Ok(_) | Err(Error::NodeExists) if end == path.len() => return Ok(()),
                Ok(_) | Err(Error::NodeExists) => {
                    up = false;
                    end = path[end + 1..].find('/').map_or(path.len(), |i| end + 1 + i);
                }
                Err(Error::NoNode) if up => match path[..end].rfind('/') {
                    Some(parent) if parent > 0 => end = parent,
                    _ => return Err(Error::NoNode),
                },
                Err(e) => return Err(e),
            }
        }
    }

    /// Deletes a node without children. A version other than the node's is [`Error::BadVersion`].
    pub async fn delete(&self, path: &str, expected_version: Option<i32>) -> Result<()> {
        let path = self.root.absolute(path)?;
        self.call(op::DELETE, |w| w.string(&path).int(expected_version.unwrap_or(-1))).await.map(drop)
    }

    /// Data and metadata of a node. Null data reads as empty.
    pub async fn get_data(&self, path: &str) -> Result<(Vec<u8>, Stat)> {
        let path = self.root.absolute(path)?;
        self.ask(op::GET_DATA, |w| w.string(&path).bool(false), read_data).await
    }

    /// Sets the data of a node. A version other than the node's is [`Error::BadVersion`].
    pub async fn set_data(&self, path: &str, data: &[u8], expected_version: Option<i32>) -> Result<Stat> {
        let path = self.root.absolute(path)?;
        self.ask(op::SET_DATA, |w| w.string(&path).buffer(data).int(expected_version.unwrap_or(-1)), Stat::read).await
    }

    /// Metadata of a node, `None` if there is none.
    pub async fn check_stat(&self, path: &str) -> Result<Option<Stat>> {
        let path = self.root.absolute(path)?;
        match self.ask(op::EXISTS, |w| w.string(&path).bool(false), Stat::read).await {
            Ok(stat) => Ok(Some(stat)),
            Err(Error::NoNode) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Names of a node's children, in no order.
    pub async fn list_children(&self, path: &str) -> Result<Vec<String>> {
        self.get_children(path).await.map(|(children, _)| children)
    }

    /// Names of a node's children, in no order, and its metadata.
    pub async fn get_children(&self, path: &str) -> Result<(Vec<String>, Stat)> {
        let path = self.root.absolute(path)?;
        self.ask(op::GET_CHILDREN2, |w| w.string(&path).bool(false), read_children).await
    }

    /// Number of nodes below a node.
    pub async fn count_descendants_number(&self, path: &str) -> Result<usize> {
        let path = self.root.absolute(path)?;
        let count = self.ask(op::GET_ALL_CHILDREN_NUMBER, |w| w.string(&path), |r| r.int()).await?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// Paths of this session's ephemeral nodes that begin with a path.
    pub async fn list_ephemerals(&self, path: &str) -> Result<Vec<String>> {
        let path = self.root.absolute(path)?;
        let all = self.ask(op::GET_EPHEMERALS, |w| w.string(&path), |r| r.vector(4, Reader::string)).await?;
        Ok(all.into_iter().map(|p| self.root.relative(p)).collect())
    }

    /// ACL and metadata of a node.
    pub async fn get_acl(&self, path: &str) -> Result<(Vec<Acl>, Stat)> {
        let path = self.root.absolute(path)?;
        self.ask(op::GET_ACL, |w| w.string(&path), |r| Ok((r.vector(Acl::MIN_BYTES, Acl::read)?, Stat::read(r)?))).await
    }

    /// Sets the ACL of a node. An ACL version other than the node's is [`Error::BadVersion`].
    pub async fn set_acl(&self, path: &str, acls: Acls<'_>, expected_aversion: Option<i32>) -> Result<Stat> {
        let path = self.root.absolute(path)?;
        self.ask(op::SET_ACL, |w| acls.write(w.string(&path)).int(expected_aversion.unwrap_or(-1)), Stat::read).await
    }

    /// Waits until the server has applied all that was committed before.
    pub async fn sync(&self, path: &str) -> Result<()> {
        let path = self.root.absolute(path)?;
        self.call(op::SYNC, |w| w.string(&path)).await.map(drop)
    }

    /// Presents an identity, on this and all later connections. A server that refuses it ends the session with
    /// [`Error::AuthFailed`]; a lost connection fails the call, but the identity is presented on the next.
    pub async fn auth(&self, scheme: &str, auth: &[u8]) -> Result<()> {
        self.call(op::AUTH, |w| w.int(0).string(scheme).buffer(auth)).await.map(drop)
    }

    /// The session's identities (whoAmI, since ZooKeeper 3.7).
    pub async fn list_auth_users(&self) -> Result<Vec<AuthUser>> {
        let read = |r: &mut Reader<'_>| r.vector(8, |r| Ok(AuthUser { scheme: r.string()?, user: r.string()? }));
        self.ask(op::WHO_AM_I, |w| w, read).await
    }

    /// Ends the session: its ephemeral nodes are gone when this returns. All handles of the session are closed with it.
    ///
    /// # Errors
    /// [`Error::ConnectionLoss`] if the server did not confirm it; the session then ends with its time-out.
    pub async fn close(&self) -> Result<()> {
        if self.shared.state() == SessionState::Closed {
            return Ok(());
        }
        let frame = Self::frame(op::CLOSE, |w| w);
        let request = Request { op: op::CLOSE, frame, watch: None, reply: oneshot::channel().0, _permits: None };
        match self.send(request).await {
            Ok(answer) if answer.err == 0 => Ok(()),
            Ok(answer) => Err(Error::from_code(answer.err)),
            Err(Error::ClientClosed) => Err(Error::ConnectionLoss),
            Err(e) => Err(e),
        }
    }
}

fn create_path(root: &Root, path: &str, options: &CreateOptions<'_>) -> Result<String> {
    if options.mode.is_sequential() { root.absolute_sequential(path) } else { root.absolute(path) }
}

/// Body of a create, also in a multi. The options were encoded before.
fn write_create<'w>(w: &'w mut Writer, path: &str, data: &[u8], options: &CreateOptions<'_>) -> &'w mut Writer {
    let (_, flags, ttl) = options.encode().unwrap_or_default();
    let w = options.acls.write(w.string(path).buffer(data)).int(flags);
    match ttl {
        Some(ttl) => w.long(ttl),
        None => w,
    }
}

fn read_data(r: &mut Reader<'_>) -> std::result::Result<(Vec<u8>, Stat), JuteError> {
    Ok((r.buffer()?.to_vec(), Stat::read(r)?))
}

fn read_children(r: &mut Reader<'_>) -> std::result::Result<(Vec<String>, Stat), JuteError> {
    Ok((r.vector(4, Reader::string)?, Stat::read(r)?))
}
