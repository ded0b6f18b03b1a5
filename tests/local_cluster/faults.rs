//! What goes wrong with a cluster that stands: lost state, a lost container, a changed host key, a full disk.

use std::{fs, time::Duration};

use super::{
    clients::{CREATE_TOPIC, consume_all, numbers, produce_numbers, python},
    harness::{Cluster, docker, docker_try, enabled, eventually},
};

#[test]
fn faults_of_a_standing_cluster() {
    if !enabled("faults_of_a_standing_cluster") {
        return;
    }
    let cluster = Cluster::new("f");
    cluster.ok(&["up"]);
    let servers = cluster.bootstrap();
    assert!(python(CREATE_TOPIC, &[&servers, "kept", "3", "3"]).is_null());
    produce_numbers(&servers, "kept", 300);
    full_disk(&cluster);
    lost_state(&cluster);
    lost_container(&cluster, &servers);
    changed_host_key(&cluster, &servers);
    stopped_and_paused(&cluster);

    // Whoever lost the state can still take the cluster down.
    fs::remove_dir_all(cluster.state()).unwrap();
    cluster.ok(&["down", "--yes"]);
    cluster.is_gone();
}

fn full_disk(cluster: &Cluster) {
    let host = cluster.host("zk03");
    let script = "mkdir -p /mnt/small && mount -t tmpfs -o size=64k none /mnt/small && printf 'as it was' > /mnt/small/file && (dd if=/dev/zero of=/mnt/small/fill bs=4k 2>/dev/null; true)";
    cluster.ok(&["exec", "zk03", "-b", "--", script]);
    let text = format!(
        "- name: Large\n  hosts: {host}\n  become: true\n  tasks:\n    - name: A large file\n      copy:\n        content: \"{}\"\n        dest: /mnt/small/file\n",
        "new ".repeat(10_000)
    );
    fs::write(cluster.path().join("large.yml"), text).unwrap();
    cluster.run(&["run", "large.yml"]).code(1).says(&[&host, "A large file", "large.yml:5", "No space left on device"]);
    assert_eq!(docker(&["exec", &host, "sh", "-c", "rm /mnt/small/fill; cat /mnt/small/*"]), "as it was");
    docker(&["exec", &host, "umount", "/mnt/small"]);
}

fn lost_state(cluster: &Cluster) {
    let before = cluster.seen();
    fs::remove_dir_all(cluster.state()).unwrap();
    // It is found, and what is wrong is said: nobody lets the new key in.
    let problems = cluster.problems();
    assert!(problems["control01"].iter().any(|r| r.contains("is refused")), "{problems:?}");
    cluster.ok(&["up"]).says(&["do not accept the key of this state directory: adding it", "(7 changes)"]);
    cluster.ok(&["up"]).says(&["nothing changed"]);
    assert_eq!(cluster.seen(), before);
    assert_eq!(cluster.problems().len(), 0);

    // A key that cannot be read.
    let clusters = fs::read_dir(cluster.state().join("septet/clusters")).unwrap();
    let key = clusters.map(|d| d.unwrap().path().join("id_ed25519")).find(|p| p.is_file()).unwrap();
    fs::write(&key, "no key").unwrap();
    cluster.run(&["up"]).code(1).says(&["id_ed25519", "hint: remove the file: `septet -i inventory.yml up` plants a new key"]);
    fs::remove_file(&key).unwrap();
    cluster.ok(&["up"]).says(&["do not accept the key of this state directory: adding it"]);
    assert_eq!(cluster.problems().len(), 0);
}

fn lost_container(cluster: &Cluster, servers: &str) {
    let before = cluster.seen();
    for host in ["kafka02", "zk02"] {
        docker(&["rm", "-f", &cluster.host(host)]);
    }
    let problems = cluster.problems();
    for host in ["kafka02", "zk02"] {
        assert_eq!(problems[host], ["the host does not exist; its data is kept, and `up` uses it"]);
    }
    cluster.ok(&["plan"]).shows(&[&format!("+ host {}", cluster.host("kafka02")), &format!("+ host {}", cluster.host("zk02"))]);
    cluster.ok(&["up"]);
    let after = cluster.seen();
    for (host, was) in &before {
        let is = &after[host];
        assert_eq!((&was.name, &was.address), (&is.name, &is.address));
        let again = host == "broker2" || host == "coordinator2";
        assert_eq!(was.id != is.id, again, "{host}");
    }
    cluster.is_whole();
    assert_eq!(cluster.bootstrap(), servers);
    assert_eq!(consume_all(servers, "kept"), numbers(300));
}

