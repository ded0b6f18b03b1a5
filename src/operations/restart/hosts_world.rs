//! Six hosts in memory with clocks of their own, a machine that restarts them, and a real journal on it.
#![allow(clippy::unwrap_used)]
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, atomic::AtomicBool},
};

use futures_util::future::BoxFuture;

use super::super::{super::parse_service, Asked, Done, Hosts, Service, restart};
use crate::{
    error::{Error, Result},
    events::Event,
    inventory::{Group, HostId, Role},
    journal::{Attempt, Journal, Process, Recorder, prepare},
    report::{Human, Reporter},
    rolling::{Gate, Order},
};

/// What becomes of a restart whose `septet` is killed while it is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orphan {
    /// The service was stopped and is not started.
    Lost,
    /// systemd is done with it before the next look.
    Done,
    /// systemd is still at work on it then.
    Busy,
}

#[derive(Debug, Clone)]
pub struct Server {
    pub active: bool,
    /// its process is being started, and serves from then on
    pub ready_at_s: Option<f64>,
    pub started_s: f64,
    /// when the host was booted; its clock begins there and has nothing to do with ours
    pub booted_s: f64,
    pub starts: usize,
}

impl Server {
    /// A process is begun, and is ready some seconds later.
    fn start(&mut self, now_s: f64, takes_s: f64) {
        self.starts += 1;
        (self.started_s, self.ready_at_s) = (now_s, Some(now_s + takes_s));
    }
}

/// What happened, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Ordered,
    Before(HostId),
    Restarted(HostId),
    After(HostId),
}

#[derive(Debug)]
pub struct World {
    pub servers: BTreeMap<HostId, Server>,
    pub now_s: f64,
    /// how far our clock is off
    pub clock_s: f64,
    /// our machine's boot: its number and when it was
    pub boot: (u32, f64),
    /// points until the run is killed
    pub left: usize,
    pub orphan: Orphan,
    pub steps: Vec<Step>,
    pub leader: HostId,
    /// the gate before this one stays closed
    pub closed: Option<HostId>,
    pub told: Vec<String>,
}

impl World {
    /// Time passes, and services that were started become ready.
    pub fn pass(&mut self, s: f64) {
        self.now_s += s;
        for server in self.servers.values_mut() {
            if server.ready_at_s.is_some_and(|at| at <= self.now_s) {
                (server.active, server.ready_at_s) = (true, None);
            }
        }
    }
    fn down(&self, role: Role) -> Vec<HostId> {
        self.servers.iter().filter(|(id, s)| id.role() == role && !s.active).map(|(id, _)| *id).collect()
    }
    fn now_ms(&self) -> i64 {
        ((self.now_s + self.clock_s) * 1e3) as i64
    }
}

/// The cluster, and the machine that `septet` runs on.
pub struct Site {
    pub world: Arc<Mutex<World>>,
    pub dir: tempfile::TempDir,
    pub processes: i64,
}

/// One execution.
#[derive(Clone)]
pub struct Run {
    pub world: Arc<Mutex<World>>,
    pub recorder: Arc<Recorder>,
    pub interrupted: Arc<AtomicBool>,
}

const BOOT_S: f64 = 1_000_000.0;

impl Run {
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }
    /// The run may be killed here; it does nothing more then.
    async fn point(&self) -> Result<()> {
        tokio::task::yield_now().await;
        let mut w = self.world();
        w.pass(0.01);
        match w.left.checked_sub(1) {
            Some(n) => w.left = n,
            None => return Err(Error::failed("killed")),
        }
        Ok(())
    }
}

