//! `zoo.cfg` and `myid`: what is understood, what is warned of, what is refused, and where it says the trouble is.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{fs, path::Path};

use septet_coordinator::config::{Admin, Config, ConfigError, Containers, FOUR_LETTER_WORDS, Member, parse_stored};

const BASE: &str = "dataDir=/data/zk\nclientPort=2181\n";

fn parse(text: &str) -> Result<(Config, Vec<String>), ConfigError> {
    Config::parse(Path::new("/etc/zoo.cfg"), text)
}

/// The configuration of two good lines and these.
fn with(lines: &str) -> Config {
    let (config, warnings) = parse(&format!("{BASE}{lines}")).unwrap();
    assert_eq!(warnings, [] as [&str; 0], "{lines}");
    config
}

fn members(config: &Config) -> Vec<(u64, &str, u16)> {
    config.members.iter().map(|(id, Member { host, port, .. })| (*id, host.as_str(), *port)).collect()
}

#[test]
fn defaults_are_zookeepers() {
    let c = with("");
    assert_eq!((c.id, c.client_port, c.client_address.as_str()), (1, 2181, "0.0.0.0"));
    assert_eq!(c.data_dir, Path::new("/data/zk"));
    assert!(c.members.is_empty());
    assert_eq!((c.tick_ms, c.min_session_timeout_ms, c.max_session_timeout_ms), (3000, 6000, 60_000));
    assert_eq!((c.max_client_connections, c.snap_count, c.max_request_bytes), (60, 100_000, 0xf_ffff));
    assert_eq!(c.four_letter_words, ["srvr"]);
}

#[test]
fn what_is_obeyed() {
    let c = with("tickTime=2000");
    assert_eq!((c.tick_ms, c.min_session_timeout_ms, c.max_session_timeout_ms), (2000, 4000, 40_000));
    let c = with("tickTime=2000\nminSessionTimeout=500\nmaxSessionTimeout=-1");
    assert_eq!((c.min_session_timeout_ms, c.max_session_timeout_ms), (500, 40_000));
    assert_eq!(with("clientPortAddress=127.0.0.1").client_address, "127.0.0.1");
    assert_eq!(with("maxClientCnxns=0").max_client_connections, 0);
    assert_eq!(with("snapCount=1000").snap_count, 1000);
    assert_eq!(with("jute.maxbuffer=4194304").max_request_bytes, 4_194_304);
    assert_eq!(with("4lw.commands.whitelist=*").four_letter_words, FOUR_LETTER_WORDS);
    assert_eq!(with("4lw.commands.whitelist= ruok , mntr,").four_letter_words, ["ruok", "mntr"]);
    assert!(with("4lw.commands.whitelist=").four_letter_words.is_empty());
    let c = with("");
    assert_eq!((c.listen_everywhere, c.peer_secret_file, c.peer_secret), (false, None, None));
    assert!(with("quorumListenOnAllIPs=true").listen_everywhere);
    assert!(!with("quorumListenOnAllIPs=false").listen_everywhere);
    assert_eq!(with("peerSecretFile=/etc/secret").peer_secret_file.as_deref(), Some(Path::new("/etc/secret")));
    // The last of two wins, as in a Java properties file.
    assert_eq!(with("clientPort=2182").client_port, 2182);
    // A dynamic part behind the address is not an error.
    let c = with(
        "server.1=zk01:2888:3888\nserver.3=10.0.0.3:2889:3889:participant\nserver.2=[fd00::2]:2888:3888;2181\nserver.255=h:1:65535;0.0.0.0:2181",
    );
    assert_eq!(members(&c), [(1, "zk01", 2888), (2, "fd00::2", 2888), (3, "10.0.0.3", 2889), (255, "h", 1)]);
}

