//! How Septet's playbooks scale over hosts: a play of twelve tasks on 10, 100 and 1,000 hosts, whose SSH servers are one process on this
//! machine, and an inventory of 10,000. See `scripts/bench-fleet`.
//!
//! `fleet serve` is that process; it prints its port, and its host key. `fleet run HOSTS PORT KEY` runs the play twice, over the
//! same connections, and prints what it cost: seconds and CPU of this process, and its largest resident size.
//! `fleet inventory HOSTS` reads an inventory.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use russh::{
    Channel, ChannelId,
    keys::{Algorithm, PrivateKey, key::safe_rng},
    server::{self, Auth, ChannelOpenHandle, Msg, Session, VerifiedPublicKey},
};
use septet::{
    engine::{self, bundle::Program},
    inventory::Inventory,
    playbook::{Options, Runner, parse, runner::Shared},
    project::Project,
    ssh::{Endpoint, Fleet},
};
use septet_agent_protocol::{Action, HEAD_BYTES, Head, Hello, Outcome, PROTOCOL_VERSION, Request, Response, encode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const DIGEST: &str = "d";

/// Twelve tasks of the kinds that a host's set-up is made of.
const PLAY: &str = "
- hosts: clients
  gather_facts: false
  vars: {packages: [a, b, c], limit: 65536}
  tasks:
    - name: user
      user: {name: app, system: true}
    - name: directory
      file: {path: /opt/app, state: directory, owner: app, mode: '0755'}
    - name: configuration
      template: {src: app.conf.j2, dest: /etc/app.conf, mode: '0644'}
    - name: limits
      copy: {dest: /etc/security/limits.d/app.conf, content: 'app soft nofile {{ limit }}'}
    - name: line
      lineinfile: {path: /etc/sysctl.conf, line: vm.swappiness=1}
    - name: link
      file: {src: /opt/app, dest: /opt/current, state: link}
    - name: ask
      command: app --version
      register: version
      changed_when: false
    - name: only where it is old
      command: app --upgrade
      when: version.stdout is version('2.0', '<')
    - name: fact
      set_fact: {release: '{{ version.stdout | trim }}'}
    - name: stamp
      copy: {dest: /opt/app/release, content: '{{ release }} on {{ inventory_hostname }}'}
    - name: unit
      template: {src: app.service.j2, dest: /etc/systemd/system/app.service}
    - name: service
      systemd: {name: app, enabled: true, state: started}
";
const CONF: &str = "name={{ inventory_hostname }}\npeers={{ groups['clients'] | length }}\n{% for p in packages %}package.{{ loop.index }}={{ p }}\n{% endfor %}";
const UNIT: &str = "[Service]\nExecStart=/opt/app/run {{ inventory_hostname }}\n";

struct Server {
    channels: BTreeMap<ChannelId, Channel<Msg>>,
    /// on its first run a host has to be changed
    host: Arc<AtomicUsize>,
}

impl server::Handler for Server {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, _: &str, _: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        Ok(Auth::Accept)
    }

    async fn channel_open_session(&mut self, channel: Channel<Msg>, reply: ChannelOpenHandle, _: &mut Session) -> Result<(), Self::Error> {
        self.channels.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    /// As a jump host.
    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Ok(mut to) = TcpStream::connect((host, port as u16)).await {
            reply.accept().await;
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut channel.into_stream(), &mut to).await });
        }
        Ok(())
    }

    async fn exec_request(&mut self, id: ChannelId, command: &[u8], session: &mut Session) -> Result<(), Self::Error> {
        session.channel_success(id)?;
        let channel = self.channels.remove(&id).unwrap();
        if command.ends_with(format!("agent/{DIGEST}").as_bytes()) {
            tokio::spawn(agent(channel, self.host.clone()));
        } else {
            let _ = channel.exit_status(0).await;
            let _ = channel.close().await;
        }
        Ok(())
    }
}

/// Answers what is asked at once: with a change, until it was told that its service is started.
async fn agent(channel: Channel<Msg>, done: Arc<AtomicUsize>) {
    let mut stream = channel.into_stream();
    let hello = Hello { protocol: PROTOCOL_VERSION, version: "0".into(), digest: DIGEST.into(), uid: 0 };
    stream.write_all(&encode(&hello, &[]).unwrap()).await.unwrap();
    loop {
        let mut head = [0; HEAD_BYTES];
        if stream.read_exact(&mut head).await.is_err() {
            return;
        }
        let head = Head::parse(&head).unwrap();
        let mut body = vec![0; head.body_len()];
        stream.read_exact(&mut body).await.unwrap();
        let (request, _): (Request, _) = head.decode(&body).unwrap();
        let outcome = match &request.action {
            Action::Command { .. } => Outcome::changed_if(true).with("stdout", "2.1\n"),
            Action::Missing { .. } => Outcome::ok().with("missing", Vec::<String>::new()),
            Action::Systemd { .. } => Outcome::changed_if(done.swap(1, Ordering::Relaxed) == 0),
            _ => Outcome::changed_if(done.load(Ordering::Relaxed) == 0),
        };
        if stream.write_all(&encode(&Response { id: request.id, outcome }, &[]).unwrap()).await.is_err() {
            return;
        }
    }
}

