//! How a client is set up.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{Client, Queue};
use crate::{
    error::Error,
    servers::{Random, Servers},
    session::{
        driver::Driver,
        state::{SessionId, SessionInfo, Shared},
        wire::Wire,
    },
};

/// Settings of a client.
#[derive(Debug, Clone)]
pub struct Connector {
    session_timeout: Duration,
    session: Option<SessionInfo>,
    credentials: Vec<(String, Vec<u8>)>,
    max_request: usize,
    max_answer: usize,
    queue_requests: usize,
    queue_bytes: usize,
}

impl Default for Connector {
    fn default() -> Self {
        Self {
            session_timeout: Duration::from_secs(6),
            session: None,
            credentials: Vec::new(),
            max_request: 0xf_ffff,
            max_answer: 4 << 20,
            queue_requests: 10_000,
            queue_bytes: 8 << 20,
        }
    }
}

impl Connector {
    /// The session time-out to ask for; the server may grant another. By default 6 s.
    pub fn with_session_timeout(mut self, timeout: Duration) -> Self {
        self.session_timeout = timeout.max(Duration::from_millis(1));
        self
    }

    /// Goes on with a session instead of beginning one. Another client that has it loses its connection.
    pub fn with_session(mut self, session: SessionInfo) -> Self {
        self.session = Some(session);
        self
    }

    /// An identity that is presented on each connection.
    pub fn with_auth(mut self, scheme: &str, auth: &[u8]) -> Self {
        self.credentials.push((scheme.to_owned(), auth.to_vec()));
        self
    }

    /// Largest request, in bytes; by default 1,048,575, as ZooKeeper's `jute.maxbuffer` for servers.
    pub fn with_max_request(mut self, bytes: usize) -> Self {
        self.max_request = bytes.clamp(1024, 1 << 30);
        self
    }

    /// Largest answer, in bytes; by default 4 MiB. A larger one ends the connection.
    pub fn with_max_answer(mut self, bytes: usize) -> Self {
        self.max_answer = bytes.clamp(1024, 1 << 30);
        self
    }

    /// Bounds of the queue: requests that are not answered yet, and their bytes. Further callers wait. By default 10,000 requests and
    /// 8 MiB; it always has room for the largest request.
    pub fn with_queue(mut self, requests: usize, bytes: usize) -> Self {
        self.queue_requests = requests.clamp(1, 1 << 20);
        self.queue_bytes = bytes.min(1 << 30);
        self
    }

    /// Connects to one of the servers, `host:port,host:port/root`, and begins a session.
    ///
    /// # Errors
    /// - [`Error::NoHosts`] if none of the servers serves.
    /// - [`Error::SessionExpired`] with [`Connector::with_session`], if that session is over.
    /// - [`Error::BadArguments`] if the list does not parse.
    pub async fn connect(self, servers: &str) -> Result<Client, Error> {
        let (servers, root) = Servers::parse(servers, Random::new())?;
        let (id, password, last_zxid) = match self.session {
            Some(s) => (s.id, s.password, s.last_zxid),
            None => (SessionId(0), vec![0; 16], 0),
        };
        let shared = Arc::new(Shared::new(SessionInfo { id, password, timeout: self.session_timeout, last_zxid }));
        // Permits are counted in 32 bits; a request's weight is bounded by the limit of requests.
        let queue_bytes = self.queue_bytes.max(self.max_request + Queue::OVERHEAD);
        let queue = Queue {
            requests: Arc::new(Semaphore::new(self.queue_requests)),
            bytes: Arc::new(Semaphore::new(queue_bytes)),
            max_request: self.max_request,
        };
        let (sender, requests) = mpsc::unbounded_channel();
        let (first, connected) = oneshot::channel();
        let driver = Driver {
            wire: Wire::new(self.credentials, last_zxid),
            servers,
            requests,
            shared: shared.clone(),
            bounds: [queue.requests.clone(), queue.bytes.clone()],
            max_answer: self.max_answer,
            first: Some(first),
            waiting: VecDeque::new(),
            timeout: self.session_timeout,
            closing: false,
        };
        let client = Client { sender, queue, shared, root };
        tokio::spawn(driver.run());
        match connected.await {
            Ok(Ok(())) => Ok(client),
            Ok(Err(e)) => Err(e),
            Err(_) => Err(client.shared.state().error()),
        }
    }
}
