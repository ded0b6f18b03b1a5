//! Bytes that move once: what several hosts need goes to the control host, and from there to the others.
//!
//! The control host logs in to the others with the cluster's key, which it does not have: it asks for signatures over an agent
//! channel (`auth-agent@openssh.com`, as of `ssh -A`), and they are made here.
//!
//! Invariants: the key never leaves this process; only logins of our own user are signed; on the receiving host a file gets its
//! name only after its digest was checked.

use std::{sync::Arc, time::Duration};

use russh::keys::{PrivateKey, signature::Signer, ssh_encoding::Encode};
use septet_agent_protocol::STATE_DIR;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    Connection, Endpoint, SshError,
    landing::{self, Lands},
    quote,
};

/// Longest message of the agent protocol that is read, in bytes.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// Messages that one channel may send.
const MAX_MESSAGES: usize = 64;
/// Time for one file from the control host to another.
const TIMEOUT: Duration = Duration::from_secs(600);

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

/// Answers an agent channel until it ends.
pub async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, key: Arc<PrivateKey>, user: String) {
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
        let answer = answer(&message, &key, &user).unwrap_or_else(|| vec![number::FAILURE]);
        let mut frame = (answer.len() as u32).to_be_bytes().to_vec();
        frame.extend(answer);
        if stream.write_all(&frame).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

/// The answer to one message; `None` for a refusal.
fn answer(message: &[u8], key: &PrivateKey, user: &str) -> Option<Vec<u8>> {
    let public = key.public_key().to_bytes().ok()?;
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
            if asked != public || !is_login(&data, user) {
                return None;
            }
            let signature = Vec::<u8>::try_from(key.try_sign(&data).ok()?).ok()?;
            out.push(number::SIGN_RESPONSE);
            signature.as_slice().encode(&mut out).ok()?;
        }
        _ => return None,
    }
    Some(out)
}

/// A string of the SSH protocols: a length, then so many bytes.
fn string(from: &mut &[u8]) -> Option<Vec<u8>> {
    let (length, rest) = from.split_first_chunk::<4>()?;
    let (bytes, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *from = rest;
    Some(bytes.to_vec())
}

/// Whether what is to be signed is the login of our user by a public key, and nothing else (RFC 4252, section 7).
fn is_login(data: &[u8], user: &str) -> bool {
    let mut rest = data;
    let parse = |rest: &mut &[u8]| {
        let _session = string(rest)?;
        let (kind, tail) = rest.split_first()?;
        *rest = tail;
        let (name, service, method) = (string(rest)?, string(rest)?, string(rest)?);
        Some(*kind == USERAUTH_REQUEST && name == user.as_bytes() && service == b"ssh-connection" && method.starts_with(b"publickey"))
    };
    parse(&mut rest).unwrap_or(false)
}

/// A file that is to lie at the same path on another host.
#[derive(Debug, Clone, Copy)]
pub struct Cargo<'a> {
    /// its path, on both hosts
    pub path: &'a str,
    /// SHA-256, hex
    pub digest: &'a str,
    /// what it is on the other host
    pub lands: Lands,
}

/// Sends a file of the control host to another host.
pub async fn send(control: &Connection, to: &Endpoint, cargo: Cargo<'_>) -> Result<(), SshError> {
    let Cargo { path, digest, lands } = cargo;
    let receive = landing::script(STATE_DIR, path, digest, lands);
    let remote = format!("sudo -n sh -c {}", quote(&receive));
    let place = if to.port == 22 { to.host.clone() } else { format!("[{}]:{}", to.host, to.port) };
    // OpenSSH reads known keys from a file only; it holds this host's key and lives as long as the transfer.
    let script = format!(
        "set -e; k=$(mktemp); trap 'rm -f \"$k\"' EXIT; printf '%s\\n' {known} > \"$k\"; sudo -n cat {path} | \
         ssh -F /dev/null -a -o BatchMode=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile=\"$k\" -o GlobalKnownHostsFile=/dev/null \
         -o HostKeyAlgorithms=ssh-ed25519 -o ConnectTimeout=10 -o ServerAliveInterval=10 -o LogLevel=ERROR -p {port} {user}@{host} {remote}",
        known = quote(&format!("{place} {}", to.host_key)),
        port = to.port,
        user = control.user,
        host = to.host,
        remote = quote(&remote),
    );
    let out = control.exec_with_agent(&format!("sh -c {}", quote(&script)), TIMEOUT).await?;
    if out.code == Some(0) {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&out.stderr).trim().to_owned();
    Err(SshError::Agent(format!("{path} does not get from the control host to {}: {words}", to.name)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use russh::keys::{Algorithm, key::safe_rng, signature::Verifier, ssh_key::Signature};

    fn key() -> PrivateKey {
        PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).unwrap()
    }

    fn login(user: &str, method: &str) -> Vec<u8> {
        let mut data = Vec::new();
        [7u8; 32].as_slice().encode(&mut data).unwrap();
        data.push(USERAUTH_REQUEST);
        for s in [user, "ssh-connection", method] {
            s.encode(&mut data).unwrap();
        }
        data.push(1);
        data
    }

    fn request(key: &PrivateKey, data: &[u8]) -> Vec<u8> {
        let mut m = vec![number::SIGN_REQUEST];
        key.public_key().to_bytes().unwrap().as_slice().encode(&mut m).unwrap();
        data.encode(&mut m).unwrap();
        0u32.encode(&mut m).unwrap();
        m
    }

    #[test]
    fn logins_of_our_user_are_signed_and_nothing_else() {
        let key = key();
        let data = login("septet", "publickey");
        let said = answer(&request(&key, &data), &key, "septet").unwrap();
        let mut rest = &said[1..];
        let signature = Signature::try_from(string(&mut rest).unwrap().as_slice()).unwrap();
        key.public_key().key_data().verify(&data, &signature).unwrap();
        for bad in [login("root", "publickey"), login("septet", "password"), b"a commit".to_vec(), Vec::new()] {
            assert_eq!(answer(&request(&key, &bad), &key, "septet"), None);
        }
        let other = super::tests::key();
        assert_eq!(answer(&request(&other, &data), &key, "septet"), None);
    }

    #[test]
    fn other_messages_are_refused() {
        let key = key();
        assert_eq!(answer(&[number::REQUEST_IDENTITIES], &key, "x").unwrap()[..5], [12, 0, 0, 0, 1]);
        for bad in [&[27u8][..], &[], &[13], &[13, 0, 0, 0, 255, 1], &[17, 1, 2]] {
            assert_eq!(answer(bad, &key, "x"), None);
        }
    }
}
