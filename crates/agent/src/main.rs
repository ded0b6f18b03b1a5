//! `septet-agent`: the host-side program. It performs the actions that arrive on standard input and
//! answers on standard output; it decides nothing and listens to nothing.
//!
//! Invariant: whatever kills it, no file at its final path is half-written (see [`atomic`]), and when its
//! channel ends it ends too, together with the command that it was running.

mod account;
mod archive;
mod atomic;
mod command;
mod copy;
mod facts;
mod file;
mod lines;
mod names;
mod package;
mod perform;
mod place;
mod queue;
mod store;
mod systemd;
mod wait_for;

use std::{
    fs::File,
    io::{self, BufReader, Read},
    os::fd::AsFd,
    process::ExitCode,
    sync::Arc,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use queue::{Queue, Queued};
use septet_agent_protocol::{Action, FrameError, Hello, Outcome, PROTOCOL_VERSION, Request, Response, Status, read_frame, write_frame};

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("--version") => {
            println!("septet-agent {} protocol {PROTOCOL_VERSION}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Some(other) => {
            eprintln!("septet-agent: unknown argument {other:?}: it takes none, and is started by septet");
            return ExitCode::from(2);
        }
        None => {}
    }
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("septet-agent: {e}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), FrameError> {
    let mut out = io::stdout().lock();
    let digest = File::open("/proc/self/exe").and_then(|mut f| store::sha256(&mut f))?;
    let hello =
        Hello { protocol: PROTOCOL_VERSION, version: env!("CARGO_PKG_VERSION").into(), digest, uid: nix::unistd::geteuid().as_raw() };
    write_frame(&mut out, &hello, &[])?;

    // A store that cannot be tidied is reported when it is needed.
    let _ = store::tidy();

    let queue = Arc::new(Queue::default());
    let (watched, filled) = (queue.clone(), queue.clone());
    std::thread::spawn(move || watch_channel(&watched));
    std::thread::spawn(move || read_requests(&filled));

    let mut failed_batch = None;
    loop {
        let Queued { request, tail, cancelled, .. } = match queue.pop() {
            Ok(next) => next,
            Err(FrameError::Closed) => return Ok(()),
            Err(e) => return Err(e),
        };
        let not_run = cancelled || failed_batch == Some(request.batch);
        let outcome = if not_run { Outcome::new(Status::NotRun) } else { perform::perform(&request, &tail) };
        if outcome.status == Status::Failed && !request.ignore_errors {
            failed_batch = Some(request.batch);
        }
        let response = Response { id: request.id, outcome };
        match write_frame(&mut out, &response, &[]) {
            Err(FrameError::Length(bytes)) => write_frame(&mut out, &shortened(response, bytes), &[])?,
            other => other?,
        }
    }
}

/// Counts what passes.
struct Counted<R> {
    from: R,
    bytes: usize,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.bytes += n;
        Ok(n)
    }
}

/// Fills the queue until the channel ends. A cancel acts when it is read, not when its turn comes.
fn read_requests(queue: &Queue) {
    let mut input = Counted { from: BufReader::with_capacity(256 * 1024, io::stdin()), bytes: 0 };
    loop {
        input.bytes = 0;
        match read_frame::<Request>(&mut input) {
            Ok((request, tail)) => {
                if matches!(request.action, Action::Cancel) {
                    queue.cancel();
                }
                queue.push(request, tail, input.bytes);
            }
            Err(e) => {
                // Nobody waits for what is queued, unless the channel is there still and only what came over it is wrong.
                if matches!(e, FrameError::Closed | FrameError::Torn { .. } | FrameError::Io(_)) {
                    queue.cancel();
                }
                command::stop_running();
                return queue.end(e);
            }
        }
    }
}

/// Ends the running command as soon as the other side is gone. The reading thread cannot see that while the queue is
/// full and it waits to hand on a request.
fn watch_channel(queue: &Queue) {
    let stdin = io::stdin();
    let closed = PollFlags::from_bits_retain(nix::libc::POLLRDHUP);
    loop {
        let mut fds = [PollFd::new(stdin.as_fd(), closed)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            Ok(_) if fds[0].revents() != Some(PollFlags::POLLNVAL) => {
                queue.cancel();
                return command::stop_running();
            }
            _ => return,
        }
    }
}

/// An answer that fits into a frame in place of one that does not: how it ended, without its text.
fn shortened(mut response: Response, bytes: usize) -> Response {
    /// Characters of the message that stay.
    const KEPT_CHARS: usize = 4096;
    let Outcome { msg, diff, values, .. } = &mut response.outcome;
    *msg = msg.chars().take(KEPT_CHARS).collect();
    *msg += &format!("\n(the answer of {bytes} bytes is too long; its output is left out)");
    *diff = None;
    values.retain(|_, v| v.is_number());
    response
}
