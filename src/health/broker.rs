//! The brokers: all agree on the cluster, the controller and each other; a record goes through a partition that
//! each of them leads and comes back with the CRC-32C that it was sent with.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use kafka_protocol::{
    ResponseError,
    messages::{
        ApiKey, DescribeConfigsRequest, MetadataRequest, describe_configs_request::DescribeConfigsResource,
        describe_configs_response::DescribeConfigsResult,
    },
    protocol::StrBytes,
};
use tokio::time::timeout;

use super::{
    Checker, Problem, QUESTION_TIMEOUT,
    kafka::Client,
    probe::{self, TOPIC, TripError, is_health_topic, newest},
};
use crate::{
    inventory::{Group, HostId, Metadata, Role},
    ssh::Connection,
};

/// Topics whose configuration is asked for at a time.
const TOPICS_PER_QUESTION: usize = 500;
/// Kind of a topic among resources that have a configuration.
const TOPIC_RESOURCE: i8 = 2;
/// The setting that a gate asks for.
const MIN_IN_SYNC: &str = "min.insync.replicas";
/// Partitions that a gate names, at the most.
const MAX_NAMED: usize = 5;

/// What stands for the controller where no broker is one.
const NO_CONTROLLER: i32 = -1;

/// How the problem begins that a broker does not see others.
pub const UNSEEN: &str = "broker: does not see ";

/// The problem that what a stop would do is not known.
pub const NOBODY: &str = "no broker answers: the effect on its partitions is not known";

type Stream = russh::ChannelStream<russh::client::Msg>;

/// A broker's view of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerView {
    /// its own number
    pub id: i32,
    /// the cluster's id
    pub cluster_id: String,
    /// the controller's number, -1 for none
    pub controller: i32,
    /// numbers of the brokers
    pub brokers: BTreeSet<i32>,
    /// health topics with the leaders of their partitions
    leaders: BTreeMap<String, BTreeMap<i32, i32>>,
    /// partitions that lack something
    lacking: Vec<Lacking>,
    /// partitions with more than one replica
    replicated: Vec<Replicated>,
}

/// A partition that lacks something.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lacking {
    topic: String,
    number: i32,
    what: String,
    /// numbers of the brokers whose replicas are not as they should be
    of: BTreeSet<i32>,
    /// whether these brokers are there and have only to catch up
    catching_up: bool,
}

/// A partition with more than one replica.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Replicated {
    topic: String,
    number: i32,
    replicas: Vec<i32>,
    in_sync: Vec<i32>,
}

impl Replicated {
    /// Brokers whose replicas are not in sync.
    fn behind(&self) -> BTreeSet<i32> {
        self.replicas.iter().filter(|r| !self.in_sync.contains(r)).copied().collect()
    }
}

pub(super) async fn client(control: &Connection, address: &str, port: u16) -> Result<Client<Stream>, String> {
    let open = async {
        let stream = control.tcp(address, port).await.map_err(|e| e.to_string())?;
        Client::open(stream).await
    };
    timeout(QUESTION_TIMEOUT, open).await.map_err(|_| "no answer to ApiVersions in time".to_owned())?
}

