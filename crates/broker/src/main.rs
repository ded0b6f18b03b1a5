//! `septet-broker SERVER_PROPERTIES`: runs one broker.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use clap::Parser;
use septet_broker::{
    broker::Broker,
    cluster,
    config::Config,
    metrics,
    net::listeners::{self, bind},
    replica,
};
use septet_daemon::{logging, metrics::Limits, program::Program, ready, signals::StopSignals};
use tokio::net::TcpListener;

const PROGRAM: Program = Program("septet-broker");

/// The bundled broker, by Kafka's server.properties.
#[derive(Parser)]
#[command(version, long_version = cluster::control::LONG_VERSION)]
struct Arguments {
    /// The configuration, as Kafka's server.properties
    config: PathBuf,
    /// Check the configuration and stop
    #[arg(long)]
    check: bool,
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "localhost".into(), |n| n.trim().to_owned())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logging::init("info");
    let config = match PROGRAM.configured(Config::read(&arguments.config, &host_name())) {
        Ok(c) => c,
        Err(code) => return code,
    };
    if arguments.check {
        return PROGRAM.checked(&arguments.config);
    }
    PROGRAM.run(run(config))
}

fn ended<T>(what: &str, how: Result<T, tokio::task::JoinError>) -> String {
    how.map_or_else(|e| format!("{what} has failed: {e}"), |_| format!("{what} has ended"))
}

async fn run(config: Config) -> Result<(), String> {
    let mut stop = StopSignals::listen().map_err(|e| e.to_string())?;
    let mut bound = Vec::new();
    for l in &config.listeners {
        bound.push(bind(l).await.map_err(|e| e.to_string())?);
    }
    let metrics_listener = match config.metrics_port {
        Some(port) => Some(TcpListener::bind(("0.0.0.0", port)).await.map_err(|e| format!("cannot listen on metrics.port {port}: {e}"))?),
        None => None,
    };
    let broker = Arc::new(Broker::open(config).map_err(|e| e.to_string())?);
    metrics::register(&broker);
    if let Some(listener) = metrics_listener {
        tokio::spawn(septet_daemon::metrics::serve(listener, broker.metrics.clone(), Limits::default()));
    }
    let mut maintenance = tokio::spawn(broker.clone().maintain());
    let mut session = tokio::spawn(cluster::run(broker.clone()));
    let mut proposals = tokio::spawn(replica::send_proposals(broker.clone()));
    let mut offline = tokio::spawn(replica::offline::watch(broker.clone()));
    // The controller comes in by the same door as clients, who wait until this broker knows the cluster.
    bound.into_iter().for_each(|bound| broker.listeners.serve(&broker, bound));
    let mut following = tokio::spawn(listeners::follow(broker.clone()));
    let serving = {
        let broker = broker.clone();
        async move {
            broker.ready().await;
            ready::ready();
            tracing::info!("serving");
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = stop.received() => {}
        () = serving => {}
        e = &mut session => return Err(e.map_or_else(|e| e.to_string(), |e| e.to_string())),
        // None of these ends by itself: a broker without one of them looks well and is not.
        e = &mut maintenance => return Err(ended("maintenance", e)),
        e = &mut proposals => return Err(ended("the task that proposes ISR changes", e)),
        e = &mut offline => return Err(ended("the watch over the log directory", e)),
        e = &mut following => return Err(ended("the task that opens listeners", e)),
    }
    tracing::info!("stopping");
    ready::stopping();
    // Leave the cluster first, so that clients go elsewhere, then write everything down.
    if broker.config.controlled_shutdown {
        replica::shutdown::hand_over(&broker).await;
    }
    proposals.abort();
    session.abort();
    let _ = session.await;
    cluster::leave(&broker).await;
    broker.replicas.fetchers.stop();
    maintenance.abort();
    let _ = maintenance.await;
    broker.shut_down();
    Ok(())
}
