//! A rename that is cut off while brokers restart, then taken back or replaced by a third name.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use super::harness::{Cluster, SEVEN, docker, enabled};

/// Starts a rename and kills it once a broker was restarted under the new name.
fn cut_off(cluster: &Cluster, prefix: &str) {
    let mut c = cluster.command(&["rename", prefix]);
    let mut child = c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut said = String::new();
    for line in lines.map_while(Result::ok) {
        said += &format!("{line}\n");
        if line.contains("-kafka0") && line.contains(": waiting") {
            break;
        }
    }
    let _ = child.kill();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), None, "the rename ended before it could be cut off:\n{said}");
}

/// Text of the files with names on all hosts.
fn names(cluster: &Cluster) -> String {
    let script = "cat /etc/hosts /var/lib/septet/names/*; cat /etc/septet/* 2>/dev/null || true";
    cluster.containers().iter().map(|id| docker(&["exec", id, "sh", "-c", script])).collect()
}

fn is_called(cluster: &Cluster, prefix: &str, never: &[&str]) {
    assert_eq!(cluster.prefix(), prefix);
    cluster.is_whole();
    let text = names(cluster);
    for host in SEVEN {
        assert!(text.contains(&format!("{prefix}-{host}")), "{text}");
    }
    for old in never {
        assert!(!text.contains(&format!("{old}-")), "{old} is still there: {text}");
    }
    cluster.ok(&["plan", "--exit-code"]).says(&["nothing would change"]);
}

#[test]
fn taken_back_and_to_a_third_name() {
    if !enabled("taken_back_and_to_a_third_name") {
        return;
    }
    let cluster = Cluster::new("o");
    cluster.ok(&["up"]);
    let (first, pid) = (cluster.prefix(), std::process::id());
    let (oops, again, third) = (format!("oops{pid}"), format!("again{pid}"), format!("third{pid}"));

    cut_off(&cluster, &oops);
    // A run of the playbook alone does not take the name from the processes that use it.
    cluster.edit(&format!("prefix:   {oops} "), &format!("prefix:   {first} "));
    cluster.run(&["plan", "--exit-code"]).code(4).shows(&[&format!("{oops}-kafka01")]);
    cluster.ok(&["run", "hosts.yml"]);
    assert!(names(&cluster).contains(&format!("{oops}-kafka01")));
    cluster.ok(&["up", "--tags", "none"]);
    assert!(names(&cluster).contains(&format!("{oops}-kafka01")));
    cluster.ok(&["rename", &first]);
    is_called(&cluster, &first, &[&oops]);

    cut_off(&cluster, &oops);
    cut_off(&cluster, &again);
    cluster.ok(&["rename", &third]);
    is_called(&cluster, &third, &[&first, &oops, &again]);
}
