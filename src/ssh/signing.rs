//! Signatures that the control host may ask for, over agent channels (`auth-agent@openssh.com`), while it relays a file.
//!
//! Invariants: without a [`Grant`] no agent channel is opened and nothing is signed. A grant is for one login: of our own user,
//! to the host whose key it names, once. The request must carry that host key (`publickey-hostbound-v00@openssh.com`, OpenSSH
//! 8.9 and newer), so sshd on any other host rejects the signature. A plain `publickey` request does not say which host it is
//! for and is refused.
//!
//! The `session-bind@openssh.com` extension is refused: it tells an agent which host a session leads to, and here the request
//! itself says that, to the host that checks it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use russh::keys::{PrivateKey, PublicKey, signature::Signer as _, ssh_encoding::Encode};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    task::AbortHandle,
};

/// Longest message of the agent protocol that is read, in bytes.
const MAX_MESSAGE_BYTES: usize = 16 * 1024;
/// Messages that one channel may send. OpenSSH's client sends three.
const MAX_MESSAGES: usize = 16;
/// Agent channels that may be open per grant.
const CHANNELS_PER_GRANT: usize = 2;
/// Bytes of a session identifier: the exchange hash, SHA-1 to SHA-512 (RFC 4253, section 7.2).
const SESSION_ID_BYTES: std::ops::RangeInclusive<usize> = 20..=64;

/// Numbers of the agent protocol (draft-ietf-sshm-ssh-agent, section 5).
mod number {
    pub const FAILURE: u8 = 5;
    pub const REQUEST_IDENTITIES: u8 = 11;
    pub const IDENTITIES_ANSWER: u8 = 12;
    pub const SIGN_REQUEST: u8 = 13;
    pub const SIGN_RESPONSE: u8 = 14;
}
/// `SSH_MSG_USERAUTH_REQUEST` (RFC 4252).
const USERAUTH_REQUEST: u8 = 50;
/// The only method that is signed (OpenSSH, PROTOCOL, section 3.1).
const HOST_BOUND: &[u8] = b"publickey-hostbound-v00@openssh.com";
const PLAIN: &[u8] = b"publickey";

#[derive(Default)]
struct State {
    /// host keys for which a login may be signed, as they stand in a request
    grants: BTreeMap<u64, Vec<u8>>,
    /// transfers under way, with or without their signature
    transfers: usize,
    next: u64,
    channels: Vec<AbortHandle>,
}

/// Signs logins for one connection, as long as there are grants.
pub(super) struct Signer {
    key: Arc<PrivateKey>,
    user: String,
    state: Mutex<State>,
    unbound: AtomicBool,
}

/// Permission for one signature; it ends with the value.
pub(super) struct Grant {
    signer: Arc<Signer>,
    number: u64,
}

impl Drop for Grant {
    fn drop(&mut self) {
        let mut state = self.signer.locked();
        state.grants.remove(&self.number);
        state.transfers -= 1;
        if state.transfers == 0 {
            state.channels.drain(..).for_each(|c| c.abort());
        }
    }
}

