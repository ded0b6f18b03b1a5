//! An agent as a process, and a directory to work in.
#![allow(dead_code, clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    io::Write,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{MetadataExt, PermissionsExt},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use septet_agent_protocol::{Action, Attributes, Content, FrameError, Hello, Outcome, Request, Response, Status, encode, read_frame};
use tempfile::TempDir;

/// The program under test.
pub const AGENT: &str = env!("CARGO_BIN_EXE_septet-agent");
/// What an answer may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Agent {
    pub child: Child,
    pub stdin: Option<Box<dyn Write + Send>>,
    pub hello: Hello,
    answers: Receiver<Result<Response, FrameError>>,
    next: u64,
}

impl Agent {
    pub fn start() -> Self {
        Self::start_as(&mut Command::new(AGENT))
    }

    /// Starts an agent by way of another program.
    pub fn start_as(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdin = Box::new(child.stdin.take().unwrap());
        Self::over(child, stdin)
    }

    /// An agent that reads from a socket, as one that sshd starts does.
    pub fn start_on_socket() -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let theirs = OwnedFd::from(theirs);
        let child = Command::new(AGENT).stdin(theirs).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self::over(child, Box::new(ours))
    }

    fn over(mut child: Child, stdin: Box<dyn Write + Send>) -> Self {
        let mut stdout = child.stdout.take().unwrap();
        let hello = read_frame(&mut stdout).unwrap().0;
        let (send, answers) = mpsc::channel();
        thread::spawn(move || while let Ok(()) = send.send(read_frame(&mut stdout).map(|(answer, _)| answer)) {});
        Self { child, stdin: Some(stdin), hello, answers, next: 1 }
    }

    /// A request in a batch of its own.
    pub fn request(&mut self, action: Action) -> Request {
        self.next += 1;
        Request { id: self.next, batch: self.next, check: false, ignore_errors: false, no_log: false, action }
    }

    pub fn send(&mut self, request: &Request, tail: &[u8]) {
        self.stdin.as_mut().unwrap().write_all(&encode(request, tail).unwrap()).unwrap();
    }

    pub fn answer(&mut self) -> Response {
        self.answers.recv_timeout(PATIENCE).unwrap().unwrap()
    }

    pub fn ask(&mut self, request: &Request, tail: &[u8]) -> Outcome {
        self.send(request, tail);
        let answer = self.answer();
        assert_eq!(answer.id, request.id);
        answer.outcome
    }

    pub fn act(&mut self, action: Action) -> Outcome {
        let request = self.request(action);
        self.ask(&request, &[])
    }

    pub fn check(&mut self, action: Action) -> Outcome {
        let request = Request { check: true, ..self.request(action) };
        self.ask(&request, &[])
    }

    pub fn shell(&mut self, script: &str) -> Outcome {
        self.act(shell(script, 30))
    }

    /// Ends the channel; what the agent says on standard error, how it ended, and how long that took.
    pub fn close(mut self) -> (ExitStatus, String, Duration) {
        let started = Instant::now();
        self.stdin = None;
        until("the agent ends", || self.child.try_wait().unwrap().is_some());
        let took = started.elapsed();
        let out = self.take_stderr();
        (self.child.wait().unwrap(), out, took)
    }

    pub fn take_stderr(&mut self) -> String {
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.child.stderr.take().unwrap(), &mut said).unwrap();
        said
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn shell(script: &str, timeout_s: u64) -> Action {
    Action::Command {
        argv: ["/bin/sh", "-c", script].map(String::from).to_vec(),
        chdir: None,
        creates: None,
        removes: None,
        stdin: None,
        environment: Default::default(),
        timeout_s,
        check_safe: false,
        expand: false,
    }
}

/// A copy of the tail, and what else may be asked of it.
pub struct Copy {
    pub content: Content,
    pub attributes: Attributes,
    pub keep_existing: bool,
    pub backup: bool,
    pub validate: Option<String>,
    pub follow: bool,
    pub name_in_directory: Option<String>,
}

impl Default for Copy {
    fn default() -> Self {
        Self {
            content: Content::Tail,
            attributes: Attributes::default(),
            keep_existing: false,
            backup: false,
            validate: None,
            follow: false,
            name_in_directory: None,
        }
    }
}

impl Copy {
    pub fn to(self, path: impl AsRef<Path>) -> Action {
        let Self { content, attributes, keep_existing, backup, validate, follow, name_in_directory } = self;
        Action::Copy { path: text(path), content, attributes, keep_existing, backup, validate, follow, name_in_directory }
    }
}

/// A plain copy of the tail.
pub fn copy(path: impl AsRef<Path>) -> Action {
    Copy::default().to(path)
}

pub fn mode(mode: u32) -> Attributes {
    Attributes { mode: Some(mode), ..Attributes::default() }
}

/// A directory with the paths and looks that tests need.
pub struct Dir(TempDir);

impl Dir {
    pub fn new() -> Self {
        Self(tempfile::Builder::new().prefix("septet-agent-test-").tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path(name)).unwrap().mode() & 0o7777
    }

    pub fn chmod(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Names of all that is in it.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.0.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

pub fn text(path: impl AsRef<Path>) -> String {
    path.as_ref().to_str().unwrap().to_owned()
}

/// Whether a process runs; one that is dead and only waits to be reaped does not.
pub fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// The process id that a script wrote to a file, once it is there.
pub fn pid_in(path: &Path) -> u32 {
    let mut pid = None;
    until("a process id is written", || {
        pid = fs::read_to_string(path).ok().filter(|t| t.ends_with('\n')).and_then(|t| t.trim().parse().ok());
        pid.is_some()
    });
    pid.unwrap()
}

/// Waits for what must come.
pub fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let started = Instant::now();
    while !reached() {
        assert!(started.elapsed() < PATIENCE, "not reached: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

pub fn changed(outcome: &Outcome) -> bool {
    match outcome.status {
        Status::Changed => true,
        Status::Ok => false,
        _ => panic!("neither ok nor changed: {outcome:?}"),
    }
}

pub fn failed<'a>(outcome: &'a Outcome, words: &str) -> &'a Outcome {
    assert_eq!(outcome.status, Status::Failed, "{outcome:?}");
    assert!(outcome.msg.contains(words), "{words:?} is not in {:?}", outcome.msg);
    outcome
}
