//! Archives that are none, a network that is none, hosts that cannot run it: each a clear error, with nothing touched.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use sha2::{Digest, Sha512};

use super::{
    archives,
    harness::{Cluster, Ran, docker, docker_try, enabled, node_image},
    steps::{add, cluster},
};

/// What the programs of an archive are made of in these tests: bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut x = 0x2545_f491_4f6c_dd1du64;
    let next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(len).collect()
}

/// An archive of one directory with some files.
fn tgz(directory: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for n in 0..20 {
        let content = noise(20_000 + n);
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, format!("{directory}/libs/{n}.jar"), content.as_slice()).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

fn sha512(bytes: &[u8]) -> String {
    Sha512::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Sets the engine of an inventory.
fn engine(cluster: &Cluster, settings: &str) {
    let text = fs::read_to_string(cluster.inventory()).unwrap();
    let others = text.lines().filter(|l| !l.starts_with("engine:")).map(|l| format!("{l}\n"));
    fs::write(cluster.inventory(), others.collect::<String>() + &format!("engine: {{apache: {{{settings}}}}}\n")).unwrap();
}

/// The words that each of `plan` and `up` must say before anything is made.
#[track_caller]
fn refused(cluster: &Cluster, code: i32, words: &[&str]) {
    for command in ["plan", "up"] {
        cluster.run(&[command]).code(code).says(words);
        assert_eq!((cluster.containers().len(), cluster.networks().len()), (0, 0));
    }
}

#[test]
fn archives_that_are_none() {
    if !enabled("archives_that_are_none") {
        return;
    }
    let cluster = Cluster::new("d");
    let file = |name: &str, bytes: &[u8]| -> (PathBuf, String) {
        let path = cluster.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        (path, sha512(bytes))
    };
    let whole = tgz("kafka_2.13-4.1.1");
    let (path, digest) = file("whole/kafka_2.13-4.1.1.tgz", &whole);
    let named = |path: &Path, digest: &str| format!("archive: {}, sha512: {digest}", path.display());

    engine(&cluster, &named(&path, &"ab".repeat(64)));
    refused(
        &cluster,
        1,
        &[
            "its SHA-512 is ",
            "damaged, or something else; it is not used",
            "hint: get it again, or correct `sha512:`",
            "Apache Kafka 4.1.1",
        ],
    );
    // Without one, that of the release is what it must have.
    engine(&cluster, &format!("archive: {}", path.display()));
    refused(&cluster, 1, &["its SHA-512 is "]);
    let (cut, _) = file("cut/kafka_2.13-4.1.1.tgz", &whole[..whole.len() / 2]);
    engine(&cluster, &named(&cut, &digest));
    refused(&cluster, 1, &["its SHA-512 is ", "damaged"]);
    let (other, other_digest) = file("other/kafka_2.13-4.1.1.tgz", &tgz("something-else"));
    engine(&cluster, &named(&other, &other_digest));
    refused(&cluster, 1, &["holds `something-else`, not `kafka_2.13-4.1.1`", "hint: name the binary archive (Scala 2.13)"]);
    let (text, text_digest) = file("text/kafka_2.13-4.1.1.tgz", b"This is not the file that you are looking for.\n");
    engine(&cluster, &named(&text, &text_digest));
    refused(&cluster, 1, &["not a gzip file", "hint: it must be a .tgz that holds one directory"]);
    let (empty, empty_digest) = file("empty/kafka_2.13-4.1.1.tgz", b"");
    engine(&cluster, &named(&empty, &empty_digest));
    refused(&cluster, 1, &["is too short for an archive"]);
    engine(&cluster, &named(Path::new("/nowhere/kafka_2.13-4.1.1.tgz"), &digest));
    refused(&cluster, 1, &["/nowhere/kafka_2.13-4.1.1.tgz: no such archive", "hint: check `archive:`"]);

    engine(&cluster, "version: 4.1.77");
    refused(&cluster, 2, &["inventory.yml:", "the digest of version 4.1.77 does not ship", "4.1.1"]);
    engine(&cluster, "version: newest");
    refused(&cluster, 2, &["`newest` is not a version"]);
    engine(&cluster, "version: 4.1.1, metadata: zookeeper");
    refused(&cluster, 2, &["no longer supports ZooKeeper", "3.9.1"]);
    engine(&cluster, &format!("version: 3.9.1, {}", named(&path, &digest)));
    refused(&cluster, 2, &["the archive's name has version 4.1.1"]);
    // The right archive, and its digest.
    engine(&cluster, &named(&path, &digest));
    cluster.ok(&["plan"]);

    // The same for Java's.
    let (java, java_digest) = file("java.tgz", &tgz("jdk"));
    let with_java = |settings: String| engine(&cluster, &format!("{}, java: {{{settings}}}", named(&path, &digest)));
    with_java("archive: /nowhere/java.tgz".into());
    refused(&cluster, 1, &["/nowhere/java.tgz: no such archive", "hint: check `java: {archive: …}`"]);
    with_java("archive: 'http://127.0.0.1:1/java.tgz'".into());
    refused(&cluster, 1, &["nothing was downloaded", "hint: give it as `sha512:`"]);
    with_java(format!("archive: {}", java.display()));
    refused(&cluster, 1, &["no SHA-512 to check it against", &format!("hint: if you trust it, write `sha512: {java_digest}`")]);
    with_java(format!("archive: {}, sha512: {java_digest}", java.display()));
    cluster.ok(&["plan"]);
    assert_eq!(cluster.volumes(), Vec::<String>::new());
}

/// Gives some bytes to whoever asks; counts how often.
fn serve(bytes: Vec<u8>) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, asked) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = asked.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            while lines.next().is_some_and(|l| l.is_ok_and(|l| !l.is_empty())) {}
            count.fetch_add(1, Ordering::SeqCst);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", bytes.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&bytes));
        }
    });
    (address, asked)
}