async fn view(checker: &Checker<'_>, control: &Connection, id: HostId) -> Result<(Client<Stream>, BrokerView), String> {
    let mut client = client(control, &checker.address(id).unwrap_or_default(), checker.inventory.ports.kafka).await?;
    let ask = async {
        let request = MetadataRequest::default().with_topics(None).with_allow_auto_topic_creation(false);
        client.ask(ApiKey::Metadata, newest::METADATA, &request).await
    };
    let (m, _) = timeout(QUESTION_TIMEOUT, ask).await.map_err(|_| "no answer to Metadata in time".to_owned())??;
    let mut view = BrokerView {
        id: id.index.into(),
        cluster_id: m.cluster_id.map(|c| c.to_string()).unwrap_or_default(),
        // With controllers of its own, a broker names some broker that hands requests on to them.
        controller: if checker.inventory.engine.metadata() == Metadata::Kraft { NO_CONTROLLER } else { m.controller_id.0 },
        brokers: m.brokers.iter().map(|b| b.node_id.0).collect(),
        leaders: BTreeMap::new(),
        lacking: Vec::new(),
        replicated: Vec::new(),
    };
    for topic in m.topics {
        let name = topic.name.map(|n| n.0.to_string()).unwrap_or_default();
        for p in topic.partitions {
            if is_health_topic(&name) {
                view.leaders.entry(name.clone()).or_default().insert(p.partition_index, p.leader_id.0);
            }
            let gone: Vec<String> = p.replica_nodes.iter().filter(|r| !view.brokers.contains(&r.0)).map(|r| r.0.to_string()).collect();
            if p.leader_id.0 < 0 {
                let why = if gone.is_empty() { String::new() } else { format!(": broker {} is away", gone.join(", ")) };
                // Those in sync could lead; where none is named, any replica.
                let could = if p.isr_nodes.is_empty() { &p.replica_nodes } else { &p.isr_nodes };
                view.lacking.push(Lacking {
                    topic: name.clone(),
                    number: p.partition_index,
                    what: format!("has no leader{why}"),
                    of: could.iter().map(|r| r.0).collect(),
                    catching_up: false,
                });
            }
            if p.replica_nodes.len() > 1 {
                let in_sync = p.isr_nodes.iter().map(|n| n.0).collect();
                view.replicated.push(Replicated {
                    topic: name.clone(),
                    number: p.partition_index,
                    replicas: p.replica_nodes.iter().map(|n| n.0).collect(),
                    in_sync,
                });
            }
        }
    }
    let behind: Vec<Replicated> = view.replicated.iter().filter(|r| r.in_sync.len() < r.replicas.len()).cloned().collect();
    let topics: BTreeSet<String> = behind.iter().map(|r| r.topic.clone()).collect();
    let least = least_in_sync(&mut client, &topics).await?;
    for r in behind {
        let is = r.in_sync.len();
        let under = match least.get(&r.topic) {
            Some(Ok(min)) if is < *min => format!(", under its min.insync.replicas of {min}"),
            _ => String::new(),
        };
        let (of, what) = (r.behind(), format!("has {is} of {} replicas in sync{under}", r.replicas.len()));
        let catching_up = of.is_subset(&view.brokers);
        view.lacking.push(Lacking { topic: r.topic, number: r.number, what, of, catching_up });
    }
    Ok((client, view))
}

/// A topic's `min.insync.replicas`, or why the broker does not tell it.
type Least = Result<usize, String>;

/// What a broker says of a topic's configuration.
fn least_of(result: &DescribeConfigsResult) -> Least {
    if result.error_code != 0 {
        let text = result.error_message.as_ref().map(|m| format!(" ({m})")).unwrap_or_default();
        return Err(match ResponseError::try_from_code(result.error_code) {
            Some(e) => format!("{e:?}{text}"),
            None => format!("error {}{text}", result.error_code),
        });
    }
    let value = result.configs.iter().find(|c| c.name.as_str() == MIN_IN_SYNC).and_then(|c| c.value.as_ref());
    let value = value.ok_or("the broker does not report it")?;
    value.parse().map_err(|_| "the broker's value is not a number".to_owned())
}

