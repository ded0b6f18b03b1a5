//! Transactions of a leader of Apache's: one of ours that followed it, and leads then, shows the same to who reads what is committed.

use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, ElectLeadersRequest, EndTxnRequest, InitProducerIdRequest, ProducerId, TransactionalId,
    add_partitions_to_txn_request::AddPartitionsToTxnTopic, elect_leaders_request::TopicPartitions,
};

use super::*;

const TOPIC: &str = "transactions";
const TRANSACTIONAL: i16 = 0x10;

/// A transactional producer at Apache's broker, which leads the topic and coordinates the transactions.
struct Transactions {
    client: Client,
    id: TransactionalId,
    producer: (ProducerId, i16),
    sequence: i32,
    since: i64,
}

fn again(code: i16) -> bool {
    [
        ResponseError::CoordinatorLoadInProgress,
        ResponseError::CoordinatorNotAvailable,
        ResponseError::NotCoordinator,
        ResponseError::ConcurrentTransactions,
        ResponseError::NotEnoughReplicas,
    ]
    .iter()
    .any(|e| e.code() == code)
}

impl Transactions {
    fn begin(cluster: &Cluster, id: &str) -> Self {
        let mut client = cluster.client(APACHE);
        let id = TransactionalId(text(id));
        let request = InitProducerIdRequest::default().with_transactional_id(Some(id.clone())).with_transaction_timeout_ms(600_000);
        let producer = eventually("a producer id for transactions", LIMIT, || {
            let answer = client.call(4, &request);
            assert!(answer.error_code == 0 || again(answer.error_code), "{answer:?}");
            (answer.error_code == 0).then_some((answer.producer_id, answer.producer_epoch))
        });
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
        Self { client, id, producer, sequence: 0, since }
    }

    fn send(&mut self, value: &str) {
        let topic = AddPartitionsToTxnTopic::default().with_name(TopicName(text(TOPIC))).with_partitions(vec![0]);
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(self.id.clone())
            .with_v3_and_below_producer_id(self.producer.0)
            .with_v3_and_below_producer_epoch(self.producer.1)
            .with_v3_and_below_topics(vec![topic]);
        eventually("the partition belongs to the transaction", LIMIT, || {
            let answer = self.client.call(3, &request);
            let code = answer.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code;
            assert!(code == 0 || again(code), "{answer:?}");
            (code == 0).then_some(())
        });
        let batch =
            Batch::new(self.since).values(&[value]).attributes(TRANSACTIONAL).producer(self.producer.0.0, self.producer.1, self.sequence);
        let request = produce_request(TOPIC, 0, &batch.build(), -1).with_transactional_id(Some(self.id.clone()));
        eventually("the record is acknowledged", LIMIT, || {
            let code = self.client.call(9, &request).responses[0].partition_responses[0].error_code;
            assert!(code == 0 || again(code), "{code}");
            (code == 0).then_some(())
        });
        self.sequence += 1;
    }

    fn end(&mut self, commit: bool) {
        let request = EndTxnRequest::default()
            .with_transactional_id(self.id.clone())
            .with_producer_id(self.producer.0)
            .with_producer_epoch(self.producer.1)
            .with_committed(commit);
        eventually("the transaction ends", LIMIT, || {
            let answer = self.client.call(3, &request);
            assert!(answer.error_code == 0 || again(answer.error_code), "{answer:?}");
            (answer.error_code == 0).then_some(())
        });
    }
}

/// What librdkafka reads at one broker.
fn read(cluster: &Cluster, at: i32, isolation: &str) -> Vec<String> {
    let server = format!("127.0.0.1:{}", cluster.nodes.iter().find(|n| n.id == at).unwrap().port);
    let isolation = format!("isolation.level={isolation}");
    let arguments = ["-C", "-q", "-e", "-b", &server, "-t", TOPIC, "-p", "0", "-o", "beginning", "-X", &isolation];
    tools::run(cluster.dir.path(), &tools::kcat(), &arguments).lines().filter(|l| l.starts_with('v')).map(str::to_owned).collect()
}

