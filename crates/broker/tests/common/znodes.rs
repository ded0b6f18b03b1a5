//! What lies in the coordinator, read with a ZooKeeper client.

use septet_zookeeper as zk;
use serde_json::Value;

pub struct Znodes {
    runtime: tokio::runtime::Runtime,
    client: zk::Client,
}

impl Znodes {
    pub fn connect(servers: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = runtime.block_on(zk::Client::connect(servers)).unwrap();
        Self { runtime, client }
    }

    pub fn data(&self, path: &str) -> Option<(Vec<u8>, zk::Stat)> {
        match self.runtime.block_on(self.client.get_data(path)) {
            Ok(found) => Some(found),
            Err(zk::Error::NoNode) => None,
            Err(e) => panic!("{path}: {e}"),
        }
    }

    pub fn json(&self, path: &str) -> Value {
        let (data, _) = self.data(path).unwrap_or_else(|| panic!("{path} is not there"));
        serde_json::from_slice(&data).unwrap_or_else(|e| panic!("{path}: {e}: {}", String::from_utf8_lossy(&data)))
    }

    /// The session that a node lives as long as; 0 for none.
    pub fn owner(&self, path: &str) -> Option<i64> {
        self.data(path).map(|(_, stat)| stat.ephemeral_owner)
    }

    pub fn children(&self, path: &str) -> Vec<String> {
        let mut list = self.runtime.block_on(self.client.list_children(path)).unwrap();
        list.sort();
        list
    }
}
