//! SSH: one connection per host, through the control host, with host keys that are known beforehand.
//!
//! Invariants: no connection to a host whose key is not the expected one; every wait has an end; a host opens no channel to us,
//! except the control host an agent channel while it relays a file (`signing.rs`).

mod agent;
mod blob;
mod client;
mod fleet;
mod jumps;
pub mod keys;
mod landing;
mod open_own;
pub mod openssh;
mod own;
mod relay;
mod signing;
mod tether;

use std::{
    borrow::Cow,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use self::client::{Channel, Client, Expected};
pub use agent::{AgentSession, Pending, quote};
pub use blob::{Blob, BlobSource};
pub use fleet::{Endpoint, Fleet, all, at_once};
pub use jumps::Jumps;
pub use landing::Lands;
pub use own::{Ask, Own};
pub use relay::Cargo;
use russh::{
    ChannelMsg, Disconnect, Preferred,
    client::{AuthResult, Config, Handle, connect, connect_stream},
    keys::{Algorithm, PrivateKey, PrivateKeyWithHashAlg, PublicKey},
};
use signing::Signer;
use tokio::time::timeout;

use crate::visible::Secret;

/// Time for TCP, key exchange and login together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a host to open a channel and to start a command in it.
const CHANNEL_TIMEOUT: Duration = Duration::from_secs(15);
/// Pauses before a session that was refused is asked for again.
const SESSION_PAUSES: [Duration; 4] =
    [Duration::from_millis(5), Duration::from_millis(25), Duration::from_millis(100), Duration::from_millis(300)];
/// Time for saying goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// What is shown of a command in an error.
const MAX_SHOWN_CHARS: usize = 60;
/// Largest output of [`Connection::exec`], in bytes of each stream.
const MAX_OUTPUT_BYTES: usize = 8 * 1024 * 1024;

/// Time for a command to end after it was asked to; it is ended before that.
const END_TIMEOUT: Duration = Duration::from_secs(8);

/// Why a host cannot be talked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SshError {
    /// Nothing answers, or not as SSH.
    #[error("{0}")]
    Unreachable(String),
    /// The host has another key than the one that was planted.
    #[error("host key has changed: expected {expected}, got {got}")]
    HostKey {
        /// what was planted
        expected: String,
        /// what the host showed
        got: String,
    },
    /// The host's key is in no `known_hosts`.
    #[error("{place}: unknown host key {fingerprint}")]
    UnknownHost {
        /// Where it is.
        place: String,
        /// What it shows, as OpenSSH writes it.
        fingerprint: String,
    },
    /// OpenSSH's configuration cannot be followed.
    #[error("{0}")]
    Config(String),
    /// `sudo` does not let the login user become root.
    #[error("sudo: {0}")]
    Sudo(String),
    /// Our key is not accepted.
    #[error("login as `{0}` is refused: the key is not accepted")]
    Login(String),
    /// The host through which it is reached cannot be reached itself.
    #[error("reached through {name}: {why}")]
    Jump {
        /// that host
        name: String,
        /// what is the matter with it
        why: String,
    },
    /// The host does not run, according to the provider.
    #[error("the host is {0}: `septet up` starts it")]
    Down(&'static str),
    /// The host's sshd has as many sessions on this connection as it allows.
    #[error("sshd opens no further session on this connection: `MaxSessions` in its configuration is too low")]
    Sessions,
    /// The connection ended.
    #[error("connection lost: {0}")]
    Lost(String),
    /// A command's output is larger than what is kept.
    #[error("the command prints more than {0} MiB; redirect its output to a file on the host")]
    Output(usize),
    /// A command's time was up.
    #[error("`{0}` does not end within {1} s")]
    TimeUp(String, u64),
    /// The agent does not work there.
    #[error("agent: {0}")]
    Agent(String),
}

impl SshError {
    fn time_up(command: &str, limit: Duration) -> Self {
        let mut shown: String = command.chars().take(MAX_SHOWN_CHARS).collect();
        if shown.len() < command.len() {
            shown.push('…');
        }
        Self::TimeUp(shown, limit.as_secs())
    }
}

/// A connection to one host, logged in.
pub struct Connection {
    handle: Handle<Client>,
    signer: Option<Arc<Signer>>,
    open_failure: Arc<Mutex<Option<String>>>,
    /// login name
    pub user: String,
    /// for `sudo`, where it asks for a password
    password: Option<Secret>,
    /// the connection that this one runs through
    _through: Option<Arc<Connection>>,
}

/// Why a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// by itself
    Itself,
    /// its time was up
    TimeUp {
        /// its process group has ended
        confirmed: bool,
    },
    /// the user wanted to stop
    Stopped {
        /// its process group has ended
        confirmed: bool,
    },
}