impl Signer {
    pub(super) fn new(key: Arc<PrivateKey>, user: &str) -> Self {
        Self { key, user: user.to_owned(), state: Mutex::default(), unbound: AtomicBool::new(false) }
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Permits one login to the host with this key. `None` if the key cannot be encoded.
    pub(super) fn grant(self: &Arc<Self>, host_key: &PublicKey) -> Option<Grant> {
        let host_key = host_key.to_bytes().ok()?;
        let mut state = self.locked();
        let number = state.next;
        state.next += 1;
        state.transfers += 1;
        state.grants.insert(number, host_key);
        Some(Grant { signer: self.clone(), number })
    }

    /// Whether a login was refused because it did not name its host: OpenSSH older than 8.9 on either side.
    pub(super) fn saw_unbound(&self) -> bool {
        self.unbound.load(Ordering::SeqCst)
    }

    /// Whether another agent channel may be opened now.
    pub(super) fn admits(&self) -> bool {
        let mut state = self.locked();
        state.channels.retain(|c| !c.is_finished());
        state.channels.len() < state.transfers * CHANNELS_PER_GRANT
    }

    /// Answers an agent channel until it ends or no transfer is under way.
    pub(super) fn serve(self: &Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let mut state = self.locked();
        if state.transfers > 0 {
            state.channels.push(tokio::spawn(answer_all(stream, self.clone())).abort_handle());
        }
    }

    /// The answer to one message; `None` for a refusal.
    fn answer(&self, message: &[u8]) -> Option<Vec<u8>> {
        let public = self.key.public_key().to_bytes().ok()?;
        let (kind, mut rest) = message.split_first()?;
        let mut out = Vec::new();
        match *kind {
            number::REQUEST_IDENTITIES => {
                out.push(number::IDENTITIES_ANSWER);
                1u32.encode(&mut out).ok()?;
                public.as_slice().encode(&mut out).ok()?;
                "septet".encode(&mut out).ok()?;
            }
            number::SIGN_REQUEST => {
                let (asked, data) = (string(&mut rest)?, string(&mut rest)?);
                let login = Login::parse(data)?;
                if asked != public || login.key != public || login.user != self.user.as_bytes() {
                    return None;
                }
                let Some(host_key) = login.host_key else {
                    self.unbound.store(true, Ordering::SeqCst);
                    return None;
                };
                self.take(host_key)?;
                let signature = Vec::<u8>::try_from(self.key.try_sign(data).ok()?).ok()?;
                out.push(number::SIGN_RESPONSE);
                signature.as_slice().encode(&mut out).ok()?;
            }
            _ => return None,
        }
        Some(out)
    }

    /// Uses up a grant for a host.
    fn take(&self, host_key: &[u8]) -> Option<()> {
        let mut state = self.locked();
        let number = state.grants.iter().find(|(_, k)| k.as_slice() == host_key).map(|(n, _)| *n)?;
        state.grants.remove(&number).map(drop)
    }
}

async fn answer_all(mut stream: impl AsyncRead + AsyncWrite + Unpin, signer: Arc<Signer>) {
    for _ in 0..MAX_MESSAGES {
        let Ok(length) = stream.read_u32().await else { return };
        let length = length as usize;
        if length == 0 || length > MAX_MESSAGE_BYTES {
            return;
        }
        let mut message = vec![0; length];
        if stream.read_exact(&mut message).await.is_err() {
            return;
        }
        let answer = signer.answer(&message).unwrap_or_else(|| vec![number::FAILURE]);
        let mut frame = (answer.len() as u32).to_be_bytes().to_vec();
        frame.extend(answer);
        if stream.write_all(&frame).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

/// A string of the SSH protocols: a length, then so many bytes.
fn string<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = from.split_first_chunk::<4>()?;
    let (bytes, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *from = rest;
    Some(bytes)
}

/// What a client signs to log in by public key (RFC 4252, section 7).
struct Login<'a> {
    user: &'a [u8],
    key: &'a [u8],
    /// the server's host key; `None` if the method does not have it
    host_key: Option<&'a [u8]>,
}

impl<'a> Login<'a> {
    /// `None` if the bytes are anything but the whole of one such request.
    fn parse(data: &'a [u8]) -> Option<Self> {
        let mut rest = data;
        let session = string(&mut rest)?;
        let (kind, tail) = rest.split_first()?;
        rest = tail;
        let (user, service, method) = (string(&mut rest)?, string(&mut rest)?, string(&mut rest)?);
        let (signed, tail) = rest.split_first()?;
        rest = tail;
        let (_algorithm, key) = (string(&mut rest)?, string(&mut rest)?);
        let host_key = match method {
            HOST_BOUND => Some(string(&mut rest)?),
            PLAIN => None,
            _ => return None,
        };
        let whole = SESSION_ID_BYTES.contains(&session.len()) && rest.is_empty();
        (whole && *kind == USERAUTH_REQUEST && *signed == 1 && service == b"ssh-connection").then_some(Self { user, key, host_key })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use russh::keys::{Algorithm, key::safe_rng, signature::Verifier, ssh_key::Signature};

    fn key() -> PrivateKey {
        PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).unwrap()
    }

    fn blob(key: &PrivateKey) -> Vec<u8> {
        key.public_key().to_bytes().unwrap()
    }

    /// A request's bytes; `host_key` only if the method has one.
    fn login(user: &str, method: &[u8], key: &PrivateKey, host_key: Option<&PrivateKey>) -> Vec<u8> {
        let mut data = Vec::new();
        [7u8; 32].as_slice().encode(&mut data).unwrap();
        data.push(USERAUTH_REQUEST);
        for s in [user.as_bytes(), b"ssh-connection", method] {
            s.encode(&mut data).unwrap();
        }
        data.push(1);
        b"ssh-ed25519".as_slice().encode(&mut data).unwrap();
        blob(key).as_slice().encode(&mut data).unwrap();
        if let Some(host_key) = host_key {
            blob(host_key).as_slice().encode(&mut data).unwrap();
        }
        data
    }

    fn request(key: &PrivateKey, data: &[u8]) -> Vec<u8> {
        let mut m = vec![number::SIGN_REQUEST];
        blob(key).as_slice().encode(&mut m).unwrap();
        data.encode(&mut m).unwrap();
        0u32.encode(&mut m).unwrap();
        m
    }

    #[test]
    fn one_login_of_our_user_to_the_granted_host_is_signed() {
        let (ours, host) = (key(), key());
        let signer = Arc::new(Signer::new(Arc::new(ours.clone()), "septet"));
        let data = login("septet", HOST_BOUND, &ours, Some(&host));
        assert_eq!(signer.answer(&request(&ours, &data)), None, "no grant");

        let grant = signer.grant(host.public_key()).unwrap();
        let answer = signer.answer(&request(&ours, &data)).unwrap();
        let mut rest = &answer[1..];
        let signature = Signature::try_from(string(&mut rest).unwrap()).unwrap();
        ours.public_key().key_data().verify(&data, &signature).unwrap();
        assert_eq!(signer.answer(&request(&ours, &data)), None, "one signature per grant");
        drop(grant);

        let grant = signer.grant(host.public_key()).unwrap();
        drop(grant);
        assert_eq!(signer.answer(&request(&ours, &data)), None, "the grant has ended");
    }

    #[test]
    fn anything_else_is_refused_and_uses_up_no_grant() {
        let (ours, host, other) = (key(), key(), key());
        let signer = Arc::new(Signer::new(Arc::new(ours.clone()), "septet"));
        let _grant = signer.grant(host.public_key()).unwrap();
        let good = login("septet", HOST_BOUND, &ours, Some(&host));
        let mut longer = good.clone();
        longer.push(0);
        for bad in [
            login("root", HOST_BOUND, &ours, Some(&host)),
            login("septet", HOST_BOUND, &ours, Some(&other)),
            login("septet", HOST_BOUND, &other, Some(&host)),
            login("septet", HOST_BOUND, &ours, None),
            login("septet", b"password", &ours, Some(&host)),
            login("septet", PLAIN, &ours, Some(&host)),
            good[..good.len() - 1].to_vec(),
            longer,
            b"a commit".to_vec(),
            Vec::new(),
        ] {
            assert_eq!(signer.answer(&request(&ours, &bad)), None, "{bad:?}");
        }
        assert!(!signer.saw_unbound());
        assert_eq!(signer.answer(&request(&ours, &login("septet", PLAIN, &ours, None))), None);
        assert!(signer.saw_unbound());
        assert_eq!(signer.answer(&request(&other, &good)), None);
        assert!(signer.answer(&request(&ours, &good)).is_some(), "the grant is still there");
    }

    #[test]
    fn other_messages_are_refused() {
        let signer = Signer::new(Arc::new(key()), "x");
        assert_eq!(signer.answer(&[number::REQUEST_IDENTITIES]).unwrap()[..5], [12, 0, 0, 0, 1]);
        for bad in [&[27u8][..], &[], &[13], &[13, 0, 0, 0, 255, 1], &[17, 1, 2]] {
            assert_eq!(signer.answer(bad), None);
        }
    }
}
