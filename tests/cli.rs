//! The command line, as far as it goes without Docker.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

/// A directory of its own, no Docker, and programs that stand in for the bundle.
struct Place {
    dir: tempfile::TempDir,
}

struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().join("bundle");
        std::fs::create_dir_all(&bundle).unwrap();
        std::fs::create_dir_all(dir.path().join("work")).unwrap();
        // A socket that nobody listens on.
        drop(std::os::unix::net::UnixListener::bind(dir.path().join("no-docker.sock")).unwrap());
        for name in ["septet-agent", "septet-coordinator", "septet-broker"] {
            std::os::unix::fs::symlink("/bin/true", bundle.join(name)).unwrap();
        }
        Self { dir }
    }

    fn work(&self) -> std::path::PathBuf {
        self.dir.path().join("work")
    }

    fn file(&self, name: &str, text: &str) -> &Self {
        let path = self.work().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn run(&self, args: &[&str]) -> Said {
        self.run_with(args, &[])
    }

    fn run_with(&self, args: &[&str], env: &[(&str, &str)]) -> Said {
        let dir = self.dir.path();
        let out = Command::new(env!("CARGO_BIN_EXE_septet"))
            .args(args)
            .current_dir(self.work())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", dir)
            .env("XDG_STATE_HOME", dir.join("state"))
            .env("SEPTET_BUNDLE", dir.join("bundle"))
            .env("DOCKER_HOST", format!("unix://{}/no-docker.sock", dir.display()))
            .env("COLUMNS", "100")
            .envs(env.iter().copied())
            .timeout(std::time::Duration::from_secs(60))
            .output()
            .unwrap();
        let plain = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap().replace(&dir.display().to_string(), "DIR");
        Said { code: out.status.code().unwrap(), out: plain(&out.stdout), err: plain(&out.stderr) }
    }
}

const COMMANDS: &[&str] = &[
    "up",
    "plan",
    "health",
    "check",
    "endpoints",
    "rename",
    "restart",
    "upgrade",
    "extend",
    "down",
    "list",
    "run",
    "exec",
    "ssh",
    "logs",
    "bundle",
    "history",
    "init",
    "completions",
];

#[test]
fn help_of_the_program() {
    let place = Place::new();
    let said = place.run(&["--help"]);
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    insta::assert_snapshot!(said.out);
    assert_eq!(place.run(&["help"]).out, said.out);
    // Every command is in the list, so that the test below misses none.
    let listed: Vec<&str> = said
        .out
        .lines()
        .skip_while(|l| *l != "Commands:")
        .skip(1)
        .take_while(|l| !l.is_empty())
        .filter(|l| l.starts_with("  ") && !l.starts_with("   "))
        .filter_map(|l| l.split_whitespace().next())
        .filter(|c| *c != "help")
        .collect();
    assert_eq!(listed, COMMANDS);
}

#[test]
fn help_of_every_command() {
    let place = Place::new();
    let mut all = String::new();
    for command in COMMANDS {
        let said = place.run(&[command, "--help"]);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{command}");
        // What is the same for all of them is shown once, by the program's own help.
        let own: Vec<&str> = said.out.lines().map(str::trim_end).collect();
        all += &format!("##### {command}\n{}\n\n", own.join("\n"));
    }
    insta::assert_snapshot!(all);
}

