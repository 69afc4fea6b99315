//! What runs at the same time and what does not, and how little DEL needs.

use crate::harness::{answer, files};
use crate::recorded::Recorded;
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Writes down when it begins and ends. In its first call of a container it waits for the other container.
const MEETING: &str = r#"#!/bin/sh
cd FOLDER; cat > /dev/null
echo "begin $CNI_IFNAME" >> "log-$CNI_CONTAINERID"
if [ $CNI_COMMAND = ADD ] && [ $CNI_IFNAME = eth0 ]; then
  touch "here-$CNI_CONTAINERID"; n=0
  until [ -e here-first ] && [ -e here-second ]; do
    n=$((n + 1)); [ $n -lt 1200 ] || { echo '{"code": 11, "msg": "nobody came"}'; exit 1; }
    sleep 0.05
  done
fi
[ $CNI_COMMAND != ADD ] || echo '{"cniVersion": "1.0.0"}'
echo "end $CNI_IFNAME" >> "log-$CNI_CONTAINERID"
"#;

#[test]
fn a_pods_networks_come_one_after_the_other_and_pods_side_by_side() {
    let mut lab = Recorded::new();
    let folder = lab.path("meet").parent().expect("a folder").display().to_string();
    std::fs::write(lab.path("meet"), MEETING.replace("FOLDER", &folder)).expect("written");
    std::fs::set_permissions(lab.path("meet"), PermissionsExt::from_mode(0o755)).expect("executable");
    lab.node.nad("meet", &json!({"cniVersion": "1.0.0", "type": "meet"}));
    let mut configuration = lab.configuration("1.0.0", "meet, meet");
    configuration["clusterNetwork"] = json!("core/meet");
    let text = configuration.to_string();
    let pods = [("first", lab.node.pod()), ("second", lab.node.pod())];
    std::thread::scope(|scope| {
        let add = |(id, pod): &(&'static str, crate::harness::Pod)| {
            let (node, text, id, netns) = (&lab.node, &text, *id, pod.path());
            scope.spawn(move || node.call_in("ADD", id, &netns, text))
        };
        let calls: Vec<_> = pods.iter().map(add).collect();
        for call in calls {
            call.join().expect("no panic").expect("the other pod's plugin runs meanwhile");
        }
    });
    for (id, _) in &pods {
        let log = std::fs::read_to_string(lab.path(&format!("log-{id}"))).expect("read");
        let lines: Vec<_> = log.lines().collect();
        let expected = ["begin eth0", "end eth0", "begin net1", "end net1", "begin net2", "end net2"];
        assert_eq!(lines, expected, "{id}");
    }
}

#[test]
fn del_needs_container_and_interface_only() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    let configuration = lab.configuration("1.1.0", "chain");
    lab.add(&pod, &configuration);
    let mut bare = configuration.clone();
    bare.as_object_mut().expect("an object").remove("runtimeConfig");
    for _ in 0..2 {
        // No prevResult, and of the environment no more than the specification requires.
        let output = lab.node.run_in(
            "DEL",
            &pod.name,
            Path::new(""),
            &bare.to_string(),
            &[("CNI_NETNS", ""), ("CNI_ARGS", "")],
        );
        assert_eq!(answer(&output), Ok(None));
    }
    assert_eq!(lab.calls()[2..], ["DEL-net1-two", "DEL-net1-one"]);
    assert_eq!(files(&lab.node.records()), Vec::<String>::new());
}
