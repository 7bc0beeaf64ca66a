//! One trace from a call to the mail that follows from it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use opentelemetry_proto::tonic::trace::v1::Span;

use crate::Seen;
use crate::collector::{Collector, attribute};

/// Where a trace comes by, in this order: who, and what it does there.
const WAY: [(&str, &str); 7] = [
    ("gateway", "phasegate.worker.v1.WorkerService/CompleteTask"),
    ("instance", "phasegate.worker.v1.WorkerService/CompleteTask"),
    ("instance", "send approvals_needed"),
    ("approval", "receive approvals_needed"),
    ("approval", "send approvals_requested"),
    ("notification", "receive approvals_requested"),
    ("notification", "mail approval_requested"),
];

pub(crate) fn look(seen: &Seen) -> anyhow::Result<()> {
    follow(&seen.collector, &seen.instance)
}

/// Finds one trace of an instance that goes all the way.
pub(crate) fn follow(collector: &Collector, instance: &str) -> anyhow::Result<()> {
    let spans = collector.spans();
    ensure!(!spans.is_empty(), "the collector got nothing");
    let mut traces: BTreeMap<String, Vec<(&str, &Span)>> = BTreeMap::new();
    for (service, span) in &spans {
        traces.entry(hex::encode(&span.trace_id)).or_default().push((service, span));
    }
    let whole = traces.values().find(|spans| {
        WAY.iter().all(|(service, name)| {
            spans
                .iter()
                .any(|(by, span)| span.name == *name && by.strip_prefix("phasegate-") == Some(service))
        })
    });
    let whole = whole.with_context(|| {
        let names: BTreeSet<(&str, &str)> =
            spans.iter().map(|(service, span)| (service.as_str(), span.name.as_str())).collect();
        format!("no trace goes all the way: {names:?}")
    })?;
    // Everything in it hangs together: one root, and every parent is there.
    let ids: BTreeSet<&[u8]> = whole.iter().map(|(_, span)| span.span_id.as_slice()).collect();
    let roots: Vec<_> = whole.iter().filter(|(_, span)| span.parent_span_id.is_empty()).collect();
    ensure!(roots.len() == 1, "a trace has one beginning: {roots:?}");
    for (_, span) in whole {
        let parent = span.parent_span_id.as_slice();
        ensure!(parent.is_empty() || ids.contains(parent), "the parent of {} was not sent", span.name);
    }
    let (_, handed_in) = whole
        .iter()
        .find(|(by, span)| *by == "phasegate-instance" && span.name.ends_with("/CompleteTask"))
        .context("the hand-in")?;
    ensure!(attribute(handed_in, "rpc.system.name") == Some("grpc"));
    ensure!(attribute(handed_in, "rpc.response.status_code") == Some("OK"));
    ensure!(attribute(handed_in, "phasegate.tenant.id") == Some("default"));
    ensure!(attribute(handed_in, "phasegate.instance.id") == Some(instance), "{handed_in:?}");
    ensure!(attribute(handed_in, "phasegate.process.id") == Some("enterprise_sso_deployment"));
    ensure!(attribute(handed_in, "phasegate.task.id").is_some());
    // The process is many traces, not one.
    ensure!(traces.len() > 20, "there are {} traces", traces.len());
    Ok(())
}
