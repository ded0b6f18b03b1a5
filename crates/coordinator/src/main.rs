//! `septet-coordinator ZOO_CFG`: runs one server of the ensemble.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Parser, Subcommand};
use septet_coordinator::{
    admin,
    config::Config,
    exchange::{self, ExchangeError},
    node::Node,
    peer,
    server::{self, Counters},
    storage::{LogStore, probe, remove_unfinished},
};
use septet_daemon::{logging, program::Program, ready, signals::StopSignals};
use tokio::net::TcpListener;

const PROGRAM: Program = Program("septet-coordinator");

/// The bundled coordinator: a server of a ZooKeeper ensemble.
#[derive(Parser)]
#[command(version, long_version = peer::LONG_VERSION, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The configuration, as ZooKeeper's zoo.cfg
    #[arg(required = true)]
    config: Option<PathBuf>,
    /// Check the configuration and stop
    #[arg(long)]
    check: bool,
    /// Repair a data directory in which a forged message left a term that no election reaches, and stop. Only while all
    /// servers are stopped
    #[arg(long, conflicts_with = "check")]
    reset_term: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Take ZooKeeper's data as the first state of a stopped server; of an ensemble, the same on each
    Import {
        /// The configuration, as ZooKeeper's zoo.cfg
        config: PathBuf,
        /// ZooKeeper's dataDir
        from: PathBuf,
        /// ZooKeeper's dataLogDir, if it is another
        #[arg(long)]
        log: Option<PathBuf>,
    },
    /// Write the state of a stopped server as a snapshot that ZooKeeper starts from
    Export {
        /// The configuration, as ZooKeeper's zoo.cfg
        config: PathBuf,
        /// Directory for ZooKeeper, its dataDir
        to: PathBuf,
    },
}

fn exchange(command: &Command) -> Result<String, ExchangeError> {
    let (Command::Import { config: path, .. } | Command::Export { config: path, .. }) = command;
    let (config, _) = Config::read(path).map_err(|e| ExchangeError::Refused(e.to_string()))?;
    match command {
        Command::Import { from, log, .. } => exchange::import(&config, from, log.as_deref()).map(|done| format!("imported {done}")),
        Command::Export { to, .. } => exchange::export(&config, to).map(|done| format!("exported to {done}")),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logging::init("info");
    if let Some(command) = &arguments.command {
        return PROGRAM.ended(exchange(command).map(|done| println!("{done}")));
    }
    let path = arguments.config.unwrap_or_default();
    let config = match PROGRAM.configured(Config::read(&path)) {
        Ok(c) => c,
        Err(code) => return code,
    };
    if arguments.check {
        return PROGRAM.checked(&path);
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
                if let Err(e) = remove_unfinished(dir) {
                    tracing::warn!("{}: what was left unfinished cannot be removed: {e}", dir.display());
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
    tracing::info!("server.{} listens for clients on {address}", node.config.id);
    // Ready when it answers, not when there is a majority: the others are started after this one.
    ready::ready();
    let counters = Arc::new(Counters::default());
    if let Some(settings) = node.config.admin.clone() {
        tokio::spawn(admin::http::serve_commands(settings, node.clone(), counters.clone()));
    }
    if let Some(settings) = node.config.metrics.clone() {
        tokio::spawn(admin::http::serve_metrics(settings, node.clone(), counters.clone()));
    }
    let clients = tokio::spawn(server::serve(node.clone(), listener, counters));
    tokio::select! {
        () = stop.received() => {}
        r = clients => return Err(format!("the client listener ended: {r:?}")),
    }
    tracing::info!("stopping");
    ready::stopping();
    node.stop().await;
    Ok(())
}
