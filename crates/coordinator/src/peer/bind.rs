//! Where the port of the servers listens: on the addresses of this server's own name in `zoo.cfg`, or everywhere
//! with `quorumListenOnAllIPs`.
//!
//! A name that does not resolve yet, or to an address that this host does not have yet, is tried again; so is one
//! that resolves to other addresses later.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, lookup_host},
    task::JoinHandle,
};

use super::{Listener, Serve};
use crate::config::Member;

/// Pause before the next look at the name, while nothing listens.
const SOON: Duration = Duration::from_secs(1);
/// Pause before the next look at the name, once something listens.
const LATER: Duration = Duration::from_secs(10);

/// The sockets of the port of the servers.
pub struct Binding<S> {
    label: String,
    member: Member,
    everywhere: bool,
    listener: Arc<Listener<S>>,
    tasks: BTreeMap<SocketAddr, JoinHandle<()>>,
    /// what was logged last, so that it is logged once
    logged: String,
}

impl<S: Serve> Binding<S> {
    /// Listens, and goes on to follow the name. A port that is taken is an error at the start; what may mend itself
    /// is tried again.
    pub async fn start(id: u64, member: Member, everywhere: bool, listener: Arc<Listener<S>>) -> Result<(), (String, io::Error)> {
        let label = format!("server.{id}={}:{}", member.host, member.port);
        let mut this = Self { label, member, everywhere, listener, tasks: BTreeMap::new(), logged: String::new() };
        if let Err(e) = this.refresh().await {
            if e.kind() == io::ErrorKind::AddrInUse {
                return Err((this.label, e));
            }
            this.log(format!("cannot listen yet: {e}"));
        }
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(if this.tasks.is_empty() { SOON } else { LATER }).await;
                if let Err(e) = this.refresh().await {
                    this.log(format!("cannot listen yet: {e}"));
                }
            }
        });
        Ok(())
    }

    fn log(&mut self, text: String) {
        if self.logged != text {
            tracing::warn!("{}: {text}", self.label);
            self.logged = text;
        }
    }

    async fn refresh(&mut self) -> io::Result<()> {
        let port = self.member.port;
        let wanted: BTreeSet<SocketAddr> = if self.everywhere {
            if !self.tasks.is_empty() {
                return Ok(());
            }
            // One socket for both kinds of addresses, unless this host has only one kind.
            match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
                Ok(listener) => return self.add(listener),
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => return Err(e),
                Err(_) => BTreeSet::from([(Ipv4Addr::UNSPECIFIED, port).into()]),
            }
        } else {
            lookup_host((self.member.host.as_str(), port)).await?.collect()
        };
        let mut failed = None;
        let gone: Vec<SocketAddr> = self.tasks.keys().filter(|a| !wanted.contains(a)).copied().collect();
        for address in &wanted {
            if !self.tasks.contains_key(address) {
                match TcpListener::bind(address).await {
                    Ok(listener) => self.add(listener)?,
                    Err(e) => failed = Some(io::Error::new(e.kind(), format!("{address}: {e}"))),
                }
            }
        }
        for address in gone {
            if let Some(task) = self.tasks.remove(&address) {
                tracing::info!("{}: no longer listens on {address}", self.label);
                task.abort();
            }
        }
        self.warn_of_loopback();
        match failed {
            // A name may have an IPv6 address where IPv6 is off: one address is enough.
            Some(e) if self.tasks.is_empty() => Err(e),
            _ => Ok(()),
        }
    }

    fn add(&mut self, listener: TcpListener) -> io::Result<()> {
        let address = listener.local_addr()?;
        tracing::info!("{}: listens on {address}", self.label);
        self.tasks.insert(address, tokio::spawn(self.listener.clone().accept(listener)));
        Ok(())
    }

    /// Debian maps a host's own name to 127.0.1.1: nobody else reaches that.
    fn warn_of_loopback(&mut self) {
        let host = self.member.host.as_str();
        let meant = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok();
        if !meant && !self.tasks.is_empty() && self.tasks.keys().all(|a| a.ip().is_loopback()) {
            self.log(format!(
                "{host} resolves to a loopback address on this host, so other hosts cannot connect \
                 (hint: map {host} to the host's own address in /etc/hosts, or set quorumListenOnAllIPs=true)"
            ));
        }
    }
}
