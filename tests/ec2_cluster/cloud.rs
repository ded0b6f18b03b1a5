//! The stand-in for EC2: a process of its own, told by its control plane what to do wrong, and asked what there is.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::harness::eventually;

/// Kinds of things in the stand-in's state that carry tags.
const KINDS: [&str; 9] =
    ["instances", "volumes", "security_groups", "key_pairs", "network_interfaces", "vpcs", "subnets", "route_tables", "internet_gateways"];
/// States of what is gone, though it is listed for a while.
const GONE: [&str; 2] = ["terminated", "deleting"];

/// By what the stand-in knows for which service a call is.
const CONSOLE: &str = "AWS4-HMAC-SHA256 Credential=AKIDCONSOLE/20260101/us-east-1/ec2/aws4_request, SignedHeaders=host, Signature=0";

/// Whether the tests that try every call are to run; says why not.
pub fn sweeps(test: &str) -> bool {
    let on = std::env::var("SEPTET_SWEEPS").is_ok_and(|v| v == "1");
    if !on {
        septet_testing::skip(test, "it tries every call, which takes minutes: set SEPTET_SWEEPS=1 to run it");
    }
    on
}

/// The Python that can run the stand-in.
fn python() -> PathBuf {
    std::env::var_os("SEPTET_TEST_EC2_PYTHON").map_or_else(
        || {
            let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
            let cache = cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"));
            cache.join("septet/ec2-venv/bin/python")
        },
        PathBuf::from,
    )
}

/// A call as the stand-in's log has it.
#[derive(Debug, Clone)]
pub struct Call {
    pub action: String,
    pub params: BTreeMap<String, String>,
    /// `ok`, an error's code, `reset`, `hang`; nothing while it is under way
    pub result: Option<String>,
    pub dry_run: bool,
    pub at: f64,
}

impl Call {
    fn parse(v: &Value) -> Self {
        let params = v["params"].as_object().unwrap();
        Self {
            action: v["action"].as_str().unwrap().to_owned(),
            params: params.iter().map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned())).collect(),
            result: v["result"].as_str().map(str::to_owned),
            dry_run: v["dry_run"].as_bool().unwrap(),
            at: v["at"].as_f64().unwrap(),
        }
    }

    pub fn is_ok(&self) -> bool {
        self.result.as_deref() == Some("ok")
    }
    /// Whether it would change anything.
    pub fn changes(&self) -> bool {
        !self.dry_run && !["Describe", "Get"].iter().any(|p| self.action.starts_with(p))
    }
    /// A parameter; nothing if it was not sent.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.params.get(name).map(String::as_str)
    }
    /// Insists on a parameter's value.
    #[track_caller]
    pub fn has(&self, name: &str, value: &str) {
        assert_eq!(self.get(name), Some(value), "{name} of {self:#?}");
    }

    /// Tags that the call puts on what it makes, of one kind.
    #[track_caller]
    pub fn tags(&self, kind: &str) -> BTreeMap<String, String> {
        let number = (1..9).find(|n| self.get(&format!("TagSpecification.{n}.ResourceType")) == Some(kind));
        let number = number.unwrap_or_else(|| panic!("no tags for {kind} in {self:#?}"));
        let part = |i: i32, what: &str| self.get(&format!("TagSpecification.{number}.Tag.{i}.{what}")).map(str::to_owned);
        (1..60).map_while(|i| Some((part(i, "Key")?, part(i, "Value")?))).collect()
    }
}

/// What carries a cluster's name, by kind; instances that are terminated are not there any more.
pub type Things = BTreeMap<String, Vec<Value>>;

pub struct Cloud {
    child: Child,
    pub endpoint: String,
    dir: TempDir,
}

impl Cloud {
    /// A cloud whose instances exist in its books only, and whose changes happen at once. Nothing where there is none to be had.
    pub fn new(test: &str) -> Option<Self> {
        let cloud = Self::start(test, &[])?;
        cloud.set(json!({"state_delay_s": 0}));
        Some(cloud)
    }

    /// A cloud whose instances are containers of an image.
    pub fn paired(test: &str, image: &str) -> Option<Self> {
        Self::start(test, &["--pair", image])
    }

    fn start(test: &str, more: &[&str]) -> Option<Self> {
        if !cfg!(feature = "ec2") {
            septet_testing::skip(test, "septet was built without the feature `ec2`");
            return None;
        }
        let python = python();
        let able = Command::new(&python).args(["-c", "import moto, boto3"]).stderr(Stdio::null()).status();
        if !able.is_ok_and(|s| s.success()) {
            let why = format!("{} cannot run the stand-in for EC2: `scripts/setup test`, or set SEPTET_TEST_EC2_PYTHON", python.display());
            septet_testing::skip(test, &why);
            return None;
        }
        let dir = tempfile::Builder::new().prefix("septet-ec2-").tempdir().unwrap();
        let mut child = Command::new(&python)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ec2_cloud"))
            .args(["cloud.py", "--port", "0", "--work"])
            .arg(dir.path().join("boots"))
            .args(more)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(dir.path().join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: Value =
            serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}{}", fs::read_to_string(dir.path().join("stderr")).unwrap()));
        Some(Self { child, endpoint: said["endpoint"].as_str().unwrap().to_owned(), dir })
    }