#[test]
fn operations_and_limits() {
    let c = with("");
    assert_eq!((c.max_connections, c.extended_types, c.reconfig_enabled, c.skip_acl, c.enforce_quota), (0, false, false, false, false));
    assert_eq!((c.super_digest, c.admin), (None, None));
    assert_eq!(c.containers, Containers { check_interval_ms: 60_000, max_per_minute: 10_000, max_never_used_ms: 0 });
    let c = with("maxCnxns=9\nextendedTypesEnabled=true\nreconfigEnabled=TRUE\nskipACL=yes\nenforceQuota=true");
    assert_eq!((c.max_connections, c.extended_types, c.reconfig_enabled, c.skip_acl, c.enforce_quota), (9, true, true, true, true));
    // The name of the system property is known, too.
    for key in ["DigestAuthenticationProvider.superDigest", "zookeeper.DigestAuthenticationProvider.superDigest"] {
        assert_eq!(with(&format!("{key}=super:abc=")).super_digest.as_deref(), Some("super:abc="));
    }
    let c = with("znode.container.checkIntervalMs=5\nznode.container.maxPerMinute=6\nznode.container.maxNeverUsedIntervalMs=7");
    assert_eq!(c.containers, Containers { check_interval_ms: 5, max_per_minute: 6, max_never_used_ms: 7 });
    let admin = |lines: &str| with(lines).admin;
    assert_eq!(admin("admin.enableServer=false\nadmin.serverPort=8081"), None);
    let default = Admin { address: "0.0.0.0".into(), port: 8080, url: "/commands".into() };
    assert_eq!(admin("admin.enableServer=true"), Some(default));
    let other = Admin { address: "::1".into(), port: 9, url: "/x".into() };
    assert_eq!(admin("admin.enableServer=true\nadmin.serverAddress=::1\nadmin.serverPort=9\nadmin.commandURL=/x/"), Some(other));
    let provider = "metricsProvider.className=org.apache.zookeeper.metrics.prometheus.PrometheusMetricsProvider";
    let metrics = |lines: &str| with(lines).metrics.map(|m| (m.address, m.port));
    assert_eq!((metrics("metricsProvider.httpPort=9"), metrics(provider)), (None, Some(("0.0.0.0".into(), 7000))));
    assert_eq!(metrics(&format!("{provider}\nmetricsProvider.httpPort=9\nmetricsProvider.httpHost=::1")), Some(("::1".into(), 9)));
    assert_eq!(with("").members_text(), "");
    // As earlier versions wrote it into the log.
    let stored = |text: &str| parse_stored(text).map(|m| (m.host, m.port));
    assert_eq!(stored("fd00::2:2888"), Some(("fd00::2".into(), 2888)));
    assert_eq!(stored("host:2888"), Some(("host".into(), 2888)));
    assert_eq!(stored("host:2888:3888:observer"), Some(("host".into(), 2888)));
    assert_eq!((stored(""), stored(":1"), stored("host")), (None, None, None));
    let c = with("server.2=[fd00::2]:2888:3888;2181\nserver.1=a:1:2:participant;10.0.0.1:2182");
    assert_eq!(
        c.members_text(),
        "server.1=a:1:2:participant;10.0.0.1:2182\nserver.2=[fd00::2]:2888:3888:participant;0.0.0.0:2181\nversion=0"
    );
}

#[test]
fn comments_blanks_and_line_ends() {
    let (c, warnings) = parse("# zoo\n! old comment\r\n\r\n  dataDir = /data/zk \r\n\tclientPort\t=\t2181\r\ntickTime=2000").unwrap();
    assert_eq!((c.data_dir.to_str(), c.client_port, c.tick_ms), (Some("/data/zk"), 2181, 2000));
    assert_eq!(warnings, [] as [&str; 0]);
}