/// `min.insync.replicas` of topics, as the broker reports them.
async fn least_in_sync(client: &mut Client<Stream>, topics: &BTreeSet<String>) -> Result<BTreeMap<String, Least>, String> {
    let mut out = BTreeMap::new();
    if topics.is_empty() {
        return Ok(out);
    }
    if !client.offers(ApiKey::DescribeConfigs) {
        return Ok(topics.iter().map(|t| (t.clone(), Err("the broker does not offer DescribeConfigs".to_owned()))).collect());
    }
    let topics: Vec<&String> = topics.iter().collect();
    for some in topics.chunks(TOPICS_PER_QUESTION) {
        let resources = some.iter().map(|t| {
            DescribeConfigsResource::default()
                .with_resource_type(TOPIC_RESOURCE)
                .with_resource_name(StrBytes::from_string((*t).clone()))
                .with_configuration_keys(Some(vec![StrBytes::from_static_str(MIN_IN_SYNC)]))
        });
        let request = DescribeConfigsRequest::default().with_resources(resources.collect());
        let ask = client.ask(ApiKey::DescribeConfigs, newest::DESCRIBE_CONFIGS, &request);
        let (answer, _) = timeout(QUESTION_TIMEOUT, ask).await.map_err(|_| "no answer to DescribeConfigs in time".to_owned())??;
        for result in answer.results {
            out.insert(result.resource_name.to_string(), least_of(&result));
        }
    }
    Ok(out)
}

/// Why a partition, which has a replica in sync on the broker of this name, would be hurt by its stop. Without a known minimum nothing
/// is known of that.
fn hurt(r: &Replicated, min: Option<&Least>, stopped: &str) -> Option<String> {
    let Replicated { topic, number, .. } = r;
    let left = r.in_sync.len() - 1;
    match min {
        Some(Ok(min)) if left >= *min => None,
        Some(Ok(min)) => Some(format!(
            "topic {topic} partition {number} would have {left} replicas in sync without {stopped}, under its min.insync.replicas of {min}"
        )),
        Some(Err(why)) => Some(format!("topic {topic}: its min.insync.replicas cannot be read: {why}")),
        None => Some(format!("topic {topic}: its min.insync.replicas cannot be read: it is missing in the broker's answer")),
    }
}

/// Partitions that could not take records with acks=all any more while a broker is away. A partition with one replica is
/// nobody else's: it is away with its broker whenever that is.
/// `ids` are the brokers that run.
pub async fn hurt_by_stopping(checker: &Checker<'_>, control: &Connection, ids: &[HostId], stopped: HostId) -> Vec<Problem> {
    let id = i32::from(stopped.index);
    for other in ids.iter().filter(|i| **i != stopped) {
        let Ok((mut client, view)) = view(checker, control, *other).await else { continue };
        let touched: Vec<&Replicated> = view.replicated.iter().filter(|r| r.in_sync.contains(&id)).collect();
        let topics: BTreeSet<String> = touched.iter().map(|r| r.topic.clone()).collect();
        let least = match least_in_sync(&mut client, &topics).await {
            Ok(least) => least,
            Err(e) => return vec![Problem::new(checker.name(*other), format!("broker: {e}"))],
        };
        let reasons = touched.into_iter().filter_map(|r| hurt(r, least.get(&r.topic), &checker.name(stopped)));
        return reasons.map(|reason| Problem::new("brokers", reason)).take(MAX_NAMED).collect();
    }
    // Where no other broker runs, stopping it affects none.
    match ids.iter().any(|i| *i != stopped) {
        true => vec![Problem::new("brokers", NOBODY)],
        false => Vec::new(),
    }
}

/// Asks all brokers; those that do not answer are left out.
pub async fn views(checker: &Checker<'_>, control: &Connection, ids: &[HostId]) -> BTreeMap<HostId, BrokerView> {
    let asks = ids.iter().map(|id| async move { (*id, view(checker, control, *id).await) });
    join_all(asks).await.into_iter().filter_map(|(id, v)| Some((id, v.ok()?.1))).collect()
}

/// The topic that has a partition for each broker, or is to have.
fn topic_for<'a>(views: impl Iterator<Item = &'a BrokerView>, brokers: u16) -> String {
    match views.filter_map(|v| v.leaders.get(TOPIC)).map(BTreeMap::len).max() {
        Some(partitions) if partitions < brokers.into() => format!("{TOPIC}-{brokers}"),
        _ => TOPIC.to_owned(),
    }
}