    /// Which process it is; what it makes carries the number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks the control plane.
    #[track_caller]
    fn control(&self, method: &str, path: &str, body: &Value) -> Value {
        let request = ureq::http::Request::builder().method(method).uri(format!("{}/_cloud/{path}", self.endpoint));
        let agent: ureq::Agent =
            ureq::Agent::config_builder().proxy(None).allow_non_standard_methods(true).http_status_as_error(false).build().into();
        let mut answer = agent.run(request.body(body.to_string()).unwrap()).unwrap();
        let text = answer.body_mut().with_config().limit(1 << 28).read_to_string().unwrap();
        assert!(answer.status().is_success(), "{method} {path} {body}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Calls EC2 as somebody else does, in a console; the answer as XML.
    #[track_caller]
    pub fn aws(&self, action: &str, params: &[(&str, &str)]) -> String {
        let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).http_status_as_error(false).build().into();
        let mut form = vec![("Action", action), ("Version", "2016-11-15")];
        form.extend(params);
        let mut answer = agent.post(&self.endpoint).header("authorization", CONSOLE).send_form(form).unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        assert!(answer.status().is_success(), "{action} {params:?}: {text}");
        text
    }

    pub fn set(&self, settings: Value) {
        self.control("POST", "settings", &settings);
    }
    /// Orders a fault.
    pub fn fault(&self, fault: Value) {
        self.control("POST", "faults", &fault);
    }
    /// Faults that have not struck yet, or will again.
    pub fn faults(&self) -> Vec<Value> {
        self.control("GET", "faults", &Value::Null).as_array().unwrap().clone()
    }
    /// No more faults.
    pub fn calm(&self) {
        self.control("DELETE", "faults", &Value::Null);
    }
    /// Things of somebody else's; their ids.
    pub fn bystander(&self) -> Value {
        self.control("POST", "bystander", &json!({}))
    }
    /// What the console does to an instance: `stop`, `start`, `terminate`, `kill`.
    pub fn instance(&self, id: &str, verb: &str) {
        self.control("POST", &format!("instances/{id}/{verb}"), &json!({}));
    }

    /// All calls since the log was emptied last.
    pub fn calls(&self) -> Vec<Call> {
        self.control("GET", "calls", &Value::Null).as_array().unwrap().iter().map(Call::parse).collect()
    }
    pub fn forget_calls(&self) {
        self.control("DELETE", "calls", &Value::Null);
    }
    /// Calls of one action that were meant and succeeded.
    pub fn done(&self, action: &str) -> Vec<Call> {
        self.calls().into_iter().filter(|c| c.action == action && !c.dry_run && c.is_ok()).collect()
    }

    pub fn state(&self) -> Value {
        self.control("GET", "state", &Value::Null)
    }
    /// What is a cluster's, by its name.
    pub fn ours(&self, cluster: &str) -> Things {
        self.select(|v| v["tags"]["septet:name"] == cluster)
    }
    /// What is not a cluster's.
    pub fn others(&self, cluster: &str) -> Things {
        self.select(|v| v["tags"]["septet:name"] != cluster)
    }
    /// Insists that what was there before is there, as it was.
    #[track_caller]
    pub fn still_has(&self, before: &Things) {
        let now = self.select(|_| true);
        for (kind, list) in before {
            let missing: Vec<&Value> = list.iter().filter(|v| !now[kind].contains(v)).collect();
            assert!(missing.is_empty(), "{kind} that are gone or changed: {missing:#?}");
        }
    }
    fn select(&self, which: impl Fn(&Value) -> bool) -> Things {
        let state = self.state();
        KINDS
            .iter()
            .map(|kind| {
                let all = state[*kind].as_array().unwrap().iter();
                let list = all.filter(|v| which(v) && !GONE.iter().any(|g| v["state"] == **g)).cloned().collect();
                ((*kind).to_owned(), list)
            })
            .collect()
    }

    /// Waits for something in the log of calls.
    #[track_caller]
    pub fn awaits(&self, what: &str, ready: impl Fn(&[Call]) -> bool) {
        eventually(what, Duration::from_secs(60), || ready(&self.calls()));
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        // The end of its input is its end; it takes its containers with it.
        drop(self.child.stdin.take());
        let begun = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            if begun.elapsed() > Duration::from_secs(90) {
                self.child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let said = fs::read_to_string(self.dir.path().join("stderr")).unwrap();
        if std::thread::panicking() {
            eprintln!("--- the stand-in for EC2 said\n{said}");
        } else {
            assert!(!said.contains("Traceback"), "the stand-in for EC2 went wrong:\n{said}");
        }
    }
}
