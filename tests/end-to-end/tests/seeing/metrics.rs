//! Every number that the documentation names is there, and says something sensible.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};

use crate::Seen;

/// Samples by name and labels.
struct Page(BTreeMap<String, f64>);

impl Page {
    fn read(text: &str) -> anyhow::Result<Self> {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let samples = lines.map(|line| {
            let (series, value) = line.rsplit_once(' ').context("a value")?;
            Ok((series.to_owned(), value.parse()?))
        });
        Ok(Self(samples.collect::<anyhow::Result<_>>()?))
    }

    /// The sum of all series of a name whose labels contain all of these.
    fn sum(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let fits = |series: &str| {
            let (found, rest) = series.split_once('{').unwrap_or((series, ""));
            found == name && labels.iter().all(|label| rest.contains(label))
        };
        let found: Vec<f64> =
            self.0.iter().filter(|(series, _)| fits(series)).map(|(_, value)| *value).collect();
        (!found.is_empty()).then(|| found.iter().sum())
    }
}

pub(crate) fn look(seen: &Seen) -> anyhow::Result<()> {
    let page = Page::read(&seen.metrics)?;
    let process = "process_id=\"enterprise_sso_deployment\"";
    let architect = "queue=\"sso-specialist\"";
    let email = "medium=\"email\"";
    // What must be there, and at least how much of it.
    let least: &[(&str, &[&str], f64)] = &[
        ("phasegate_build_info", &["service=\"gateway\"", "version=\"0.1.0\""], 1.0),
        ("phasegate_build_info", &[], 7.0),
        ("phasegate_instances", &[process, "status=\"running\"", "health=\"ok\""], 1.0),
        ("phasegate_instance_transitions_total", &[process, "to=\"running\""], 2.0),
        ("phasegate_instance_transitions_total", &[process, "to=\"completed\""], 1.0),
        ("phasegate_phase_duration_seconds_count", &[process, "phase=\"discovery\""], 1.0),
        ("phasegate_phase_duration_seconds_count", &[process], 4.0),
        ("phasegate_task_queue_ready", &[architect], 0.0),
        ("phasegate_task_queue_leased", &[architect], 1.0),
        ("phasegate_task_queue_oldest_ready_age_seconds", &[architect], 0.0),
        ("phasegate_task_schedule_to_start_seconds_count", &[architect], 2.0),
        ("phasegate_task_run_seconds_count", &["outcome=\"completed\""], 8.0),
        ("phasegate_task_attempts_total", &["outcome=\"completed\""], 8.0),
        ("phasegate_task_attempts_total", &["outcome=\"failed\""], 1.0),
        ("phasegate_task_attempts_total", &[architect, "outcome=\"released\""], 1.0),
        ("phasegate_lease_lost_total", &[architect, "call=\"complete\""], 1.0),
        ("phasegate_workers", &[architect], 1.0),
        ("phasegate_worker_slots", &[architect], 1.0),
        ("phasegate_worker_slots_free", &[architect], 1.0),
        ("phasegate_approvals_pending", &[process, "overdue=\"false\""], 0.0),
        ("phasegate_approvals_pending", &[process, "overdue=\"true\""], 0.0),
        ("phasegate_approval_oldest_pending_age_seconds", &[], 0.0),
        ("phasegate_approval_response_seconds_count", &[process, "outcome=\"approved\""], 8.0),
        ("phasegate_approval_response_seconds_count", &[process, "outcome=\"changes_requested\""], 1.0),
        ("phasegate_link_exchanges_total", &["result=\"ok\""], 2.0),
        ("phasegate_link_exchanges_total", &["result=\"unknown\""], 1.0),
        ("phasegate_portal_decisions_total", &["result=\"approved\"", "channel=\"portal\""], 9.0),
        (
            "phasegate_notifications_total",
            &[email, "template=\"approval_requested\"", "status=\"sent\""],
            2.0,
        ),
        ("phasegate_notification_delivery_seconds_count", &[email, "status=\"sent\""], 2.0),
        ("phasegate_outbox_pending", &["service=\"instance\"", "topic=\"send\""], 0.0),
        ("phasegate_outbox_oldest_age_seconds", &["service=\"approval\"", "topic=\"confirm\""], 0.0),
        ("phasegate_dead_letters", &["service=\"notification\""], 0.0),
        ("phasegate_timer_lag_seconds_count", &["service=\"notification\"", "kind=\"mail\""], 2.0),
        ("phasegate_watch_streams", &["service=\"instance\"", "kind=\"events\""], 0.0),
        ("phasegate_watch_lag_events_count", &["service=\"instance\"", "kind=\"events\""], 1.0),
        ("phasegate_db_pool_connections", &["service=\"definition\"", "state=\"idle\""], 1.0),
        ("phasegate_db_pool_connections", &["service=\"instance\"", "state=\"used\""], 0.0),
        ("phasegate_audit_chain_ok", &[], 1.0),
    ];
    for (name, labels, least) in least {
        let sum = page
            .sum(name, labels)
            .with_context(|| format!("{name}{labels:?} is missing:\n{}", seen.metrics))?;
        ensure!(sum >= *least, "{name}{labels:?} is {sum}, not at least {least}");
    }
    for service in
        ["gateway", "definition", "instance", "approval", "artifact", "participant", "notification"]
    {
        let label = format!("service=\"{service}\"");
        let name = "rpc_server_call_duration_seconds_count";
        // Nobody asks the mail service anything.
        if service != "notification" {
            let calls = page.sum(name, &[&label, "rpc_response_status_code=\"OK\""]);
            ensure!(calls.is_some_and(|calls| calls >= 1.0), "{service} was not called");
        }
    }
    for method in ["instance.v1.InstanceService/StartInstance", "approval.v1.ApprovalService/GetApproval"] {
        let method = format!("rpc_method=\"phasegate.{method}\"");
        let calls =
            page.sum("rpc_client_call_duration_seconds_count", &[&method, "rpc_response_status_code=\"OK\""]);
        ensure!(calls.is_some_and(|calls| calls >= 1.0), "nobody asked another service for {method}");
    }
    let quick = page.sum(
        "rpc_server_call_duration_seconds_bucket",
        &["service=\"instance\"", "/GetInstance\"", "le=\"5\""],
    );
    ensure!(quick.is_some_and(|calls| calls >= 1.0), "calls take seconds, not milliseconds");
    // Nothing that names one instance, task or person.
    for word in [seen.instance.as_str(), "proc-inst-", "apr-", "lnk-", "@", "/external/lnk"] {
        ensure!(!seen.metrics.contains(word), "{word} is in the metrics");
    }
    Ok(())
}
