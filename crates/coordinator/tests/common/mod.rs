//! Servers as processes on free ports of 127.0.0.1, killed when dropped, and a client that speaks to them.
#![allow(dead_code, clippy::unwrap_used, missing_docs)]

pub mod client;
pub mod zookeeper;

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

pub use septet_testing::free_port;
use tempfile::TempDir;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_septet-coordinator");
/// What must happen at all happens by then, on a busy machine too.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// A session timeout that no test comes near to.
pub const LONG_MS: i32 = 60_000;

/// Asks again until there is an answer.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Ensembles that run at once: the machine is small, and elections have deadlines.
static RUNNING: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());
const MAX_RUNNING: usize = 2;

struct Turn;

impl Turn {
    fn take() -> Self {
        let mut n = RUNNING.0.lock().unwrap_or_else(PoisonError::into_inner);
        while *n >= MAX_RUNNING {
            n = RUNNING.1.wait(n).unwrap_or_else(PoisonError::into_inner);
        }
        *n += 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        RUNNING.1.notify_one();
    }
}

pub struct Server {
    pub port: u16,
    pub peer_port: u16,
    pub dir: PathBuf,
    /// a program with arguments that runs it, such as `prlimit`
    pub wrapper: Vec<String>,
    child: Option<Child>,
}

impl Server {
    pub fn start(&mut self) {
        assert!(self.child.is_none());
        let log = File::options().create(true).append(true).open(self.dir.join("stderr")).unwrap();
        let mut words = self.wrapper.clone();
        words.extend([PROGRAM.to_owned(), self.dir.join("zoo.cfg").to_str().unwrap().to_owned()]);
        let child = Command::new(&words[0]).args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.child = Some(child.unwrap());
    }

    /// kill -9
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and how it ended.
    pub fn terminate(&mut self) -> ExitStatus {
        let child = self.child.as_mut().unwrap();
        assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
        let status = eventually("it stops", || child.try_wait().unwrap());
        self.child = None;
        status
    }

    /// Sends it a signal, such as `STOP`.
    pub fn signal(&self, name: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|c| c.try_wait().unwrap().is_none())
    }

    /// Most memory that it ever had, in MiB.
    pub fn peak_mib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.as_ref().unwrap().id())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }

    pub fn stderr(&self) -> String {
        fs::read_to_string(self.dir.join("stderr")).unwrap_or_default()
    }

    /// Answer to a four-letter word.
    pub fn ask(&self, word: &str) -> io::Result<String> {
        let mut stream = self.raw()?;
        stream.write_all(word.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// A value of `mntr`.
    pub fn measured(&self, key: &str) -> Option<String> {
        let all = self.ask("mntr").ok()?;
        all.lines().find_map(|l| l.strip_prefix(&format!("zk_{key}\t")).map(str::to_owned))
    }

    /// A socket to its client port.
    pub fn raw(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(stream)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.stderr();
            let tail = log.lines().count().saturating_sub(30);
            eprintln!("--- {}\n{}", self.dir.display(), log.lines().skip(tail).collect::<Vec<_>>().join("\n"));
        }
    }
}

/// Servers with their directory.
pub struct Ensemble {
    pub servers: Vec<Server>,
    _dir: TempDir,
    _turn: Turn,
}

impl Ensemble {
    /// Starts so many servers, one alone without a `server.N`; `extra` is for their zoo.cfg.
    pub fn start(count: usize, extra: &str) -> Self {
        let this = Self::spawn(count, |_| extra.to_owned());
        this.leader();
        this
    }

    /// As [`Ensemble::start`], with lines for each server, and without waiting for a leader.
    pub fn spawn(count: usize, extra: impl Fn(usize) -> String) -> Self {
        let mut this = Self::build(count, extra);
        this.servers.iter_mut().for_each(Server::start);
        this
    }

    /// Directories and configurations of servers that do not run yet.
    pub fn build(count: usize, extra: impl Fn(usize) -> String) -> Self {
        let turn = Turn::take();
        // In memory where there is such a place: kill -9 keeps what is not synced anyway, and a busy disk takes long.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let ports: Vec<(u16, u16)> = (0..count).map(|_| (free_port(), free_port())).collect();
        let members = |count| if count == 1 { 0..0 } else { 0..count };
        let list: String = members(count).map(|i| format!("server.{}=127.0.0.1:{}:1\n", i + 1, ports[i].1)).collect();
        let server = |i: usize| {
            let (port, peer_port) = ports[i];
            let dir = dir.path().join(format!("{}", i + 1));
            fs::create_dir_all(dir.join("data")).unwrap();
            fs::write(dir.join("data/myid"), format!("{}\n", i + 1)).unwrap();
            write_config(&dir, port, &format!("4lw.commands.whitelist=*\n{}\n{list}", extra(i)));
            Server { port, peer_port, dir, wrapper: Vec::new(), child: None }
        };
        Self { servers: (0..count).map(server).collect(), _dir: dir, _turn: turn }
    }

    /// Waits until all that run serve, and says which leads; the only one, if it stands alone.
    pub fn leader(&self) -> usize {
        eventually("a leader, and all serve", || {
            let running = self.servers.iter().enumerate().filter(|(_, s)| s.child.is_some());
            let modes: Vec<_> = running.map(|(i, s)| Some((i, mode(s)?))).collect::<Option<_>>()?;
            modes.iter().find(|(_, m)| m != "follower").map(|(i, _)| *i)
        })
    }

    /// One that does not lead.
    pub fn follower(&self) -> usize {
        let leader = self.leader();
        (0..self.servers.len()).find(|i| *i != leader && self.servers[*i].child.is_some()).unwrap()
    }

    pub fn port(&self, i: usize) -> u16 {
        self.servers[i].port
    }
}

pub fn write_config(dir: &Path, port: u16, extra: &str) {
    let text = format!(
        "tickTime=500\nmaxSessionTimeout={LONG_MS}\nclientPort={port}\nclientPortAddress=127.0.0.1\ndataDir={}\n{extra}\n",
        dir.join("data").display()
    );
    fs::write(dir.join("zoo.cfg"), text).unwrap();
}

/// `leader`, `follower` or `standalone`, if it serves.
pub fn mode(server: &Server) -> Option<String> {
    let answer = server.ask("srvr").ok()?;
    answer.lines().find_map(|l| l.strip_prefix("Mode: ").map(str::to_owned))
}

/// Whether the other side ends the connection, reading all that it still sends.
pub fn is_ended(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return false;
            }
            Err(_) => return true,
        }
    }
}

/// Ends a connection as a crashed client does, without a word.
pub fn hang_up(stream: &TcpStream) {
    let _ = stream.shutdown(Shutdown::Both);
}