fn changed_host_key(cluster: &Cluster, servers: &str) {
    let name = cluster.host("kafka03");
    let script =
        "rm /etc/ssh/ssh_host_ed25519_key*; ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key && systemctl restart ssh";
    docker(&["exec", &name, "sh", "-c", script]);
    let problems = cluster.problems();
    assert_eq!(problems.keys().collect::<Vec<_>>(), ["kafka03"]);
    assert!(problems["kafka03"][0].contains("host key has changed"), "{problems:?}");
    let why = [name.as_str(), "host key has changed", "hint:"];
    cluster.run(&["up"]).code(1).says(&why);
    cluster.run(&["exec", "kafka03", "--", "true"]).code(1).says(&["host key has changed"]);
    assert_ne!(cluster.run(&["ssh", "kafka03", "--", "true"]).code, Some(0));
    // As the hint says: made again, with its data.
    docker(&["rm", "-f", &name]);
    cluster.ok(&["up"]);
    cluster.is_whole();
    assert_eq!(consume_all(servers, "kept"), numbers(300));
}

fn stopped_and_paused(cluster: &Cluster) {
    let (stopped, paused) = (cluster.host("kafka01"), cluster.host("zk01"));
    docker(&["stop", "-t", "10", &stopped]);
    docker(&["pause", &paused]);
    let problems = cluster.problems();
    assert_eq!(problems["kafka01"], ["the host is stopped"]);
    assert_eq!(problems["zk01"], ["the host is paused"]);
    // A plan does not guess what is on hosts that it cannot look at.
    let plan = cluster.run(&["plan", "--exit-code"]).code(4).says(&["2 steps at the provider, 0 changes on hosts, 5 hosts unchanged"]);
    plan.shows(&[&format!("? what is on {paused}, {stopped} cannot be seen now")]);
    docker(&["stop", "-t", "10", &cluster.host("control01")]);
    let plan = cluster.ok(&["plan", "--json"]).json();
    assert_eq!((plan["unseen"].as_array().unwrap().len(), plan["left"].as_array().unwrap().len()), (7, 0), "{plan}");
    cluster.ok(&["up"]);
    cluster.is_whole();

    // A coordinator whose process dies is started again by its systemd.
    let name = cluster.host("zk03");
    let pid = |unit: &str| docker(&["exec", &name, "systemctl", "show", "-p", "MainPID", unit]);
    let before = pid("zookeeper-server");
    docker(&["exec", &name, "systemctl", "kill", "-s", "KILL", "zookeeper-server"]);
    eventually("systemd starts it again", Duration::from_secs(30), || {
        let now = pid("zookeeper-server");
        now != before && now != "MainPID=0"
    });
    cluster.ok(&["health", "--wait", "180"]);
    assert_eq!(docker_try(&["exec", &name, "true"]).code, Some(0));
}

#[test]
fn health_sees_full_disks_and_restart_loops() {
    if !enabled("health_sees_full_disks_and_restart_loops") {
        return;
    }
    let cluster = Cluster::new("s");
    cluster.ok(&["up"]);
    // A file system of its own where segments are written, and full; records of health still go through.
    let kafka02 = cluster.host("kafka02");
    let small = "mkdir /data/kafka-logs/full-0 && mount -t tmpfs -o size=3m none /data/kafka-logs/full-0 && dd if=/dev/zero of=/data/kafka-logs/full-0/fill bs=64k 2>/dev/null; df /data/kafka-logs/full-0";
    docker(&["exec", &kafka02, "sh", "-c", small]);
    let problems = cluster.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems["kafka02"], ["/data/kafka-logs/full-0 is nearly full: 0.0 MB of 3.1 MB free (0 %)"]);
    docker(&["exec", &kafka02, "sh", "-c", "umount /data/kafka-logs/full-0 && rmdir /data/kafka-logs/full-0"]);
    assert_eq!(cluster.problems().len(), 0);

    // A service that ends again and again is a problem also while it runs.
    let zk02 = cluster.host("zk02");
    for n in 1..=3 {
        docker(&["exec", &zk02, "sh", "-c", "kill -9 $(systemctl show -P MainPID zookeeper-server)"]);
        let restarts = ["exec", &zk02, "systemctl", "show", "-P", "NRestarts", "zookeeper-server"];
        eventually("systemd restarts it", Duration::from_secs(20), || docker(&restarts) == n.to_string());
        eventually("it runs", Duration::from_secs(20), || {
            docker_try(&["exec", &zk02, "systemctl", "is-active", "zookeeper-server"]).code == Some(0)
        });
    }
    eventually("only the loop is left", Duration::from_secs(30), || {
        let problems = cluster.problems();
        problems.len() == 1 && problems["zk02"].len() == 1 && problems["zk02"][0].contains("restarts in a loop: 3 restarts")
    });
    cluster.ok(&["health", "--wait", "180"]);
}
