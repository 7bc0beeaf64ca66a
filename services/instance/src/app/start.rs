//! How an instance begins: pins a version of its definition, and checks what the caller gives against it.

use std::sync::Arc;

use phasegate_id::InstanceId;
use phasegate_principal::Principal;
use phasegate_proto::definition::v1::GetTeamRequest;
use phasegate_proto::definition::v1::team_template_service_client::TeamTemplateServiceClient;
use phasegate_proto::internal::definition::v1::PinDefinitionRequest;
use phasegate_proto::internal::definition::v1::definition_internal_service_client::DefinitionInternalServiceClient;
use phasegate_rpc_error::{Violation, relayed};
use phasegate_serve::Service;
use prost::Message;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

use super::execute::{By, Order, Origin, Wish};
use super::operate::actor_of;
use super::order::Shows;
use super::people::{ExternalPerson, people};
use super::{Answered, App, CONSUMER, Error, LEVELS_MAX, Once, Outcome, PinnedDefinition, levels};
use crate::domain::{Action, Rejection, Start};
use crate::store;

/// Longest name of an instance, in characters.
const NAME_MAX: usize = 200;
/// Most labels.
const LABELS_MAX: usize = 64;
/// Longest key or value of a label, in characters.
const LABEL_MAX: usize = 256;
/// Bytes of a context, as JSON.
const CONTEXT_BYTES_MAX: usize = 256 * 1024;
/// Keys of a context, at all levels.
const CONTEXT_KEYS_MAX: usize = 5_000;
/// Ids that are words of paths.
const RESERVED: [&str; 2] = ["search", "count"];

/// What a caller wants to start.
#[derive(Debug, Clone)]
pub(crate) struct StartWish {
    pub(crate) process_id: String,
    /// Empty for the latest published one.
    pub(crate) version: String,
    /// Empty for one of ours.
    pub(crate) instance_id: String,
    pub(crate) name: String,
    pub(crate) context: Map<String, Value>,
    pub(crate) people: Vec<ExternalPerson>,
    pub(crate) team_id: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// Check only.
    pub(crate) validate_only: bool,
}

impl App {
    /// Starts an instance.
    pub(crate) async fn instance_start<M: Message + Default>(
        &self,
        principal: &Principal,
        wish: StartWish,
        once: Option<Once>,
        make: impl Fn(&Outcome) -> Result<M, Error> + Send + Sync,
    ) -> Result<Answered<M>, Error> {
        if principal.participation.is_some() {
            return Err(Rejection::RoleForbidden.into());
        }
        // Before the definition is asked for: a repeated request gets its answer whatever has become of that.
        if let Some(message) = self.repeated(once.as_ref()).await? {
            return Ok(Answered { message, is_repeated: true });
        }
        check_context_size(&wish.context)?;
        let (pinned, document) = self.pin(principal, &wish).await?;
        check_context(&pinned, &wish.context)?;
        let mut faults = Vec::new();
        let instance_id = check_texts(&wish, &mut faults);
        let people = people(&pinned.definition, &wish.people, &mut faults);
        if !faults.is_empty() {
            return Err(Error::Faults(faults));
        }
        self.check_team(principal, &wish.team_id).await?;
        let start = Start {
            id: instance_id.clone(),
            definition_digest: pinned.digest.clone(),
            name: wish.name.trim().to_owned(),
            context: Value::Object(wish.context),
            participants: people.responsibilities,
            team_id: wish.team_id,
            labels: wish.labels,
        };
        let mut order = Order::new(By::Somebody(actor_of(principal)), Wish::fixed(Action::Start(start)));
        if let Some(step) = order.steps.first_mut() {
            step.personal = people.personal;
        }
        order.start = Some(Origin { pinned, document });
        order.is_dry = wish.validate_only;
        order.shows = Shows::Instance;
        let once = once.filter(|_| !wish.validate_only);
        if wish.validate_only {
            let version = self.store().instance_version(&principal.tenant, instance_id.as_str()).await?;
            if version.is_some() {
                return Err(Error::Exists(instance_id.to_string()));
            }
        }
        let started = self.answer(&principal.tenant, &instance_id, order, once, make).await;
        started.map_err(|error| {
            let is_taken = matches!(error, Error::Store(store::Error::Exists));
            if is_taken { Error::Exists(instance_id.to_string()) } else { error }
        })
    }

    /// Asks for the bytes of a published version.
    async fn pin(
        &self,
        principal: &Principal,
        wish: &StartWish,
    ) -> Result<(Arc<PinnedDefinition>, Vec<u8>), Error> {
        let peers = &self.0.context.peers;
        let mut client = DefinitionInternalServiceClient::new(peers.channel(Service::Definition));
        let ourselves = Principal::system(Service::Instance.name(), &principal.tenant);
        let message =
            PinDefinitionRequest { process_id: wish.process_id.clone(), version: wish.version.clone() };
        let answer = client
            .pin_definition(peers.request(Service::Definition, &ourselves, message))
            .await
            .map_err(|status| relayed(status, Service::Definition.name()))?
            .into_inner();
        let pinned = match self.0.pins.get(&principal.tenant, &answer.content_digest) {
            Some(pinned) => pinned,
            None => Arc::new(PinnedDefinition::read(&answer.content_digest, &answer.definition_json)?),
        };
        self.0.pins.put(&principal.tenant, &pinned);
        Ok((pinned, answer.definition_json))
    }
}

