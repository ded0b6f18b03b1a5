//! A proxy in front of a server, at an address that stays, which can cut all connections and refuse new ones.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

#[derive(Default)]
struct State {
    refuses: AtomicBool,
    connections: Mutex<Vec<JoinHandle<()>>>,
}

pub struct Proxy {
    pub address: String,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State::default());
        let shared = state.clone();
        let task = tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                if shared.refuses.load(Ordering::SeqCst) {
                    continue;
                }
                let connection = tokio::spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await {
                        let _ = copy_bidirectional(&mut client, &mut server).await;
                    }
                });
                shared.connections.lock().unwrap().push(connection);
            }
        });
        Self { address, state, task }
    }

    /// Ends all connections, and those that come until [`Proxy::mend`].
    pub fn cut(&self) {
        self.state.refuses.store(true, Ordering::SeqCst);
        self.state.connections.lock().unwrap().drain(..).for_each(|c| c.abort());
    }

    pub fn mend(&self) {
        self.state.refuses.store(false, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}
