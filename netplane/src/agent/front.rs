//! The agent towards plugin and cluster: socket, watches and reports, on a thread of their own. A reconcile of
//! many sessions keeps the loop for long, and no pod must wait for it.

use super::metrics::Metrics;
use super::reports::Reports;
use super::unattached::Watchman;
use super::{AgentError, Event, Options, metrics, socket, start_thread};
use crate::cluster::Reporter;
use crate::sources;
use crate::sources::cluster::{self, View};
use std::future::pending;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Listens, and starts the thread. It ends with the process.
pub(super) fn start(
    options: &Options,
    events: mpsc::UnboundedSender<Event>,
    facts: sources::Send,
    counters: Arc<Metrics>,
) -> Result<(), AgentError> {
    let listener = socket::bind(&options.socket)?;
    let scraped = options.metrics.map(metrics::bind).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime
        .map_err(|source| AgentError::Io { operation: "start the socket's runtime".to_owned(), source })?;
    let options = options.clone();
    start_thread("front", move || {
        runtime.block_on(async {
            let scrapes = metrics::serve(scraped, counters.clone(), events.clone());
            let Some(place) = &options.cluster else {
                tokio::join!(socket::serve(listener, socket::router(events, counters, None)), scrapes);
                return;
            };
            let view = Arc::new(View::default());
            let reports =
                Reports::new(place.access.clone(), view.clone(), &options.record_dir, counters.clone());
            let reports = Arc::new(reports);
            let watchman = Watchman::new(
                Reporter::new(place.access.clone()),
                view.clone(),
                &options.record_dir,
                counters.clone(),
                options.unattached_after,
            );
            let router = socket::router(events, counters, Some((view.clone(), reports.clone())));
            let follow = async {
                cluster::follow(place, &view, &facts, &|| reports.recover()).await;
                pending::<()>().await;
            };
            tokio::join!(socket::serve(listener, router), scrapes, follow, watchman.run(&facts));
        });
    })
}
