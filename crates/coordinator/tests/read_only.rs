//! Servers without a majority serve clients that may be read-only, if `readonlymode.enabled` says so.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use common::{
    Ensemble, LONG_MS, Server,
    client::{Client, create_body, hello, path_body, read_frame, set_body},
    eventually, mode,
};
use septet_coordinator::{jute::Reader, protocol::op};

const NOT_READ_ONLY: i32 = -119;
const ENABLED: &str = "readonlymode.enabled=true";

/// A server that is cut off: the other two are killed.
fn cut_off(config: &str) -> Ensemble {
    let mut ensemble = Ensemble::start(3, config);
    let mut client = Client::new(ensemble.port(0), LONG_MS);
    client.create("/x", b"kept", 0).unwrap().unwrap();
    assert!(client.close().unwrap());
    for i in [1, 2] {
        ensemble.servers[i].kill();
    }
    ensemble
}

/// Connects with a session, or for a new one; what the server says of it, unless it hangs up.
fn connect(server: &Server, read_only: bool, session: i64, password: &[u8]) -> Option<(std::net::TcpStream, i64, Vec<u8>, bool)> {
    let mut stream = server.raw().ok()?;
    let mut bytes = hello(0, LONG_MS, session, password);
    *bytes.last_mut().unwrap() = u8::from(read_only);
    stream.write_all(&bytes).ok()?;
    let answer = read_frame(&mut stream).ok()?;
    let mut r = Reader(&answer);
    let mut fields = || Ok::<_, septet_coordinator::jute::JuteError>((r.int()?, r.int()?, r.long()?, r.buffer()?.to_vec(), r.bool()?));
    let (_, _, session, password, read_only) = fields().unwrap();
    Some((stream, session, password, read_only))
}

fn ask(stream: &mut std::net::TcpStream, op: i32, body: &[u8]) -> (i32, Vec<u8>) {
    stream.write_all(&common::client::frame(&[&7i32.to_be_bytes()[..], &op.to_be_bytes(), body].concat())).unwrap();
    let answer = read_frame(stream).unwrap();
    assert_eq!(answer[..4], 7i32.to_be_bytes());
    (i32::from_be_bytes(answer[12..16].try_into().unwrap()), answer[16..].to_vec())
}

#[test]
fn reads_are_answered_and_writes_are_not() {
    let mut ensemble = cut_off(ENABLED);
    let server = &ensemble.servers[0];
    eventually("it reads", || (server.ask("isro").unwrap() == "ro").then_some(()));
    assert_eq!(mode(server).as_deref(), Some("read-only"));
    assert_eq!(server.measured("server_state").as_deref(), Some("read-only"));
    assert!(connect(server, false, 0, &[0; 16]).is_none());
    let (mut stream, session, password, read_only) = connect(server, true, 0, &[0; 16]).unwrap();
    assert!(session != 0 && read_only);
    let (code, body) = ask(&mut stream, op::GET_DATA, &path_body("/x", true));
    assert_eq!((code, Reader(&body).buffer().unwrap()), (0, &b"kept"[..]));
    assert_eq!(ask(&mut stream, op::EXISTS, &path_body("/none", false)).0, -101);
    for (op, body) in [(op::SET_DATA, set_body("/x", b"")), (op::CREATE, create_body("/y", b"", 0)), (op::SYNC, b"\0\0\0\x01/".to_vec())] {
        assert_eq!(ask(&mut stream, op, &body).0, NOT_READ_ONLY);
    }
    // The session goes on over another connection, but not with another password.
    let (mut again, same, _, _) = connect(server, true, session, &password).unwrap();
    assert_eq!(same, session);
    assert_eq!(ask(&mut again, op::CLOSE, b"").0, 0);
    assert!(connect(server, true, session, &[1; 16]).is_none());
    assert!(connect(server, true, session + 1, &password).is_none());
    // With a majority it writes, and the reader's connection ends.
    ensemble.servers[1].start();
    let server = &ensemble.servers[0];
    eventually("it writes", || (server.ask("isro").unwrap() == "rw").then_some(()));
    assert!(common::is_ended(&mut stream));
    let (_, gone, _, read_only) = eventually("a session that nobody knows is over", || connect(server, true, session, &password));
    assert_eq!((gone, read_only), (0, false));
    Client::new(server.port, LONG_MS).set("/x", b"new").unwrap().unwrap();
}

#[test]
fn without_the_setting_nobody_is_served() {
    let ensemble = cut_off("");
    let server = &ensemble.servers[0];
    eventually("it does not serve", || (server.ask("isro").unwrap() == "null").then_some(()));
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(server.ask("isro").unwrap(), "null");
    assert!(connect(server, true, 0, &[0; 16]).is_none());
}

#[test]
fn kazoo_reads_and_goes_on_to_write() {
    let Some(python) = std::env::var_os("SEPTET_TEST_PYTHON") else {
        return septet_testing::skip("kazoo", "SEPTET_TEST_PYTHON is not set, a Python with kazoo");
    };
    let mut ensemble = cut_off(ENABLED);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/read_only.py");
    let host = format!("127.0.0.1:{}", ensemble.port(0));
    let mut child = Command::new(python).arg(script).arg(host).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "read-only");
    ensemble.servers[1].start();
    child.stdin.take().unwrap().write_all(b"go on\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "ok");
    assert!(child.wait().unwrap().success());
}