/// How a command ended.
#[derive(Debug, Clone, Default)]
pub struct Output {
    /// exit code; `None` when it was killed or the connection was lost
    pub code: Option<u32>,
    /// standard output
    pub stdout: Vec<u8>,
    /// standard error
    pub stderr: Vec<u8>,
}

fn config(key: Vec<Algorithm>) -> Arc<Config> {
    Arc::new(Config {
        nodelay: true,
        keepalive_interval: Some(Duration::from_secs(10)),
        keepalive_max: 3,
        inactivity_timeout: Some(Duration::from_secs(120)),
        window_size: 4 * 1024 * 1024,
        preferred: Preferred {
            key: Cow::Owned(key),
            kex: Cow::Owned(vec![
                russh::kex::CURVE25519,
                russh::kex::CURVE25519_PRE_RFC_8731,
                russh::kex::EXTENSION_SUPPORT_AS_CLIENT,
                russh::kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
            ]),
            cipher: Cow::Owned(vec![russh::cipher::AES_256_GCM, russh::cipher::CHACHA20_POLY1305, russh::cipher::AES_256_CTR]),
            ..Preferred::DEFAULT
        },
        ..Default::default()
    })
}

/// Reads a command's output to its end.
async fn drain(read: &mut russh::ChannelReadHalf, out: &mut Output) -> Result<(), SshError> {
    let keep = |into: &mut Vec<u8>, data: &[u8]| {
        into.extend_from_slice(data);
        if into.len() > MAX_OUTPUT_BYTES { Err(SshError::Output(MAX_OUTPUT_BYTES / (1024 * 1024))) } else { Ok(()) }
    };
    loop {
        match read.wait().await {
            Some(ChannelMsg::Data { data }) => keep(&mut out.stdout, &data)?,
            Some(ChannelMsg::ExtendedData { data, .. }) => keep(&mut out.stderr, &data)?,
            Some(ChannelMsg::ExitStatus { exit_status }) => out.code = Some(exit_status),
            Some(ChannelMsg::Close) => return Ok(()),
            Some(_) => {}
            None if out.code.is_some() => return Ok(()),
            None => return Err(SshError::Lost("it ended while a command ran".into())),
        }
    }
}

impl Connection {
    /// Connects to an endpoint, straight or through another connection. Only a host that is connected to straight, the control
    /// host, may relay files ([`Self::exec_with_agent`]).
    pub async fn open(to: &Endpoint, user: &str, key: &Arc<PrivateKey>, jump: Option<&Connection>) -> Result<Self, SshError> {
        let place = format!("{}:{}", to.host, to.port);
        match timeout(CONNECT_TIMEOUT, Self::open_inner(to, user, key, jump)).await {
            Ok(r) => r,
            Err(_) => Err(SshError::Unreachable(format!("{place} does not answer within {} s", CONNECT_TIMEOUT.as_secs()))),
        }
    }