impl App {
    /// Refuses a team that the tenant does not have. Whoever may start instances need not be able to read teams.
    async fn check_team(&self, principal: &Principal, team_id: &str) -> Result<(), Error> {
        if team_id.is_empty() {
            return Ok(());
        }
        let peers = &self.0.context.peers;
        let mut client = TeamTemplateServiceClient::new(peers.channel(Service::Definition));
        let ourselves = Principal::system(CONSUMER, &principal.tenant);
        let message = GetTeamRequest { team_id: team_id.to_owned() };
        let found = client.get_team(peers.request(Service::Definition, &ourselves, message)).await;
        found.map_err(|status| relayed(status, Service::Definition.name()))?;
        Ok(())
    }
}

/// Checks what needs no definition, and settles the id.
fn check_texts(wish: &StartWish, faults: &mut Vec<Violation>) -> InstanceId {
    let mut fault = |field: &str, code: &str, message: String| {
        faults.push(Violation { field: field.to_owned(), code: code.to_owned(), message });
    };
    let name = wish.name.trim();
    if name.chars().count() > NAME_MAX || name.chars().any(char::is_control) {
        fault("name", "TEXT_INVALID", format!("must be one line of at most {NAME_MAX} characters"));
    }
    let team = &wish.team_id;
    if team.len() > phasegate_id::LENGTH_MAX || !team.bytes().all(|byte| byte.is_ascii_graphic()) {
        fault("team_id", "ID_INVALID", "must be an id".to_owned());
    }
    let is_short = |text: &String| text.chars().count() <= LABEL_MAX && !text.chars().any(char::is_control);
    let labels_fit =
        wish.labels.iter().all(|(key, value)| !key.is_empty() && is_short(key) && is_short(value));
    if wish.labels.len() > LABELS_MAX || !labels_fit {
        let message =
            format!("must be at most {LABELS_MAX}, with keys and values of at most {LABEL_MAX} characters");
        fault("labels", "LABELS_INVALID", message);
    }
    let id = wish.instance_id.as_str();
    if id.is_empty() {
        return InstanceId::generate();
    }
    if !phasegate_id::is_slug(id) || RESERVED.contains(&id) {
        let message = "must be 1 to 63 lower-case letters, digits, - and _, begin with a letter, and not be \
                       search or count"
            .to_owned();
        fault("instance_id", "ID_INVALID", message);
        // Never used: a fault ends the start.
        return InstanceId::generate();
    }
    InstanceId::trusted(id)
}

/// Refuses a context that is more than is kept.
pub(super) fn check_context_size(context: &Map<String, Value>) -> Result<(), Error> {
    if levels(context) > LEVELS_MAX {
        return Err(Error::ContextTooLarge { limit: "levels", max: LEVELS_MAX });
    }
    let mut keys = context.len();
    let mut left: Vec<&Value> = context.values().collect();
    while let Some(value) = left.pop() {
        match value {
            Value::Object(object) => {
                keys += object.len();
                left.extend(object.values());
            }
            Value::Array(values) => left.extend(values),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    if keys > CONTEXT_KEYS_MAX {
        return Err(Error::ContextTooLarge { limit: "keys", max: CONTEXT_KEYS_MAX });
    }
    let bytes = serde_json::to_vec(context).map_or(usize::MAX, |bytes| bytes.len());
    if bytes > CONTEXT_BYTES_MAX {
        return Err(Error::ContextTooLarge { limit: "bytes", max: CONTEXT_BYTES_MAX });
    }
    Ok(())
}

/// Checks a context against the schema of the definition.
pub(super) fn check_context(pinned: &PinnedDefinition, context: &Map<String, Value>) -> Result<(), Error> {
    let Some(schema) = &pinned.schema else { return Ok(()) };
    let faults = schema.check(&Value::Object(context.clone()));
    if faults.is_empty() {
        return Ok(());
    }
    let violation = |fault: phasegate_process::SchemaFault| Violation {
        field: format!("/context{}", fault.path),
        code: "CONTEXT_SCHEMA_MISMATCH".to_owned(),
        message: fault.message,
    };
    Err(Error::ContextSchema(faults.into_iter().map(violation).collect()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::check_context_size;
    use crate::app::Error;

    fn limit(context: Value) -> Option<&'static str> {
        let Value::Object(context) = context else { panic!("an object") };
        match check_context_size(&context) {
            Ok(()) => None,
            Err(Error::ContextTooLarge { limit, .. }) => Some(limit),
            Err(other) => panic!("{other}"),
        }
    }

    fn nested(levels: usize) -> Value {
        (1..levels).fold(json!({}), |inner, _| json!({ "a": inner }))
    }

    #[test]
    fn contexts_are_bounded_in_every_way() {
        assert_eq!(limit(json!({"a": {"b": [1, 2, {"c": null}]}, "__proto__": {}})), None);
        assert_eq!(limit(nested(24)), None);
        assert_eq!(limit(nested(25)), Some("levels"));
        assert_eq!(limit(json!({"a": "x".repeat(256 * 1024)})), Some("bytes"));
        let many: Map<String, Value> = (0..5_001).map(|n| (format!("k{n}"), Value::Null)).collect();
        assert_eq!(limit(Value::Object(many)), Some("keys"));
        let inner: Map<String, Value> = (0..5_000).map(|n| (format!("k{n}"), Value::Null)).collect();
        assert_eq!(limit(json!({ "inner": inner })), Some("keys"));
    }
}
