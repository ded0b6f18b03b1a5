//! A one-shot watch, kept until it fires: dropping one would take it back at the coordinator.

use std::pin::Pin;

use septet_zookeeper as zk;

/// The watch, with the names that were read when it was set.
#[derive(Default)]
pub struct Watched {
    /// Children.
    pub list: Vec<String>,
    event: Option<Pin<Box<dyn Future<Output = zk::WatchedEvent> + Send>>>,
}

impl Watched {
    /// Waits for this one.
    pub fn arm(&mut self, watch: zk::OneshotWatcher) {
        self.event = Some(Box::pin(watch.changed()));
    }
    /// Whether there is something to read.
    pub fn fired(&self) -> bool {
        self.event.is_none()
    }
    /// There is something to read.
    pub fn forget(&mut self) {
        self.event = None;
    }
    /// Ends when the watch fires.
    pub async fn wait(&mut self) {
        if let Some(event) = &mut self.event {
            event.await;
            self.event = None;
        }
    }
}
