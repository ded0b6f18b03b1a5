//! Kafka's own controllers: one leader, every voter known to it and with it (`DescribeQuorum`, KIP-595).

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use kafka_protocol::{
    ResponseError,
    messages::{
        ApiKey, DescribeQuorumRequest, TopicName,
        describe_quorum_request::{PartitionData, TopicData},
    },
    protocol::StrBytes,
};
use tokio::time::timeout;

use super::{Checker, CoordinatorView, Problem, QUESTION_TIMEOUT, QUORUM, kafka::Client};
use crate::{
    inventory::{HostId, Inventory},
    ssh::Connection,
};

/// Newest version of `DescribeQuorum` that is understood here.
const NEWEST: i16 = 2;
/// Milliseconds since a voter last had all that the leader had. A follower fetches twice a second, and a restart takes longer than
/// this: one that came back and does not fetch yet does not count as healthy.
const MAX_BEHIND_MS: i64 = 3_000;

/// The leader's report of the quorum.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Quorum {
    leader: i32,
    /// voters with the end of their log, and when they last had all of the leader's
    voters: BTreeMap<i32, (i64, i64)>,
}

/// What a controller answers: the leader describes the quorum, a follower answers that it does not lead.
async fn ask(control: &Connection, address: &str, port: u16) -> Result<Option<Quorum>, String> {
    let question = async {
        let stream = control.tcp(address, port).await.map_err(|e| e.to_string())?;
        let mut client = Client::open(stream).await?;
        let partition = PartitionData::default().with_partition_index(0);
        let topic = TopicData::default()
            .with_topic_name(TopicName(StrBytes::from_static_str("__cluster_metadata")))
            .with_partitions(vec![partition]);
        let request = DescribeQuorumRequest::default().with_topics(vec![topic]);
        let (answer, _) = client.ask(ApiKey::DescribeQuorum, NEWEST, &request).await?;
        let not_leader = ResponseError::NotLeaderOrFollower.code();
        if answer.error_code == not_leader {
            return Ok(None);
        }
        if answer.error_code != 0 {
            return Err(format!("DescribeQuorum: error {}", answer.error_code));
        }
        let partition = answer.topics.iter().flat_map(|t| &t.partitions).next().ok_or("DescribeQuorum: an empty answer")?;
        match partition.error_code {
            0 => {}
            e if e == not_leader => return Ok(None),
            e => return Err(format!("DescribeQuorum: error {e}")),
        }
        let voters = partition.current_voters.iter().map(|v| (v.replica_id.0, (v.log_end_offset, v.last_caught_up_timestamp)));
        Ok(Some(Quorum { leader: partition.leader_id.0, voters: voters.collect() }))
    };
    timeout(QUESTION_TIMEOUT, question).await.map_err(|_| "no answer to DescribeQuorum in time".to_owned())?
}

type Answers = Vec<(HostId, Result<Option<Quorum>, String>)>;

async fn ask_all(checker: &Checker<'_>, control: &Connection, ids: &[HostId]) -> Answers {
    let asks = ids
        .iter()
        .map(|id| async move { (*id, ask(control, &checker.address(*id).unwrap_or_default(), checker.inventory.ports.controller).await) });
    join_all(asks).await
}

/// Asks all controllers; those that do not answer are left out.
pub async fn views(checker: &Checker<'_>, control: &Connection, ids: &[HostId]) -> BTreeMap<HostId, CoordinatorView> {
    let all = ask_all(checker, control, ids).await.into_iter();
    all.filter_map(|(id, answer)| {
        let mode = if answer.ok()?.is_some() { "leader" } else { "follower" };
        Some((id, CoordinatorView { mode: mode.to_owned(), zxid: 0 }))
    })
    .collect()
}

/// Checks the quorum over the hosts that can be reached.
pub async fn check(checker: &Checker<'_>, control: &Connection, ids: &[HostId]) -> (Vec<Problem>, BTreeMap<HostId, String>) {
    judge(checker, ask_all(checker, control, ids).await)
}

