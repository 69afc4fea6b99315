//! What tests can make go wrong with the API server double, as a real client sees it.

use crate::apiserver::{client, refused, run, start};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::runtime::watcher;
use kube::runtime::{WatchStreamExt, reflector};
use kube::{Api, Error};
use netplane_bench::lab::apiserver::{ApiServer, Fault, Options, pod};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

async fn pods(server: &ApiServer) -> Api<Pod> {
    Api::default_namespaced(client(&server.kubeconfig()).await)
}

#[test]
fn tokens_expire_and_others_become_valid() {
    let server = start();
    server.put(pod("default", "p", "n1", &json!({}))).expect("a pod");
    run(async {
        let old = pods(&server).await;
        old.get("p").await.expect("the first token is valid");
        server.set_tokens(Some(&["another"]));
        let status = refused(old.get("p").await.expect_err("expired"));
        assert_eq!((status.code, status.reason.as_str()), (401, "Unauthorized"));
        server.write_kubeconfig(&server.kubeconfig(), Some("another")).expect("written");
        pods(&server).await.get("p").await.expect("the new token is valid");
    });
    let codes: Vec<_> = server.journal().iter().map(|it| it.code).collect();
    assert_eq!(codes, [Some(200), Some(401), Some(200)]);
}

#[test]
fn a_new_authority_is_trusted_by_who_reads_it_anew() {
    let server = start();
    server.put(pod("default", "p", "n1", &json!({}))).expect("a pod");
    run(async {
        let old = pods(&server).await;
        old.get("p").await.expect("trusted");
        server.rotate_ca().expect("rotated");
        old.get("p").await.expect_err("no longer trusted");
        pods(&server).await.get("p").await.expect("trusted again");
    });
}

#[test]
fn faults_hit_as_many_requests_of_their_kind_as_were_ordered() {
    let server = start();
    server.put(pod("default", "p", "n1", &json!({}))).expect("a pod");
    server.fail(1, "get", "/pods/p", Fault::Answer { code: 429, retry_after: Some(7) });
    server.fail(1, "get", "/pods/p", Fault::Text { code: 502 });
    server.fail(1, "get", "/pods/p", Fault::Reset);
    server.fail(1, "get", "/pods/p", Fault::HalfAnswer);
    run(async {
        let pods = pods(&server).await;
        pods.list(&ListParams::default()).await.expect("another kind");
        let status = refused(pods.get("p").await.expect_err("429"));
        assert_eq!((status.code, status.reason.as_str()), (429, "TooManyRequests"));
        assert_eq!(status.details.map(|it| it.retry_after_seconds), Some(7));
        assert_eq!(refused(pods.get("p").await.expect_err("502")).code, 502);
        let reset = pods.get("p").await.expect_err("reset");
        assert!(!matches!(reset, Error::Api(_)), "{reset:?}");
        let half = pods.get("p").await.expect_err("half an answer");
        assert!(!matches!(half, Error::Api(_)), "{half:?}");
        pods.get("p").await.expect("no more faults");
    });
    assert_eq!((server.count("get", "/pods/p"), server.count("list", "/pods")), (5, 1));
}

#[test]
fn a_server_that_is_down_refuses_and_comes_back_on_its_port() {
    let server = start();
    server.put(pod("default", "p", "n1", &json!({}))).expect("a pod");
    run(async {
        let pods = pods(&server).await;
        pods.get("p").await.expect("up");
        server.down().expect("down");
        let error = TcpStream::connect(server.address()).expect_err("refused");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        pods.get("p").await.expect_err("down");
        server.up().expect("up");
        pods.get("p").await.expect("up again");
    });
}

/// With a connection's errors passed over, as they are what is asked for.
fn raw(server: &ApiServer, request: &str) -> String {
    let mut stream = TcpStream::connect(server.address()).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a deadline");
    let head = "HTTP/1.1\r\nHost: double\r\nConnection: close\r\n\r\n";
    stream.write_all(format!("{request} {head}").as_bytes()).expect("asked");
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    String::from_utf8(text).expect("UTF-8")
}

