//! What operators do with an instance, and what they and agents change of what it knows.

use std::collections::BTreeMap;

use phasegate_id::ParticipantId;
use phasegate_principal::{Caller, Principal};
use phasegate_rpc_error::Invalid;
use prost::Message;
use serde_json::{Map, Value};

use super::execute::{By, Order, Wish};
use super::order::Shows;
use super::start::{check_context, check_context_size};
use super::{Answered, App, Error, Once, Outcome};
use crate::domain::{Action, Actor, ActorKind, Blocker, Channel, Instance, Rejection, ShownLease};
use crate::store::{Guard, Out};

/// Longest reason, in bytes.
const REASON_MAX: usize = 4 * 1024;
/// Most facts of one call.
const FACTS_MAX: usize = 100;
/// Longest name of a fact.
const FACT_NAME_MAX: usize = 63;

/// A change of the context.
#[derive(Debug, Clone)]
pub(crate) struct ContextChange {
    /// JSON merge patch.
    pub(crate) patch: Map<String, Value>,
    /// Refused unless the instance is at this version.
    pub(crate) expected_version: Option<u64>,
    pub(crate) reason: String,
}

/// Names that conditions may use bare.
#[derive(Debug, Clone)]
pub(crate) struct FactsWish {
    pub(crate) facts: BTreeMap<String, bool>,
    pub(crate) reason: String,
}

/// The caller, as the record names it.
pub(super) fn actor_of(principal: &Principal) -> Actor {
    let (kind, channel) = match principal.kind {
        Caller::Operator => (ActorKind::Operator, Channel::Api),
        Caller::Service => (ActorKind::Service, Channel::Api),
        Caller::Participant => (ActorKind::Participant, Channel::Portal),
        Caller::System => (ActorKind::System, Channel::Engine),
    };
    let on_behalf_of = principal.represents().map(ParticipantId::trusted);
    Actor { kind, id: principal.id.clone(), on_behalf_of, channel }
}

/// Refuses a reason that is too long to be kept. Whether one is needed is for the rules to say.
fn check_reason(reason: &str) -> Result<(), Error> {
    if reason.len() > REASON_MAX {
        let message = format!("must be at most {REASON_MAX} bytes");
        return Err(Invalid::new("REASON_REQUIRED", "reason", message).into());
    }
    Ok(())
}

impl App {
    /// Does what an operator wants with an instance.
    pub(crate) async fn operate<M: Message + Default>(
        &self,
        principal: &Principal,
        instance_id: &str,
        action: Action,
        once: Option<Once>,
        make: impl Fn(&Outcome) -> Result<M, Error> + Send + Sync,
    ) -> Result<Answered<M>, Error> {
        if let Some(reason) = reason_of(&action) {
            check_reason(reason)?;
        }
        let id = Self::visible(principal, instance_id)?;
        let mut order = Order::new(By::Somebody(actor_of(principal)), Wish::fixed(action));
        order.shows = Shows::Instance;
        self.answer(&principal.tenant, &id, order, once, make).await
    }

    /// Says what is in the way of an action, and does nothing.
    pub(crate) async fn blockers(
        &self,
        principal: &Principal,
        instance_id: &str,
        action: Action,
    ) -> Result<(Outcome, Vec<Blocker>), Error> {
        let id = Self::visible(principal, instance_id)?;
        let mut order = Order::new(By::Somebody(actor_of(principal)), Wish::fixed(action));
        order.is_dry = true;
        let blockers = match self.execute(&principal.tenant, &id, &order, None).await {
            Ok(_) => Vec::new(),
            Err(Error::Rejected(Rejection::PhaseBlocked(blockers))) => blockers,
            Err(error) => return Err(error),
        };
        Ok((self.shown(&principal.tenant, instance_id).await?, blockers))
    }

    /// Sets facts.
    pub(crate) async fn facts_set<M: Message + Default>(
        &self,
        principal: &Principal,
        instance_id: &str,
        wish: FactsWish,
        task_token: &str,
        once: Option<Once>,
        make: impl Fn(&Outcome) -> Result<M, Error> + Send + Sync,
    ) -> Result<Answered<M>, Error> {
        let FactsWish { facts, reason } = wish;
        let fits = |name: &String| {
            name.len() <= FACT_NAME_MAX
                && name.starts_with(|first: char| first.is_ascii_lowercase())
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        };
        if facts.is_empty() || facts.len() > FACTS_MAX || !facts.keys().all(fits) {
            let message = format!(
                "must be 1 to {FACTS_MAX} names of lower-case letters, digits and underscores that begin with a letter"
            );
            return Err(Invalid::new("FACT_INVALID", "facts", message).into());
        }
        check_reason(&reason)?;
        let shown = self.shown_lease(principal, instance_id, task_token).await?;
        let lease = shown.as_ref().map(shown_lease);
        let action = Wish::fixed(Action::SetFacts { facts, lease, reason });
        self.steer(principal, instance_id, shown, action, once, make).await
    }

