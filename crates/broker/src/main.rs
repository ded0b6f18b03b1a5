//! `septet-broker SERVER_PROPERTIES`: runs one broker.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use clap::Parser;
use septet_broker::{broker::Broker, cluster, config::Config, handlers::Context, net::server, replica};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

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
    let filter = tracing_subscriber::EnvFilter::try_from_env("SEPTET_LOG").unwrap_or_else(|_| "info,zookeeper_client=error".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .init();
    let (config, warnings) = match Config::read(&arguments.config, &host_name()) {
        Ok(c) => c,
        Err(e) => {
            eprintln!("septet-broker: {e}");
            return ExitCode::from(2);
        }
    };
    warnings.iter().for_each(|w| tracing::warn!("{w}"));
    if arguments.check {
        println!("{}: ok", arguments.config.display());
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(config)),
        Err(e) => Err(e.to_string()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("septet-broker: {e}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> Result<(), String> {
    let mut listeners = Vec::new();
    for l in &config.listeners {
        let host = if l.host.is_empty() { "0.0.0.0" } else { &l.host };
        let bound = TcpListener::bind((host, l.port)).await.map_err(|e| format!("cannot listen on {}://{host}:{}: {e}", l.name, l.port))?;
        listeners.push((l.name.clone(), bound));
    }
    let mut term = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
    let mut int = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
    let broker = Arc::new(Broker::open(config).map_err(|e| e.to_string())?);
    let maintenance = tokio::spawn(broker.clone().maintain());
    let mut session = tokio::spawn(cluster::run(broker.clone()));
    let proposals = tokio::spawn(replica::send_proposals(broker.clone()));
    // The controller comes in by the same door as clients, who wait until this broker knows the cluster.
    for (name, listener) in listeners {
        tokio::spawn(server::serve(broker.clone(), listener, Context { listener: name, peer: None }));
    }
    let ready = {
        let broker = broker.clone();
        async move {
            broker.ready().await;
            let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
            tracing::info!("serving");
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
        () = ready => {}
        e = &mut session => return Err(e.map_or_else(|e| e.to_string(), |e| e.to_string())),
    }
    tracing::info!("stopping");
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
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
