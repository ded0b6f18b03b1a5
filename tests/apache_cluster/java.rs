//! A Java that hosts without one get from their package manager, by a run that is killed in the middle of it.

use std::time::Duration;

use super::{
    archives,
    bad_input::THREE,
    harness::{docker, docker_try, enabled, eventually, node_image, signal},
    steps::{add, cluster, down},
};

#[test]
fn from_the_package_manager() {
    let test = "from_the_package_manager";
    if !enabled(test) {
        return;
    }
    let Some(archive) = archives::find("4.1.1") else { return };
    let image = node_image();
    let lists = ["run", "--rm", &image, "timeout", "60", "apt-get", "-q", "-o", "APT::Update::Error-Mode=any", "update"];
    let mirror = docker_try(&lists);
    if mirror.code != Some(0) {
        eprintln!("{test}: SKIPPED, containers reach no mirror of Debian: {}", mirror.show());
        return;
    }
    let cluster = cluster("p", &THREE, &archive, "");
    cluster.edit("docker: {}", &format!("docker: {{image: '{image}'}}"));
    add(&cluster, "groups: {coordinators: {count: 1}, brokers: {count: 1}}\n");

    let broker = cluster.host("kafka01");
    let mut up = cluster.spawn(&["up"]);
    eventually("packages are unpacked", Duration::from_secs(180), || docker_try(&["exec", &broker, "pgrep", "-x", "dpkg"]).code == Some(0));
    signal(&up, "KILL");
    up.wait().unwrap();
    let ran = cluster.ok(&["up"]);
    eprintln!("after a run that was killed while packages were unpacked: {:.1} s", ran.took.as_secs_f64());
    cluster.is_whole();
    for host in THREE {
        let name = cluster.host(host);
        let state = docker(&["exec", &name, "dpkg-query", "-W", "-f=${Status}", "openjdk-17-jre-headless"]);
        assert_eq!(state, "install ok installed", "{host}");
        assert_eq!(docker(&["exec", &name, "dpkg", "--audit"]), "", "{host}");
    }
    cluster.ok(&["up"]).says(&["nothing changed"]);
    down(&cluster);
}
