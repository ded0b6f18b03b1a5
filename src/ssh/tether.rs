//! Commands that do not outlive the program that runs them.
//!
//! sshd leaves a command alone when its channel ends. So a command gets a process group of its own and a shell that reads the
//! channel's standard input: where that ends (sent on purpose, or because the connection or this program is gone), the group is
//! asked to end and, two seconds later, ended. The command itself therefore has no standard input.

use super::quote;

/// The shell's part; `$1` is the command. Another account may own what is in the group (`sudo` in the command): then sudo ends it.
const SCRIPT: &str = r#"exec 3<&0 </dev/null
setsid sh -c "$1" 3<&- & p=$!
s=; trap s=1 USR1
{ while read -r _; do :; done; while kill -s USR1 $$; do sleep 0.2; done; } <&3 >/dev/null 2>&1 & w=$!
exec 3<&-
wait $p 2>/dev/null; r=$?
if [ -z "$s" ]; then kill -s KILL $w; exit $r; fi 2>/dev/null
{
trap '' USR1; kill -s KILL $w
k() { kill -s $1 -- -$p || kill -s $1 $p; sudo -n kill -s $1 -- -$p; }
alive() { kill -s 0 -- -$p || sudo -n kill -s 0 -- -$p; }
k TERM
{ sleep 2; k KILL; } & t=$!
wait $p
n=0; while alive && [ $n -lt 20 ]; do sleep 0.1; n=$((n + 1)); done
k KILL; kill -s KILL $t
} >/dev/null 2>&1
exit 143"#;

/// A command line that runs `command` in a shell and ends it with the channel's standard input; behind `sudo`, which is empty or ends with a blank.
pub(super) fn tethered(command: &str, sudo: &str) -> String {
    format!("{sudo}sh -c {} sh {}", quote(SCRIPT), quote(command))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{
        fs,
        io::Read,
        path::Path,
        process::{Child, Command, Stdio},
        time::{Duration, Instant},
    };

    fn start(command: &str) -> Child {
        let line = tethered(command, "");
        Command::new("sh").args(["-c", &line]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn finished(mut child: Child) -> (Option<i32>, String, String) {
        let (mut out, mut err) = (String::new(), String::new());
        child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        (child.wait().unwrap().code(), out, err)
    }

    fn runs(pid: &str) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    }

    fn pids_in(path: &Path, count: usize) -> Vec<String> {
        let begun = Instant::now();
        loop {
            let text = fs::read_to_string(path).unwrap_or_default();
            if text.lines().count() == count {
                return text.lines().map(str::to_owned).collect();
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{text}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_command_that_ends_by_itself_is_as_it_would_be_without() {
        // (command, code, standard output, standard error)
        let cases = [
            ("echo out; echo err >&2", 0, "out\n", "err\n"),
            ("exit 3", 3, "", ""),
            ("false", 1, "", ""),
            ("cat; echo \"'$HOME' \\\"x\\\"\" | wc -l", 0, "1\n", ""),
            ("kill -9 $$", 137, "", ""),
            ("head -c 3000000 /dev/zero | wc -c", 0, "3000000\n", ""),
            ("no-such-program-of-septet || exit 9", 9, "", "not found"),
        ];
        for (command, code, out, err) in cases {
            // The standard input stays open, as a channel's does.
            let mut child = start(command);
            let held = child.stdin.take();
            let got = finished(child);
            drop(held);
            assert_eq!((got.0, got.1.as_str()), (Some(code), out), "{command}: {got:?}");
            assert!(got.2.contains(err) && (!err.is_empty() || got.2.is_empty()), "{command}: {got:?}");
        }
    }

    #[test]
    fn with_its_standard_input_the_whole_group_ends() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pids");
        let shown = file.display();
        // (command, processes, seconds that it may take)
        let cases = [
            (format!("echo $$ >> {shown}; sleep 300"), 1, 5.0),
            (format!("echo $$ >> {shown}; sh -c 'echo $$ >> {shown}; sleep 300' & wait"), 2, 5.0),
            (format!("echo $$ >> {shown}; trap '' TERM; while :; do sleep 0.2; done"), 1, 9.0),
            // The leader heeds the signal, what it started does not.
            (format!("echo $$ >> {shown}; sh -c 'trap \"\" TERM; echo $$ >> {shown}; while :; do sleep 0.2; done' & wait"), 2, 9.0),
        ];
        for (command, processes, most_s) in cases {
            let _ = fs::remove_file(&file);
            let mut child = start(&command);
            let pids = pids_in(&file, processes);
            assert!(pids.iter().all(|p| runs(p)), "{command}");
            let begun = Instant::now();
            drop(child.stdin.take());
            let (code, ..) = finished(child);
            assert_eq!(code, Some(143), "{command}");
            assert!(begun.elapsed().as_secs_f64() < most_s, "{command}: {:?}", begun.elapsed());
            // By the time that it is said to have ended.
            assert!(!pids.iter().any(|p| runs(p)), "{command}");
        }
    }

    /// As when the connection is gone before the command has its process group.
    #[test]
    fn an_end_right_at_the_beginning_is_not_lost() {
        for wait_ms in [0, 1, 2, 5, 10] {
            let mut child = start("exec sleep 300");
            std::thread::sleep(Duration::from_millis(wait_ms));
            drop(child.stdin.take());
            let begun = Instant::now();
            assert_eq!(finished(child).0, Some(143));
            assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
        }
    }
}