    async fn open_inner(to: &Endpoint, user: &str, key: &Arc<PrivateKey>, jump: Option<&Connection>) -> Result<Self, SshError> {
        let place = format!("{}:{}", to.host, to.port);
        let expected = host_key(&to.host_key)?;
        let (got, refused, open_failure) = (Arc::default(), Arc::new(AtomicBool::new(false)), Arc::default());
        let signer = jump.is_none().then(|| Arc::new(Signer::new(key.clone(), user)));
        let client = Client {
            signer: signer.clone(),
            expected: Expected::Planted(expected),
            got: Arc::clone(&got),
            refused: refused.clone(),
            open_failure: Arc::clone(&open_failure),
        };
        let connected = match jump {
            None => connect(config(vec![Algorithm::Ed25519]), (to.host.as_str(), to.port), client).await,
            Some(jump) => {
                let stream = jump.tcp(&to.host, to.port).await?;
                connect_stream(config(vec![Algorithm::Ed25519]), stream, client).await
            }
        };
        let explain = |e: russh::Error| {
            if refused.load(Ordering::SeqCst) {
                let got = got.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default();
                return SshError::HostKey { expected: to.host_key.clone(), got };
            }
            match e {
                russh::Error::IO(io) if io.kind() == std::io::ErrorKind::ConnectionRefused => {
                    SshError::Unreachable(format!("{place} refuses connections"))
                }
                // A published port accepts connections even where nothing listens behind it.
                russh::Error::IO(io)
                    if matches!(
                        io.kind(),
                        std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::BrokenPipe
                    ) =>
                {
                    SshError::Unreachable(format!("{place}: sshd does not answer"))
                }
                russh::Error::IO(io) => SshError::Unreachable(format!("{place}: {io}")),
                russh::Error::Disconnect | russh::Error::HUP => SshError::Unreachable(format!("{place}: sshd does not answer")),
                other => SshError::Unreachable(format!("{place}: {other}")),
            }
        };
        let mut handle = connected.map_err(&explain)?;
        let login = handle.authenticate_publickey(user, PrivateKeyWithHashAlg::new(key.clone(), None)).await.map_err(&explain)?;
        match login {
            AuthResult::Success => Ok(Self { handle, signer, open_failure, user: user.to_owned(), password: None, _through: None }),
            AuthResult::Failure { remaining_methods, .. } if remaining_methods.is_empty() => {
                Err(SshError::Unreachable(format!("{place}: the connection ended during login")))
            }
            AuthResult::Failure { .. } => Err(SshError::Login(user.to_owned())),
        }
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.handle.is_closed()
    }

    /// Opens a TCP connection from the host.
    pub async fn tcp(&self, host: &str, port: u16) -> Result<russh::ChannelStream<russh::client::Msg>, SshError> {
        let opened = timeout(CHANNEL_TIMEOUT, self.handle.channel_open_direct_tcpip(host, port.into(), "127.0.0.1", 0)).await;
        match opened {
            Err(_) => Err(SshError::Unreachable(format!("{host}:{port}: no answer within {} s", CHANNEL_TIMEOUT.as_secs()))),
            Ok(Ok(channel)) => Ok(channel.into_stream()),
            Ok(Err(russh::Error::ChannelOpenFailure(reason))) => {
                let description = self.open_failure.lock().unwrap_or_else(PoisonError::into_inner).take().filter(|s| !s.is_empty());
                let why = description.map(|s| s.to_lowercase()).unwrap_or_else(|| {
                    use russh::ChannelOpenFailure::{AdministrativelyProhibited, ConnectFailed, ResourceShortage, UnknownChannelType};
                    match reason {
                        ConnectFailed => "nothing accepts connections there".to_owned(),
                        AdministrativelyProhibited => "the control host's sshd forbids forwarding".to_owned(),
                        ResourceShortage => "the control host's sshd has no room for another channel".to_owned(),
                        UnknownChannelType => "the control host's sshd does not forward".to_owned(),
                        other => format!("{other:?}").to_lowercase(),
                    }
                });
                Err(SshError::Unreachable(format!("{host}:{port}: {why}")))
            }
            Ok(Err(e)) => Err(SshError::Lost(e.to_string())),
        }
    }

