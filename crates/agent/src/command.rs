//! `command` and `shell`: another program's run, with its output, bounded in time and size.

use std::{
    io::{Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{sys::signal::Signal, unistd::Pid};
use septet_agent_protocol::{Action, Outcome, Status};

use crate::atomic::FileError;

/// Bytes kept of each of a command's outputs.
const MAX_OUTPUT_BYTES: usize = 1024 * 1024;

/// Between the signal that asks a command to end and the one that ends it.
const GRACE: Duration = Duration::from_secs(2);

/// Process group of the command that runs now, 0 for none.
static RUNNING: AtomicI32 = AtomicI32::new(0);
/// Set when the channel has ended.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// The channel has ended: ends the running command with all that it started.
pub fn stop_running() {
    STOPPED.store(true, Ordering::SeqCst);
    kill(RUNNING.load(Ordering::SeqCst));
}

/// Whether the channel has ended: what waits then has nobody to wait for.
pub fn stopped() -> bool {
    STOPPED.load(Ordering::SeqCst)
}

fn kill(group: i32) {
    signal(group, Signal::SIGKILL);
}

fn signal(group: i32, signal: Signal) {
    if group > 0 {
        let _ = nix::sys::signal::killpg(Pid::from_raw(group), signal);
    }
}

/// A command that ended.
pub struct Finished {
    /// exit code; `None` when it was killed
    pub code: Option<i32>,
    /// the signal that ended it
    pub signal: Option<i32>,
    /// it was ended because its time was up
    pub timed_out: bool,
    pub stdout: String,
    pub stderr: String,
}

/// What came out of a pipe so far, and the thread that reads on.
struct Drain {
    kept: Arc<Mutex<Vec<u8>>>,
    reader: thread::JoinHandle<()>,
}

fn drain(mut from: impl Read + Send + 'static) -> Drain {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&kept);
    let reader = thread::spawn(move || {
        let mut buffer = [0u8; 16 * 1024];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            let mut kept = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let room = MAX_OUTPUT_BYTES.saturating_sub(kept.len());
            kept.extend_from_slice(&buffer[..n.min(room)]);
        }
    });
    Drain { kept, reader }
}

/// Runs a command to its end, or for `timeout_s` seconds (0: no limit).
pub fn run(mut command: Command, stdin: Option<&str>, timeout_s: u64) -> Result<Finished, FileError> {
    let shown = command.get_program().to_string_lossy().into_owned();
    if stopped() {
        return Err(FileError::Refused(format!("{shown} is not started: the channel has ended")));
    }
    command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.spawn().map_err(|e| FileError::Refused(format!("{shown} cannot be started: {e}")))?;
    let group = child.id() as i32;
    RUNNING.store(group, Ordering::SeqCst);
    if stopped() {
        kill(group);
    }
    if let (Some(text), Some(mut pipe)) = (stdin, child.stdin.take()) {
        let text = text.to_owned();
        thread::spawn(move || pipe.write_all(text.as_bytes()));
    }
    let out = child.stdout.take().map(drain);
    let err = child.stderr.take().map(drain);
    let started = Instant::now();
    let mut pause = Duration::from_millis(1);
    let limit = (timeout_s > 0).then(|| Duration::from_secs(timeout_s));
    let mut timed_out = false;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                if timed_out {
                    // What it started has the same group, and may not have heeded the first signal.
                    kill(group);
                }
                break status;
            }
            Ok(None) if !timed_out && limit.is_some_and(|l| started.elapsed() > l) => {
                timed_out = true;
                pause = Duration::from_millis(1);
                signal(group, Signal::SIGTERM);
            }
            Ok(None) if timed_out && limit.is_some_and(|l| started.elapsed() > l + GRACE) => {
                kill(group);
                break child.wait().map_err(|e| FileError::Refused(format!("wait for {shown}: {e}")))?;
            }
            Ok(None) => {
                thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            Err(e) => return Err(FileError::Refused(format!("wait for {shown}: {e}"))),
        }
    };
    RUNNING.store(0, Ordering::SeqCst);
    let ended = Instant::now();
    let text = |d: Option<Drain>| {
        // A background child may hold the pipe open for ever; what the command itself wrote is there by then.
        let Some(d) = d else { return String::new() };
        while !d.reader.is_finished() && ended.elapsed() < Duration::from_secs(2) {
            thread::sleep(Duration::from_millis(2));
        }
        String::from_utf8_lossy(&d.kept.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    };
    let code = status.code().filter(|_| !timed_out);
    Ok(Finished { code, signal: status.signal(), timed_out, stdout: text(out), stderr: text(err) })
}

/// Performs a `command` action.
pub fn command(action: &Action, check: bool) -> Result<Outcome, FileError> {
    let Action::Command { argv, chdir, creates, removes, stdin, environment, timeout_s, check_safe } = action else {
        return Err(FileError::Refused("not a command".into()));
    };
    let [program, args @ ..] = argv.as_slice() else {
        return Err(FileError::Refused("command is empty".into()));
    };
    let exists = |p: &String| std::fs::symlink_metadata(p).is_ok();
    if let Some(path) = creates.as_ref().filter(|p| exists(p)) {
        return Ok(Outcome::ok().with_msg(format!("not run: {path} exists")).with("rc", 0));
    }
    if let Some(path) = removes.as_ref().filter(|p| !exists(p)) {
        return Ok(Outcome::ok().with_msg(format!("not run: {path} does not exist")).with("rc", 0));
    }
    if check && !check_safe {
        return Ok(Outcome::new(Status::Skipped).with_msg("a command is not run in check mode"));
    }
    let mut c = Command::new(program);
    c.args(args).envs(environment);
    if let Some(dir) = chdir {
        c.current_dir(dir);
    }
    let started = Instant::now();
    let out = run(c, stdin.as_deref(), *timeout_s)?;
    let mut outcome = match out.code {
        Some(0) => Outcome::changed_if(true),
        Some(code) => {
            let words = if out.stderr.trim().is_empty() { &out.stdout } else { &out.stderr };
            Outcome::failed(format!("ended with {code}: {}", words.trim()))
        }
        None => {
            let why = match out.signal {
                _ if out.timed_out => format!("not done after {timeout_s} s; ended"),
                Some(signal) => format!("killed by signal {signal}"),
                None => "killed".into(),
            };
            let words = Some(out.stderr.trim()).filter(|w| !w.is_empty()).map(|w| format!(": {w}"));
            Outcome::failed(why + &words.unwrap_or_default())
        }
    };
    let split = |s: &str| s.lines().map(str::to_owned).collect::<Vec<_>>();
    outcome = outcome
        // As Python's subprocess has it: the negative number of the signal.
        .with("rc", out.code.unwrap_or_else(|| out.signal.filter(|_| !out.timed_out).map_or(-1, |s| -s)))
        .with("stdout_lines", split(&out.stdout))
        .with("stderr_lines", split(&out.stderr))
        .with("stdout", out.stdout.trim_end_matches('\n'))
        .with("stderr", out.stderr.trim_end_matches('\n'))
        .with("delta_s", started.elapsed().as_secs_f64());
    Ok(outcome)
}
