//! API servers by host name: from /etc/hosts and by DNS, whatever other sources the node's nsswitch.conf names.

use super::Stage;
use crate::harness::answer;
use netplane::netlink::netns::Netns;
use serde_json::Value;
use std::io::Write;
use std::net::UdpSocket;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Above what a request may take with all its tries.
const PATIENCE: Duration = Duration::from_secs(60);

/// A name in the server's certificate.
const NAME: &str = "kubernetes.default.svc";

/// ADD with a kubeconfig that has the server's name, on a node whose /etc has nothing but these files.
fn add(stage: &Stage, hosts: &str, resolv_conf: &str) -> Result<Option<Value>, Value> {
    let etc = stage.node.folder().join("etc");
    std::fs::create_dir_all(&etc).expect("a folder");
    // A module that is not there, and must not be asked for.
    let files = [
        ("hosts", hosts),
        ("resolv.conf", resolv_conf),
        ("nsswitch.conf", "hosts: absent [!UNAVAIL=return]\n"),
    ];
    for (name, text) in files {
        std::fs::write(etc.join(name), text).expect("a file");
    }
    let kubeconfig = std::fs::read_to_string(stage.server.kubeconfig()).expect("a kubeconfig");
    let address = stage.server.address();
    let kubeconfig = kubeconfig.replace(&address.to_string(), &format!("{NAME}:{}", address.port()));
    assert!(kubeconfig.contains(NAME), "{kubeconfig}");
    let path = stage.node.folder().join("by-name");
    std::fs::write(&path, kubeconfig).expect("a kubeconfig");
    let mut configuration = stage.configuration();
    configuration["kubeconfig"] = serde_json::json!(path);

    let script = "mount -t tmpfs none /etc && cp \"$0\"/* /etc/ && exec \"$@\"";
    let etc = etc.to_str().expect("UTF-8");
    let under = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, etc];
    let mut command = stage.node.command("ADD", &stage.pod.name, &stage.pod.path(), &under);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().expect("nsenter is installed");
    child.stdin.take().expect("stdin").write_all(configuration.to_string().as_bytes()).expect("read");
    let output = child.wait_with_output().expect("it ends");
    answer(&output)
}

#[test]
fn an_api_server_in_the_hosts_file_is_found() {
    let stage = Stage::selecting("n3");
    let hosts = format!("127.0.0.1 localhost\n127.0.0.1 {NAME}\n");
    add(&stage, &hosts, "").expect("attached");
    assert_eq!(stage.pod.interfaces(), ["eth0", "net1"]);
}

#[test]
fn an_api_server_in_dns_is_found() {
    let stage = Stage::selecting("n3");
    let netns = Netns::open(stage.node.netns()).expect("the node's namespace");
    let socket = netns.run(|| UdpSocket::bind("127.0.0.1:53")).expect("a thread").expect("a port");
    let server = std::thread::spawn(move || answer_queries(&socket));
    add(&stage, "127.0.0.1 localhost\n", "nameserver 127.0.0.1\n").expect("attached");
    assert_eq!(stage.pod.interfaces(), ["eth0", "net1"]);
    let stop = || UdpSocket::bind("127.0.0.1:0").and_then(|it| it.send_to(STOP, "127.0.0.1:53"));
    netns.run(stop).expect("a thread").expect("sent");
    let asked = server.join().expect("no panic");
    assert!(asked > 0, "by DNS");
}

#[test]
fn a_name_server_that_never_answers_is_an_error_within_the_deadline() {
    let stage = Stage::selecting("n3");
    let netns = Netns::open(stage.node.netns()).expect("the node's namespace");
    let _silent = netns.run(|| UdpSocket::bind("127.0.0.1:53")).expect("a thread").expect("a port");
    let began = Instant::now();
    let error = add(&stage, "127.0.0.1 localhost\n", "nameserver 127.0.0.1\n").expect_err("no address");
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    assert_eq!(error["code"], 11, "{error}");
    assert!(error["msg"].as_str().is_some_and(|it| it.contains(NAME)), "{error}");
    stage.assert_nothing_left();
}

/// Ends the name server.
const STOP: &[u8] = b"stop";

/// Answers questions (RFC 1035, section 4.1) until [`STOP`]: 127.0.0.1 for an IPv4 address, nothing for anything
/// else. Returns how many there were for IPv4.
fn answer_queries(socket: &UdpSocket) -> usize {
    let mut asked = 0;
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    let mut packet = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut packet) {
        let query = &packet[..length];
        if query == STOP {
            break;
        }
        // The header, the name up to its empty label, type and class.
        let end = 12 + query[12..].iter().position(|it| *it == 0).expect("a name") + 5;
        let is_v4 = query[end - 4..end - 2] == [0, 1];
        let mut answer = query[..end].to_vec();
        // A response without errors, with one question and what answers there are.
        answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_v4), 0, 0, 0, 0]);
        if is_v4 {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
            asked += 1;
        }
        socket.send_to(&answer, from).expect("sent");
    }
    asked
}