fn judge(checker: &Checker<'_>, answers: Answers) -> (Vec<Problem>, BTreeMap<HostId, String>) {
    let (mut problems, mut notes) = (Vec::new(), BTreeMap::new());
    let voters = checker.inventory.voters();
    let whole = if checker.inventory.is_combined() { "brokers" } else { QUORUM };
    let mut add = |host: &str, reason: String| problems.push(Problem::new(host, reason));
    let (mut leaders, mut answered) = (Vec::new(), 0);
    for (id, answer) in answers {
        match answer {
            Ok(None) => {
                answered += 1;
                notes.insert(id, "follower".to_owned());
            }
            Ok(Some(quorum)) => {
                answered += 1;
                notes.insert(id, "leader".to_owned());
                leaders.push((id, quorum));
            }
            Err(e) => add(&checker.name(id), format!("controller: {e}")),
        }
    }
    let (leader, quorum) = match leaders.as_slice() {
        [] if answered == 0 => {
            add(whole, format!("none of {} controllers answers", voters.len()));
            return (problems, notes);
        }
        [] => {
            add(whole, format!("the controllers have no leader among the {answered} of {} that answer", voters.len()));
            return (problems, notes);
        }
        [(id, quorum)] => (*id, quorum),
        many => {
            let names: Vec<String> = many.iter().map(|(id, _)| checker.name(*id)).collect();
            add(whole, format!("{} controllers lead: {}", many.len(), names.join(", ")));
            return (problems, notes);
        }
    };
    let wanted: BTreeSet<i32> = voters.iter().map(|h| Inventory::node_id(h.id)).collect();
    let is: BTreeSet<i32> = quorum.voters.keys().copied().collect();
    if wanted != is {
        add(&checker.name(leader), format!("controller: the quorum's voters are {is:?}, the inventory's are {wanted:?}"));
    }
    let Some((end, now)) = quorum.voters.get(&Inventory::node_id(leader)) else { return (problems, notes) };
    for host in voters {
        let Some((at, caught_up)) = quorum.voters.get(&Inventory::node_id(host.id)) else { continue };
        // Who does not answer is named already; that it is behind follows from that.
        if !notes.contains_key(&host.id) || host.id == leader {
            continue;
        }
        // As long as a voter has never had all, the leader names no time.
        if *caught_up < 0 {
            add(&checker.name(host.id), "controller: has fetched nothing from the leader yet".into());
            continue;
        }
        let behind = now - caught_up;
        if behind > MAX_BEHIND_MS {
            add(&checker.name(host.id), format!("controller: {} records and {} s behind the leader", end - at, behind / 1000));
        }
    }
    (problems, notes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{inventory::Group, observed::Observed};

    fn reported(answers: &[(u16, Result<Option<Quorum>, String>)]) -> (Vec<String>, usize) {
        let text = "cluster: c\nprefix: p\nengine: apache\n";
        let inventory = Inventory::parse(std::path::Path::new("i.yml"), text).unwrap();
        let observed = Observed::default();
        let checker = Checker { inventory: &inventory, observed: &observed, fleet: None };
        let answers = answers.iter().map(|(i, a)| (HostId { group: Group::COORDINATORS, index: *i }, a.clone())).collect();
        let (problems, notes) = judge(&checker, answers);
        (problems.into_iter().map(|p| format!("{}: {}", p.host, p.reason)).collect(), notes.len())
    }

    fn quorum(voters: &[(i32, i64, i64)]) -> Quorum {
        Quorum { leader: 101, voters: voters.iter().map(|(id, end, at)| (*id, (*end, *at))).collect() }
    }

    #[test]
    fn one_leader_with_all_voters_is_well() {
        let q = quorum(&[(101, 50, 100_000), (102, 50, 99_900), (103, 49, 99_500)]);
        assert_eq!(reported(&[(1, Ok(Some(q))), (2, Ok(None)), (3, Ok(None))]), (Vec::new(), 3));
    }

    #[test]
    fn what_is_wrong_is_said_of_whom_it_concerns() {
        let late = quorum(&[(101, 50, 100_000), (102, 50, 99_900), (103, 20, 60_000)]);
        let (problems, _) = reported(&[(1, Ok(Some(late.clone()))), (2, Ok(None)), (3, Ok(None))]);
        assert_eq!(problems, ["p-controller03: controller: 30 records and 40 s behind the leader"]);
        let back = quorum(&[(101, 50, 100_000), (102, 50, 97_000), (103, 50, 96_999)]);
        let (problems, _) = reported(&[(1, Ok(Some(back))), (2, Ok(None)), (3, Ok(None))]);
        assert_eq!(problems, ["p-controller03: controller: 0 records and 3 s behind the leader"]);
        let fresh = quorum(&[(101, 50, 100_000), (102, 50, 99_900), (103, -1, -1)]);
        let (problems, _) = reported(&[(1, Ok(Some(fresh.clone()))), (2, Ok(None)), (3, Ok(None))]);
        assert_eq!(problems, ["p-controller03: controller: has fetched nothing from the leader yet"]);
        let (problems, _) = reported(&[(1, Ok(Some(fresh))), (2, Ok(None)), (3, Err("refused".into()))]);
        assert_eq!(problems, ["p-controller03: controller: refused"]);
        let (problems, _) = reported(&[(1, Ok(Some(late))), (2, Ok(None)), (3, Err("refused".into()))]);
        assert_eq!(problems, ["p-controller03: controller: refused"]);
        let (problems, _) = reported(&[(1, Ok(None)), (2, Ok(None)), (3, Ok(None))]);
        assert_eq!(problems, ["coordinators: the controllers have no leader among the 3 of 3 that answer"]);
        let (problems, _) = reported(&[(1, Ok(Some(quorum(&[(101, 1, 1), (102, 1, 1)]))))]);
        assert!(problems[0].contains("voters are {101, 102}"), "{problems:?}");
    }
}
