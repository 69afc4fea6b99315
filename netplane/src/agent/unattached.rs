//! Pods of this node that select networks and run without them: those that started before the meta-plugin's
//! configuration was the runtime's first one, as after a reboot. Nothing else ever tells of them: no plugin was
//! called, so none has failed.

use super::metrics::Metrics;
use crate::cluster::cache::{NOT_ATTACHED, PodEvent, PodReport};
use crate::cluster::{PodName, Reporter, Running, is_static};
use crate::nad::NetworkName;
use crate::nad::selection::{DEFAULT_NETWORK_ANNOTATION, NETWORKS_ANNOTATION};
use crate::sources::cluster::View;
use crate::sources::files::read_records;
use crate::sources::{self, Fact};
use crate::world::Problem;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Which pod: its name, and the UID that tells it from its predecessor.
type Key = (NetworkName, String);

/// What is known of a pod without attachment.
struct Suspect {
    since: Instant,
    /// The networks that it selects, as its annotation has them.
    selects: String,
    verdict: Verdict,
}

/// What the API server said of a pod when it was time to ask.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Nothing yet.
    Open,
    /// It runs without its networks, and that has been said.
    Told,
    /// It needs none of us.
    Fine,
}

/// Looks at the pods from time to time.
pub(super) struct Watchman {
    reporter: Reporter,
    view: Arc<View>,
    record_dir: PathBuf,
    metrics: Arc<Metrics>,
    /// For so long a pod may be on its way, and its record or status not be seen yet.
    grace: Duration,
    suspects: BTreeMap<Key, Suspect>,
}

impl Watchman {
    pub(super) fn new(
        reporter: Reporter,
        view: Arc<View>,
        record_dir: &Path,
        metrics: Arc<Metrics>,
        grace: Duration,
    ) -> Self {
        let record_dir = record_dir.to_owned();
        Self { reporter, view, record_dir, metrics, grace, suspects: BTreeMap::new() }
    }

    /// Looks for ever. What it finds is a fact for the loop, which shows it as problems.
    pub(super) async fn run(mut self, send: &sources::Send) {
        let pause = (self.grace / 4).clamp(Duration::from_millis(200), Duration::from_secs(10));
        let mut last = Vec::new();
        loop {
            tokio::time::sleep(pause).await;
            self.look().await;
            let problems = self.problems();
            if problems != last {
                self.metrics.unattached(problems.len());
                send(Fact::Unattached(problems.clone()));
                last = problems;
            }
        }
    }

    async fn look(&mut self) {
        // While the watch does not know, nobody becomes a suspect, and nobody stops being one.
        let Some(selecting) =
            self.view.pods_without_status(&[NETWORKS_ANNOTATION, DEFAULT_NETWORK_ANNOTATION])
        else {
            return;
        };
        let (records, _) = read_records(&self.record_dir);
        let attached: BTreeSet<_> = records
            .values()
            .filter_map(|it| it.pod.as_ref())
            .map(|it| (it.namespace.as_str(), it.name.as_str(), it.uid.as_deref()))
            .collect();
        let has_record = |name: &NetworkName, uid: &str, is_static: bool| {
            attached.iter().any(|(namespace, pod, of)| {
                (*namespace, *pod) == (name.namespace.as_str(), name.name.as_str())
                    && of.is_none_or(|it| it == uid || is_static)
            })
        };
        let mut suspects = BTreeMap::new();
        for (name, pod) in selecting {
            if has_record(&name, &pod.uid, is_static(&pod.annotations)) {
                continue;
            }
            let selects = pod.annotations.get(NETWORKS_ANNOTATION).cloned().unwrap_or_default();
            let key = (name, pod.uid);
            let known = self.suspects.remove(&key);
            let new = || Suspect { since: Instant::now(), selects: String::new(), verdict: Verdict::Open };
            suspects.insert(key, Suspect { selects, ..known.unwrap_or_else(new) });
        }
        self.suspects = suspects;
        let is_due = |it: &Suspect| it.verdict == Verdict::Open && it.since.elapsed() >= self.grace;
        let due = self.suspects.iter().filter(|(_, it)| is_due(it));
        for key in due.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.ask(&key).await;
        }
    }

    /// A pod that has waited long enough: the API server knows whether it runs at all.
    async fn ask(&mut self, key: &Key) {
        let (name, uid) = key;
        let pod =
            PodName { namespace: name.namespace.clone(), name: name.name.clone(), uid: Some(uid.clone()) };
        let running = self.reporter.running(&pod).await;
        let Some(suspect) = self.suspects.get_mut(key) else { return };
        match running {
            Ok(Running::WithoutNetworks) => {}
            // Not yet, or not any more, or an outage: it is asked again.
            Ok(Running::No) => return,
            Ok(Running::OtherwiseAttached) => {
                suspect.verdict = Verdict::Fine;
                return;
            }
            Err(error) => {
                tracing::debug!(%error, %pod, "whether it runs is not known");
                return;
            }
        }
        suspect.verdict = Verdict::Told;
        let message = message(&suspect.selects);
        tracing::warn!(%pod, message, "not attached");
        let events = vec![PodEvent { warning: true, reason: NOT_ATTACHED.to_owned(), message }];
        self.metrics.events(&events);
        let report = PodReport { uid: Some(uid.clone()), events, ..PodReport::default() };
        let failed = || self.metrics.api_error("reports");
        self.reporter.write(&pod, &report, || true, failed).await;
    }

    fn problems(&self) -> Vec<Problem> {
        let told = self.suspects.iter().filter(|(_, it)| it.verdict == Verdict::Told);
        let problem = |((name, _), it): (&Key, &Suspect)| Problem {
            object: format!("pod {name}"),
            message: message(&it.selects),
        };
        told.map(problem).collect()
    }
}

fn message(selects: &str) -> String {
    let selects = selects.split_whitespace().collect::<Vec<_>>().join(" ");
    let selects =
        if selects.is_empty() { DEFAULT_NETWORK_ANNOTATION.to_owned() } else { format!("\"{selects}\"") };
    format!(
        "runs without the networks that it selects ({selects}): it started while another CNI configuration was \
         the runtime's first; delete the pod, so that it is made anew"
    )
}
