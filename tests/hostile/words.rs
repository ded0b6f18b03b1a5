//! A compromised host sends too much, nothing at all, or what a terminal would obey.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use septet::{
    error::Error,
    ssh::{Connection, SshError},
};

use crate::ssh_server::{Behaviour, Host, Reaction, USER, new_key};

async fn connect(commands: &[(&'static str, Reaction)]) -> Connection {
    let behaviour = Behaviour { commands: commands.iter().copied().collect(), ..Default::default() };
    let host = Host::start("broker", new_key(), behaviour).await;
    Connection::open(&host.endpoint, USER, &Arc::new(new_key()), None).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn output_without_an_end_is_an_error() {
    let connection = connect(&[("flood", Reaction::Flood)]).await;
    let begun = Instant::now();
    let error = connection.exec("flood", &[], Duration::from_secs(60)).await.unwrap_err();
    assert_eq!(error, SshError::Output(8));
    assert!(begun.elapsed() < Duration::from_secs(50), "{:?}", begun.elapsed());
    let error = connection.run("flood", false, Duration::from_secs(60), std::future::pending()).await.unwrap_err();
    assert_eq!(error, SshError::Output(8));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_never_answers_ends() {
    let connection = connect(&[("hang", Reaction::Hang)]).await;
    let error = connection.exec("hang", &[], Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(error.to_string(), "`hang` does not end within 1 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_silent_ends() {
    let connection = connect(&[("hang", Reaction::Hang)]).await;
    let error = connection.stream("hang", Some(Duration::from_secs(1)), |_, _| {}).await.unwrap_err();
    assert!(matches!(&error, SshError::Lost(why) if why.contains("nothing for 1 s")), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_has_no_say_over_the_terminal() {
    let connection = connect(&[("lie", Reaction::Say(b"\x1b]0;title\x07\x1b[2K\rall is well\n"))]).await;
    let out = connection.exec("lie", &[], Duration::from_secs(5)).await.unwrap();
    let words = String::from_utf8(out.stderr).unwrap();
    let shown = Error::failed(format!("broker: {words}")).hint(words.as_str()).to_string();
    assert!(shown.contains("all is well") && shown.contains("\\x1b]0;title\\x07\\x1b[2K\\rall is well"), "{shown}");
    assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
}
