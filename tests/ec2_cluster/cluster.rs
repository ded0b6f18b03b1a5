//! A cluster of one test's own in a cloud, and the means to run septet against it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    cloud::{Cloud, Things},
    harness::{Ran, SEVEN},
};

const COMMAND_TIMEOUT: Duration = Duration::from_secs(400);
/// How `up` ends where it makes all hosts and may not reach them.
pub const NO_WAY_IN: &str = "has no public address";

pub struct Cluster<'a> {
    pub name: String,
    pub cloud: &'a Cloud,
    dir: TempDir,
    prefix: RefCell<String>,
    settings: RefCell<BTreeMap<String, String>>,
    /// lines of the inventory beside the provider
    more: RefCell<String>,
}

impl<'a> Cluster<'a> {
    /// A directory with an inventory; nothing in the cloud yet.
    pub fn new(cloud: &'a Cloud, name: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("septet-ec2-").tempdir().unwrap();
        let prefix = RefCell::new(name.to_owned());
        let this = Self { name: name.to_owned(), cloud, dir, prefix, settings: RefCell::default(), more: RefCell::default() };
        this.set("region", "us-east-1");
        this.set("endpoint_url", &cloud.endpoint);
        this.set("ssh", "{from: [192.0.2.1/32]}");
        this.set("public_addresses", "none");
        this
    }

