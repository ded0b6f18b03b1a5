//! What one does with a cluster on an ordinary day: up, again, endpoints, clients, health, plan, commands on hosts.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
    time::Duration,
};

use serde_json::Value;

use super::{
    clients::{CREATE_TOPIC, KAZOO, consume_all, kcat, metadata, python},
    harness::{Cluster, SEVEN, docker, enabled, eventually, signal},
};

#[test]
fn everyday() {
    if !enabled("everyday") {
        return;
    }
    let cluster = Cluster::new("a");
    from_nothing(&cluster);
    nothing_to_do(&cluster);
    clients_from_this_machine(&cluster);
    planning(&cluster);
    commands_on_hosts(&cluster);
    playbooks(&cluster);
    written_out(&cluster);
    what_health_says(&cluster);
}

fn from_nothing(cluster: &Cluster) {
    cluster.run(&["endpoints"]).code(1).says(&["hint:"]);
    assert_eq!(cluster.run(&["health"]).code, Some(3));
    cluster.run(&["plan", "--exit-code"]).code(4).shows(&["+ network"]);
    assert_eq!(cluster.containers(), Vec::<String>::new());

    let up = cluster.ok(&["up"]);
    for host in SEVEN {
        let name = cluster.host(host);
        assert!(up.out.contains(&name), "{}", up.show());
        // Real systemd, real OpenSSH.
        assert_eq!(docker(&["exec", &name, "cat", "/proc/1/comm"]), "systemd");
        assert_eq!(docker(&["exec", &name, "hostname"]), name);
        docker(&["exec", &name, "systemctl", "is-active", "ssh"]);
    }
    up.says(&["PHASE", "configure", "total", "bootstrap.servers=", "next:", "up and healthy"]);
    cluster.is_whole();
    let key =
        fs::metadata(fs::read_dir(cluster.state().join("septet/clusters")).unwrap().next().unwrap().unwrap().path().join("id_ed25519"))
            .unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&key.permissions()) & 0o777, 0o600);
}

fn nothing_to_do(cluster: &Cluster) {
    let before = cluster.seen();
    let again = cluster.ok(&["up"]).says(&["nothing changed"]);
    eprintln!("an up without changes: {:.2} s", again.took.as_secs_f64());
    assert!(again.took < Duration::from_secs(20), "{}", again.show());
    assert_eq!(cluster.seen(), before);
    // As JSON: the same, and nothing else on standard output.
    let json = cluster.ok(&["up", "--json"]).json();
    assert_eq!(json["changed"], 0, "{json}");
    assert_eq!(json["hosts"].as_array().unwrap().len(), 7);
}

fn clients_from_this_machine(cluster: &Cluster) {
    let text = cluster.ok(&["endpoints"]).out;
    let (servers, zookeeper) = (cluster.bootstrap(), cluster.zookeeper());
    assert_eq!(text, format!("bootstrap.servers={servers}\nzookeeper.connect={zookeeper}\n"));
    let each: Vec<&str> = servers.split(',').collect();
    assert_eq!((each.len(), zookeeper.split(',').count()), (3, 3));

    // More replicas than brokers: an error that says why, and no topic.
    let refused = python(CREATE_TOPIC, &[&servers, "four-replicas", "3", "4"]);
    let why = refused.as_str().unwrap_or_default().to_lowercase();
    assert!(why.contains("replication"), "{refused}");
    // By default each broker has a replica.
    assert_eq!(python(CREATE_TOPIC, &[&servers, "plain", "3", "-1"]), Value::Null);
    eventually("all replicas are in sync", Duration::from_secs(20), || {
        let listed = metadata(&servers, &["-t", "plain"]);
        let partitions = listed["topics"][0]["partitions"].as_array().unwrap();
        partitions.len() == 3 && partitions.iter().all(|p| p["isrs"].as_array().unwrap().len() == 3)
    });

    // Each broker on its own leads to all three, and a record goes through what each of them leads.
    let mut leaders = Vec::new();
    for (i, broker) in each.iter().enumerate() {
        let listed = metadata(broker, &[]);
        assert_eq!(listed["brokers"].as_array().unwrap().len(), 3, "{listed}");
        let topics = listed["topics"].as_array().unwrap();
        assert!(!topics.iter().any(|t| t["topic"] == "four-replicas"), "{listed}");
        let plain = topics.iter().find(|t| t["topic"] == "plain").unwrap();
        let partition = plain["partitions"]
            .as_array()
            .unwrap()
            .iter()
            .find(|p| p["leader"] == i + 1)
            .unwrap_or_else(|| panic!("broker {} leads nothing of {plain}", i + 1));
        leaders.push(partition["leader"].clone());
        let number = partition["partition"].to_string();
        kcat(broker, &["-P", "-t", "plain", "-p", &number], &format!("through {broker}\n"));
    }
    let mut wanted: Vec<String> = each.iter().map(|b| format!("through {b}")).collect();
    wanted.sort();
    for broker in &each {
        assert_eq!(consume_all(broker, "plain"), wanted);
    }

    let seen = python(KAZOO, &[&zookeeper]);
    assert_eq!(seen["ids"], serde_json::json!(["1", "2", "3"]), "{seen}");
    assert!(leaders.contains(&seen["controller"]["brokerid"]), "{seen}");
    for server in zookeeper.split(',') {
        assert_eq!(python(KAZOO, &[server])["ids"], seen["ids"]);
    }
}

