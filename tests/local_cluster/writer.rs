//! A producer as careful applications have it: acks=all, idempotent, in a process of its own that writes down what was
//! acknowledged at once.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::clients::consume_all;

/// Appends the number of each acknowledged record to a file, and of each that failed to another; ends with its standard input.
const WRITER: &str = r#"
import sys, threading
from confluent_kafka import Producer
servers, topic, path = sys.argv[1:4]
good, bad = open(path, "w", buffering=1), open(path + ".failed", "w", buffering=1)
p = Producer({"bootstrap.servers": servers, "acks": "all", "enable.idempotence": True, "message.timeout.ms": 240000,
              "retry.backoff.ms": 50, "reconnect.backoff.max.ms": 500, "linger.ms": 5, "log_level": 0})
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
def told(error, message):
    if error: bad.write("%s %s\n" % (message.value(), error))
    else: good.write(message.value().decode() + "\n")
n = 0
while not stop.is_set():
    p.produce(topic, value=b"%d" % n, partition=n % 3, on_delivery=told); n += 1
    p.poll(0.02)
left = p.flush(240)
if left: bad.write("%d never answered\n" % left)
"#;

/// It works until it is judged.
pub struct Writer {
    child: Child,
    acknowledged: PathBuf,
}

impl Writer {
    pub fn start(servers: &str, topic: &str, dir: &Path) -> Self {
        let acknowledged = dir.join(format!("acknowledged-{topic}"));
        let python = std::env::var("SEPTET_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
        let mut c = Command::new(python);
        c.args(["-c", WRITER, servers, topic]).arg(&acknowledged).stdin(Stdio::piped());
        let child = c.spawn().unwrap();
        let this = Self { child, acknowledged };
        super::harness::eventually("the writer is at work", std::time::Duration::from_secs(60), || this.count() > 0);
        this
    }

    /// Records that were acknowledged until now.
    pub fn count(&self) -> usize {
        fs::read_to_string(&self.acknowledged).map_or(0, |t| t.lines().count())
    }

    /// Ends it, and insists that each acknowledged record is there, once, and that nothing failed.
    #[track_caller]
    pub fn lost_nothing(mut self, servers: &str, topic: &str) {
        assert!(self.child.try_wait().unwrap().is_none(), "the writer ended by itself");
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
        let failed = fs::read_to_string(self.acknowledged.with_file_name(format!("acknowledged-{topic}.failed"))).unwrap();
        assert_eq!(failed, "", "a producer that tries again met failures");
        let text = fs::read_to_string(&self.acknowledged).unwrap();
        let mut read: BTreeMap<String, usize> = BTreeMap::new();
        for record in consume_all(servers, topic) {
            *read.entry(record).or_default() += 1;
        }
        let acknowledged: Vec<&str> = text.lines().collect();
        let lost: Vec<&&str> = acknowledged.iter().filter(|n| !read.contains_key(**n)).collect();
        assert!(lost.is_empty(), "{} of {} acknowledged records are lost: {lost:?}", lost.len(), acknowledged.len());
        let twice: Vec<_> = read.iter().filter(|(_, n)| **n > 1).collect();
        assert!(twice.is_empty(), "records that are there more than once: {twice:?}");
        assert!(acknowledged.len() > 50, "only {} records were written", acknowledged.len());
        eprintln!("{} records were acknowledged, and all of them read", acknowledged.len());
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
