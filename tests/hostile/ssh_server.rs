//! A compromised host: an SSH server in this process that has its own host key, serves whoever logs in, and opens channels to the
//! client whenever it can.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use russh::{
    Channel, ChannelId,
    keys::{Algorithm, PrivateKey, key::safe_rng, ssh_encoding::Encode},
    server::{self, Auth, ChannelOpenHandle, Handle, Msg, Session, VerifiedPublicKey},
};
use septet::ssh::{Endpoint, quote};
use septet_agent_protocol::{HEAD_BYTES, Head, Hello, Outcome, PROTOCOL_VERSION, Request, Response, Status, encode};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// How long the server waits for an answer that may never come.
const PATIENCE: Duration = Duration::from_secs(2);
pub const HOST_BOUND: &str = "publickey-hostbound-v00@openssh.com";
pub const USER: &str = "septet";

/// What a host saw of its attempts.
#[derive(Default)]
pub struct Seen {
    /// kinds of channels that it tried to open, with when
    pub tried: Vec<String>,
    /// those that were opened
    pub opened: Vec<String>,
    /// signatures that it got
    pub signed: Vec<String>,
    /// commands that were run
    pub commands: Vec<String>,
    /// answers to `Host::requests`, in their order, and whether a channel that stayed open afterwards still answers
    pub relay: Vec<bool>,
    /// public keys that logged in
    pub clients: Vec<Vec<u8>>,
}

/// What a host does with commands.
#[derive(Default)]
pub struct Behaviour {
    /// SHA-256 of the agent that it pretends to have, and whether it has it from the start
    pub agent: String,
    pub has_agent: bool,
    /// signatures to ask for, over one channel, while a command with an agent channel runs: method, host key
    pub requests: Vec<(&'static str, Option<Vec<u8>>)>,
    /// how it reacts to commands that it does not know
    pub commands: BTreeMap<&'static str, Reaction>,
}

#[derive(Clone, Copy)]
pub enum Reaction {
    /// output without an end
    Flood,
    /// nothing at all
    Hang,
    /// these bytes on standard error, and exit code 1
    Say(&'static [u8]),
}

pub struct Host {
    pub endpoint: Endpoint,
    pub seen: Arc<Mutex<Seen>>,
}

pub fn new_key() -> PrivateKey {
    PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).unwrap()
}

impl Host {
    /// Starts a host that behaves so.
    pub async fn start(name: &str, key: PrivateKey, behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint {
            name: name.into(),
            host: "127.0.0.1".into(),
            port: listener.local_addr().unwrap().port(),
            host_key: key.public_key().to_openssh().unwrap(),
            own: None,
        };
        let seen = Arc::new(Mutex::new(Seen::default()));
        let config = Arc::new(server::Config { keys: vec![key], ..Default::default() });
        let (there, behaviour) = (seen.clone(), Arc::new(Mutex::new(behaviour)));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = Server { seen: there.clone(), behaviour: behaviour.clone(), channels: BTreeMap::new(), with_agent: false };
                let config = config.clone();
                tokio::spawn(async move {
                    if let Ok(session) = server::run_stream(config, stream, server).await {
                        let _ = session.await;
                    }
                });
            }
        });
        Self { endpoint, seen }
    }
}

struct Server {
    seen: Arc<Mutex<Seen>>,
    behaviour: Arc<Mutex<Behaviour>>,
    channels: BTreeMap<ChannelId, Channel<Msg>>,
    with_agent: bool,
}

impl Server {
    fn attack(&self, handle: Handle, when: &'static str) {
        tokio::spawn(attack(handle, when, self.seen.clone()));
    }
}

impl server::Handler for Server {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, _: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        self.seen.lock().unwrap().clients.push(key.public_key.to_bytes().unwrap());
        Ok(Auth::Accept)
    }

    async fn auth_succeeded(&mut self, session: &mut Session) -> Result<(), Self::Error> {
        self.attack(session.handle(), "connect");
        Ok(())
    }

    async fn channel_open_session(&mut self, channel: Channel<Msg>, reply: ChannelOpenHandle, _: &mut Session) -> Result<(), Self::Error> {
        self.channels.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    /// As a jump host.
    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Ok(mut to) = TcpStream::connect((host, port as u16)).await {
            reply.accept().await;
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut channel.into_stream(), &mut to).await });
        }
        Ok(())
    }

    async fn agent_request(&mut self, _: ChannelId, _: &mut Session) -> Result<bool, Self::Error> {
        self.with_agent = true;
        Ok(true)
    }

    async fn exec_request(&mut self, id: ChannelId, command: &[u8], session: &mut Session) -> Result<(), Self::Error> {
        session.channel_success(id)?;
        let (command, channel) = (String::from_utf8_lossy(command).into_owned(), self.channels.remove(&id).unwrap());
        self.seen.lock().unwrap().commands.push(command.clone());
        let handle = session.handle();
        if std::mem::take(&mut self.with_agent) {
            let requests = std::mem::take(&mut self.behaviour.lock().unwrap().requests);
            let seen = self.seen.clone();
            tokio::spawn(async move {
                relay(&handle, &requests, &seen).await;
                finish(&channel, 1).await;
                tokio::time::sleep(Duration::from_millis(300)).await;
                attack(handle, "after the transfer", seen).await;
            });
            return Ok(());
        }
        self.attack(handle, "exec");
        let mut behaviour = self.behaviour.lock().unwrap();
        if command.ends_with(&format!("agent/{}", behaviour.agent)) {
            let digest = behaviour.agent.clone();
            match behaviour.has_agent {
                true => drop(tokio::spawn(agent(channel, digest))),
                false => drop(tokio::spawn(async move { finish(&channel, 127).await })),
            }
            return Ok(());
        }
        if command.contains("sha256sum") {
            behaviour.has_agent = true;
        }
        // As it is, or the last word of a line that runs it.
        let is = |known: &str| command == known || command.ends_with(&format!(" {}", quote(known)));
        let reaction = behaviour.commands.iter().find(|(known, _)| is(known)).map(|(_, reaction)| *reaction);
        tokio::spawn(async move {
            match reaction {
                None => finish(&channel, 0).await,
                Some(Reaction::Hang) => std::future::pending().await,
                Some(Reaction::Say(words)) => {
                    channel.extended_data(1, words).await.unwrap();
                    finish(&channel, 1).await;
                }
                Some(Reaction::Flood) => while channel.data(&[b'x'; 32 * 1024][..]).await.is_ok() {},
            }
        });
        Ok(())
    }
}