fn planning(cluster: &Cluster) {
    let before = cluster.seen();
    let broker = cluster.host("kafka01");
    let file = ["exec", &broker, "cat", "/etc/septet/server.properties"];
    let properties = docker(&file);
    cluster.ok(&["plan", "--exit-code"]).says(&["nothing would change"]);

    cluster.edit("log_retention_hours: 72", "log_retention_hours: 48");
    let diff = ["server.properties", "-log.retention.hours=72", "+log.retention.hours=48"];
    cluster.run(&["plan", "--exit-code"]).code(4).shows(&diff).says(&["`septet -i inventory.yml up` does it"]);
    cluster.ok(&["plan"]).shows(&diff);
    let json = cluster.run(&["plan", "--exit-code", "--json"]).code(4);
    assert_eq!(json.json()["pending"], true, "{}", json.show());
    cluster.edit("log_retention_hours: 48", "log_retention_hours: 72");

    assert_eq!(docker(&file), properties);
    assert_eq!(cluster.seen(), before);
}

fn commands_on_hosts(cluster: &Cluster) {
    let out = cluster.ok(&["exec", "brokers", "--", "hostname"]).out;
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    let wanted: Vec<String> = ["kafka01", "kafka02", "kafka03"]
        .iter()
        .map(|h| {
            let n = cluster.host(h);
            format!("{n} | {n}")
        })
        .collect();
    assert_eq!(lines, wanted);
    // Words stay as they are; one word goes through a shell; `-b` is root.
    let name = cluster.host("zk02");
    assert_eq!(cluster.ok(&["exec", &name, "--", "echo", "a  b", "$HOME"]).out, "a  b $HOME\n");
    assert_eq!(cluster.ok(&["exec", &name, "-b", "--", "id -u; id -u"]).out, "0\n0\n");
    cluster.run(&["exec", "coordinators", "--", "test $(hostname) != $(hostname)"]).code(1).says(&[
        &cluster.host("zk01"),
        &cluster.host("zk03"),
        "error:",
    ]);
    cluster.run(&["exec", "nobody", "--", "true"]).code(2);

    assert_eq!(cluster.ok(&["ssh", "kafka02", "--", "hostname"]).out.trim(), cluster.host("kafka02"));
    cluster.run(&["ssh", "kafka09", "--", "true"]).code(2);
    let logs = cluster.ok(&["logs", "kafka03", "-n", "5"]);
    assert!(logs.out.contains("septet-broker"), "{}", logs.show());

    // Following goes on until Ctrl-C.
    let mut follow = cluster.command(&["logs", "zk01", "-f", "-n", "1"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(follow.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(!line.is_empty());
    assert!(follow.try_wait().unwrap().is_none());
    signal(&follow, "INT");
    assert_eq!(follow.wait().unwrap().code(), Some(130));
}

fn playbooks(cluster: &Cluster) {
    let text = "- name: Notes\n  hosts: brokers:&kafka01\n  become: true\n  tasks:\n    - name: Note\n      copy: {content: \"for {{ inventory_hostname }}\\n\", dest: /root/note}\n"
        .replace("&kafka01", "!{{ prefix }}-kafka01")
        .replace("{{ prefix }}", &cluster.prefix());
    fs::write(cluster.path().join("notes.yml"), text).unwrap();
    for changed in [1, 0] {
        let recap = cluster.ok(&["run", "notes.yml", "--json"]).json();
        let hosts = recap["hosts"].as_object().unwrap();
        let mut names: Vec<&String> = hosts.keys().collect();
        names.sort();
        assert_eq!(names, [&cluster.host("kafka02"), &cluster.host("kafka03")]);
        for counts in hosts.values() {
            assert_eq!(counts["changed"], changed, "{recap}");
        }
    }
    let two = cluster.host("kafka02");
    assert_eq!(docker(&["exec", &two, "cat", "/root/note"]), format!("for {two}"));

    let failing = "- name: Fails\n  hosts: zk\n  tasks:\n    - name: Something impossible\n      command: ls /nowhere\n"
        .replace("zk", &cluster.host("zk02"));
    fs::write(cluster.path().join("failing.yml"), failing).unwrap();
    cluster.run(&["run", "failing.yml"]).code(1).says(&[
        &cluster.host("zk02"),
        "Something impossible",
        "failing.yml:4",
        "No such file or directory",
    ]);
}

fn written_out(cluster: &Cluster) {
    cluster.ok(&["init", "project"]);
    for file in ["inventories/local.yml", "playbooks/site.yml", "templates/server.properties"] {
        assert!(cluster.path().join("project").join(file).is_file());
    }
    cluster.run(&["init", "project"]).code(1).says(&["--force"]);
    // What is written out is what ships; what is edited is used.
    cluster.ok(&["plan", "--exit-code", "--project", "project"]);
    let template = cluster.path().join("project/templates/zoo.cfg");
    let text = fs::read_to_string(&template).unwrap();
    fs::write(&template, text.replace("syncLimit=5", "syncLimit=6")).unwrap();
    cluster.run(&["plan", "--exit-code", "--project", "project"]).code(4).shows(&["zoo.cfg", "+syncLimit=6"]);
}

fn what_health_says(cluster: &Cluster) {
    let json = cluster.ok(&["health", "--json"]).json();
    assert_eq!(json["healthy"], true);
    assert_eq!(json["problems"], serde_json::json!([]));
    let text = cluster.ok(&["health"]).out;
    assert!(text.contains("leader") && text.contains("controller"), "{text}");

    // A broker: it, and what others have to do without it. That its partition of the check's own topic is away says nothing more.
    let name = cluster.host("kafka02");
    docker(&["stop", "-t", "10", &name]);
    let problems = cluster.problems();
    assert_eq!(problems["kafka02"], ["the host is stopped"]);
    assert_eq!(problems.keys().collect::<Vec<_>>(), ["brokers", "kafka02"], "{problems:?}");
    let of_others = &problems["brokers"];
    assert!(of_others.iter().all(|r| r.contains("2 of 3 replicas in sync: partition")), "{problems:?}");
    assert!(of_others.iter().any(|r| r.contains("topic plain has 2 of 3 replicas in sync: partition 0, 1, 2")), "{problems:?}");
    for partition in ["0", "1", "2"] {
        kcat(&cluster.bootstrap(), &["-P", "-t", "plain", "-p", partition, "-X", "acks=all"], "with two\n");
    }
    // Waiting ends as soon as it is back, and not before.
    let waiting = cluster.command(&["health", "--wait", "180"]).stdout(Stdio::null()).spawn();
    let mut waiting = waiting.unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert!(waiting.try_wait().unwrap().is_none());
    docker(&["start", &name]);
    assert_eq!(waiting.wait().unwrap().code(), Some(0));

    // A coordinator: it alone; two of three still serve.
    let name = cluster.host("zk02");
    docker(&["kill", &name]);
    let problems = cluster.problems();
    assert_eq!(problems.keys().collect::<Vec<_>>(), ["zk02"], "{problems:?}");
    assert_eq!(problems["zk02"], ["the host is stopped"]);
    cluster.run(&["health", "--wait", "1"]).code(3);
    docker(&["start", &name]);
    cluster.ok(&["health", "--wait", "180"]);

    // The control host's sshd: it is the way to all others, which are not blamed.
    let name = cluster.host("control01");
    docker(&["exec", &name, "systemctl", "stop", "ssh"]);
    let problems = cluster.problems();
    assert_eq!(problems.len(), 7, "{problems:?}");
    for (host, reasons) in &problems {
        let why =
            if host == "control01" { "sshd does not answer".to_owned() } else { format!("not examined: it is reached through {name}") };
        assert!(reasons.len() == 1 && reasons[0].contains(&why), "{problems:?}");
    }
    docker(&["exec", &name, "systemctl", "start", "ssh"]);

    // A unit that is stopped, and one that would not start at boot.
    let name = cluster.host("kafka03");
    docker(&["exec", &name, "systemctl", "stop", "kafka-server"]);
    let problems = cluster.problems();
    assert!(problems["kafka03"].iter().any(|r| r.contains("kafka-server.service is inactive")), "{problems:?}");
    docker(&["exec", &name, "systemctl", "start", "kafka-server"]);
    let name = cluster.host("zk03");
    docker(&["exec", &name, "systemctl", "disable", "zookeeper-server"]);
    cluster.run(&["health", "--wait", "3"]).code(3);
    let problems = cluster.problems();
    assert_eq!(problems.keys().collect::<Vec<_>>(), ["zk03"], "{problems:?}");
    assert!(problems["zk03"][0].contains("not enabled"), "{problems:?}");
    // up mends it.
    cluster.ok(&["up"]);
    assert_eq!(cluster.problems().len(), 0);
}