    /// Opens a session. OpenSSH counts one that has ended for as long as it has not gone through all that it read in one go, so
    /// a session that is opened right behind the end of another may be refused though there is room: what is refused is asked
    /// for again, a few times.
    async fn open_session(&self) -> Result<Channel, SshError> {
        let mut pauses = SESSION_PAUSES.iter();
        loop {
            match (self.handle.channel_open_session().await, pauses.next()) {
                (Ok(channel), _) => return Ok(channel),
                (Err(russh::Error::ChannelOpenFailure(_)), Some(pause)) => tokio::time::sleep(*pause).await,
                (Err(russh::Error::ChannelOpenFailure(_)), None) => return Err(SshError::Sessions),
                (Err(other), _) => return Err(SshError::Lost(other.to_string())),
            }
        }
    }

    /// Opens a channel and starts a command in it.
    async fn start(&self, command: &str, with_agent: bool) -> Result<Channel, SshError> {
        let lost = |e: russh::Error| SshError::Lost(e.to_string());
        let begin = async {
            let channel = self.open_session().await?;
            if with_agent {
                channel.agent_forward(false).await.map_err(lost)?;
            }
            channel.exec(true, command).await.map_err(lost)?;
            Ok(channel)
        };
        match timeout(CHANNEL_TIMEOUT, begin).await {
            Ok(r) => r,
            Err(_) => Err(SshError::Lost(format!("no channel was opened within {} s", CHANNEL_TIMEOUT.as_secs()))),
        }
    }

    /// Runs a command with some input. Output beyond 8 MiB is an error.
    pub async fn exec(&self, command: &str, input: &[u8], limit: Duration) -> Result<Output, SshError> {
        match timeout(limit, self.exec_inner(command, input)).await {
            Ok(r) => r,
            Err(_) => Err(SshError::time_up(command, limit)),
        }
    }

    /// Runs a command that may log in once, as our user and with our key, to the host that has this key. It ends with this call.
    pub async fn exec_with_agent(&self, command: &str, to: &PublicKey, limit: Duration) -> Result<Output, SshError> {
        let grant = self.signer.as_ref().and_then(|s| s.grant(to));
        let _grant = grant.ok_or_else(|| SshError::Agent("this host relays nothing".into()))?;
        match self.tethered(&tether::tethered(command, ""), None, true, limit, std::future::pending()).await? {
            (out, End::Itself) => Ok(out),
            _ => Err(SshError::time_up(command, limit)),
        }
    }

    /// Whether this host has shown that it cannot relay: its OpenSSH client, or the other host's server, is older than 8.9 and
    /// does not say in a login which host it is for.
    pub fn cannot_relay(&self) -> bool {
        self.signer.as_ref().is_none_or(|s| s.saw_unbound())
    }

    /// What to put before a command that runs as another user, and what that reads first from its standard input.
    fn sudo(&self, user: &str) -> (String, Option<Vec<u8>>) {
        match &self.password {
            _ if self.user == user => (String::new(), None),
            None => (format!("sudo -n -u {user} -- "), None),
            // `-k`: the password is asked for each time, so that it never gets to the command instead.
            Some(password) => (format!("sudo -k -S -p '' -u {user} -- "), Some(password.line())),
        }
    }

    /// Runs a command as root.
    pub async fn exec_as_root(&self, command: &str, limit: Duration) -> Result<Output, SshError> {
        let (sudo, lead) = self.sudo("root");
        self.exec(&format!("{sudo}{command}"), &lead.unwrap_or_default(), limit).await
    }

    async fn exec_inner(&self, command: &str, input: &[u8]) -> Result<Output, SshError> {
        let lost = |e: russh::Error| SshError::Lost(e.to_string());
        let (mut read, write) = self.start(command, false).await?.split();
        let feed = async {
            write.data_bytes(bytes::Bytes::copy_from_slice(input)).await.map_err(lost)?;
            write.eof().await.map_err(lost)?;
            std::future::pending::<Result<Output, SshError>>().await
        };
        let mut out = Output::default();
        let result = tokio::select! { r = feed => r, r = drain(&mut read, &mut out) => r.map(|()| std::mem::take(&mut out)) };
        let _ = write.close().await;
        result
    }