#[test]
fn downloads() {
    if !enabled("downloads") {
        return;
    }
    let cluster = Cluster::new("e");
    // An image that is not there ends `up` after the archive, before the first host.
    cluster.write_inventory("image: 'septet-e2e-no-such-image:none'");
    let cache = cluster.path().join("cache");
    let run = |command: &str| {
        let mut c = cluster.command(&[command]);
        c.env("XDG_CACHE_HOME", &cache);
        Ran::of(c, "", Duration::from_secs(120))
    };
    let cached = cache.join("septet/kafka_2.13-4.1.1.tgz");
    let names = || -> Vec<String> {
        let list = fs::read_dir(cache.join("septet")).into_iter().flatten();
        list.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    };
    let whole = tgz("kafka_2.13-4.1.1");
    let digest = sha512(&whole);

    // No network: what to put where. `plan` needs no archive.
    engine(&cluster, &format!("archive: 'http://127.0.0.1:1/kafka_2.13-4.1.1.tgz', sha512: {digest}"));
    let place = cached.display().to_string();
    let place = place.as_str();
    run("up").code(1).says(&["cannot be downloaded", "http://127.0.0.1:1/kafka_2.13-4.1.1.tgz: ", "hint:", "without a network", place]);
    run("plan").code(0);
    assert_eq!(names(), Vec::<String>::new());

    // Something else than it should be, or less of it, never gets its name.
    let (address, asked) = serve(tgz("something-else"));
    engine(&cluster, &format!("archive: 'http://{address}/kafka_2.13-4.1.1.tgz', sha512: {digest}"));
    run("up").code(1).says(&["cannot be downloaded", "what came has SHA-512 ", place]);
    assert_eq!((asked.load(Ordering::SeqCst), names()), (1, Vec::new()));

    // What is right is kept, and not asked for again.
    let (address, asked) = serve(whole);
    engine(&cluster, &format!("archive: 'http://{address}/kafka_2.13-4.1.1.tgz', sha512: {digest}"));
    run("plan").code(0);
    assert_eq!(asked.load(Ordering::SeqCst), 0, "plan downloads nothing");
    for _ in 0..2 {
        run("up").code(1).says(&["image `septet-e2e-no-such-image:none` of the inventory is not there"]);
        assert_eq!((asked.load(Ordering::SeqCst), names()), (1, vec!["kafka_2.13-4.1.1.tgz".to_owned()]));
    }
    run("plan").code(0);
    // Damaged in the cache, it is not used.
    fs::write(&cached, "damaged").unwrap();
    run("up").code(1).says(&["its SHA-512 is ", place]);
    cluster.is_gone();
}

/// An image without Java whose package manager finds nothing; goes with this.
struct BareImage(String);

impl BareImage {
    fn new() -> Self {
        let tag = format!("septet-e2e:{}", std::process::id());
        let node = node_image();
        let name = format!("septet-e2e-{}-image", std::process::id());
        let script = "rm -rf /etc/apt/sources.list.d /etc/apt/apt.conf.d/*proxy* && echo 'deb http://127.0.0.1:1/debian bookworm main' > /etc/apt/sources.list";
        docker(&["run", "--name", &name, &node, "sh", "-c", script]);
        docker(&["commit", "--change", "CMD [\"/sbin/init\"]", &name, &tag]);
        docker(&["rm", "-fv", &name]);
        Self(tag)
    }
}

