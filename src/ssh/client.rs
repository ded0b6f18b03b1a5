//! The client's side of a connection's events: the host key is compared, and channels that a host opens are refused, except for the
//! control host's requests for signatures.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use russh::{
    client,
    keys::{PublicKey, PublicKeyOrCertificate},
};

use super::{Own, signing::Signer};

/// Longest reason of a host's that is kept.
const MAX_REASON_CHARS: usize = 200;

/// Which key a host may show.
pub(super) enum Expected {
    /// the one that was planted
    Planted(PublicKey),
    /// one that `known_hosts` has, or a new one where that is accepted
    Known(Box<Own>),
}

impl Expected {
    /// Whether a key is accepted.
    fn accepts(&self, key: &PublicKey) -> bool {
        match self {
            Expected::Planted(expected) => key.key_data() == expected.key_data(),
            Expected::Known(own) if own.is_revoked(key) => false,
            Expected::Known(own) => match own.known() {
                known if known.is_empty() => own.accept_new && own.learn(key).is_ok(),
                known => known.iter().any(|k| k.key_data() == key.key_data()),
            },
        }
    }
}

/// The handler of a connection's events.
pub(super) struct Client {
    /// of the control host's connection only
    pub(super) signer: Option<Arc<Signer>>,
    pub(super) expected: Expected,
    pub(super) got: Arc<Mutex<Option<String>>>,
    pub(super) refused: Arc<AtomicBool>,
    pub(super) open_failure: Arc<Mutex<Option<String>>>,
}

pub(super) type Channel = russh::Channel<client::Msg>;

impl client::Handler for Client {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = key else {
            return Ok(false);
        };
        let same = self.expected.accepts(key);
        if !same {
            *self.got.lock().unwrap_or_else(PoisonError::into_inner) = key.to_openssh().ok();
            self.refused.store(true, Ordering::SeqCst);
        }
        Ok(same)
    }

    /// A reply that is dropped refuses the channel.
    async fn server_channel_open_agent_forward(
        &mut self,
        channel: Channel,
        reply: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Self::Error> {
        if let Some(signer) = self.signer.as_ref().filter(|s| s.admits()) {
            reply.accept().await;
            signer.serve(channel.into_stream());
        }
        Ok(())
    }

    // The library accepts other channels by default.

    async fn server_channel_open_session(
        &mut self,
        _: Channel,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn server_channel_open_x11(
        &mut self,
        _: Channel,
        _: &str,
        _: u32,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _: Channel,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _: Channel,
        _: &str,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _: Channel,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _: Channel,
        _: &str,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn channel_open_failure(
        &mut self,
        _: russh::ChannelId,
        _: russh::ChannelOpenFailure,
        description: &str,
        _: &str,
        _: &mut client::Session,
    ) -> Result<(), Self::Error> {
        let description = description.chars().take(MAX_REASON_CHARS).collect();
        *self.open_failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(description);
        Ok(())
    }
}
