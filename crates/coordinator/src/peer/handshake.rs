//! How a connection between servers begins: who calls whom, in which version, and the proof on both sides that
//! they know the ensemble's secret.
//!
//! ```text
//! caller                                        server
//! MAGIC version:u32 from:u64 to:u64 secret:u8 nonce[32]  ->
//!                          <-  MAGIC version:u32 status:u8 secret:u8 nonce[32]
//! proof[32]  ->                                           (with a secret only)
//!                          <-  proof[32]
//! ```
//!
//! Invariant: both proofs and the keys of the frames cover both messages whole, so that neither role, numbers,
//! version nor nonces can be exchanged; before the caller's proof nothing but these few bytes is read.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, PoisonError, RwLock},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    PEER_VERSION,
    frame::Seal,
    secret::{Secret, TAG_BYTES},
};

const MAGIC: [u8; 8] = *b"SEPTETZK";
const HELLO_BYTES: usize = 8 + 4 + 8 + 8 + 1 + 32;
const REPLY_BYTES: usize = 8 + 4 + 1 + 1 + 32;

const OK: u8 = 0;
const OTHER_VERSION: u8 = 1;
const NOT_FOR_ME: u8 = 2;
const OTHER_SECURITY: u8 = 3;
const NOT_KNOWN: u8 = 4;

/// Numbers of the servers that may connect; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Known(Arc<RwLock<BTreeSet<u64>>>);

impl Known {
    /// From now on these may.
    pub fn set(&self, ids: BTreeSet<u64>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = ids;
    }

    fn contains(&self, id: u64) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }
}

impl FromIterator<u64> for Known {
    fn from_iter<I: IntoIterator<Item = u64>>(ids: I) -> Self {
        Self(Arc::new(RwLock::new(ids.into_iter().collect())))
    }
}

/// What one server knows of itself before a handshake.
#[derive(Debug, Clone)]
pub struct Identity {
    /// this server's number
    pub me: u64,
    /// numbers of the other servers
    pub others: Known,
    /// the ensemble's secret
    pub secret: Option<Secret>,
}

/// Keys of one connection, if there is a secret.
#[derive(Debug)]
pub struct Keys {
    /// for frames that leave
    pub send: Seal,
    /// for frames that arrive
    pub receive: Seal,
}

impl Keys {
    fn new(secret: Option<&Secret>, transcript: &[u8], caller: bool) -> Self {
        let key = |purpose: &[u8]| Seal::new(secret.map(|s| s.derive(purpose, transcript)));
        let (asks, answers) = (key(b"septet peer, frames of the caller"), key(b"septet peer, frames of the server"));
        if caller { Self { send: asks, receive: answers } } else { Self { send: answers, receive: asks } }
    }
}

const CALLER_PROOF: &[u8] = b"septet peer, proof of the caller";
const SERVER_PROOF: &[u8] = b"septet peer, proof of the server";

fn refused(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, text.into())
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |n, b| n << 8 | u32::from(*b))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().fold(0, |n, b| n << 8 | u64::from(*b))
}

const SECRETS_DIFFER: &str = "the ensemble's secret (peerSecretFile) differs";

fn one_has_no_secret(me: bool) -> String {
    let (with, without) = if me { ("this server", "the other") } else { ("the other", "this server") };
    format!("{with} has a secret of the ensemble and {without} has none (peerSecretFile must be the same on all)")
}

