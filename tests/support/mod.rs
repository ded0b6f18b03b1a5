//! What several test files share: a project in a temporary directory, and a runner whose hosts do not exist.
#![allow(dead_code)]

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt::Write,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use septet::{
    engine::{
        self,
        bundle::{Bundle, Program},
    },
    error::{Error, Result},
    inventory::{HostId, Inventory},
    playbook::{Event, Options, Recap, Runner, model::Play, parse, runner::Shared},
    project::Project,
    template::Vars,
};
use serde_json::Value;
use tokio::sync::mpsc;

/// What a run told and how it ended.
pub struct Ran {
    pub events: Vec<Event>,
    pub recap: Recap,
}

/// Files in a temporary directory, and how a playbook in it is run.
pub struct Case {
    dir: tempfile::TempDir,
    pub inventory: Inventory,
    pub options: Options,
    pub addresses: BTreeMap<HostId, Vars>,
    pub interrupted: Arc<AtomicBool>,
    /// further variables of Septet's own
    pub common: Vars,
}

pub fn vars(value: Value) -> Vars {
    value.as_object().unwrap().clone()
}

impl Case {
    /// An empty project with the built-in inventory.
    pub fn new() -> Self {
        let options = Options { check: true, ..Options::default() };
        Self {
            dir: tempfile::tempdir().unwrap(),
            inventory: Inventory::built_in().unwrap(),
            options,
            addresses: BTreeMap::new(),
            interrupted: Arc::default(),
            common: Vars::new(),
        }
    }

    /// With a variable of Septet's own.
    pub fn own(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.common.insert(name.into(), value.into());
        self
    }

    /// With `p.yml`, the playbook that is run.
    pub fn playbook(text: &str) -> Self {
        Self::new().file("p.yml", text)
    }