/// Everybody shows what was committed, and to those who ask for it the rest.
fn shows(cluster: &Cluster, at: i32, committed: &[String], all: &[String]) {
    eventually("what is committed is shown", LIMIT, || (read(cluster, at, "read_committed") == committed).then_some(()));
    assert_eq!(read(cluster, at, "read_uncommitted"), all, "at {at}");
}

#[test]
fn transactions_of_apaches_leader_are_ours_too() {
    if !tools::has_apache() {
        return;
    }
    let mut cluster = empty();
    for id in [1, 2] {
        cluster.node(id).start();
    }
    wait_all(&mut cluster);
    for id in ALL {
        let file = cluster.node(id).dir.join("server.properties");
        let more =
            "\ntransaction.state.log.num.partitions=1\ntransaction.state.log.replication.factor=3\ntransaction.state.log.min.isr=1\n";
        fs::write(&file, fs::read_to_string(&file).unwrap() + more).unwrap();
    }
    apache::start_node(&mut cluster, APACHE);
    wait_all(&mut cluster);
    // Apache's broker coordinates, since it leads the only partition of this topic.
    create(&cluster, &assigned("__transaction_state", &[[APACHE, 1, 2]]));
    create(&cluster, &assigned(TOPIC, &[[APACHE, 1, 2]]));
    assert_eq!([settled(&cluster, "__transaction_state", 0, 3), settled(&cluster, TOPIC, 0, 3)], [APACHE, APACHE]);

    let mut ended = Transactions::begin(&cluster, "ended");
    let (mut committed, mut all) = (Vec::new(), Vec::new());
    for i in 0..12 {
        let values: Vec<String> = (0..3).map(|n| format!("v{i}-{n}")).collect();
        values.iter().for_each(|v| ended.send(v));
        ended.end(i % 3 != 1);
        all.extend(values.clone());
        if i % 3 != 1 {
            committed.extend(values);
        }
    }
    // One that stays open holds back what comes after it.
    let mut open = Transactions::begin(&cluster, "open");
    open.send("v-open");
    ended.send("v-behind");
    ended.end(true);
    all.extend(["v-open".to_owned(), "v-behind".to_owned()]);
    shows(&cluster, APACHE, &committed, &all);

    apache::stop_node(&mut cluster, APACHE);
    let leader = leave_isr(&cluster, TOPIC, APACHE);
    shows(&cluster, leader, &committed, &all);
    // Also after a start, from its own files.
    for id in [1, 2] {
        let (status, said) = cluster.node(id).stop();
        assert!(status.success(), "{status} {said}");
        cluster.node(id).start();
        wait_all(&mut cluster);
        settled(&cluster, TOPIC, 0, 2);
    }
    let leader = settled(&cluster, TOPIC, 0, 2);
    shows(&cluster, leader, &committed, &all);

    // Apache's leads again, and ends what was open.
    apache::start_node(&mut cluster, APACHE);
    wait_all(&mut cluster);
    for topic in ["__transaction_state", TOPIC] {
        settled(&cluster, topic, 0, 3);
        let one = TopicPartitions::default().with_topic(TopicName(text(topic))).with_partitions(vec![0]);
        let request = ElectLeadersRequest::default().with_topic_partitions(Some(vec![one])).with_timeout_ms(20_000);
        cluster.client(cluster.controller()).call(2, &request);
        eventually("Apache's leads", LIMIT, || (settled(&cluster, topic, 0, 3) == APACHE).then_some(()));
    }
    open.client = cluster.client(APACHE);
    open.end(true);
    shows(&cluster, APACHE, &all.iter().filter(|v| committed.contains(v) || v.starts_with("v-")).cloned().collect::<Vec<_>>(), &all);
    same_files(&mut cluster, TOPIC);
}