    /// Runs a command, as root if so asked, until it ends, its time is up or `stop` completes. In each case its process group has
    /// ended by then, unless that is not confirmed. It has no standard input.
    pub async fn run(&self, command: &str, root: bool, limit: Duration, stop: impl Future<Output = ()>) -> Result<(Output, End), SshError> {
        let (sudo, lead) = if root { self.sudo("root") } else { Default::default() };
        self.tethered(&tether::tethered(command, &sudo), lead, false, limit, stop).await
    }

    async fn tethered(
        &self,
        line: &str,
        lead: Option<Vec<u8>>,
        with_agent: bool,
        limit: Duration,
        stop: impl Future<Output = ()>,
    ) -> Result<(Output, End), SshError> {
        let channel = self.start(line, with_agent).await?;
        let (mut read, write) = channel.split();
        if let Some(lead) = lead {
            write.data_bytes(bytes::Bytes::from(lead)).await.map_err(|e| SshError::Lost(e.to_string()))?;
        }
        let mut out = Output::default();
        let end = tokio::select! {
            r = drain(&mut read, &mut out) => {
                // A command whose output is too large still runs.
                let _ = write.close().await;
                return r.map(|()| (out, End::Itself));
            }
            () = tokio::time::sleep(limit) => End::TimeUp { confirmed: false },
            () = stop => End::Stopped { confirmed: false },
        };
        let _ = write.eof().await;
        let confirmed = matches!(timeout(END_TIMEOUT, drain(&mut read, &mut out)).await, Ok(Ok(())));
        let _ = write.close().await;
        out.code = None;
        Ok((out, if matches!(end, End::TimeUp { .. }) { End::TimeUp { confirmed } } else { End::Stopped { confirmed } }))
    }

    /// Runs a command as root and hands out its output as it comes. Returns its exit code. The command ends with this connection. One
    /// that is silent for longer than `silence` is given up; without that, only its caller ends it.
    pub async fn stream(
        &self,
        command: &str,
        silence: Option<Duration>,
        mut each: impl FnMut(&[u8], bool) + Send,
    ) -> Result<Option<u32>, SshError> {
        let (sudo, lead) = self.sudo("root");
        let mut channel = self.start(&tether::tethered(command, &sudo), false).await?;
        if let Some(lead) = lead {
            channel.data_bytes(bytes::Bytes::from(lead)).await.map_err(|e| SshError::Lost(e.to_string()))?;
        }
        let mut code = None;
        loop {
            let message = match silence {
                None => channel.wait().await,
                Some(limit) => timeout(limit, channel.wait())
                    .await
                    .map_err(|_| SshError::Lost(format!("`{command}` prints nothing for {} s and does not end", limit.as_secs())))?,
            };
            let Some(message) = message else { break };
            match message {
                ChannelMsg::Data { data } => each(&data, false),
                ChannelMsg::ExtendedData { data, .. } => each(&data, true),
                ChannelMsg::ExitStatus { exit_status } => code = Some(exit_status),
                ChannelMsg::Close => break,
                _ => {}
            }
        }
        Ok(code)
    }

    /// Ends the connection.
    pub async fn close(&self) {
        let _ = timeout(CLOSE_TIMEOUT, self.handle.disconnect(Disconnect::ByApplication, "", "en")).await;
    }
}

/// Reads a known host key; a comment is dropped.
fn host_key(text: &str) -> Result<PublicKey, SshError> {
    let key = PublicKey::from_openssh(text).map_err(|e| SshError::Agent(format!("the known host key does not parse: {e}")))?;
    Ok(PublicKey::from(key.key_data().clone()))
}