impl Drop for BareImage {
    fn drop(&mut self) {
        docker_try(&["rmi", "-f", &self.0]);
    }
}

/// Puts a `java` of some version on a host, which the first place of the PATH has.
fn fake_java(host: &str, version: &str) {
    let script = format!(
        "printf '#!/bin/sh\\necho openjdk version \\\\\"{version}\\\\\" >&2\\n' > /usr/local/bin/java && chmod 755 /usr/local/bin/java && java -version"
    );
    docker(&["exec", host, "sh", "-c", &script]);
}

/// The hosts of a small cluster in KRaft mode.
pub const THREE: [&str; 3] = ["control01", "controller01", "kafka01"];

#[test]
fn hosts_that_cannot_run_it() {
    if !enabled("hosts_that_cannot_run_it") {
        return;
    }
    let Some(archive) = archives::find("4.1.1") else { return };
    let image = BareImage::new();
    let cluster = cluster("f", &THREE, &archive, "");
    cluster.edit("docker: {}", &format!("docker: {{image: '{}'}}", image.0));
    add(&cluster, "groups: {coordinators: {count: 1}, brokers: {count: 1}}\n");
    let hosts: Vec<String> = THREE.iter().map(|h| cluster.host(h)).collect();
    let untouched = |in_opt: &[&str; 3]| {
        for (host, wanted) in hosts.iter().zip(in_opt) {
            assert_eq!(docker(&["exec", host, "ls", "-A", "/opt"]), *wanted, "{host}");
            let services = docker(&["exec", host, "sh", "-c", "ls /etc/septet /etc/systemd/system | grep -e server -e properties || true"]);
            assert_eq!(services, "", "{host}");
        }
    };

    // No Java, and no packages.
    cluster.run(&["up"]).code(1).says(&["Java of the host's package manager", "apt-get ", " failed:", &hosts[1]]);
    untouched(&["", "", ""]);
    // One that is too old.
    hosts.iter().for_each(|h| fake_java(h, "1.8.0_412"));
    let words = ["needs Java 17 or newer, this host has 1.8.0_412", "java: {archive: …}", &hosts[2]];
    cluster.run(&["up"]).code(1).says(&words);
    untouched(&["", "", ""]);
    hosts.iter().for_each(|h| fake_java(h, "17.0.15"));

    // A heap that no host here has.
    let memory = fs::read_to_string("/proc/meminfo").unwrap();
    let kib: u64 = memory.split_whitespace().nth(1).unwrap().parse().unwrap();
    if kib < 64 << 20 {
        engine(&cluster, &format!("{}, heap: {{broker: 64g}}", archive.settings()));
        let ran = cluster.run(&["up"]).code(1).says(&["the heap (65536 MiB)", "more than this host's memory", "choose a smaller `heap`"]);
        assert!(ran.err.contains(&format!("failed on {}", hosts[2])), "{}", ran.show());
        assert_eq!(docker(&["exec", &hosts[2], "ls", "-A", "/opt"]), "");
    }

    // An archive that ends too early, though its digest is what the inventory says.
    let whole = tgz("kafka_2.13-4.1.1");
    let cut = cluster.path().join("kafka_2.13-4.1.1.tgz");
    let half = &whole[..whole.len() / 2];
    fs::write(&cut, half).unwrap();
    engine(&cluster, &format!("archive: {}, sha512: {}", cut.display(), sha512(half)));
    let at_others = if kib < 64 << 20 { "kafka\nkafka_2.13-4.1.1" } else { "" };
    cluster.run(&["up"]).code(1).says(&["the archive cannot be unpacked", &hosts[2]]);
    untouched(&[at_others, at_others, ""]);

    // A disk without room.
    engine(&cluster, &archive.settings());
    docker(&["exec", &hosts[2], "mount", "-t", "tmpfs", "-o", "size=16m", "none", "/opt"]);
    let ran = cluster.run(&["up"]).code(1).says(&["no space is left while unpacking into /opt", &hosts[2]]);
    assert!(ran.err.contains(&format!("failed on {}", hosts[2])), "{}", ran.show());
    untouched(&["kafka\nkafka_2.13-4.1.1", "kafka\nkafka_2.13-4.1.1", ""]);
    super::steps::down(&cluster);
}