#[test]
fn what_is_refused_names_file_line_and_key() {
    let table = [
        ("clientPort=0", "clientPort: \"0\" is not a number from 1 to 65535"),
        ("clientPort=65536", "clientPort: \"65536\" is not"),
        ("clientPort=", "clientPort: \"\" is not"),
        ("clientPort", "clientPort: \"\" is not"),
        ("clientPort=2181x", "clientPort: \"2181x\" is not"),
        ("dataDir=", "dataDir: is empty"),
        ("peerSecretFile=", "peerSecretFile: is empty"),
        ("tickTime=0", "tickTime: \"0\" is not a number from 100 to 3600000"),
        ("tickTime=2s", "tickTime: \"2s\" is not"),
        ("tickTime=99999999999999999999", "tickTime: "),
        ("minSessionTimeout=-2", "minSessionTimeout: \"-2\" is not"),
        ("maxSessionTimeout=2147483648", "maxSessionTimeout: \"2147483648\" is not"),
        ("maxClientCnxns=-1", "maxClientCnxns: \"-1\" is not"),
        ("snapCount=1", "snapCount: \"1\" is not a number from 2 to"),
        ("jute.maxbuffer=12", "jute.maxbuffer: \"12\" is not a number from 1024 to"),
        ("skipACL=1", "skipACL: \"1\" is neither true nor false"),
        ("admin.enableServer=on", "admin.enableServer: \"on\" is neither"),
        ("admin.commandURL=commands", "admin.commandURL: must begin with a slash"),
        ("znode.container.maxPerMinute=0", "znode.container.maxPerMinute: \"0\" is not a number from 1"),
        ("server.0=h:2888:3888", "server.0: the number must be 1 to 255"),
        ("server.256=h:2888:3888", "server.256: the number must be 1 to 255"),
        ("server.x=h:2888:3888", "server.x: the number must be 1 to 255"),
        ("server.=h:2888:3888", "server.: the number must be 1 to 255"),
        ("server.1=", "server.1: must be host:port:electionPort"),
        ("server.1=h", "server.1: must be host:port:electionPort"),
        ("server.1=h:2888", "server.1: must be host:port:electionPort"),
        ("server.1=:2888:3888", "server.1: must be host:port:electionPort"),
        ("server.1=h:0:3888", "server.1: must be host:port:electionPort"),
        ("server.1=h:2888:70000", "server.1: must be host:port:electionPort"),
        ("server.1=[::1:2888:3888", "server.1: must be host:port:electionPort"),
        ("server.1=h:2888:3888:spectator", "server.1: \"spectator\" is not a role (participant or observer)"),
        ("peerType=spectator", "peerType: must be observer or participant"),
        ("server.1=h:2888:3888:boss", "server.1: \"boss\" is not a role"),
    ];
    for (line, want) in table {
        let text = format!("{BASE}# a comment\n\n{line}\n");
        let got = parse(&text).unwrap_err().to_string();
        assert!(got.starts_with(&format!("/etc/zoo.cfg:5: {want}")), "{line}: {got}");
    }
    let twice = parse(&format!("{BASE}server.1=a:2888:3888\nserver.1=b:2888:3888\n")).unwrap_err().to_string();
    assert_eq!(twice, "/etc/zoo.cfg:4: server.1: is given twice");
}

#[test]
fn what_is_missing_is_named() {
    for (text, want) in [
        ("", "dataDir is not set"),
        ("clientPort=2181", "dataDir is not set"),
        ("dataDir=/d", "clientPort is not set"),
        (&format!("{BASE}minSessionTimeout=10\nmaxSessionTimeout=9"), "minSessionTimeout is larger than maxSessionTimeout"),
        (&format!("{BASE}tickTime=2000\nmaxSessionTimeout=3999"), "minSessionTimeout is larger than maxSessionTimeout"),
    ] {
        assert_eq!(parse(text).unwrap_err().to_string(), format!("/etc/zoo.cfg: {want}"), "{text}");
    }
}

