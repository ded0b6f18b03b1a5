#![allow(clippy::unwrap_used)]
use super::*;

fn settings(pairs: &[(&str, &str)]) -> Settings {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// As kafka-configs.sh writes it.
fn line(d: &Described) -> String {
    let from = |f: From| match f {
        From::Topic => "DYNAMIC_TOPIC_CONFIG",
        From::Broker => "DYNAMIC_BROKER_CONFIG",
        From::DefaultBroker => "DYNAMIC_DEFAULT_BROKER_CONFIG",
        From::File => "STATIC_BROKER_CONFIG",
        From::Default => "DEFAULT_CONFIG",
    };
    let all: Vec<String> = d.synonyms.iter().map(|s| format!("{}:{}={}", from(s.from), s.key, s.value)).collect();
    format!("{}={} synonyms={{{}}}", d.key, d.value.as_deref().unwrap_or("null"), all.join(", "))
}

/// What Kafka 3.9.1 wrote of a topic with `retention.ms=1000` on a broker with `log.retention.hours=100`.
#[test]
fn descriptions_are_those_of_kafka() {
    let file = settings(&[("broker.id", "1"), ("log.retention.hours", "100")]);
    let (none, topic) = (Settings::new(), settings(&[("retention.ms", "1000"), ("max.message.bytes", "5000")]));
    let lines = |described: Vec<Described>| described.iter().map(line).collect::<Vec<_>>();
    let has = |lines: &[String], want: &str| assert!(lines.iter().any(|l| l == want), "{want} in {lines:#?}");
    let before = Layers { broker: &none, default: &none, file: &file };
    let got = lines(describe_topic(&topic, &before));
    has(&got, "retention.ms=1000 synonyms={DYNAMIC_TOPIC_CONFIG:retention.ms=1000}");
    has(&got, "segment.ms=604800000 synonyms={}");
    has(&got, "flush.ms=9223372036854775807 synonyms={}");
    has(&got, "delete.retention.ms=86400000 synonyms={DEFAULT_CONFIG:log.cleaner.delete.retention.ms=86400000}");
    // Without one of its own, in the unit of the topic.
    has(&lines(describe_topic(&none, &before)), "retention.ms=360000000 synonyms={}");
    let got = lines(describe_broker(&before, false));
    has(&got, "broker.id=1 synonyms={STATIC_BROKER_CONFIG:broker.id=1, DEFAULT_CONFIG:broker.id=-1}");
    has(&got, "log.retention.hours=100 synonyms={STATIC_BROKER_CONFIG:log.retention.hours=100, DEFAULT_CONFIG:log.retention.hours=168}");
    has(&got, "log.retention.ms=null synonyms={}");
    // With settings of the broker and of all brokers.
    let (broker, default) = (settings(&[("log.retention.ms", "5000")]), settings(&[("message.max.bytes", "70000")]));
    let after = Layers { broker: &broker, default: &default, file: &file };
    let got = lines(describe_topic(&topic, &after));
    has(
        &got,
        "max.message.bytes=5000 synonyms={DYNAMIC_TOPIC_CONFIG:max.message.bytes=5000, \
         DYNAMIC_DEFAULT_BROKER_CONFIG:message.max.bytes=70000, DEFAULT_CONFIG:message.max.bytes=1048588}",
    );
    has(
        &got,
        "retention.ms=1000 synonyms={DYNAMIC_TOPIC_CONFIG:retention.ms=1000, DYNAMIC_BROKER_CONFIG:log.retention.ms=5000, \
         STATIC_BROKER_CONFIG:log.retention.hours=100, DEFAULT_CONFIG:log.retention.hours=168}",
    );
    let got = lines(describe_broker(&after, false));
    has(
        &got,
        "log.retention.ms=5000 synonyms={DYNAMIC_BROKER_CONFIG:log.retention.ms=5000, \
         STATIC_BROKER_CONFIG:log.retention.hours=100, DEFAULT_CONFIG:log.retention.hours=168}",
    );
    let got = lines(describe_broker(&after, true));
    assert_eq!(got, ["message.max.bytes=70000 synonyms={DYNAMIC_DEFAULT_BROKER_CONFIG:message.max.bytes=70000}"]);
    // A key that the file may not have.
    let rate = settings(&[("leader.replication.throttled.rate", "7")]);
    let got = lines(describe_broker(&Layers { broker: &rate, ..before }, false));
    has(&got, "leader.replication.throttled.rate=7 synonyms={DYNAMIC_BROKER_CONFIG:leader.replication.throttled.rate=7}");
    assert!(!lines(describe_broker(&before, false)).iter().any(|l| l.contains("throttled.rate")));
}

#[test]
fn every_key_that_the_file_may_have_is_described() {
    let mut keys: Vec<&str> = crate::config::OBEYED.iter().chain(crate::config::NOT_OBEYED).copied().collect();
    keys.sort_unstable();
    let described: Vec<&str> = broker_keys().filter(|(_, known)| *known).map(|(k, _)| k.name).collect();
    for key in keys {
        assert!(described.contains(&key), "{key}");
    }
    assert!(described.windows(2).all(|w| w[0] < w[1]), "sorted, each once");
    for key in topic_keys() {
        assert!(key.broker.is_none_or(|k| broker_key(k).is_some()), "{}", key.name);
        let own = check_topic(&settings(&[(key.name, key.default)]));
        assert_eq!(own, Ok(()), "the default of {} is allowed", key.name);
    }
}

#[test]
fn values_are_checked_in_kafkas_words() {
    let topic = |key: &str, value: &str| match check_topic(&settings(&[(key, value)])) {
        Ok(()) => String::new(),
        Err(Refused::Config(why) | Refused::Request(why)) => why,
    };
    let long = "Not a number of type LONG";
    for (key, value, want) in [
        ("retention.ms", "abc", format!("Invalid value abc for configuration retention.ms: {long}")),
        ("retention.ms", "-2", "Invalid value -2 for configuration retention.ms: Value must be at least -1".into()),
        ("segment.bytes", "1", "Invalid value 1 for configuration segment.bytes: Value must be at least 14".into()),
        ("segment.bytes", "3000000000", "Invalid value 3000000000 for configuration segment.bytes: Not a number of type INT".into()),
        ("cleanup.policy", "burn", "Invalid value burn for configuration cleanup.policy: String must be one of: compact, delete".into()),
        ("cleanup.policy", "compact,delete", String::new()),
        (
            "min.cleanable.dirty.ratio",
            "1.5",
            "Invalid value 1.5 for configuration min.cleanable.dirty.ratio: Value must be no more than 1".into(),
        ),
        ("preallocate", "maybe", "Invalid value maybe for configuration preallocate: Expected value to be either true or false".into()),
        ("leader.replication.throttled.replicas", "0:1,1:2", String::new()),
        ("leader.replication.throttled.replicas", "*", String::new()),
        ("nonsense", "1", "Unknown topic config name: nonsense".into()),
    ] {
        assert_eq!(topic(key, value), want, "{key}={value}");
    }
    assert!(topic("leader.replication.throttled.replicas", "0-1").starts_with("Invalid value 0-1"));
    let broker = |key: &str, value: &str| check_broker(&settings(&[(key, value)]));
    let refused = |why: &str| Err(Refused::Request(why.to_owned()));
    assert_eq!(broker("num.partitions", "5"), refused("Cannot update these configs dynamically: Set(num.partitions)"));
    assert_eq!(
        broker("log.retention.ms", "abc"),
        refused("Invalid value abc for configuration log.retention.ms: Not a number of type LONG")
    );
    assert_eq!(broker("log.segment.bytes", "1"), refused("Invalid value 1 for configuration log.segment.bytes: Value must be at least 14"));
    assert_eq!(broker("log.retention.ms", "-1"), Ok(()));
    assert!(matches!(broker("ssl.key.password", "secret"), Err(Refused::Request(_))));
}

#[test]
fn changes_set_delete_append_and_subtract() {
    let before = settings(&[("retention.ms", "1"), ("cleanup.policy", "compact")]);
    let change = |changes: &[(&str, Operation, Option<&str>)]| {
        let changes: Vec<_> = changes.iter().map(|(k, o, v)| ((*k).to_owned(), *o, v.map(str::to_owned))).collect();
        let kind = |key: &str| topic_key(key).map(|k| k.kind);
        alter(&before, &changes, kind, |_| Some("0:9".to_owned()))
    };
    let replicas = "leader.replication.throttled.replicas";
    let got = change(&[
        ("retention.ms", Operation::Delete, None),
        ("segment.ms", Operation::Set, Some("7")),
        ("cleanup.policy", Operation::Append, Some("delete,compact")),
        (replicas, Operation::Append, Some("0:1")),
    ]);
    assert_eq!(got, Ok(settings(&[("segment.ms", "7"), ("cleanup.policy", "compact,delete"), (replicas, "0:9,0:1")])));
    let got = change(&[("cleanup.policy", Operation::Subtract, Some("compact"))]).unwrap();
    assert_eq!(got["cleanup.policy"], "");
    for bad in [
        &[("segment.ms", Operation::Append, Some("1"))][..],
        &[("segment.ms", Operation::Set, None)],
        &[("segment.ms", Operation::Set, Some("1")), ("segment.ms", Operation::Delete, None)],
    ] {
        assert!(matches!(change(bad), Err(Refused::Request(_))), "{bad:?}");
    }
    assert_eq!((Operation::parse(3), Operation::parse(4), Operation::parse(-1)), (Some(Operation::Subtract), None, None));
}

#[test]
fn what_is_set_at_run_time_counts_unless_it_is_wrong() {
    use crate::config::Config;
    let text = "broker.id=1\nzookeeper.connect=z\nlog.retention.hours=1\nmessage.max.bytes=100\n";
    let (file, _) = Config::parse(std::path::Path::new("f"), text, "host").unwrap();
    let dynamic = DynamicConfig::new(file.clone());
    let now = |d: &DynamicConfig| (d.get().config.retention.ms, d.get().config.message_max_bytes);
    assert_eq!(now(&dynamic), (Some(3_600_000), 100));
    dynamic.set(&file, settings(&[("log.retention.ms", "5")]), settings(&[("message.max.bytes", "7"), ("log.retention.ms", "6")]));
    assert_eq!(now(&dynamic), (Some(5), 7));
    assert_eq!(dynamic.get().config.raw, file.raw, "the file's values stay known");
    dynamic.set(&file, settings(&[("log.retention.ms", "soon")]), settings(&[("message.max.bytes", "7")]));
    assert_eq!(now(&dynamic), (Some(3_600_000), 7));
    dynamic.set(&file, Settings::new(), Settings::new());
    assert_eq!(now(&dynamic), (Some(3_600_000), 100));
}
