//! API servers that refuse, hesitate or are not there.

use super::Stage;
use netplane_bench::lab::apiserver::{Fault, TOKEN};
use serde_json::json;
use std::time::{Duration, Instant};

/// More than any deadline of the plugin, less than what kubelet waits.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_token_that_is_not_valid_is_named_and_a_renewed_one_is_taken() {
    let stage = Stage::selecting("n3");
    let token = stage.node.folder().join("token");
    std::fs::write(&token, format!("{TOKEN}\n")).expect("a file");
    let kubeconfig = stage.node.folder().join("kubeconfig");
    let cluster = json!({ "server": stage.server.url(), "certificate-authority": stage.server.ca() });
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{ "name": "c", "cluster": cluster }],
        "users": [{ "name": "u", "user": { "tokenFile": "token" } }],
        "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
    });
    std::fs::write(&kubeconfig, text.to_string()).expect("a file");
    let mut configuration = stage.configuration();
    configuration["kubeconfig"] = json!(kubeconfig);
    stage.add(&configuration);
    stage.call("DEL", &configuration).expect("detached");
    stage.server.set_tokens(Some(&["another"]));
    let (code, message) = stage.add_fails(&configuration);
    assert_eq!(code, 100, "{message}");
    let part =
        format!("GET pod core/upf-0: {} says 401: the token in {}", stage.server.url(), token.display());
    assert!(message.contains(&part), "{message}");
    assert!(!message.contains(TOKEN), "{message}");
    std::fs::write(&token, "two\nlines").expect("a file");
    let (code, message) = stage.add_fails(&configuration);
    assert!(code == 7 && message.contains(&format!("the token in {} has", token.display())), "{message}");
    std::fs::write(&token, "another").expect("renewed");
    stage.add(&configuration);
    assert_eq!(stage.pod.interfaces(), ["eth0", "net1"]);
}

#[test]
fn a_rotated_authority_is_trusted_and_a_foreign_one_is_named() {
    let stage = Stage::selecting("n3");
    let old = std::fs::read(stage.server.ca()).expect("the CA");
    stage.server.rotate_ca().expect("another CA");
    let new = std::fs::read(stage.server.ca()).expect("the CA");
    std::fs::write(stage.server.ca(), &old).expect("a file");
    let began = Instant::now();
    let (code, message) = stage.add_fails(&stage.configuration());
    assert_eq!(code, 7, "{message}");
    assert!(message.contains("certificate authority") && message.contains("kubeconfig"), "{message}");
    assert!(began.elapsed() < PATIENCE);
    std::fs::write(stage.server.ca(), &new).expect("a file");
    stage.add(&stage.configuration());
}

#[test]
fn a_kubeconfig_that_cannot_be_used_is_named() {
    let stage = Stage::selecting("n3");
    let mut configuration = stage.configuration();
    configuration["kubeconfig"] = json!("/nonexistent/kubeconfig");
    let (code, message) = stage.add_fails(&configuration);
    assert_eq!(code, 7, "{message}");
    assert!(message.contains("kubeconfig /nonexistent/kubeconfig: "), "{message}");
    let broken = stage.node.folder().join("broken");
    let text = std::fs::read_to_string(stage.server.kubeconfig()).expect("a kubeconfig");
    std::fs::write(&broken, text.replace("\"clusters\"", "\"clusters\": 7, \"x\"")).expect("a file");
    configuration["kubeconfig"] = json!(broken);
    let (_, message) = stage.add_fails(&configuration);
    assert!(message.contains(&broken.display().to_string()), "{message}");
    assert!(!message.contains(TOKEN), "no token in errors: {message}");
}

#[test]
fn an_api_server_that_is_down_is_an_error_within_the_deadline() {
    let stage = Stage::selecting("n3");
    stage.server.down().expect("down");
    let began = Instant::now();
    let (code, message) = stage.add_fails(&stage.configuration());
    assert!(began.elapsed() < PATIENCE);
    assert_eq!(code, 11, "{message}");
    for part in ["GET pod core/upf-0", &stage.server.url(), "refused", "tries", "kubeconfig"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    // Annotations are there, but the status cannot be written.
    stage.node.usual_nads();
    let mut configuration = stage.configuration_with_annotations("n3");
    configuration["nadDir"] = json!(stage.node.nads());
    let (code, message) = stage.add_fails(&configuration);
    assert_eq!(code, 11, "{message}");
    assert!(message.contains("PATCH pod core/upf-0 (network-status)"), "{message}");
    stage.server.up().expect("up");
    stage.add(&configuration);
}

#[test]
fn an_api_server_that_comes_back_soon_is_waited_for() {
    let stage = Stage::selecting("n3");
    for (verb, path, fault) in [
        ("get", "pods/upf-0", Fault::Reset),
        ("get", "pods/upf-0", Fault::Answer { code: 503, retry_after: None }),
        ("get", "network-attachment-definitions/n3", Fault::Answer { code: 429, retry_after: Some(1) }),
        ("patch", "pods/upf-0", Fault::Answer { code: 500, retry_after: None }),
        ("patch", "pods/upf-0", Fault::ResetAfter),
        ("create", "events", Fault::ResetAfter),
    ] {
        stage.server.fail(1, verb, path, fault);
    }
    stage.add(&stage.configuration());
    assert_eq!(stage.status().expect("a status")[1]["name"], "core/n3");
    assert_eq!(stage.server.count("get", "pods/upf-0"), 3);
    let names: Vec<_> = stage.events().into_iter().map(|(_, _, message)| message).collect();
    assert_eq!(names.len(), 2, "each once: {names:?}");
}

#[test]
fn an_api_server_that_never_answers_is_an_error_within_the_deadline() {
    let stage = Stage::selecting("n3");
    stage.server.fail(usize::MAX, "patch", "pods/upf-0", Fault::Hang);
    let began = Instant::now();
    let (code, message) = stage.add_fails(&stage.configuration());
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    assert_eq!(code, 11, "{message}");
    assert!(message.contains("it takes too long"), "{message}");
}

#[test]
fn a_slow_api_server_is_waited_for() {
    let stage = Stage::selecting("n3");
    stage.server.set_delay(Duration::from_millis(700));
    stage.add(&stage.configuration());
    assert_eq!(stage.events().len(), 2);
}

#[test]
fn an_answer_that_is_no_status_is_an_error_with_its_code() {
    let stage = Stage::selecting("n3");
    stage.server.fail(usize::MAX, "get", "pods/upf-0", Fault::Text { code: 404 });
    let (_, message) = stage.add_fails(&stage.configuration());
    assert!(message.contains("GET pod core/upf-0") && message.contains("404"), "{message}");
}
