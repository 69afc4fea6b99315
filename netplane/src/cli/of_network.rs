//! `netplane status --network`: what concerns one network.

use crate::agent::status::Status;
use anyhow::{Result, bail};

/// Leaves only what concerns the network: it, its masters, endpoints and sessions, and problems that name it.
///
/// # Errors
/// There is no such network; the error names those that there are.
pub(super) fn only(status: &mut Status, network: &str) -> Result<()> {
    let Some(found) = status.networks.iter().find(|it| it.name == network).cloned() else {
        let known: Vec<_> = status.networks.iter().map(|it| it.name.as_str()).collect();
        bail!("no network {network} on the fast path; there are: {}", known.join(", "));
    };
    status.masters.retain(|it| found.masters.contains(&it.name));
    status.endpoints.retain(|it| it.network == network);
    status.sessions.retain(|it| it.network == network);
    // `NAD core/n3`, not `NAD core/n33`.
    let names = |text: &str| text.split([' ', ':', ',']).any(|it| it == network);
    status.problems.retain(|it| names(&it.object) || names(&it.message));
    status.networks = vec![found];
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::status::NetworkStatus;
    use crate::nad::fast_path::Role;
    use crate::world::Problem;
    use std::collections::BTreeMap;

    #[test]
    fn others_are_left_out_and_an_unknown_one_is_an_error() {
        let network = |name: &str| NetworkStatus {
            name: name.to_owned(),
            role: Role::Access,
            masters: Vec::new(),
            counters: BTreeMap::new(),
            path_failures: None,
        };
        let problem = |object: &str| Problem { object: object.to_owned(), message: String::new() };
        let mut status = Status {
            networks: vec![network("core/n3"), network("core/n33")],
            problems: vec![problem("session a of NAD core/n3: x"), problem("NAD core/n33")],
            ..Status::default()
        };
        let error = only(&mut status.clone(), "core/n4").expect_err("unknown").to_string();
        assert!(error.contains("core/n3, core/n33"), "{error}");
        only(&mut status, "core/n3").expect("known");
        assert_eq!((status.networks.len(), status.problems.len()), (1, 1));
    }
}
