//! The registry, its text, and the endpoint.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{sync::Arc, time::Duration};

use septet_daemon::metrics::{Limits, Registry, serve};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

#[test]
fn the_text_is_prometheuss() {
    let registry = Registry::default();
    let requests = registry.counter("requests_total", "Requests\nby \\ kind", &[("kind", "get"), ("a", "x\"y\\z\n")]);
    requests.add(3);
    registry.counter("requests_total", "", &[("a", "x\"y\\z\n"), ("kind", "get")]).inc();
    registry.counter("requests_total", "", &[("kind", "put")]);
    let gauge = registry.gauge("9 temp-é", "A name that is not valid", &[]);
    gauge.set(1.5);
    gauge.add(-2.0);
    let histogram = registry.histogram("seconds", "Times", &[("op", "x")], &[1.0, 0.5, 1.0, f64::INFINITY]);
    for value in [0.1, 0.5, 0.7, 3.0, f64::NAN] {
        histogram.observe(value);
    }
    registry.ask_gauge("asked", "Asked", &[], || Some(f64::INFINITY));
    registry.ask_gauge("nothing", "No value now", &[], || None);
    let want = "# HELP _9_temp__ A name that is not valid\n# TYPE _9_temp__ gauge\n_9_temp__ -0.5\n\
        # HELP asked Asked\n# TYPE asked gauge\nasked +Inf\n\
        # HELP requests_total Requests\\nby \\\\ kind\n# TYPE requests_total counter\n\
        requests_total{a=\"x\\\"y\\\\z\\n\",kind=\"get\"} 4\nrequests_total{kind=\"put\"} 0\n\
        # HELP seconds Times\n# TYPE seconds histogram\n\
        seconds_bucket{op=\"x\",le=\"0.5\"} 2\nseconds_bucket{op=\"x\",le=\"1\"} 3\nseconds_bucket{op=\"x\",le=\"+Inf\"} 4\n\
        seconds_sum{op=\"x\"} 4.3\nseconds_count{op=\"x\"} 4\n";
    assert_eq!(registry.expose(), want);
}

#[test]
fn series_of_a_label_are_removed() {
    let registry = Registry::default();
    for topic in ["t", "t2", "x,topic=\"t\""] {
        registry.counter("in_total", "", &[("topic", topic)]).inc();
        registry.gauge("size", "", &[("partition", "0"), ("topic", topic)]).set(1.0);
    }
    registry.remove("topic", "t");
    let text = registry.expose();
    assert!(!text.contains("topic=\"t\"}"), "{text}");
    assert_eq!(text.matches("topic=\"t2\"").count(), 2, "{text}");
    assert_eq!(text.matches("x,topic=").count(), 2, "{text}");
    // It begins anew.
    assert_eq!(registry.counter("in_total", "", &[("topic", "t")]).get(), 0);
}

#[test]
fn series_that_come_and_go_are_asked_for_together() {
    let registry = Registry::default();
    let collect = || (0..5).map(|i| (vec![("topic", format!("t\"{i}")), ("partition", "0".to_owned())], f64::from(i))).collect();
    registry.collect_gauges("sizes", "Sizes", 2, collect);
    registry.collect_gauges("sizes", "Others", 2, Vec::new);
    let want = "# HELP sizes Sizes\n# TYPE sizes gauge\n\
        sizes{partition=\"0\",topic=\"t\\\"0\"} 0\nsizes{partition=\"0\",topic=\"t\\\"1\"} 1\n";
    assert_eq!(registry.expose(), want);
}

#[test]
fn series_are_bounded_and_a_name_has_one_kind() {
    let registry = Registry::default();
    for i in 0..50_010 {
        registry.counter("many_total", "", &[("i", &i.to_string())]).inc();
    }
    registry.gauge("many_total", "", &[]).set(1.0);
    let text = registry.expose();
    assert_eq!(text.lines().filter(|l| l.starts_with("many_total")).count(), 50_000);
    assert!(text.contains("\nseptet_metrics_refused 11\n"), "{}", &text[text.len() - 300..]);
}

#[test]
fn the_process_is_measured() {
    let text = Registry::of_process("septet-test", "1.2.3").expose();
    assert!(text.contains("septet_build_info{program=\"septet-test\",version=\"1.2.3\"} 1\n"), "{text}");
    for name in ["process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds", "process_virtual_memory_bytes"] {
        let line = text.lines().find_map(|l| l.strip_prefix(&format!("{name} "))).unwrap_or_else(|| panic!("{name} in {text}"));
        assert!(line.parse::<f64>().unwrap() > 0.0, "{name} {line}");
    }
    assert!(text.contains("\nprocess_cpu_seconds_total "));
}

async fn start(limits: Limits) -> std::net::SocketAddr {
    let registry = Registry::default();
    registry.counter("up_total", "Up", &[]).inc();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, Arc::new(registry), limits));
    address
}

async fn ask(address: std::net::SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(30), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn the_endpoint_answers_get_and_refuses_the_rest() {
    let address = start(Limits::default()).await;
    let body = "# HELP up_total Up\n# TYPE up_total counter\nup_total 1\n";
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    assert_eq!(ask(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await, format!("{head}{body}"));
    assert_eq!(ask(address, b"GET /metrics?name=x HTTP/1.0\n\n").await, format!("{head}{body}"));
    assert_eq!(ask(address, b"HEAD /metrics HTTP/1.1\r\n\r\n").await, head);
    for (request, status) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "404"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "405"),
        (b"GET /metrics\r\n\r\n", "400"),
        (b"\x16\x03\x01\xff\r\n\r\n", "400"),
        (&[b"GET /metrics HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 9000]].concat(), "431"),
    ] {
        let answer = ask(address, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

#[tokio::test]
async fn slow_clients_are_given_up_and_do_not_keep_others_out() {
    let limits = Limits { connections: 4, time: Duration::from_millis(300), ..Limits::default() };
    let address = start(limits).await;
    // More than there is room for, each in the middle of a request.
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /met").await.unwrap();
        slow.push(stream);
    }
    let answer = ask(address, b"GET /metrics HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    for mut stream in slow {
        let mut rest = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut rest)).await.unwrap();
        assert!(read.is_err() || rest.is_empty());
    }
}