/// Checks the brokers that can be reached.
pub async fn check(checker: &Checker<'_>, control: &Connection, ids: &[HostId]) -> (Vec<Problem>, BTreeMap<HostId, String>) {
    let mut problems: Vec<Problem> = Vec::new();
    let mut notes = BTreeMap::new();
    let asks = ids.iter().map(|id| async move { (*id, view(checker, control, *id).await) });
    let mut asked: BTreeMap<HostId, (Client<Stream>, BrokerView)> = BTreeMap::new();
    for (id, result) in join_all(asks).await {
        match result {
            Ok(one) => drop(asked.insert(id, one)),
            Err(e) => problems.push(Problem::new(checker.name(id), format!("broker: {e}"))),
        }
    }
    let all: u16 = checker.inventory.of(Role::Broker).count() as u16;
    if asked.is_empty() {
        problems.push(Problem::new("brokers", format!("none of {all} answers")));
        return (problems, notes);
    }
    let views: BTreeMap<HostId, &BrokerView> = asked.iter().map(|(id, (_, v))| (*id, v)).collect();
    problems.extend(disagreements(checker, &views, all));
    for (id, (_, v)) in &asked {
        if v.controller == v.id {
            notes.insert(*id, "controller".to_owned());
        }
    }

    for (id, offline) in join_all(asked.iter_mut().map(|(id, (client, _))| async move { (*id, probe::offline_dirs(client).await) })).await {
        problems.extend(offline.into_iter().map(|reason| Problem::new(checker.name(id), format!("broker: {reason}"))));
    }

    // Who is not registered has been named above; the topic is made by the controller, once.
    let topic = topic_for(asked.values().map(|(_, v)| v), all);
    let topic = topic.as_str();
    let made = async {
        let known = asked.values().filter_map(|(_, v)| v.leaders.get(topic)).find(|l| l.len() >= all.into());
        if let Some(known) = known {
            return Ok(known.clone());
        }
        let controller = asked.values().next().map_or(NO_CONTROLLER, |(_, v)| v.controller);
        let any = checker.inventory.engine.metadata() == Metadata::Kraft;
        let (client, v) = asked.values_mut().find(|(_, v)| any || v.id == controller).ok_or("the controller does not answer")?;
        if v.brokers.len() < all.into() {
            return Err(format!("topic {topic} is not made before all brokers are registered"));
        }
        probe::create_topic(client, topic, all).await?;
        probe::leaders(client, topic, all.into()).await
    };
    let leaders = match timeout(QUESTION_TIMEOUT, made).await {
        Ok(Ok(l)) => l,
        Ok(Err(e)) => {
            // Who is not registered keeps it from being made.
            let from = (1..=all).filter(|n| asked.values().any(|(_, v)| !v.brokers.contains(&i32::from(*n))));
            problems.push(Problem { from: from.map(broker).collect(), ..Problem::new("brokers", e) });
            return (problems, notes);
        }
        Err(_) => {
            problems.push(Problem::new("brokers", format!("topic {topic} is not made in time")));
            return (problems, notes);
        }
    };
    let trips = asked.iter_mut().map(|(id, (client, v))| {
        let partition = leaders.iter().find(|(_, l)| **l == v.id).map(|(p, _)| *p);
        async move {
            let result = match partition {
                None => Err(TripError::from(format!("leads no partition of {topic}"))),
                Some(p) => {
                    let mut last = Err(TripError::from("no answer to Produce or Fetch in time"));
                    // A broker learns a moment later than the controller that it leads.
                    for _ in 0..10 {
                        last = timeout(QUESTION_TIMEOUT, probe::round_trip(client, topic, p))
                            .await
                            .unwrap_or_else(|_| Err("no answer to Produce or Fetch in time".into()));
                        match &last {
                            Err(e) if e.may_pass => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
                            _ => break,
                        }
                    }
                    last
                }
            };
            (*id, result)
        }
    });
    for (id, result) in join_all(trips).await {
        if let Err(e) = result {
            problems.push(Problem::new(checker.name(id), format!("broker: {}", e.why)));
        }
    }
    (problems, notes)
}