    pub fn file(self, name: &str, text: impl AsRef<[u8]>) -> Self {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    pub fn inventory(mut self, text: &str) -> Self {
        self.inventory = Inventory::parse(Path::new("i.yml"), text).unwrap();
        self
    }

    pub fn options(mut self, change: impl FnOnce(&mut Options)) -> Self {
        change(&mut self.options);
        self
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    pub fn project(&self) -> Project {
        Project { root: self.root() }
    }

    pub fn parse(&self, name: &str) -> Result<Vec<Play>> {
        parse::playbook(&self.project(), name)
    }

    /// The message of the error that parsing `p.yml` ends with, without the directory's name.
    pub fn parse_error(&self) -> String {
        self.plain(match self.parse("p.yml") {
            Ok(_) => "no error".to_owned(),
            Err(e) => e.to_string(),
        })
    }

    fn plain(&self, text: impl AsRef<str>) -> String {
        text.as_ref().replace(&self.dir.path().display().to_string(), "DIR")
    }

    /// Programs of a few bytes, so that the shipped playbooks have something to copy.
    fn bundle(&self) -> Bundle {
        let program = |name: &str| {
            let path = self.dir.path().join(name);
            std::fs::write(&path, name).unwrap();
            Program { path, digest: String::new(), peer_protocol: None }
        };
        Bundle { agent: program("septet-agent"), coordinator: program("septet-coordinator"), broker: program("septet-broker") }
    }

    pub fn try_run(&self, name: &str) -> Result<Ran> {
        let plays = self.parse(name)?;
        let (events, result) = self.run_until(&plays, None);
        Ok(Ran { events, recap: result? })
    }

    /// Runs `p.yml` for real, on hosts where every change goes well, under a gate.
    pub fn run_under(&self, gate: Arc<dyn septet::playbook::Gate>) -> (Vec<Event>, Result<Recap>) {
        let plays = self.parse("p.yml").unwrap();
        self.run_with(&plays, None, Some(gate))
    }

    /// Runs plays; with a task's name, as if the user pressed Ctrl-C once that task is told.
    pub fn run_until(&self, plays: &[Play], stop_at: Option<&str>) -> (Vec<Event>, Result<Recap>) {
        self.run_with(plays, stop_at, None)
    }

    fn run_with(
        &self,
        plays: &[Play],
        stop_at: Option<&str>,
        gate: Option<Arc<dyn septet::playbook::Gate>>,
    ) -> (Vec<Event>, Result<Recap>) {
        let mut common = engine::vars(&self.inventory, Some("00000000-0000-0000-0000-000000000000"));
        common.extend(engine::programs(&self.bundle()));
        common.insert("ensemble_secret".into(), "5".repeat(64).into());
        common.extend(self.common.clone());
        let (events, mut told) = mpsc::unbounded_channel();
        let shared = Shared {
            inventory: self.inventory.clone(),
            project: self.project(),
            fleet: None,
            absent: self.inventory.hosts.iter().map(|h| h.id).collect(),
            unseen: HashSet::new(),
            options: self.options.clone(),
            host_vars: BTreeMap::new(),
            hosts: Arc::default(),
            for_tera: Arc::default(),
            events,
            interrupted: self.interrupted.clone(),
        };
        let runner = Runner::new(shared, &common, &self.addresses, gate);
        let (interrupted, stop_at) = (self.interrupted.clone(), stop_at.map(str::to_owned));
        let listener = std::thread::spawn(move || {
            let mut events = Vec::new();
            while let Some(event) = told.blocking_recv() {
                if matches!(&event, Event::Task { task, .. } if Some(task) == stop_at.as_ref()) {
                    interrupted.store(true, std::sync::atomic::Ordering::SeqCst);
                }
                events.push(event);
            }
            events
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let result = runtime.block_on(runner.run(plays));
        drop(runner);
        (listener.join().unwrap(), result)
    }

    /// Runs `p.yml`.
    pub fn run(&self) -> Ran {
        self.try_run("p.yml").unwrap()
    }

    /// What a person would be told of a run of `p.yml`.
    pub fn told(&self) -> String {
        match self.try_run("p.yml") {
            Ok(ran) => self.plain(ran.told()),
            Err(e) => self.plain(format!("error: {e}\n")),
        }
    }

    pub fn error(&self) -> Error {
        match self.try_run("p.yml") {
            Ok(ran) => panic!("no error: {}", ran.told()),
            Err(e) => e,
        }
    }
}

impl Ran {
    /// Events and recap as lines. Where hosts work side by side, their order is not fixed: use one host, or `host`.
    pub fn told(&self) -> String {
        let mut out = String::new();
        for e in &self.events {
            out += &line(e);
        }
        for (host, c) in &self.recap.hosts {
            let _ = writeln!(
                out,
                "= {host}: ok={} changed={} failed={} skipped={} ignored={} rescued={} unreachable={}",
                c.ok, c.changed, c.failed, c.skipped, c.ignored, c.rescued, c.unreachable
            );
        }
        if !self.recap.pending_handlers.is_empty() {
            let _ = writeln!(out, "= pending: {:?}", self.recap.pending_handlers);
        }
        out
    }

    /// `task: status`, with the message where there is one, of one host.
    pub fn host(&self, name: &str) -> String {
        let mine = |e: &&Event| match e {
            Event::Task { host, .. } | Event::Host { host, .. } | Event::Unreachable { host, .. } => host == name,
            _ => true,
        };
        self.events.iter().filter(mine).map(line).collect()
    }

    /// Messages of `debug` and other tasks with one, in order.
    pub fn messages(&self) -> Vec<String> {
        self.events
            .iter()
            .filter_map(|e| match e {
                Event::Task { msg, .. } if !msg.is_empty() => Some(msg.clone()),
                _ => None,
            })
            .collect()
    }

    /// Hosts with a task of this name, in the order of their events.
    pub fn hosts_with(&self, name: &str) -> Vec<String> {
        self.events
            .iter()
            .filter_map(|e| match e {
                Event::Task { host, task, .. } if task == name => Some(host.clone()),
                _ => None,
            })
            .collect()
    }

    /// Paths of the files that a host would get, with their contents.
    pub fn files(&self, name: &str) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        for e in &self.events {
            let Event::Task { host, diff: Some(diff), .. } = e else {
                continue;
            };
            if host != name {
                continue;
            }
            let mut lines = diff.lines();
            assert_eq!(lines.next(), Some("--- /dev/null"));
            let path = lines.next().unwrap().strip_prefix("+++ ").unwrap();
            let mut text = String::new();
            for l in lines.filter(|l| !l.starts_with("@@")) {
                match l.strip_prefix('+') {
                    Some(l) => text += &format!("{l}\n"),
                    None => {
                        assert_eq!(l, "\\ No newline at end of file");
                        text.pop();
                    }
                }
            }
            out.insert(path.to_owned(), text);
        }
        out
    }

    pub fn all_hosts(&self) -> BTreeSet<String> {
        self.recap.hosts.keys().cloned().collect()
    }
}

fn line(e: &Event) -> String {
    match e {
        Event::Play { name, hosts } => format!("play {name} ({hosts})\n"),
        Event::Host { host, play } => format!("  {host} begins {play}\n"),
        Event::Unreachable { host, reason } => format!("  {host} unreachable: {reason}\n"),
        Event::Note { text, .. } => format!("note {text}\n"),
        Event::Task { host, task, item, status, msg, place, .. } => {
            let item = item.as_ref().map(|i| format!(" ({i})")).unwrap_or_default();
            let mut out = format!("  {host} {place} {task}{item}: {status:?}\n");
            for l in msg.lines() {
                out += &format!("      | {l}\n");
            }
            out
        }
        other => format!("{other:?}\n"),
    }
}

/// Where the bundled programs are: `SEPTET_BUNDLE`, or beside the `septet` under test. Says so where one is absent.
pub fn bundled(name: &str) -> Option<PathBuf> {
    let dir = match std::env::var_os("SEPTET_BUNDLE") {
        Some(d) => PathBuf::from(d),
        None => Path::new(env!("CARGO_BIN_EXE_septet")).parent().unwrap().to_owned(),
    };
    let path = dir.join(name);
    if path.is_file() {
        return Some(path);
    }
    eprintln!("SKIPPED: {} is not there; `cargo build --workspace` makes it", path.display());
    None
}
