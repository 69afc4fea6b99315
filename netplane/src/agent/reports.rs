//! What ADDs did, as the plugin has handed it over or, where the agent died in between, as their records say:
//! written to the pods until that has worked or there is nothing to say any more.

use super::metrics::Metrics;
use crate::attach::record::AttachmentRecord;
use crate::attach::status;
use crate::attach::store::RecordStore;
use crate::cluster::cache::PodReport;
use crate::cluster::{Access, PodName, Reporter};
use crate::sources::cluster::{Found, View};
use crate::sources::files::read_records;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Reports that wait. With more than that the plugin writes for itself: an agent must not grow without end
/// in an outage.
const MOST_WAITING: usize = 512;

/// Which pod: namespace and name.
type Pod = (String, String);

/// Reports on their way.
pub(super) struct Reports {
    reporter: Reporter,
    view: Arc<View>,
    record_dir: PathBuf,
    metrics: Arc<Metrics>,
    /// By number, in the order in which they came; with the pod where there is a status to write.
    waiting: Mutex<BTreeMap<u64, Option<Pod>>>,
    number: AtomicU64,
}

impl Reports {
    pub(super) fn new(access: Access, view: Arc<View>, record_dir: &Path, metrics: Arc<Metrics>) -> Self {
        Self {
            reporter: Reporter::new(access),
            view,
            record_dir: record_dir.to_owned(),
            metrics,
            waiting: Mutex::default(),
            number: AtomicU64::new(0),
        }
    }

    /// Takes a report over, to be written in the background. False: the plugin must write it. So it is while
    /// the cluster cannot be followed, and with records in a folder that the agent does not see.
    pub(super) fn take(self: &Arc<Self>, pod: PodName, report: PodReport) -> bool {
        // They have happened, whoever posts them.
        self.metrics.events(&report.events);
        if let Some(milliseconds) = report.milliseconds {
            self.metrics.attached(Duration::from_millis(milliseconds), report.network_status.is_some());
        }
        let ready = self.view.pod(&pod.namespace, &pod.name) != Found::NotYet;
        if !ready || !self.is_attached(&report) {
            return false;
        }
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let key = (pod.namespace.clone(), pod.name.clone());
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= MOST_WAITING {
            return false;
        }
        waiting.insert(number, report.network_status.is_some().then(|| key.clone()));
        drop(waiting);
        let this = self.clone();
        tokio::spawn(async move {
            // A newer report of the same pod says it all.
            let wanted = || this.newest(&key).is_none_or(|it| it <= number) && this.is_attached(&report);
            let failed = || this.metrics.api_error("reports");
            if this.reporter.write(&pod, &report, wanted, failed).await && report.network_status.is_some() {
                this.metrics.status_written();
            }
            this.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        });
        true
    }

    fn newest(&self, pod: &Pod) -> Option<u64> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.iter().rev().find(|(_, it)| it.as_ref() == Some(pod)).map(|(number, _)| *number)
    }

    /// Whether the attachments that a report is about are there: a status of what has been detached must not
    /// be written any more. A failed ADD has left none, and says so all the same.
    fn is_attached(&self, report: &PodReport) -> bool {
        let record = RecordStore::new(&self.record_dir).path(&report.container_id, &report.interface);
        report.network_status.is_none() || record.is_file()
    }

    /// Writes what an agent that died had taken over: pods of this node with a record and no status.
    pub(super) fn recover(self: &Arc<Self>) {
        let (records, _) = read_records(&self.record_dir);
        for record in records.into_values() {
            self.recover_one(&record);
        }
    }

    fn recover_one(self: &Arc<Self>, record: &AttachmentRecord) {
        let Some(pod) = &record.pod else { return };
        let Found::Yes(known) = self.view.pod(&pod.namespace, &pod.name) else { return };
        let same = pod.uid.as_ref().is_none_or(|it| *it == known.uid);
        let waits = self.newest(&(pod.namespace.clone(), pod.name.clone())).is_some();
        if !same || waits || !self.view.lacks_status(&pod.namespace, &pod.name) {
            return;
        }
        let name = PodName {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: Some(known.uid.clone()),
        };
        let mut report = status::report(record, Some(known.uid));
        // They are of another time, and some of them have been posted.
        report.events.clear();
        self.take(name, report);
    }
}