#[test]
fn version() {
    let place = Place::new();
    for option in ["--version", "-V"] {
        let said = place.run(&[option]);
        assert_eq!(said.code, 0);
        assert_eq!(said.out, format!("septet {}\n", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn bad_usage_ends_with_2_and_an_empty_standard_output() {
    let place = Place::new();
    for args in [
        &[][..],
        &["uo"],
        &["up", "--frobnicate"],
        &["up", "extra"],
        &["up", "--forks", "many"],
        &["up", "--forks", "-1"],
        &["up", "--color", "sometimes"],
        &["rename"],
        &["rename", "a", "b"],
        &["run"],
        &["exec"],
        &["exec", "all"],
        &["exec", "all", "--"],
        &["exec", "all", "ls"],
        &["ssh", "a", "b"],
        &["logs"],
        &["health", "--wait", "long"],
        &["completions"],
        &["completions", "tcl"],
        &["up", "-i"],
    ] {
        let said = place.run(args);
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{args:?}: {}", said.err);
        assert!(said.err.contains("Usage: ") || said.err.contains("error: "), "{args:?}: {}", said.err);
    }
    insta::assert_snapshot!(place.run(&["uo"]).err);
    let said = place.run(&["--json", "nothing"]);
    let json: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((said.code, &json["exit_code"]), (2, &serde_json::json!(2)));
}

#[test]
fn bad_values_end_with_2() {
    let place = Place::new();
    for (args, expected) in [
        (&["up", "-e", "novalue"][..], "--extra-vars: `novalue` is not name=value"),
        (&["up", "-e", "{not json"], "--extra-vars: `{not json` is not a JSON object"),
        (&["up", "--project", "gone"], "--project: gone is not a directory"),
        (&["rename", "Kisu"], "`Kisu` cannot begin a host name"),
        (&["run", "gone.yml"], "no file `gone.yml`"),
        (&["plan", "-i", "gone.yml"], "gone.yml: No such file or directory"),
        (&["exec", "broker", "--", "ls"], "no host or group is called `broker`"),
        (&["ssh", "kafka9"], "kafka9"),
        (&["logs", "kafka9"], "kafka9"),
    ] {
        let said = place.run(args);
        assert_eq!(said.code, 2, "{args:?}: {}", said.err);
        assert!(said.err.starts_with("error: ") && said.err.contains(expected), "{args:?}: {}", said.err);
        assert_eq!(said.out, "", "{args:?}");
    }
}

#[test]
fn a_bad_inventory_is_shown_with_its_line() {
    let place = Place::new();
    place.file("inventories/local.yml", "cluster: local\nprefix: Peter\n");
    for command in ["up", "plan", "health", "endpoints", "down"] {
        let said = place.run(&[command]);
        assert_eq!(said.code, 2);
        insta::assert_snapshot!("bad_inventory", said.err);
    }
}

#[test]
fn with_json_an_error_is_json_on_standard_output() {
    let place = Place::new();
    place.file("i.yml", "cluster: local\nprefx: peter\nprefix: peter\n");
    let said = place.run(&["--json", "-i", "i.yml", "plan"]);
    assert_eq!(said.code, 2);
    insta::assert_snapshot!(said.out);
    for args in [
        &["--json", "plan", "-i", "gone.yml"][..],
        &["up", "--json"],
        &["--json", "health"],
        &["--json", "down", "--yes"],
        &["--json", "endpoints"],
        &["--json", "run", "gone.yml"],
        &["--json", "plann"],
        &["health", "--json", "--wait", "soon"],
    ] {
        let said = place.run(args);
        // Commands that change something print their events first, a line each.
        let live = args.contains(&"up") || args.contains(&"run");
        let document = if live { said.out.lines().last().unwrap() } else { said.out.as_str() };
        let v: Value = serde_json::from_str(document).unwrap_or_else(|e| panic!("{args:?}: {e}: {}", said.out));
        if live {
            assert_eq!(v["event"], "error");
            let events: Vec<Value> = said.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
            assert!(events.len() > 1 && events.iter().rev().skip(1).all(|e| e["event"].is_string() && e["at"].is_string()), "{events:?}");
        }
        assert!(!v["error"].as_str().unwrap().is_empty());
        assert_eq!(v["exit_code"], said.code);
        assert_ne!(said.code, 0);
        assert!(said.err.contains("error: "), "{args:?}: {}", said.err);
    }
}

#[test]
fn without_docker_it_says_so_and_what_to_do() {
    let place = Place::new();
    for args in [
        &["up"][..],
        &["plan"],
        &["health"],
        &["endpoints"],
        &["restart"],
        &["down", "-y"],
        &["rename", "kisu"],
        &["run", "site.yml"],
        &["exec", "all", "--", "true"],
        &["ssh", "kafka01"],
        &["logs", "kafka01"],
        &["check"],
        &["list"],
        &["extend", "2h"],
    ] {
        let said = place.run(args);
        assert_eq!(said.code, 1, "{args:?}: {}", said.err);
        assert!(said.err.contains("Docker") && said.err.contains("hint: "), "{args:?}: {}", said.err);
        assert_eq!(said.out, "", "{args:?}");
    }
    insta::assert_snapshot!(place.run(&["endpoints"]).err);
    // Nothing was written beside the project, not even by `rename`.
    assert_eq!(std::fs::read_dir(place.work()).unwrap().count(), 0);
    // What this machine knows is worth sending all the same.
    let said = place.run(&["bundle", "report.tar.gz"]);
    assert_eq!((said.code, said.out.as_str()), (1, "report.tar.gz\n"), "{}", said.err);
    assert!(said.err.contains("Docker") && said.err.contains("hint: ") && place.work().join("report.tar.gz").exists(), "{}", said.err);
}

#[test]
fn rename_waits_for_nobody_and_touches_nothing_while_another_run_is_at_work() {
    let place = Place::new();
    let inventory = "cluster: local\nprefix: peter\n";
    place.file("i.yml", inventory);
    let locks = place.dir.path().join("state/septet/locks");
    std::fs::create_dir_all(&locks).unwrap();
    let lock = std::fs::File::create(locks.join("local.lock")).unwrap();
    lock.lock().unwrap();
    // A daemon that would be asked only behind the lock.
    let said = place.run_with(&["rename", "kisu", "-i", "i.yml"], &[("DOCKER_HOST", "tcp://127.0.0.1:1")]);
    assert_eq!(said.code, 1, "{}", said.err);
    assert!(said.err.contains("another run is at work on cluster `local`"), "{}", said.err);
    assert_eq!(std::fs::read_to_string(place.work().join("i.yml")).unwrap(), inventory);
}

#[test]
fn a_bundle_that_is_not_there_or_for_another_machine() {
    let place = Place::new();
    std::fs::remove_file(place.dir.path().join("bundle/septet-broker")).unwrap();
    let absent = place.run(&["plan"]);
    std::fs::write(place.dir.path().join("bundle/septet-broker"), "#!/bin/sh\n").unwrap();
    let script = place.run(&["plan"]);
    assert_eq!((absent.code, script.code), (1, 1));
    assert!(absent.err.contains("septet-broker: No such file") && absent.err.contains("hint: "), "{}", absent.err);
    assert!(script.err.contains("septet-broker: is not a program for "), "{}", script.err);
}

fn listed(dir: &Path) -> Vec<String> {
    let mut out = Vec::new();
    for e in std::fs::read_dir(dir).unwrap() {
        let path = e.unwrap().path();
        if path.is_dir() {
            out.extend(listed(&path));
        } else {
            out.push(path.display().to_string());
        }
    }
    out.sort();
    out
}

#[test]
fn init_writes_what_ships_and_never_over_it() {
    let place = Place::new();
    let said = place.run(&["init"]);
    assert_eq!((said.code, said.out.as_str()), (0, ""), "{}", said.err);
    let root = place.work().display().to_string() + "/";
    let files: Vec<String> = listed(&place.work()).iter().map(|f| f.replace(&root, "")).collect();
    insta::assert_snapshot!(files.join("\n"));
    for f in &files {
        let shipped = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(f)).unwrap();
        assert_eq!(std::fs::read(place.work().join(f)).unwrap(), shipped, "{f}");
    }

    place.file("templates/zoo.cfg", "mine\n");
    std::fs::remove_file(place.work().join("templates/hosts")).unwrap();
    let said = place.run(&["init"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("there already: ") && said.err.contains("hint: `--force`"), "{}", said.err);
    assert!(!place.work().join("templates/hosts").exists(), "all or nothing");
    assert_eq!(std::fs::read(place.work().join("templates/zoo.cfg")).unwrap(), b"mine\n");

    assert_eq!(place.run(&["init", "--force"]).code, 0);
    assert_ne!(std::fs::read(place.work().join("templates/zoo.cfg")).unwrap(), b"mine\n");
    assert!(place.work().join("templates/hosts").exists());
}

#[test]
fn init_into_a_directory_of_ones_choice() {
    let place = Place::new();
    let said = place.run(&["init", "a/b"]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(place.work().join("a/b/playbooks/site.yml").is_file());
    place.file("plain", "");
    let said = place.run(&["init", "plain"]);
    assert_eq!(said.code, 1, "{}", said.err);
    // What `init` wrote is read back: the inventory's own mistakes are now the user's.
    place.file("a/b/inventories/local.yml", "cluster: X\n");
    let said = place.run(&["plan", "--project", "a/b"]);
    assert_eq!(said.code, 2);
    assert!(said.err.contains("--> a/b/inventories/local.yml:1:10"), "{}", said.err);
}

#[test]
fn completions() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let said = place.run(&["completions", shell]);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{shell}");
        for command in COMMANDS {
            assert!(said.out.contains(command), "{shell}: {command}");
        }
    }
    // bash itself takes it, and completes a command's name.
    let script = place.run(&["completions", "bash"]).out;
    place.file(
        "c.sh",
        &format!("{script}\nCOMP_WORDS=(septet heal); COMP_CWORD=1\n_septet septet heal septet\necho \"${{COMPREPLY[@]}}\"\n"),
    );
    let out = std::process::Command::new("bash").arg(place.work().join("c.sh")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "health", "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn colours_are_for_those_who_want_them() {
    let place = Place::new();
    // Not a terminal: none, unless they are asked for.
    for (args, env, colored) in [
        (&["up"][..], &[][..], false),
        (&["up", "--color", "never"], &[], false),
        (&["up", "--color", "always"], &[], true),
        // What is said on the command line wins over the environment.
        (&["up", "--color", "always"], &[("NO_COLOR", "1")], true),
        (&["up", "--color", "auto"], &[("NO_COLOR", "1")], false),
    ] {
        let said = place.run_with(args, env);
        assert_eq!(said.err.contains("\u{1b}["), colored, "{args:?} {env:?}: {}", said.err);
        assert!(said.err.contains("== lock"), "{}", said.err);
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let place = Place::new();
    let out = std::process::Command::new("bash")
        .args(["-c", "\"$0\" completions bash | true; echo ${PIPESTATUS[0]}", env!("CARGO_BIN_EXE_septet")])
        .current_dir(place.work())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "0", "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn init_tells_programs_what_it_wrote() {
    let place = Place::new();
    let said = place.run(&["init", "--json"]);
    let written: Value = serde_json::from_str(&said.out).unwrap();
    let files = written["written"].as_array().unwrap();
    assert!(files.iter().any(|f| f == "./playbooks/site.yml") && files.len() > 10, "{written}");
    assert_eq!(files.len(), listed(&place.work()).len());
    let again: Value = serde_json::from_str(&place.run(&["init", "--json"]).out).unwrap();
    assert_eq!(again["exit_code"], 1);
}

/// On a terminal that knows no escapes there are none.
#[test]
fn a_dumb_terminal_gets_no_escapes() {
    if !Path::new("/usr/bin/script").exists() {
        eprintln!("SKIPPED: there is no /usr/bin/script, which runs a command on a terminal");
        return;
    }
    let place = Place::new();
    let on_terminal = |term: &str| {
        let out = Command::new("/usr/bin/script")
            .args(["-qec", &format!("{} up", env!("CARGO_BIN_EXE_septet")), "/dev/null"])
            .current_dir(place.work())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", place.dir.path())
            .env("TERM", term)
            .env("DOCKER_HOST", format!("unix://{}/no-docker.sock", place.dir.path().display()))
            .env("SEPTET_BUNDLE", place.dir.path().join("bundle"))
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let (dumb, xterm) = (on_terminal("dumb"), on_terminal("xterm-256color"));
    assert!(dumb.contains("lock") && dumb.contains("Docker is not running") && !dumb.contains('\u{1b}'), "{dumb:?}");
    assert!(xterm.contains('\u{1b}'), "{xterm:?}");
}

#[test]
fn history_of_a_machine_on_which_nothing_was_run() {
    let place = Place::new();
    let said = place.run(&["history"]);
    assert_eq!((said.code, said.out.as_str()), (0, "nothing was run on this machine yet\n"), "{}", said.err);
    assert_eq!(place.run(&["history", "--json"]).out, "[]\n");
    for args in [&["history", "show", "7"][..], &["history", "log", "7"]] {
        let said = place.run(args);
        assert_eq!(said.code, 2);
        assert!(said.err.contains("there is no execution 7") && said.err.contains("`septet history` lists them"), "{}", said.err);
    }
}

#[test]
fn a_damaged_journal_is_named_and_can_be_moved_aside() {
    let place = Place::new();
    place.run(&["history"]);
    let file = place.dir.path().join("state/septet/journal.db");
    std::fs::write(
        &file,
        "not a database, but long enough to be taken for the head of one, whatever it is that is written here ".repeat(20),
    )
    .unwrap();
    let said = place.run(&["history"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("journal.db: file is not a database") && said.err.contains("move the file aside"), "{}", said.err);
    std::fs::rename(&file, file.with_extension("aside")).unwrap();
    assert_eq!(place.run(&["history"]).code, 0);
    // One of a later version.
    let db = rusqlite::Connection::open(&file).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    let said = place.run(&["history"]);
    assert!(said.code == 1 && said.err.contains("a newer Septet wrote it"), "{}", said.err);
}

#[test]
fn restart_of_what_has_no_service() {
    let place = Place::new();
    let said = place.run(&["restart", "control"]);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("no host of `control` runs a service") && said.err.contains("`coordinators`, `brokers`"), "{}", said.err);
    // What the hint names goes as far as Docker.
    assert!(place.run(&["restart", "brokers"]).err.contains("Docker is not running"));
}

/// A plan as `plan --out` writes it, of nothing but its head.
fn plan_of(cluster: &str, format: u32) -> String {
    let digest = "a".repeat(64);
    format!(
        r#"{{"septet_plan": {format}, "made": "2026-11-29T01:00:00Z", "cluster": "{cluster}", "stages": [], "basis": {{"septet": "0.1.0",
        "inventory": "{digest}", "playbooks": "{digest}", "options": "{digest}", "programs": {{}}, "hosts": []}}}}"#
    )
}

#[test]
fn a_plan_file_is_for_one_cluster() {
    let place = Place::new();
    place.file("inventories/local.yml", "cluster: local\nprefix: peter\n");
    place.file("other.json", &plan_of("other", 1)).file("newer.json", &plan_of("local", 2)).file("text.json", "cluster: local\n");
    place.file("own.json", &plan_of("local", 1));
    let said = |name: &str| {
        let said = place.run(&["up", "--plan", name]);
        format!("{}: {}", said.code, said.err)
    };
    insta::assert_snapshot!(["other.json", "newer.json", "text.json", "gone.json", "inventories"].map(said).concat());
    // The inventory that it was made from: nothing but Docker is missing.
    assert!(said("own.json").contains("Docker is not running"), "{}", said("own.json"));
    place.file("o.yml", "cluster: other\nprefix: peter\n");
    assert!(place.run(&["up", "-i", "o.yml", "--plan", "other.json"]).err.contains("Docker is not running"));
}

#[test]
fn a_password_for_sudo_is_for_hosts_that_exist() {
    let place = Place::new();
    for command in ["plan", "list"] {
        let said = place.run(&[command, "-K"]);
        assert_eq!(said.code, 2, "{}", said.err);
        assert!(said.err.contains("hosts that Septet made need no password") && said.err.contains("hint: leave -K out"), "{}", said.err);
    }
    let said = place.run(&["plan"]);
    assert!(said.code == 1 && !said.err.contains("password"), "{}", said.err);
}