    /// Sets one of the provider's settings.
    pub fn set(&self, key: &str, value: &str) {
        self.settings.borrow_mut().insert(key.to_owned(), value.to_owned());
        self.write();
    }
    /// Leaves one of the provider's settings out.
    pub fn unset(&self, key: &str) {
        self.settings.borrow_mut().remove(key);
        self.write();
    }
    /// Sets lines of the inventory beside the provider, as `ttl: 8h`.
    pub fn more(&self, lines: &str) {
        lines.clone_into(&mut self.more.borrow_mut());
        self.write();
    }
    fn write(&self) {
        let settings: String = self.settings.borrow().iter().map(|(k, v)| format!("    {k}: {v}\n")).collect();
        let text =
            format!("cluster: {}\nprefix: {}\n{}\nprovider:\n  ec2:\n{settings}", self.name, self.prefix.borrow(), self.more.borrow());
        fs::write(self.path().join("inventory.yml"), text).unwrap();
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
    pub fn state(&self) -> PathBuf {
        self.path().join("state")
    }
    /// What the hosts' names begin with, after a rename wrote it into the inventory.
    pub fn renamed(&self, prefix: &str) {
        prefix.clone_into(&mut self.prefix.borrow_mut());
    }
    /// A host's full name.
    pub fn host(&self, short: &str) -> String {
        format!("{}-{short}", self.prefix.borrow())
    }

    /// septet with arguments; nothing of this machine's own AWS settings counts.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_septet"));
        for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("AWS_")) {
            c.env_remove(name);
        }
        c.current_dir(self.path())
            .env("XDG_STATE_HOME", self.state())
            .env("AWS_ACCESS_KEY_ID", "AKIDTEST")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_CONFIG_FILE", self.path().join("no-config"))
            .env("AWS_SHARED_CREDENTIALS_FILE", self.path().join("no-credentials"))
            .env("NO_PROXY", "127.0.0.1")
            .args(["-i", "inventory.yml"])
            .args(args);
        c
    }
    pub fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, "")
    }
    pub fn run_with(&self, args: &[&str], input: &str) -> Ran {
        Ran::of(self.command(args), input, COMMAND_TIMEOUT)
    }
    /// Runs septet, which must succeed.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> Ran {
        self.run(args).code(0)
    }
    /// Starts septet; what it says goes to a file.
    pub fn spawn(&self, args: &[&str]) -> Child {
        self.start(self.command(args))
    }
    pub fn start(&self, mut command: Command) -> Child {
        let said = fs::File::create(self.path().join("said")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).spawn().unwrap()
    }

    /// `up`, as far as it comes without a way in: all seven run.
    #[track_caller]
    pub fn up(&self) -> Ran {
        self.run(&["up"]).code(1).says(&[NO_WAY_IN])
    }
    /// `down`, which must succeed.
    #[track_caller]
    pub fn down(&self) -> Ran {
        self.ok(&["down", "--yes"])
    }

    pub fn things(&self) -> Things {
        self.cloud.ours(&self.name)
    }
    /// Its instances by their names without the prefix.
    pub fn instances(&self) -> BTreeMap<String, Value> {
        let of_name = |v: &Value| v["name"].as_str().unwrap().trim_start_matches(&self.host("")).to_owned();
        self.things()["instances"].iter().map(|v| (of_name(v), v.clone())).collect()
    }
    /// Id of an instance.
    pub fn id(&self, short: &str) -> String {
        self.instances()[short]["id"].as_str().unwrap().to_owned()
    }
    /// Its security groups by what they are for.
    pub fn groups(&self) -> BTreeMap<String, Value> {
        let groups = self.things()["security_groups"].clone();
        groups.into_iter().map(|g| (g["tags"]["septet:group"].as_str().unwrap().to_owned(), g)).collect()
    }
    /// What may come in to each group; groups by what they are for.
    pub fn openings(&self) -> BTreeMap<String, Vec<String>> {
        let groups = self.groups();
        let named = |rule: &Value| {
            let mut text = rule.as_str().unwrap().to_owned();
            groups.iter().for_each(|(kind, g)| text = text.replace(g["id"].as_str().unwrap(), kind));
            text
        };
        groups.iter().map(|(k, g)| (k.clone(), g["ingress"].as_array().unwrap().iter().map(named).collect())).collect()
    }

    /// What is wrong with what there is, if exactly seven hosts and what belongs to them is wanted.
    pub fn flaws(&self) -> Vec<String> {
        let things = self.things();
        let mut out = Vec::new();
        let mut insist = |what: &str, is: String, wanted: String| {
            if is != wanted {
                out.push(format!("{what}: {is} instead of {wanted}"));
            }
        };
        let sorted = |list: Vec<String>| {
            let set: BTreeSet<String> = list.iter().cloned().collect();
            format!("{} of {set:?}", list.len())
        };
        let texts = |kind: &str, of: &dyn Fn(&Value) -> String| sorted(things[kind].iter().map(of).collect());
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let hosts: Vec<String> = SEVEN.iter().map(|h| self.host(h)).collect();
        insist("instances", texts("instances", &|v| text(&v["name"])), sorted(hosts.clone()));
        let roles = ["control 1", "coordinator 1", "coordinator 2", "coordinator 3", "broker 1", "broker 2", "broker 3"];
        let role = |v: &Value| format!("{} {}", text(&v["tags"]["septet:role"]), text(&v["tags"]["septet:index"]));
        insist("roles", texts("instances", &role), sorted(roles.map(str::to_owned).to_vec()));
        insist("states", texts("instances", &|v| text(&v["state"])), sorted(vec!["running".into(); 7]));
        insist("interfaces", texts("network_interfaces", &role), sorted(roles.map(str::to_owned).to_vec()));
        let mut volumes: Vec<String> = hosts.iter().map(|h| format!("{h} in-use")).collect();
        volumes.extend(hosts.iter().skip(1).map(|h| format!("{h} in-use")));
        insist("volumes", texts("volumes", &|v| format!("{} {}", text(&v["tags"]["Name"]), text(&v["state"]))), sorted(volumes));
        let groups = ["hosts", "control", "coordinators", "brokers"].map(str::to_owned);
        insist("groups", texts("security_groups", &|v| text(&v["tags"]["septet:group"])), sorted(groups.to_vec()));
        let uuid = things["instances"].first().map(|v| text(&v["tags"]["septet:cluster"])).unwrap_or_default();
        let key = format!("septet-{}-{}", self.name, uuid.get(..8).unwrap_or_default());
        // A run that was killed leaves its hold, which the next one takes over.
        let keys: Vec<String> = things["key_pairs"].iter().map(|v| text(&v["name"])).filter(|n| *n != self.lock()).collect();
        insist("keys", sorted(keys), sorted(vec![key]));
        let uuids: BTreeSet<String> = things.values().flatten().map(|v| text(&v["tags"]["septet:cluster"])).collect();
        let foreign = uuids.iter().filter(|u| **u != uuid && !u.starts_with("lock:")).count();
        insist("other identities", foreign.to_string(), "0".into());
        out
    }
    /// Insists on exactly seven hosts and what belongs to them.
    #[track_caller]
    pub fn is_whole(&self, after: &str) {
        assert_eq!(self.flaws(), Vec::<String>::new(), "after {after}: {}", self.said());
    }
    /// Insists that nothing is there.
    #[track_caller]
    pub fn is_gone(&self, after: &str) {
        let left: BTreeMap<String, Vec<Value>> = self.things().into_iter().filter(|(_, v)| !v.is_empty()).collect();
        assert!(left.is_empty(), "after {after}: {left:#?}\n{}", self.said());
    }
    /// What the process said that was started last.
    pub fn said(&self) -> String {
        fs::read_to_string(self.path().join("said")).unwrap_or_default()
    }
    /// Name of the key pair that says who is at work.
    pub fn lock(&self) -> String {
        format!("septet-lock-{}", self.name)
    }
}
