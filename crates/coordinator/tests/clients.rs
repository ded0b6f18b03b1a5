//! ZooKeeper's own command line, `org.apache.zookeeper.ZooKeeperMain` of 3.8, against this coordinator and against
//! ZooKeeper: the same lines come out. So it is with Curator's recipes. Needs SEPTET_TEST_KAFKA, and Curator 5 and a Java compiler of the
//! system's packages. kazoo's needs SEPTET_TEST_PYTHON.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use common::{
    Ensemble,
    zookeeper::{ZooKeeper, class_path, skip},
};

const COMMANDS: &str = "
create /a
create /a/data some
create -s /a/seq- x
create -s /a/seq- x
create -e /a/eph y
create -c /a/container
create -t 100000 /a/ttl z
create /a/data again
create /none/x y
get /a
get -s /a/data
set -s /a/data other
set -v 7 /a/data other
ls /a
ls -s /a
ls -R /
stat /a/eph
stat /a/ttl
getAcl -s /a
addauth digest ann:secret
whoami
create /mine x auth::cdrwa
getAcl /mine
setAcl -v 0 /mine auth:ann:r
get /mine
set /mine y
getAllChildrenNumber /a
getEphemerals /a
setquota -n 5 -b 100 /a
listquota /a
create /a/sixth
listquota /a
delquota /a
listquota /a
sync /a
addWatch -m PERSISTENT /a
removewatches /a
delete /a
delete -v 9 /a/data
deleteall /a
ls /
config
reconfig -remove 3
addauth kerberos x
quit
";

/// What the command line prints, without what differs from run to run.
fn run(port: u16, commands: &str) -> Vec<String> {
    let mut child = Command::new("java")
        .args(["-cp", &class_path().unwrap(), "-XX:TieredStopAtLevel=1", "-Dlog4j.rootLogger=OFF"])
        .args(["org.apache.zookeeper.ZooKeeperMain", "-waitforconnection", "-server", &format!("127.0.0.1:{port}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap() + "---\n" + &String::from_utf8(out.stderr).unwrap();
    // The order in which `whoami` shows identities is not promised.
    let dull = ["log4j", "Connecting to", "SLF4J", "Welcome", "JLine", "ip: 127.0.0.1"];
    text.lines()
        .filter(|l| !dull.iter().any(|d| l.contains(d)))
        .map(|line| match line.split_once(" = ") {
            Some((key, value)) if key.ends_with("time") || value.starts_with("0x") => {
                format!("{key} = {}", if value == "0x0" { "0x0" } else { "…" })
            }
            _ => line.to_owned(),
        })
        .collect()
}

#[test]
fn the_command_line_shows_the_same() {
    let config = "extendedTypesEnabled=true";
    let Some(zookeeper) = ZooKeeper::start(config, &[]) else { return skip("ZooKeeper's command line") };
    let ours = Ensemble::start(1, config);
    let (got, want) = (run(ours.port(0), COMMANDS), run(zookeeper.port, COMMANDS));
    assert!(want.len() > 100, "{want:#?}");
    for (n, (got, want)) in got.iter().zip(&want).enumerate() {
        assert_eq!(got, want, "line {n}");
    }
    assert_eq!(got.len(), want.len());
}

/// What `clients/Curator.java` prints.
fn curator(servers: &str) -> Vec<String> {
    let jars = ["curator-recipes", "curator-framework", "curator-client"].map(|j| format!("/usr/share/java/{j}.jar"));
    assert!(jars.iter().all(|j| Path::new(j).exists()), "Curator is missing: run scripts/setup test");
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/Curator.java");
    let mut command = Command::new("java");
    command.args(["-cp", &format!("{}:{}", jars.join(":"), class_path().unwrap()), "-XX:TieredStopAtLevel=1", "-Dlog4j.rootLogger=OFF"]);
    let out = command.arg(program).arg(servers).output().unwrap();
    let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(out.status.success(), "{}{}", shown(&out.stdout), shown(&out.stderr));
    shown(&out.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn curators_recipes_see_the_same() {
    let config = "extendedTypesEnabled=true";
    let often = "znode.container.checkIntervalMs=200";
    let Some(zookeeper) = ZooKeeper::start(config, &[&format!("-D{often}")]) else { return skip("Curator") };
    let ours = Ensemble::start(3, &format!("{config}\n{often}"));
    let servers: Vec<String> = ours.servers.iter().map(|s| format!("127.0.0.1:{}", s.port)).collect();
    let (got, want) = (curator(&servers.join(",")), curator(&format!("127.0.0.1:{}", zookeeper.port)));
    assert_eq!(want.last().map(String::as_str), Some("done: true"), "{want:#?}");
    assert_eq!(got, want);
}

#[test]
fn kazoo_and_its_recipes() {
    let Some(python) = std::env::var_os("SEPTET_TEST_PYTHON") else {
        return septet_testing::skip("kazoo", "SEPTET_TEST_PYTHON is not set, a Python with kazoo");
    };
    let ours = Ensemble::start(3, "DigestAuthenticationProvider.superDigest=super:D/InIHSb7yEEbrWz8b9l71RjZJU=");
    let hosts: Vec<String> = ours.servers.iter().map(|s| format!("127.0.0.1:{}", s.port)).collect();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/recipes.py");
    let out = Command::new(python).arg(script).arg(hosts.join(",")).output().unwrap();
    let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(out.status.success(), "{}{}", shown(&out.stdout), shown(&out.stderr));
    assert_eq!(shown(&out.stdout).lines().last(), Some("ok"));
}