#[test]
fn what_has_no_effect_is_warned_of() {
    let known = [
        "dataLogDir=/log",
        "initLimit=10",
        "syncLimit=5",
        "electionAlg=3",
        "autopurge.snapRetainCount=3",
        "autopurge.purgeInterval=1",
        "standaloneEnabled=false",
        "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory",
        "secureClientPort=2281",
        "authProvider.1=org.apache.zookeeper.server.auth.SASLAuthenticationProvider",
        "ssl.keyStore.location=/k",
        "forceSync=no",
        "metricsProvider.className=x",
        "cnxTimeout=5",
    ];
    for line in known {
        let key = line.split('=').next().unwrap();
        let (config, warnings) = parse(&format!("{BASE}{line}\n")).unwrap();
        assert_eq!(warnings, [format!("/etc/zoo.cfg:3: {key} is known but has no effect here")]);
        assert_eq!(config, with(""));
    }
    for line in ["clientport=2181", "nonsense", "server=1", "=2"] {
        let key = line.split('=').next().unwrap();
        assert_eq!(parse(&format!("{BASE}\n{line}")).unwrap().1, [format!("/etc/zoo.cfg:4: {key} is not a known key")]);
    }
    let (config, warnings) = parse(&format!("{BASE}4lw.commands.whitelist=ruok,wchx,junk\ninitLimit=1\n")).unwrap();
    assert_eq!(config.four_letter_words, ["ruok", "wchx", "junk"]);
    let want = [
        "3: four-letter word \"wchx\" is not supported",
        "3: four-letter word \"junk\" is not supported",
        "4: initLimit is known but has no effect here",
    ];
    assert_eq!(warnings, want.map(|w| format!("/etc/zoo.cfg:{w}")));
}

struct Files(tempfile::TempDir);

impl Files {
    fn new(ensemble: bool, myid: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let servers = if ensemble { "server.1=a:1:2\nserver.2=b:1:2\nserver.7=c:1:2\n" } else { "" };
        fs::write(dir.path().join("zoo.cfg"), format!("dataDir={}\nclientPort=2181\n{servers}", dir.path().display())).unwrap();
        if let Some(text) = myid {
            fs::write(dir.path().join("myid"), text).unwrap();
        }
        Self(dir)
    }
    fn read(&self) -> Result<Config, String> {
        Config::read(&self.0.path().join("zoo.cfg")).map(|(c, _)| c).map_err(|e| e.to_string())
    }
}

#[test]
fn myid_says_which_server_this_is() {
    for (text, id) in [("1", 1), ("7\n", 7), (" 2 \r\n", 2)] {
        let files = Files::new(true, Some(text));
        let c = files.read().unwrap();
        assert_eq!((c.id, c.path), (id, files.0.path().join("zoo.cfg")));
    }
    // One that stands alone needs none, and does not look.
    assert_eq!(Files::new(false, None).read().unwrap().id, 1);
    assert_eq!(Files::new(false, Some("9")).read().unwrap().id, 1);
}

#[test]
fn a_bad_myid_is_refused_with_its_file() {
    for (text, want) in [
        ("", "\"\" is not a number from 1 to 255"),
        ("0", "\"0\" is not a number from 1 to 255"),
        ("256", "\"256\" is not a number from 1 to 255"),
        ("one", "\"one\" is not a number from 1 to 255"),
        ("1\n2", "\"1\\n2\" is not a number from 1 to 255"),
        ("3", "3 is not one of the servers in "),
    ] {
        let files = Files::new(true, Some(text));
        let got = files.read().unwrap_err();
        assert!(got.starts_with(&format!("{}:1: myid: {want}", files.0.path().join("myid").display())), "{got}");
    }
    let files = Files::new(true, None);
    let got = files.read().unwrap_err();
    assert!(got.starts_with(&format!("{}: ", files.0.path().join("myid").display())), "{got}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = Config::read(Path::new("/nowhere/zoo.cfg")).unwrap_err();
    assert!(error.to_string().starts_with("/nowhere/zoo.cfg: "), "{error}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("zoo.cfg");
    fs::write(&file, [b'a', 0xff]).unwrap();
    assert!(matches!(Config::read(&file), Err(ConfigError::Read { path, .. }) if path == file));
}
