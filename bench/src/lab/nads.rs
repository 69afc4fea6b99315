//! The examples' NADs, put where netplane looks for them; with more sessions where they are asked for.

use super::users::{User, users};
use super::{GNB, Lab};
use anyhow::{Context, Result};
use netplane::nad::dir::{Loaded, load_file};
use netplane::nad::fast_path::FAST_PATH_ANNOTATION;
use serde_json::{Value, json};

/// The files themselves, as they are in the repository.
const EXAMPLES: [(&str, &str); 3] = [
    ("default-network.yaml", include_str!("../../../examples/nads/default-network.yaml")),
    ("n3.yaml", include_str!("../../../examples/nads/n3.yaml")),
    ("n6.yaml", include_str!("../../../examples/nads/n6.yaml")),
];

/// Sessions of the examples.
pub const EXAMPLE_SESSIONS: u32 = 3;

/// Applies the examples; n3 with this many sessions.
///
/// # Errors
/// The examples are not what they should be, or the lab's folder is full.
pub fn apply(lab: &Lab, sessions: u32) -> Result<()> {
    for (name, text) in EXAMPLES {
        lab.write_nad(name, text.as_bytes())?;
    }
    if sessions <= EXAMPLE_SESSIONS {
        return Ok(());
    }
    let path = lab.nad_dir().join("n3.yaml");
    let mut loaded = Loaded::default();
    load_file(&path, &mut loaded);
    let (_, nad) = loaded.nads.first().context("examples/nads/n3.yaml holds no NAD")?;
    let annotation = nad.annotations.get(FAST_PATH_ANNOTATION).context("n3 has no metadata")?;
    let mut metadata: Value = serde_json::from_str(annotation)?;
    metadata["sessions"] = users(sessions).iter().map(session).collect();
    let nad = json!({
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {
            "name": "n3", "namespace": "core",
            "annotations": { FAST_PATH_ANNOTATION: metadata.to_string() }
        },
        "spec": { "config": nad.config },
    });
    lab.write_nad("n3.yaml", nad.to_string().as_bytes())
}

fn session(user: &User) -> Value {
    let mut downlink = json!({ "peer": GNB, "teid": user.downlink.to_string() });
    if let Some(qfi) = user.qfi {
        downlink["qfi"] = json!(qfi);
    }
    json!({
        "name": format!("ue-{}", user.ue),
        "ue": [user.ue],
        "uplink": { "teid": user.uplink.to_string(), "to": "core/n6" },
        "downlink": downlink,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use netplane::nad::fast_path::FastPath;
    use std::path::Path;

    #[test]
    fn the_first_users_are_those_of_the_example() {
        let mut loaded = Loaded::default();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/nads/n3.yaml");
        load_file(Path::new(path), &mut loaded);
        assert_eq!(loaded.problems, []);
        let (_, nad) = &loaded.nads[0];
        let metadata = FastPath::parse(&nad.annotations[FAST_PATH_ANNOTATION]).unwrap();
        assert_eq!(metadata.sessions.len(), EXAMPLE_SESSIONS as usize);
        for (session, user) in metadata.sessions.iter().zip(users(EXAMPLE_SESSIONS)) {
            let (uplink, downlink) = (session.uplink.as_ref().unwrap(), session.downlink.as_ref().unwrap());
            assert_eq!(session.ue4, Some(user.ue));
            assert_eq!((uplink.teid, downlink.teid), (user.uplink.0, user.downlink.0));
            assert_eq!((downlink.peer, downlink.qfi), (GNB.into(), user.qfi));
        }
    }
}