impl Hosts for Run {
    fn ids(&self) -> Vec<HostId> {
        self.world().servers.keys().copied().collect()
    }
    fn at_once(&self) -> usize {
        // Fewer than there are hosts: some wait for their turn.
        2
    }
    fn asked(&self) -> Option<Asked> {
        let (w, began_ms) = (self.world(), self.recorder.instance_began_ms()?);
        let process = self.recorder.instance_process()?;
        Some(Asked { began_ms, now_ms: w.now_ms(), process_age_s: process.age_at_s(&w.boot.0.to_string(), w.now_s - w.boot.1) })
    }
    fn service(&self, id: HostId) -> BoxFuture<'_, Result<Service>> {
        Box::pin(async move {
            self.point().await?;
            let text = {
                let w = self.world();
                let s = &w.servers[&id];
                // By the host's own clock, as its systemd and its kernel have it.
                let state = if s.active { "active" } else { "inactive" };
                let job = if s.ready_at_s.is_some() { "Job=7\n" } else { "" };
                let (up_s, started_us) = (w.now_s - s.booted_s, (s.started_s - s.booted_s) * 1e6);
                format!("ActiveState={state}\n{job}ExecMainStartTimestampMonotonic={started_us:.0}\nUptime={up_s:.2}\nend\n")
            };
            self.point().await?;
            parse_service(&text).ok_or_else(|| Error::failed("incomplete"))
        })
    }
    fn pause(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.world().pass(0.5) })
    }
    fn restart(&self, id: HostId) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            // Nothing was sent yet.
            self.point().await?;
            {
                let mut w = self.world();
                let (now_s, orphan) = (w.now_s, w.orphan);
                w.steps.push(Step::Restarted(id));
                let s = w.servers.get_mut(&id).unwrap();
                (s.active, s.ready_at_s) = (false, None);
                if orphan != Orphan::Lost {
                    s.start(now_s, if orphan == Orphan::Done { 0.5 } else { 100.0 });
                }
            }
            // It is under way.
            self.point().await?;
            {
                let mut w = self.world();
                let now_s = w.now_s;
                let s = w.servers.get_mut(&id).unwrap();
                if !s.active && s.ready_at_s.is_none() {
                    s.start(now_s, 2.0);
                }
                // Beside others it may be done by now.
                let wait_s = s.ready_at_s.map_or(0.0, |at| at - now_s);
                w.pass(wait_s);
            }
            // It is done, and was not told.
            self.point().await
        })
    }
    fn gate(&self) -> Option<Arc<dyn Gate>> {
        Some(Arc::new(self.clone()))
    }
    fn name(&self, id: HostId) -> String {
        id.to_string()
    }
    fn tell(&self, event: Event) {
        if let Event::Note { text, .. } = event {
            self.world().told.push(text);
        }
    }
    fn interrupted(&self) -> &AtomicBool {
        &self.interrupted
    }
}

impl Gate for Run {
    fn order(&self, role: Role, hosts: Vec<HostId>) -> BoxFuture<'_, Result<Order>> {
        Box::pin(async move {
            self.point().await?;
            let mut w = self.world();
            let (leader, down) = (w.leader, w.down(role));
            let (first, mut then): (Vec<HostId>, Vec<HostId>) = hosts.into_iter().partition(|id| down.contains(id));
            then.sort_by_key(|id| (*id == leader, *id));
            w.steps.push(Step::Ordered);
            Ok(Order { first, then, note: None })
        })
    }
    fn before(&self, id: HostId) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.point().await?;
            let mut w = self.world();
            w.steps.push(Step::Before(id));
            assert!(w.down(id.role()).iter().all(|other| *other == id), "{id} would stop beside {:?}", w.down(id.role()));
            if w.closed == Some(id) { Err(Error::failed("the gate does not open")) } else { Ok(()) }
        })
    }
    fn after(&self, id: HostId) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.point().await?;
            let mut w = self.world();
            w.steps.push(Step::After(id));
            assert!(w.down(id.role()).is_empty(), "the gate after {id} was asked and {:?} do not run", w.down(id.role()));
            Ok(())
        })
    }
}

pub fn id(i: usize) -> HostId {
    HostId { group: if i < 3 { Group::COORDINATORS } else { Group::BROKERS }, index: u16::try_from(i % 3 + 1).unwrap() }
}

