//! `septet-coordinator ZOO_CFG`: runs one server of the ensemble.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use septet_coordinator::{
    config::Config,
    node::Node,
    server::{self, Counters},
    storage::{LogStore, probe},
};
use septet_daemon::{logging, program::Program, ready, signals::StopSignals};
use tokio::net::TcpListener;

const PROGRAM: Program = Program("septet-coordinator");

/// The bundled coordinator: a server of a ZooKeeper ensemble.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The configuration, as ZooKeeper's zoo.cfg
    config: PathBuf,
    /// Check the configuration and stop
    #[arg(long)]
    check: bool,
    /// Repair a data directory in which a forged message left a term that no election reaches, and stop. Only while all
    /// servers are stopped
    #[arg(long, conflicts_with = "check")]
    reset_term: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logging::init("info,openraft=error");
    let config = match PROGRAM.configured(Config::read(&arguments.config)) {
        Ok(c) => c,
        Err(code) => return code,
    };
    if arguments.check {
        return PROGRAM.checked(&arguments.config);
    }
    if arguments.reset_term {
        return PROGRAM.ended(reset_term(&config));
    }
    server::limits::raise_descriptors();
    PROGRAM.run(run(config))
}

/// Waits until the data directory can be written to. A server that cannot write takes no part: it would be elected, or
/// vote, and end at its first write, again and again.
async fn wait_for_room(dir: &Path) -> Result<(), String> {
    let mut waits = false;
    loop {
        let probed = std::fs::create_dir_all(dir)
            .map_err(|e| std::io::Error::new(e.kind(), format!("{}: {e}", dir.display())))
            .and_then(|()| probe(dir));
        match probed {
            Ok(()) => return Ok(()),
            Err(e) if matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
                if !std::mem::replace(&mut waits, true) {
                    tracing::error!("{e}: this server waits for room and serves nobody until then");
                    ready::ready();
                }
            }
            Err(e) => return Err(e.to_string()),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn reset_term(config: &Config) -> Result<(), String> {
    let dir = config.data_dir.join("version-2");
    match LogStore::reset_term(&dir).map_err(|e| e.to_string())? {
        Some(term) => println!("{}: term {term} was removed", dir.display()),
        None => println!("{}: nothing to repair", dir.display()),
    }
    Ok(())
}

async fn run(config: Config) -> Result<(), String> {
    let mut stop = StopSignals::listen().map_err(|e| e.to_string())?;
    let dir = config.data_dir.join("version-2");
    tokio::select! {
        room = wait_for_room(&dir) => room?,
        () = stop.received() => return Ok(()),
    }
    let address = format!("{}:{}", config.client_address, config.client_port);
    let listener = TcpListener::bind(&address).await.map_err(|e| format!("cannot listen on {address}: {e}"))?;
    let node = Node::start(config).await.map_err(|e| e.to_string())?;
    tracing::info!("server {} of {} listens on {address}", node.config.id, node.config.members.len().max(1));
    // Ready when it answers, not when there is a majority: the others are started after this one.
    ready::ready();
    let clients = tokio::spawn(server::serve(node.clone(), listener, Arc::new(Counters::default())));
    tokio::select! {
        () = stop.received() => {}
        r = clients => return Err(format!("the client listener ended: {r:?}")),
    }
    tracing::info!("stopping");
    ready::stopping();
    node.stop().await;
    Ok(())
}