async fn finish(channel: &Channel<Msg>, code: u32) {
    let _ = channel.exit_status(code).await;
    let _ = channel.close().await;
}

/// An agent that answers everything with `ok`.
async fn agent(channel: Channel<Msg>, digest: String) {
    let mut stream = channel.into_stream();
    let hello = Hello { protocol: PROTOCOL_VERSION, version: "0".into(), digest, uid: 0 };
    stream.write_all(&encode(&hello, &[]).unwrap()).await.unwrap();
    loop {
        let mut head = [0; HEAD_BYTES];
        if stream.read_exact(&mut head).await.is_err() {
            return;
        }
        let head = Head::parse(&head).unwrap();
        let mut body = vec![0; head.body_len()];
        stream.read_exact(&mut body).await.unwrap();
        let (request, _): (Request, _) = head.decode(&body).unwrap();
        let outcome = Outcome::new(Status::Ok).with("stdout", "ActiveState=active\nUnitFileState=enabled\nend\n");
        stream.write_all(&encode(&Response { id: request.id, outcome }, &[]).unwrap()).await.unwrap();
    }
}

/// Opens every kind of channel that there is, and asks for a signature over those of an agent.
async fn attack(handle: Handle, when: &'static str, seen: Arc<Mutex<Seen>>) {
    // By then the client has read that it is logged in.
    tokio::time::sleep(Duration::from_millis(20)).await;
    for kind in ["agent", "forwarded-tcpip", "forwarded-streamlocal", "x11", "session", "direct-tcpip", "direct-streamlocal"] {
        let open = async {
            match kind {
                "agent" => handle.channel_open_agent().await,
                "forwarded-tcpip" => handle.channel_open_forwarded_tcpip("127.0.0.1", 22, "127.0.0.1", 1).await,
                "forwarded-streamlocal" => handle.channel_open_forwarded_streamlocal("/tmp/x").await,
                "x11" => handle.channel_open_x11("127.0.0.1", 1).await,
                "session" => handle.channel_open_session().await,
                "direct-tcpip" => handle.channel_open_direct_tcpip("127.0.0.1", 22, "127.0.0.1", 1).await,
                _ => handle.channel_open_direct_streamlocal("/tmp/x").await,
            }
        };
        let opened = timeout(PATIENCE, open).await;
        seen.lock().unwrap().tried.push(format!("{kind} at {when}"));
        let Ok(Ok(channel)) = opened else { continue };
        seen.lock().unwrap().opened.push(format!("{kind} at {when}"));
        if kind == "agent" {
            let mut stream = channel.into_stream();
            let client = seen.lock().unwrap().clients.last().cloned().unwrap();
            if sign(&mut stream, &client, "publickey", None).await {
                seen.lock().unwrap().signed.push(format!("publickey at {when}"));
            }
        }
    }
}

/// What a control host's OpenSSH client asks during a transfer, and what a compromised control host asks besides.
async fn relay(handle: &Handle, requests: &[(&'static str, Option<Vec<u8>>)], seen: &Arc<Mutex<Seen>>) {
    let client = seen.lock().unwrap().clients.last().cloned().unwrap();
    let Ok(channel) = handle.channel_open_agent().await else { return };
    let mut stream = channel.into_stream();
    for (method, host_key) in requests {
        let answer = sign(&mut stream, &client, method, host_key.as_deref()).await;
        seen.lock().unwrap().relay.push(answer);
    }
    // The channel is left open, for later.
    let seen = seen.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let answers = ask(&mut stream, &[11]).await.is_some();
        seen.lock().unwrap().relay.push(answers);
    });
}

/// Asks for the signature of a login; says whether it came.
async fn sign(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), client: &[u8], method: &str, host_key: Option<&[u8]>) -> bool {
    let mut data = Vec::new();
    [7u8; 32].as_slice().encode(&mut data).unwrap();
    data.push(50);
    for s in [USER, "ssh-connection", method] {
        s.encode(&mut data).unwrap();
    }
    data.push(1);
    "ssh-ed25519".encode(&mut data).unwrap();
    client.encode(&mut data).unwrap();
    if let Some(host_key) = host_key {
        host_key.encode(&mut data).unwrap();
    }
    let mut message = vec![13];
    client.encode(&mut message).unwrap();
    data.as_slice().encode(&mut message).unwrap();
    0u32.encode(&mut message).unwrap();
    ask(stream, &message).await.is_some_and(|answer| answer.first() == Some(&14))
}

async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), message: &[u8]) -> Option<Vec<u8>> {
    let exchange = async {
        let mut frame = (message.len() as u32).to_be_bytes().to_vec();
        frame.extend(message);
        stream.write_all(&frame).await.ok()?;
        stream.flush().await.ok()?;
        let length = stream.read_u32().await.ok()?;
        let mut answer = vec![0; length as usize];
        stream.read_exact(&mut answer).await.ok()?;
        Some(answer)
    };
    timeout(PATIENCE, exchange).await.ok()?
}
