//! The roles against the requests that plugin and agent make: each verb is needed, and none is missing.

use super::manifests::variant;
use crate::agent::lab;
use crate::agent_cluster::{Caller, api_server, until_reported};
use crate::attach_claims::Claims;
use crate::cluster::Stage;
use crate::kubelet::{Kubelet, claiming, pod};
use netplane_bench::lab::apiserver::{ApiServer, Entry, Fault};
use serde_json::Value;
use std::collections::BTreeSet;

/// `verb group/resource/subresource`.
type Rights = BTreeSet<String>;

/// What the ClusterRole of this name allows.
fn allowed(role: &str) -> Rights {
    let objects = [variant("full"), variant("dra")].concat();
    let is = |it: &&Value| it["kind"] == "ClusterRole" && it["metadata"]["name"] == role;
    let role = objects.iter().find(is).expect("the role");
    let texts = |list: &Value| -> Vec<String> {
        let list = list.as_array().expect("a list").iter();
        list.map(|it| it.as_str().expect("a string").to_owned()).collect()
    };
    let mut rights = Rights::new();
    for rule in role["rules"].as_array().expect("rules") {
        for (group, resource) in texts(&rule["apiGroups"])
            .iter()
            .flat_map(|group| texts(&rule["resources"]).into_iter().map(move |it| (group.clone(), it)))
        {
            rights.extend(texts(&rule["verbs"]).iter().map(|verb| format!("{verb} {group}/{resource}")));
        }
    }
    rights
}

/// What a request needs, by its path.
fn needed(entry: &Entry) -> String {
    let segments: Vec<&str> = entry.path.trim_matches('/').split('/').collect();
    let (group, rest) = match &segments[..] {
        ["api", _, rest @ ..] => ("", rest),
        ["apis", group, _, rest @ ..] => (*group, rest),
        other => panic!("{other:?}"),
    };
    let rest = if let ["namespaces", _, rest @ ..] = rest { rest } else { rest };
    let subresource = rest.get(2).map(|it| format!("/{it}")).unwrap_or_default();
    format!("{} {group}/{}{subresource}", entry.verb, rest[0])
}

fn needs(server: &ApiServer) -> Rights {
    server.take_journal().iter().map(needed).collect()
}

#[test]
fn the_plugins_role_is_what_the_plugin_asks_for() {
    let stage = Stage::selecting("n3,n6");
    stage.server.take_journal();
    stage.add(&stage.configuration());
    assert_eq!(needs(&stage.server), allowed("netplane-plugin"));
}

#[test]
fn the_roles_for_claims_are_what_claims_take() {
    let mut claims = Claims::new();
    let kubelet = Kubelet::serve(vec![claiming(pod("core", "upf-0", &[&[]]), &["b", "a"])], true);
    let pod = claims.lab.recorded.node.pod();
    let configuration = claims.configuration(&kubelet, "plain,plain");
    claims.server.take_journal();
    claims.lab.recorded.add(&pod, &configuration);
    let dra = allowed("netplane-plugin-dra");
    let asked = needs(&claims.server);
    let of_claims: Rights = asked.iter().filter(|it| it.contains("resource.k8s.io")).cloned().collect();
    assert_eq!(of_claims, dra);
    assert!(asked.is_subset(&allowed("netplane-plugin").union(&dra).cloned().collect()), "{asked:?}");
}

/// Start, an ADD that the agent reports, and somebody else's write in between.
#[test]
fn the_agents_role_is_what_the_agent_asks_for() {
    let lab = lab();
    let server = api_server(&lab);
    let caller = Caller::new(&lab, &server);
    server.take_journal();
    let agent = caller.agent(&server);
    server.fail(1, "patch", "/status", Fault::Answer { code: 409, retry_after: None });
    caller.call("ADD", &agent);
    until_reported(&server, &agent);
    agent.terminate().expect("a clean end");
    assert_eq!(needs(&server), allowed("netplane-agent"));
}

/// Each account has its role, and is one that a DaemonSet runs under.
#[test]
fn accounts_are_bound_to_their_roles() {
    let objects = variant("full");
    let of = |kind: &str| objects.iter().filter(move |it| it["kind"] == kind).collect::<Vec<_>>();
    let accounts: BTreeSet<_> =
        of("ServiceAccount").iter().map(|it| it["metadata"]["name"].clone().to_string()).collect();
    let used: BTreeSet<_> = of("DaemonSet")
        .iter()
        .map(|it| it["spec"]["template"]["spec"]["serviceAccountName"].to_string())
        .collect();
    let bound: BTreeSet<_> =
        of("ClusterRoleBinding").iter().map(|it| it["subjects"][0]["name"].to_string()).collect();
    assert_eq!((&accounts, &accounts), (&used, &bound));
    let roles: BTreeSet<_> = of("ClusterRole").iter().map(|it| it["metadata"]["name"].to_string()).collect();
    let given: BTreeSet<_> =
        of("ClusterRoleBinding").iter().map(|it| it["roleRef"]["name"].to_string()).collect();
    assert_eq!(roles, given);
}