    /// Changes the shared context.
    pub(crate) async fn context_change<M: Message + Default>(
        &self,
        principal: &Principal,
        instance_id: &str,
        change: ContextChange,
        task_token: &str,
        once: Option<Once>,
        make: impl Fn(&Outcome) -> Result<M, Error> + Send + Sync,
    ) -> Result<Answered<M>, Error> {
        check_reason(&change.reason)?;
        check_context_size(&change.patch)?;
        let shown = self.shown_lease(principal, instance_id, task_token).await?;
        let lease = shown.as_ref().map(shown_lease);
        let action = Wish::Made(Box::new(move |instance: &Instance, pinned, _| {
            let mut context = Value::clone(&instance.context);
            merge(&mut context, &Value::Object(change.patch.clone()));
            if let Value::Object(members) = &context {
                check_context_size(members)?;
                check_context(pinned, members)?;
            }
            Ok(Action::ChangeContext {
                context,
                expected_version: change.expected_version,
                lease: lease.clone(),
                reason: change.reason.clone(),
            })
        }));
        self.steer(principal, instance_id, shown, action, once, make).await
    }

    /// A change by an operator, or by an agent under a lease.
    async fn steer<M: Message + Default>(
        &self,
        principal: &Principal,
        instance_id: &str,
        lease: Option<Out>,
        action: Wish,
        once: Option<Once>,
        make: impl Fn(&Outcome) -> Result<M, Error> + Send + Sync,
    ) -> Result<Answered<M>, Error> {
        let id = Self::visible(principal, instance_id)?;
        let by = match &lease {
            Some(lease) => By::AgentOf(lease.task.clone()),
            None => By::Somebody(actor_of(principal)),
        };
        let mut order = Order::new(by, action);
        order.guard = lease.map(|lease| Guard::Holds { task: lease.task, fencing: lease.fencing });
        order.shows = Shows::Instance;
        self.answer(&principal.tenant, &id, order, once, make).await
    }

    /// The lease of a token that is shown with a change of one instance.
    async fn shown_lease(
        &self,
        principal: &Principal,
        instance_id: &str,
        task_token: &str,
    ) -> Result<Option<Out>, Error> {
        if task_token.is_empty() {
            return Ok(None);
        }
        let lease = self.lease_of(principal, task_token).await?;
        // A lease of another instance gives no rights here.
        if lease.instance_id.as_str() != instance_id {
            return Err(Rejection::LeaseLost(lease.task).into());
        }
        Ok(Some(lease))
    }
}

fn shown_lease(lease: &Out) -> ShownLease {
    ShownLease { task: lease.task.clone(), fencing: lease.fencing }
}

fn reason_of(action: &Action) -> Option<&str> {
    match action {
        Action::Advance { reason, .. }
        | Action::Reopen { reason, .. }
        | Action::Pause { reason }
        | Action::Resume { reason }
        | Action::Cancel { reason }
        | Action::RetryTask { reason, .. }
        | Action::SkipTask { reason, .. }
        | Action::Release { reason, .. }
        | Action::SetFacts { reason, .. }
        | Action::ChangeContext { reason, .. } => Some(reason),
        Action::Start(_)
        | Action::Lease { .. }
        | Action::HandIn { .. }
        | Action::Fail { .. }
        | Action::ExpireLease { .. }
        | Action::Hear { .. }
        | Action::HearAgain { .. } => None,
    }
}

/// JSON merge patch (RFC 7396).
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::merge;

    #[test]
    fn a_merge_patch_changes_what_it_names() {
        let table: [(Value, Value, Value); 7] = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [1]}), json!({"a": [2, null]}), json!({"a": [2, null]})),
            (json!({"a": "x"}), json!({"a": {"b": {"c": null}}}), json!({"a": {"b": {}}})),
            (json!({"e": null}), json!({}), json!({"e": null})),
        ];
        for (before, patch, after) in table {
            let mut target = before.clone();
            merge(&mut target, &patch);
            assert_eq!(target, after, "{before} with {patch}");
        }
    }
}