impl Site {
    /// Six hosts; `ages_s` is for how long their services have run, `None` where one does not run.
    pub fn new(ages_s: [Option<f64>; 6]) -> Self {
        let now_s = 1_800_000_000.0;
        let server = |(i, age_s): (usize, &Option<f64>)| {
            let booted_s = now_s - 5000.0 * (i + 1) as f64;
            let (active, started_s) = (age_s.is_some(), now_s - age_s.unwrap_or(1.0));
            (id(i), Server { active, ready_at_s: None, started_s, booted_s: booted_s.min(started_s), starts: 0 })
        };
        let servers = ages_s.iter().enumerate().map(server).collect();
        let (boot, leader) = ((1, now_s - BOOT_S), id(3));
        let world = World {
            servers,
            now_s,
            clock_s: 0.0,
            boot,
            left: 0,
            orphan: Orphan::Lost,
            steps: Vec::new(),
            leader,
            closed: None,
            told: Vec::new(),
        };
        Self { world: Arc::new(Mutex::new(world)), dir: tempfile::tempdir().unwrap(), processes: 0 }
    }
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }
    fn journal(&self) -> rusqlite::Connection {
        let mut db = rusqlite::Connection::open(self.dir.path().join("journal.db")).unwrap();
        prepare(&mut db).unwrap();
        db
    }
    /// `septet restart`, killed after so many points.
    pub fn restart(&mut self, points: usize, all: bool) -> Result<Done> {
        self.processes += 1;
        let recorder = Arc::new(Recorder::of("restart", BTreeMap::from([("pattern", "all".to_owned())])));
        let attempt = {
            let mut w = self.world();
            (w.left, w.steps) = (points, Vec::new());
            // It starts, and observes what exists, before it is recorded.
            let began = ((w.now_s - w.boot.1) * 100.0) as i64;
            w.pass(0.2);
            let process = Process { boot: w.boot.0.to_string(), pid: self.processes, began };
            Attempt { process, now_ms: w.now_ms(), is_alive: |_| false }
        };
        let reporter = Arc::new(Reporter::of(Human::kept(false, false)));
        recorder.begin_as(self.journal(), attempt, &reporter, &"c".parse().unwrap()).unwrap();
        let run = Run { world: self.world.clone(), recorder: recorder.clone(), interrupted: Arc::default() };
        let result: Result<Done> = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            // It connects.
            self.world().pass(1.0);
            run.point().await?;
            let done = restart(&run, all).await?;
            // The cluster is healthy again.
            run.point().await?;
            Ok(done)
        });
        let killed = matches!(&result, Err(e) if e.message.contains("killed"));
        if !killed {
            recorder.end(result.as_ref().err());
        }
        let mut w = self.world();
        if !killed {
            assert!(w.servers.values().all(|s| s.ready_at_s.is_none()));
        }
        gates_were_asked(&w.steps, w.leader);
        // The next one comes later.
        w.pass(3.0);
        result
    }
    pub fn starts(&self) -> Vec<usize> {
        self.world().servers.values().map(|s| s.starts).collect()
    }
    /// How the executions are shown, oldest first.
    pub fn statuses(&self) -> Vec<String> {
        let list = Journal::of(self.journal()).list(100, Some("c")).unwrap();
        list.iter().rev().map(|e| format!("{} {}", e.instance, e.status.name())).collect()
    }
}

/// Each restart comes right after its gate was asked, unless the host served nothing; and nothing comes before the gate behind it was asked. Of
/// one role at a time, coordinators first, the leader last.
fn gates_were_asked(steps: &[Step], leader: HostId) {
    for (i, step) in steps.iter().enumerate() {
        let before = i.checked_sub(1).map(|i| steps[i]);
        let ok = match step {
            Step::Ordered | Step::Before(_) => matches!(before, None | Some(Step::Ordered | Step::After(_) | Step::Restarted(_))),
            // Those that serve nothing go together, right after the order.
            Step::Restarted(id) => {
                before == Some(Step::Before(*id))
                    || steps[..i].iter().rev().take_while(|s| **s != Step::Ordered).all(|s| matches!(s, Step::Restarted(_)))
            }
            Step::After(id) => before == Some(Step::Restarted(*id)),
        };
        assert!(ok, "{step:?} comes after {before:?}: {steps:?}");
        if let Step::Before(id) = step
            && *id == leader
        {
            assert!(!steps[i + 1..].iter().any(|s| matches!(s, Step::Before(_))), "the leader goes last: {steps:?}");
        }
    }
    // A host that was restarted alone was not left before the gate behind it.
    for pair in steps.windows(3) {
        if let [Step::Before(a), Step::Restarted(_), next] = pair {
            assert_eq!(*next, Step::After(*a), "{steps:?}");
        }
    }
    let roles: Vec<Role> = steps.iter().filter_map(|s| if let Step::Restarted(id) = s { Some(id.role()) } else { None }).collect();
    assert!(roles.is_sorted(), "{steps:?}");
}
