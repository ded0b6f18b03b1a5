//! The listeners that are open: those of the file at the start, and what is changed at run time.
//!
//! Invariant: a listener that is removed takes its connections with it; one that cannot be opened is logged, and the others serve.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{net::TcpListener, sync::watch};

use super::server;
use crate::{broker::Broker, config::Listener, handlers::Context};

/// One that is bound.
#[derive(Debug)]
pub struct Bound {
    listener: Listener,
    socket: TcpListener,
}

/// One that serves. Dropping it ends it, and its connections.
#[derive(Debug)]
struct Serving {
    listener: Listener,
    _open: watch::Sender<()>,
}

/// Binds an address.
pub async fn bind(listener: &Listener) -> io::Result<Bound> {
    let host = if listener.host.is_empty() { "0.0.0.0" } else { &listener.host };
    let socket = TcpListener::bind((host, listener.port)).await.map_err(|e| {
        let Listener { name, port, .. } = listener;
        io::Error::new(e.kind(), format!("cannot listen on {name}://{host}:{port}: {e}"))
    })?;
    Ok(Bound { listener: listener.clone(), socket })
}

/// All listeners of a broker, by name.
#[derive(Debug, Default)]
pub struct Listeners(Mutex<BTreeMap<String, Serving>>);

impl Listeners {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Serving>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves on a listener from now on.
    pub fn serve(&self, broker: &Arc<Broker>, bound: Bound) {
        let Bound { listener, socket } = bound;
        let (open, closed) = watch::channel(());
        let context = Context { listener: listener.name.clone(), peer: None, connection: 0 };
        tokio::spawn(server::serve(broker.clone(), socket, context, closed));
        self.lock().insert(listener.name.clone(), Serving { listener, _open: open });
    }

    /// Opens what is new by its name, and closes what is not wanted any more, as DynamicListenerConfig.reconfigure. Another address of one
    /// that stays counts at the next start.
    async fn change(&self, broker: &Arc<Broker>, wanted: &[Listener]) {
        let closed: Vec<Listener> = {
            let mut all = self.lock();
            let gone: Vec<String> = all.keys().filter(|name| !wanted.iter().any(|l| l.name == **name)).cloned().collect();
            gone.iter().filter_map(|name| all.remove(name)).map(|serving| serving.listener).collect()
        };
        closed.iter().for_each(|l| tracing::info!("listener {} is closed", l.name));
        for listener in wanted {
            let there = self.lock().get(&listener.name).map(|s| s.listener.clone());
            match there {
                None => match bind(listener).await {
                    Ok(bound) => {
                        tracing::info!("listener {} is open, port {}", listener.name, listener.port);
                        self.serve(broker, bound);
                    }
                    Err(e) => tracing::error!("{e}"),
                },
                Some(l) if l != *listener => tracing::warn!("listener {}: another address counts at the next start", l.name),
                Some(_) => {}
            }
        }
    }
}

/// Follows what is set at run time. Never ends.
pub async fn follow(broker: Arc<Broker>) {
    let mut applied = broker.dynamic.subscribe();
    let (mut listeners, mut advertised) = (broker.config.listeners.clone(), broker.config.advertised.clone());
    loop {
        let config = broker.dynamic.get().config.clone();
        // New ones are open before clients hear of them; old ones are closed after the others have heard.
        let both: Vec<Listener> = config
            .listeners
            .iter()
            .chain(listeners.iter().filter(|o| !config.listeners.iter().any(|l| l.name == o.name)))
            .cloned()
            .collect();
        if config.listeners != listeners {
            broker.listeners.change(&broker, &both).await;
        }
        if config.advertised != advertised {
            crate::cluster::update_registration(&broker).await;
        }
        if config.listeners != listeners {
            broker.listeners.change(&broker, &config.listeners).await;
        }
        (listeners, advertised) = (config.listeners.clone(), config.advertised.clone());
        if applied.changed().await.is_err() {
            return;
        }
    }
}