#[test]
fn half_an_answer_is_half_of_its_length() {
    let server = ApiServer::start(&Options::plain()).expect("the server starts");
    let whole = raw(&server, "GET /api/v1/namespaces/default");
    server.fail(1, "get", "/namespaces/default", Fault::HalfAnswer);
    let half = raw(&server, "GET /api/v1/namespaces/default");
    let body = |text: &str| text.split_once("\r\n\r\n").map(|it| it.1.len()).expect("a head");
    assert_eq!(body(&half), body(&whole) / 2, "{half}");
    server.fail(1, "get", "/namespaces/default", Fault::ResetAfter);
    assert_eq!(raw(&server, "GET /api/v1/namespaces/default"), "");
}

#[test]
fn answers_can_be_late() {
    let server = start();
    server.put(pod("default", "p", "n1", &json!({}))).expect("a pod");
    server.set_delay(Duration::from_millis(300));
    run(async {
        let start = Instant::now();
        pods(&server).await.get("p").await.expect("late");
        assert!(start.elapsed() >= Duration::from_millis(300));
    });
}

/// Opens a watch by hand and returns all that comes until its connection ends or the answer is whole.
fn raw_watch(order: impl Fn(&ApiServer)) -> String {
    let server = ApiServer::start(&Options::plain()).expect("the server starts");
    let mut stream = TcpStream::connect(server.address()).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a deadline");
    let request = "GET /api/v1/pods?watch=1&allowWatchBookmarks=1&resourceVersion=0 HTTP/1.1\r\n\
                   Host: double\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("asked");
    while server.watches("pods") == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    order(&server);
    let mut text = Vec::new();
    // How the connection ends is what is asked for.
    let _ = stream.read_to_end(&mut text);
    String::from_utf8(text).expect("UTF-8")
}

#[test]
fn watches_end_properly_with_an_error_or_in_the_middle_of_an_event() {
    let whole = "\r\n0\r\n\r\n";
    let ended = raw_watch(ApiServer::end_watches);
    assert!(ended.ends_with(whole) && !ended.contains('{'), "{ended}");
    let expired = raw_watch(ApiServer::expire_watches);
    assert!(expired.ends_with(whole) && expired.contains("\"code\":410"), "{expired}");
    let cut = raw_watch(ApiServer::cut_watches);
    assert!(!cut.ends_with(whole) && cut.contains('{') && !cut.contains("}\n"), "{cut}");
    let down = raw_watch(|it| it.down().expect("down"));
    assert!(!down.ends_with(whole), "{down}");
}

/// Waits until a reflector's store holds exactly these pods.
async fn holds(store: &reflector::Store<Pod>, wanted: &[&str]) {
    loop {
        let mut names: Vec<_> = store.state().iter().filter_map(|it| it.metadata.name.clone()).collect();
        names.sort();
        if names == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// With kube's own watcher, as the agent uses it: what it missed while cut off, it knows afterwards.
#[test]
fn a_reflector_outlives_cuts_expiry_and_outage() {
    let server = start();
    server.put(pod("default", "a", "n1", &json!({}))).expect("a pod");
    run(async {
        let (store, writer) = reflector::store();
        let stream = reflector(writer, watcher(pods(&server).await, watcher::Config::default()));
        let follow = stream.default_backoff().for_each(|_| std::future::ready(()));
        let orders = async {
            holds(&store, &["a"]).await;
            server.cut_watches();
            server.put(pod("default", "b", "n1", &json!({}))).expect("a pod");
            holds(&store, &["a", "b"]).await;
            server.expire_watches();
            assert!(server.delete("pods", "default", "a"));
            holds(&store, &["b"]).await;
            server.down().expect("down");
            server.put(pod("default", "c", "n1", &json!({}))).expect("a pod");
            server.compact();
            server.up().expect("up");
            holds(&store, &["b", "c"]).await;
        };
        tokio::select! { () = follow => panic!("the watcher ended"), () = orders => {} }
    });
}
