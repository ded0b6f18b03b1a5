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
    time::{Duration, Instant, SystemTime},
};

use nix::{sys::signal::Signal, unistd::Pid};
use septet_agent_protocol::{Action, Outcome, Status};
use serde_json::json;

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

/// Whether the channel has ended: waiting is pointless then.
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

/// Lines as Python's `splitlines` has them: a carriage return ends one, too.
fn lines_of(text: &str) -> Vec<String> {
    let text = text.replace("\r\n", "\n");
    let mut lines: Vec<String> =
        text.split(['\n', '\r', '\x0b', '\x0c', '\x1c', '\x1d', '\x1e', '\u{85}', '\u{2028}', '\u{2029}']).map(str::to_owned).collect();
    if lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

/// `$NAME`, `${NAME}` and a leading `~` with the values of the environment; what is not set stays as it is written.
fn expanded(word: &str, environment: &std::collections::BTreeMap<String, String>) -> String {
    let value = |name: &str| environment.get(name).cloned().or_else(|| std::env::var(name).ok());
    let mut out = String::new();
    let mut rest = word;
    while let Some(i) = rest.find('$') {
        out.push_str(&rest[..i]);
        let behind = &rest[i + 1..];
        let (name, after) = match behind.strip_prefix('{').and_then(|b| b.split_once('}')) {
            Some(found) => found,
            None => behind.split_at(behind.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(behind.len())),
        };
        match value(name).filter(|_| !name.is_empty()) {
            Some(v) => out.push_str(&v),
            None => out.push_str(&rest[i..rest.len() - after.len()]),
        }
        rest = after;
    }
    out.push_str(rest);
    let Some(tail) = out.strip_prefix('~') else { return out };
    let (user, path) = tail.split_at(tail.find('/').unwrap_or(tail.len()));
    let home = match user {
        "" => value("HOME"),
        user => nix::unistd::User::from_name(user).ok().flatten().map(|u| u.dir.display().to_string()),
    };
    match home {
        Some(home) => format!("{}{path}", home.trim_end_matches('/')),
        None => out,
    }
}

/// A time of day as `2026-11-25 14:28:06.159111`, in UTC.
pub fn clock(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = ((since.as_secs() / 86_400) as i64, since.as_secs() % 86_400);
    // The proleptic Gregorian calendar, from days since 1970-01-01, with years that begin in March.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {h:02}:{m:02}:{s:02}.{:06}", since.subsec_micros())
}

/// A length of time as `0:00:00.004943`.
fn delta(took: Duration) -> String {
    let s = took.as_secs();
    format!("{}:{:02}:{:02}.{:06}", s / 3600, s / 60 % 60, s % 60, took.subsec_micros())
}

/// Performs a `command` action.
pub fn command(action: &Action, check: bool) -> Result<Outcome, FileError> {
    let Action::Command { argv, chdir, creates, removes, stdin, environment, timeout_s, check_safe, expand } = action else {
        return Err(FileError::Refused("not a command".into()));
    };
    // A relative path is below the working directory, as for the command itself.
    let below = std::path::Path::new(chdir.as_deref().unwrap_or("/"));
    let exists = |p: &String| std::fs::symlink_metadata(below.join(p)).is_ok();
    let words: Vec<String> = argv.iter().map(|w| if *expand { expanded(w, environment) } else { w.clone() }).collect();
    // A shell's command is one text, as it was written.
    let cmd = match argv.as_slice() {
        [_, flag, line] if flag == "-c" && !expand => json!(line),
        _ => json!(words),
    };
    let skipped = |why: String, shown: String| {
        let none: [&str; 0] = [];
        Ok(Outcome::ok()
            .with_msg(why)
            .with("rc", 0)
            .with("cmd", cmd.clone())
            .with("stdout_lines", [shown.as_str()].as_slice())
            .with("stderr_lines", none.as_slice())
            .with("stdout", shown)
            .with("stderr", ""))
    };
    if let Some(path) = creates.as_ref().filter(|p| exists(p)) {
        return skipped(format!("Did not run command since '{path}' exists"), format!("skipped, since {path} exists"));
    }
    if let Some(path) = removes.as_ref().filter(|p| !exists(p)) {
        return skipped(format!("Did not run command since '{path}' does not exist"), format!("skipped, since {path} does not exist"));
    }
    if check && !check_safe {
        let none: [&str; 0] = [];
        let outcome = Outcome::new(Status::Skipped).with("msg", "Command would have run if not in check mode").with("rc", 0);
        let outcome = outcome.with("cmd", cmd).with("stdout", "").with("stderr", "");
        return Ok(outcome.with("stdout_lines", none.as_slice()).with("stderr_lines", none.as_slice()));
    }
    let [program, args @ ..] = words.as_slice() else {
        return Err(FileError::Refused("command is empty".into()));
    };
    let mut c = Command::new(program);
    c.args(args).envs(environment);
    if let Some(dir) = chdir {
        c.current_dir(dir);
    }
    let (begun, started) = (SystemTime::now(), Instant::now());
    let out = match run(c, stdin.as_deref(), *timeout_s) {
        Ok(out) => out,
        Err(e) => {
            let none: [&str; 0] = [];
            let outcome = Outcome::failed(e.to_string()).with("rc", 2).with("cmd", cmd).with("stdout", "").with("stderr", "");
            return Ok(outcome.with("stdout_lines", none.as_slice()).with("stderr_lines", none.as_slice()));
        }
    };
    let mut outcome = match out.code {
        Some(0) => Outcome::changed_if(true).with("msg", ""),
        Some(code) => {
            let words = if out.stderr.trim().is_empty() { &out.stdout } else { &out.stderr };
            Outcome::failed(format!("ended with {code}: {}", words.trim())).with("msg", "non-zero return code").with("changed", true)
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
    let ends: [char; 2] = ['\r', '\n'];
    let (stdout, stderr) = (out.stdout.trim_end_matches(ends), out.stderr.trim_end_matches(ends));
    let took = started.elapsed();
    outcome = outcome
        // As Python's subprocess has it: the negative number of the signal.
        .with("rc", out.code.unwrap_or_else(|| out.signal.filter(|_| !out.timed_out).map_or(-1, |s| -s)))
        .with("cmd", cmd)
        .with("stdout_lines", lines_of(stdout))
        .with("stderr_lines", lines_of(stderr))
        .with("stdout", stdout)
        .with("stderr", stderr)
        .with("start", clock(begun))
        .with("end", clock(begun + took))
        .with("delta", delta(took));
    Ok(outcome)
}