/// The caller's side.
pub async fn call(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), identity: &Identity, to: u64) -> io::Result<Keys> {
    let secret = identity.secret.as_ref();
    let mut hello = Vec::with_capacity(HELLO_BYTES);
    hello.extend_from_slice(&MAGIC);
    hello.extend_from_slice(&PEER_VERSION.to_be_bytes());
    hello.extend_from_slice(&identity.me.to_be_bytes());
    hello.extend_from_slice(&to.to_be_bytes());
    hello.push(u8::from(secret.is_some()));
    hello.extend_from_slice(&rand::random::<[u8; 32]>());
    stream.write_all(&hello).await?;
    let mut reply = [0; REPLY_BYTES];
    stream.read_exact(&mut reply).await?;
    if reply[..8] != MAGIC {
        return Err(refused("does not speak the protocol between servers"));
    }
    match reply[12] {
        OK => {}
        OTHER_VERSION => {
            return Err(refused(format!("speaks version {} between servers, this one version {PEER_VERSION}", word(&reply, 8))));
        }
        NOT_FOR_ME => return Err(refused(format!("is not server.{to}"))),
        NOT_KNOWN => {
            return Err(refused(format!(
                "does not know server.{me}: it is neither in its zoo.cfg nor in its ensemble (hint: if server.{me} was removed, stop it; \
                 if it is to join, add its line to the zoo.cfg of the other servers and restart them one at a time)",
                me = identity.me
            )));
        }
        _ => return Err(refused(one_has_no_secret(secret.is_some()))),
    }
    if word(&reply, 8) != PEER_VERSION || (reply[13] != 0) != secret.is_some() {
        return Err(refused("contradicts itself"));
    }
    let transcript = [&hello[..], &reply].concat();
    if let Some(secret) = secret {
        stream.write_all(&secret.tag(&[CALLER_PROOF, &transcript])).await?;
        let mut proof = [0; TAG_BYTES];
        stream.read_exact(&mut proof).await.map_err(|_| refused(SECRETS_DIFFER))?;
        if !secret.verify(&[SERVER_PROOF, &transcript], &proof) {
            return Err(refused(SECRETS_DIFFER));
        }
    }
    Ok(Keys::new(secret, &transcript, true))
}

/// The server's side: the number of the caller, and the keys.
pub async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), identity: &Identity) -> io::Result<(u64, Keys)> {
    let secret = identity.secret.as_ref();
    let mut hello = [0; HELLO_BYTES];
    stream.read_exact(&mut hello[..8]).await?;
    if hello[..8] != MAGIC {
        // Version 1 began with the length of a small frame and its number, 0.
        let old = hello[..3] == [0; 3] && hello[4..] == [0; 4];
        return Err(refused(if old { "speaks version 1 between servers" } else { "is not a server of an ensemble" }));
    }
    stream.read_exact(&mut hello[8..]).await?;
    let (version, from, to, secured) = (word(&hello, 8), long(&hello, 12), long(&hello, 20), hello[28] != 0);
    let (status, error) = if version != PEER_VERSION {
        (OTHER_VERSION, format!("speaks version {version} between servers, this one version {PEER_VERSION}"))
    } else if to != identity.me {
        (NOT_FOR_ME, format!("server.{from} calls server.{to}, this is server.{}", identity.me))
    } else if !identity.others.contains(from) {
        (NOT_KNOWN, format!("server.{from} is neither in zoo.cfg nor in the ensemble"))
    } else if secured != secret.is_some() {
        (OTHER_SECURITY, one_has_no_secret(secret.is_some()))
    } else {
        (OK, String::new())
    };
    let mut reply = Vec::with_capacity(REPLY_BYTES);
    reply.extend_from_slice(&MAGIC);
    reply.extend_from_slice(&PEER_VERSION.to_be_bytes());
    reply.extend_from_slice(&[status, u8::from(secret.is_some())]);
    reply.extend_from_slice(&rand::random::<[u8; 32]>());
    stream.write_all(&reply).await?;
    if status != OK {
        return Err(refused(error));
    }
    let transcript = [&hello[..], &reply].concat();
    if let Some(secret) = secret {
        let mut proof = [0; TAG_BYTES];
        stream.read_exact(&mut proof).await?;
        if !secret.verify(&[CALLER_PROOF, &transcript], &proof) {
            return Err(refused(format!("calls itself server.{from}: {SECRETS_DIFFER}")));
        }
        stream.write_all(&secret.tag(&[SERVER_PROOF, &transcript])).await?;
    }
    Ok((from, Keys::new(secret, &transcript, false)))
}