/// A broker by its number.
fn broker(number: u16) -> HostId {
    HostId { group: Group::BROKERS, index: number }
}

/// Brokers by their numbers in Kafka's sense.
fn hosts(numbers: &BTreeSet<i32>) -> BTreeSet<HostId> {
    numbers.iter().map(|n| broker(u16::try_from(*n).unwrap_or(0))).collect()
}

fn disagreements(checker: &Checker<'_>, asked: &BTreeMap<HostId, &BrokerView>, all: u16) -> Vec<Problem> {
    let mut out = Vec::new();
    let Some((_, first)) = asked.iter().next() else {
        return out;
    };
    for (id, v) in asked {
        let mut add = |reason: String| out.push(Problem::new(checker.name(*id), format!("broker: {reason}")));
        if v.cluster_id != first.cluster_id {
            add(format!("cluster id {} while broker {} has {}", v.cluster_id, first.id, first.cluster_id));
        }
        if v.controller != first.controller {
            add(format!("believes that broker {} is the controller, broker {} believes in {}", v.controller, first.id, first.controller));
        }
        if v.controller < 0 && checker.inventory.engine.metadata() == Metadata::Zookeeper {
            add("knows no controller".into());
        }
        // A broker that does not answer is named itself; others are not blamed for not seeing it.
        let missing: BTreeSet<i32> =
            (1..=i32::from(all)).filter(|n| !v.brokers.contains(n) && asked.values().any(|o| o.id == *n)).collect();
        if !missing.is_empty() {
            let from = hosts(&missing);
            let names: Vec<String> = from.iter().map(|h| checker.name(*h)).collect();
            out.push(Problem { from, ..Problem::new(checker.name(*id), format!("{UNSEEN}{}", names.join(", "))) });
        }
    }
    // Partitions are named once, by the first broker that reports them; of the health topic only the state of its hosts counts.
    let mut partitions: BTreeMap<String, Vec<&Lacking>> = BTreeMap::new();
    for one in first.lacking.iter().filter(|l| !is_health_topic(&l.topic)) {
        partitions.entry(format!("topic {} {}", one.topic, one.what)).or_default().push(one);
    }
    for (what, lacking) in partitions {
        let mut numbers: Vec<i32> = lacking.iter().map(|l| l.number).collect();
        numbers.sort_unstable();
        let shown: Vec<String> = numbers.iter().take(5).map(i32::to_string).collect();
        let more = if numbers.len() > 5 { format!(" and {} more", numbers.len() - 5) } else { String::new() };
        out.push(Problem {
            from: lacking.iter().flat_map(|l| hosts(&l.of)).collect(),
            catching_up: lacking.iter().all(|l| l.catching_up),
            ..Problem::new("brokers", format!("{what}: partition {}{more}", shown.join(", ")))
        });
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use kafka_protocol::messages::describe_configs_response::DescribeConfigsResourceResult;

    use super::*;
    use crate::{inventory::Inventory, observed::Observed};

    fn view(id: i32, brokers: &[i32], lacking: &[Lacking]) -> BrokerView {
        BrokerView {
            id,
            cluster_id: "c".into(),
            controller: NO_CONTROLLER,
            brokers: brokers.iter().copied().collect(),
            leaders: BTreeMap::new(),
            lacking: lacking.to_vec(),
            replicated: Vec::new(),
        }
    }

    fn lacking(number: i32, of: &[i32], catching_up: bool) -> Lacking {
        Lacking { topic: "t".into(), number, what: "lacks".into(), of: of.iter().copied().collect(), catching_up }
    }

    /// What is found by brokers, and for which of the three brokers it is no reason to stay.
    fn own(views: &[BrokerView]) -> Vec<(String, bool, Vec<u16>)> {
        let inventory = Inventory::parse(std::path::Path::new("i.yml"), "cluster: c\nprefix: p\nengine: apache\n").unwrap();
        let observed = Observed::default();
        let checker = Checker { inventory: &inventory, observed: &observed, fleet: None };
        let asked = views.iter().map(|v| (broker(v.id as u16), v)).collect();
        let problems = disagreements(&checker, &asked, 3).into_iter();
        problems.map(|p| (p.reason.clone(), p.catching_up, (1..=3).filter(|n| checker.is_own(&p, broker(*n))).collect())).collect()
    }

    #[test]
    fn partitions_know_whose_replicas_they_lack() {
        let all = [1, 2, 3];
        let one = view(1, &all, &[lacking(0, &[2], true), lacking(1, &[2], true)]);
        assert_eq!(own(&[one]), [("topic t lacks: partition 0, 1".into(), true, vec![2])]);
        let two = view(1, &all, &[lacking(0, &[2], true), lacking(1, &[3], false)]);
        assert_eq!(own(&[two]), [("topic t lacks: partition 0, 1".into(), false, vec![])]);
        let both = view(1, &all, &[lacking(0, &[2, 3], true)]);
        assert_eq!(own(&[both]), [("topic t lacks: partition 0".into(), true, vec![])]);
    }

    #[test]
    fn who_is_not_seen_may_be_restarted_and_who_does_not_see_too() {
        let seen = own(&[view(1, &[1, 3], &[]), view(2, &[1, 2, 3], &[])]);
        assert_eq!(seen, [("broker: does not see p-kafka02".into(), false, vec![1, 2])]);
    }

    #[test]
    fn a_topic_made_for_fewer_brokers_gives_way_to_another() {
        let with = |partitions: i32| BrokerView {
            leaders: BTreeMap::from([(TOPIC.to_owned(), (0..partitions).map(|p| (p, p + 1)).collect())]),
            ..view(1, &[1, 2, 3, 4], &[])
        };
        let fresh = view(2, &[1, 2, 3, 4], &[]);
        assert_eq!(topic_for([&fresh].into_iter(), 4), "__septet_health");
        assert_eq!(topic_for([&fresh, &with(4)].into_iter(), 4), "__septet_health");
        assert_eq!(topic_for([&with(3), &fresh].into_iter(), 4), "__septet_health-4");
        assert_eq!(
            ["__septet_health", "__septet_health-4", "__septet_health-x", "orders"].map(is_health_topic),
            [true, true, false, false]
        );
    }

    #[test]
    fn a_stop_hurts_where_the_minimum_is_not_known() {
        let r = Replicated { topic: "t".into(), number: 0, replicas: vec![1, 2, 3], in_sync: vec![1, 2, 3] };
        assert_eq!(hurt(&r, Some(&Ok(2)), "kafka01"), None);
        assert!(hurt(&r, Some(&Ok(3)), "kafka01").unwrap().contains("would have 2 replicas in sync without kafka01"));
        assert!(hurt(&r, None, "kafka01").unwrap().contains("cannot be read"));
        let result = |code: i16, name: &str, value: &str| {
            let config = DescribeConfigsResourceResult::default().with_name(name.to_owned().into());
            let config = config.with_value(Some(value.to_owned().into()));
            DescribeConfigsResult::default().with_error_code(code).with_configs(vec![config])
        };
        assert_eq!(least_of(&result(0, MIN_IN_SYNC, "2")), Ok(2));
        for unreadable in [result(29, MIN_IN_SYNC, "1"), result(0, "retention.ms", "1"), result(0, MIN_IN_SYNC, "")] {
            assert!(hurt(&r, Some(&least_of(&unreadable)), "kafka01").is_some(), "{unreadable:?}");
        }
        assert!(least_of(&result(29, MIN_IN_SYNC, "1")).unwrap_err().contains("TopicAuthorizationFailed"));
    }

    #[test]
    fn replicas_that_are_behind() {
        let r = Replicated { topic: "t".into(), number: 0, replicas: vec![1, 2, 3], in_sync: vec![3, 1] };
        assert_eq!(r.behind(), BTreeSet::from([2]));
    }
}
