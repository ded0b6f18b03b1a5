//! Servers as processes, a proxy that cuts connections, and a server that is a script.
#![allow(dead_code, clippy::unwrap_used, missing_docs)]

pub mod fake;
pub mod proxy;
pub mod server;

use std::time::{Duration, Instant};

use septet_zookeeper::{Acls, Client, CreateMode, CreateOptions};

pub const PERSISTENT: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());
pub const EPHEMERAL: CreateOptions<'static> = CreateMode::Ephemeral.with_acls(Acls::anyone_all());

/// What must happen at all happens by then, on a busy machine too.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits for a future, not for ever.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// Asks again until there is an answer.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, ask: impl FnMut() -> F) -> T {
    eventually_within(DEADLINE, what, ask).await
}

/// The same, with another deadline.
pub async fn eventually_within<T, F: Future<Output = Option<T>>>(limit: Duration, what: &str, mut ask: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A client with a session time-out.
pub async fn connect(address: &str, timeout_ms: u64) -> Client {
    eventually("a session", || async {
        Client::connector().with_session_timeout(Duration::from_millis(timeout_ms)).connect(address).await.ok()
    })
    .await
}