async fn serve() {
    let key = PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{} {}", listener.local_addr().unwrap().port(), key.public_key().to_openssh().unwrap());
    let config = Arc::new(server::Config { keys: vec![key], inactivity_timeout: None, ..Default::default() });
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let config = config.clone();
        tokio::spawn(async move {
            let server = Server { channels: BTreeMap::new(), host: Arc::default() };
            if let Ok(session) = server::run_stream(config, stream, server).await {
                let _ = session.await;
            }
        });
    }
}

/// Seconds of CPU that this process has used.
fn cpu_s() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // In hundredths, on all Linux systems.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// Largest resident size of this process, in MiB.
fn largest_mib() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}

async fn run(hosts: usize, port: u16, key: &str) {
    let dir = std::env::temp_dir().join(format!("septet-fleet-{}", std::process::id()));
    fs::create_dir_all(dir.join("templates")).unwrap();
    fs::write(dir.join("p.yml"), PLAY).unwrap();
    fs::write(dir.join("templates/app.conf.j2"), CONF).unwrap();
    fs::write(dir.join("templates/app.service.j2"), UNIT).unwrap();
    let text = format!("cluster: fleet\nprefix: fleet\ngroups: {{clients: {{count: {hosts}}}}}\n");
    let inventory = Inventory::parse(Path::new("i.yml"), &text).unwrap();
    let project = Project { root: dir.clone() };
    let plays = parse::playbook(&project, "p.yml").unwrap();
    let endpoint = |name: &str| Endpoint { name: name.into(), host: "127.0.0.1".into(), port, host_key: key.into(), own: None };
    let login = Arc::new(PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).unwrap());
    let program = Program { path: "/bin/true".into(), digest: DIGEST.into(), peer_protocol: None };
    let endpoints = inventory.hosts.iter().map(|h| (h.id, endpoint(&h.name))).collect();
    let programs = inventory.hosts.iter().map(|h| (h.id, program.clone())).collect();
    let fleet = Arc::new(Fleet::new(endpoints, "septet", login, programs));
    for name in ["first", "again"] {
        let (events, mut told) = tokio::sync::mpsc::unbounded_channel();
        let shared = Shared {
            inventory: inventory.clone(),
            project: project.clone(),
            fleet: Some(fleet.clone()),
            absent: HashSet::new(),
            unseen: HashSet::new(),
            options: Options { forks: 50, ..Options::default() },
            host_vars: BTreeMap::new(),
            hosts: Arc::default(),
            for_tera: Arc::default(),
            events,
            interrupted: Arc::new(AtomicBool::new(false)),
        };
        let common = engine::vars(&inventory, Some("00000000-0000-0000-0000-000000000000"));
        let (began, cpu) = (Instant::now(), cpu_s());
        let listener = tokio::spawn(async move { while told.recv().await.is_some() {} });
        let runner = Runner::new(shared, &common, &BTreeMap::new(), None);
        let recap = tokio::time::timeout(Duration::from_secs(600), runner.run(&plays)).await.unwrap().unwrap();
        drop(runner);
        listener.await.unwrap();
        assert!(!recap.failed(), "{recap:?}");
        assert_eq!(recap.hosts.len(), hosts);
        println!("{name} {:.2} {:.2} {} {}", began.elapsed().as_secs_f64(), cpu_s() - cpu, recap.changed(), largest_mib());
    }
    fleet.close().await;
    fs::remove_dir_all(dir).unwrap();
}

/// Reads an inventory that writes each host out, in Ansible's form and with variables.
fn read_inventory(hosts: usize) {
    let mut text = String::from("cluster: fleet\nprefix: fleet\nprovider: {static: {}}\nvars: {ansible_user: admin}\ngroups:\n");
    for (number, (group, count)) in [("control", 1), ("coordinators", 3), ("brokers", 3), ("clients", hosts)].into_iter().enumerate() {
        text += &format!("  {group}:\n    hosts:\n");
        for i in 0..count {
            let at = format!("10.{number}.{}.{}", (i >> 8) & 255, i & 255);
            text += &format!("      {group}-{i}: {{ansible_host: {at}, rack: r{}, weight: {}}}\n", i % 7, i % 100);
        }
    }
    let began = Instant::now();
    let inventory = Inventory::parse(Path::new("i.yml"), &text).unwrap();
    println!("{:.3} {}", began.elapsed().as_secs_f64(), inventory.hosts.len());
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match words[..] {
        ["serve"] => runtime.block_on(serve()),
        ["run", hosts, port, ref key @ ..] => runtime.block_on(run(hosts.parse().unwrap(), port.parse().unwrap(), &key.join(" "))),
        ["inventory", hosts] => read_inventory(hosts.parse().unwrap()),
        _ => {
            eprintln!("fleet serve|run|inventory: see its source");
            std::process::exit(2);
        }
    }
}
