//! The service over a pipe.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use phasegate_bus::Bus;
use phasegate_clock::{ManualClock, Timestamp};
use phasegate_database::{Database, Settings, args};
use phasegate_definition::{Config, Service};
use phasegate_principal::{Participation, Permission, Principal, Signer};
use phasegate_proto::definition::v1 as proto;
use phasegate_proto::definition::v1::definition_service_client::DefinitionServiceClient;
use phasegate_proto::definition::v1::team_template_service_client::TeamTemplateServiceClient;
use phasegate_proto::internal::definition::v1::definition_internal_service_client::DefinitionInternalServiceClient;
use phasegate_proto_json::from_json;
use phasegate_rpc_error::reason_of;
use phasegate_serve::{Channel, Context, Keys, MESSAGE_BYTES_MAX, Peers, Service as Name};
use phasegate_test_database::TestDatabase;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt as _;

/// Everything that a test needs.
pub(crate) struct World {
    /// The clock of the service.
    pub(crate) clock: Arc<ManualClock>,
    shutdown: CancellationToken,
    peers: Peers,
    settings: Settings,
}

// === impl World ===

impl World {
    /// Starts the service on a fresh database.
    pub(crate) async fn start(database: &TestDatabase) -> anyhow::Result<Self> {
        let clock = Arc::new(ManualClock::new(Timestamp::from_micros(1_731_510_000_000_000)));
        let keys = Keys::derive(&[1; 32]);
        let (listener, channel) = phasegate_serve::pipe();
        let channels = BTreeMap::from([(Name::Definition, channel)]);
        let context = Context {
            clock: clock.clone(),
            peers: Peers::new(channels, Signer::new(&keys.principal, clock.clone())),
            bus: Bus::local(),
            keys,
            public_url: "http://127.0.0.1:7460".into(),
            limits: phasegate_serve::Limits::default(),
            draining: CancellationToken::new(),
            shutdown: CancellationToken::new(),
        };
        let world = Self {
            clock,
            shutdown: context.shutdown.clone(),
            peers: context.peers.clone(),
            settings: database.settings(),
        };
        let service = Service::open(Config::new(database.settings()), context).await?;
        tokio::spawn(service.run(listener));
        Ok(world)
    }

    /// A client of `DefinitionService`.
    pub(crate) fn definitions(&self) -> DefinitionServiceClient<Channel> {
        DefinitionServiceClient::new(self.peers.channel(Name::Definition))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(2 * MESSAGE_BYTES_MAX)
    }

    /// A client of `TeamTemplateService`.
    pub(crate) fn templates(&self) -> TeamTemplateServiceClient<Channel> {
        TeamTemplateServiceClient::new(self.peers.channel(Name::Definition))
    }

    /// A client of `DefinitionInternalService`.
    pub(crate) fn internal(&self) -> DefinitionInternalServiceClient<Channel> {
        DefinitionInternalServiceClient::new(self.peers.channel(Name::Definition))
    }

    /// A call as somebody.
    pub(crate) fn call_as<T>(&self, principal: &Principal, message: T) -> Request<T> {
        let mut request = self.peers.request(Name::Definition, principal, message);
        request.set_timeout(Duration::from_mins(1));
        request
    }

    /// A call as the operator.
    pub(crate) fn call<T>(&self, message: T) -> Request<T> {
        self.call_as(&Principal::dev_operator(), message)
    }

    /// A call of another service.
    pub(crate) fn call_between<T>(&self, message: T) -> Request<T> {
        self.call_as(&Principal::system("instance", &Principal::dev_operator().tenant), message)
    }

    /// Stores a definition, which must be new.
    pub(crate) async fn create(
        &self,
        definition: proto::ProcessDefinition,
    ) -> anyhow::Result<proto::ProcessDefinition> {
        let response = self.definitions().create_process_definition(self.call(create(definition))).await?;
        anyhow::ensure!(!is_repeated(&response), "it was there");
        response.into_inner().process_definition.context("no definition")
    }

    /// Everything that a refused call must leave as it is: the number of rows of each table.
    pub(crate) async fn rows(&self) -> anyhow::Result<Vec<i64>> {
        let db =
            Database::open(&self.settings, &phasegate_definition::store::MIGRATIONS).await?.across_tenants();
        let mut counts = Vec::new();
        for table in ["definition", "team_template", "team", "outbox", "idempotency"] {
            let row = db.fetch_optional(format!("select count(*) as n from {table}"), args![]).await?;
            counts.push(row.context("no count")?.get("n")?);
        }
        db.close().await;
        Ok(counts)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// The page's process.
pub(crate) fn page_process() -> anyhow::Result<proto::ProcessDefinition> {
    definition(&serde_json::from_slice(include_bytes!("../../../../libs/process/tests/data/process.json"))?)
}

/// The page's team template.
pub(crate) fn page_template() -> anyhow::Result<proto::TeamTemplate> {
    let json: Value =
        serde_json::from_slice(include_bytes!("../../../../libs/process/tests/data/team-template.json"))?;
    from_json(&json, "phasegate.definition.v1.TeamTemplate").map_err(|faults| anyhow::anyhow!("{faults:?}"))
}

/// A definition from its JSON.
pub(crate) fn definition(json: &Value) -> anyhow::Result<proto::ProcessDefinition> {
    from_json(json, "phasegate.definition.v1.ProcessDefinition")
        .map_err(|faults| anyhow::anyhow!("{faults:?}"))
}

/// The page's process under another id and version.
pub(crate) fn process(id: &str, version: &str) -> anyhow::Result<proto::ProcessDefinition> {
    Ok(proto::ProcessDefinition { id: id.into(), version: version.into(), ..page_process()? })
}

/// Asks to store a definition.
pub(crate) fn create(definition: proto::ProcessDefinition) -> proto::CreateProcessDefinitionRequest {
    proto::CreateProcessDefinitionRequest { process_definition: Some(definition), ..Default::default() }
}

/// Asks for a version.
pub(crate) fn get(process_id: &str, version: &str) -> proto::GetProcessDefinitionRequest {
    proto::GetProcessDefinitionRequest { process_id: process_id.into(), version: version.into() }
}

/// An operator of another tenant.
pub(crate) fn stranger() -> Principal {
    Principal { tenant: "other".to_owned(), ..Principal::dev_operator() }
}

/// A person of an instance with a link.
pub(crate) fn participant() -> Principal {
    let participation = Participation {
        instance_id: "i-1".into(),
        participant_id: "it_admin".into(),
        link_id: "lnk-1".into(),
        permissions: vec![Permission::View],
    };
    Principal::participant("default", "John Smith", participation)
}

/// Fails unless a call was refused with this code and reason.
pub(crate) fn refused<T: std::fmt::Debug>(
    answer: Result<T, Status>,
    code: Code,
    reason: &str,
    what: &str,
) -> anyhow::Result<Status> {
    let Err(status) = answer else { anyhow::bail!("{what}: not refused: {answer:?}") };
    anyhow::ensure!(
        status.code() == code && reason_of(&status).as_deref() == Some(reason),
        "{what}: {status:?} instead of {code:?} {reason}"
    );
    Ok(status)
}

/// The wrong fields that a refusal names, each with its code.
pub(crate) fn violations(status: &Status) -> Vec<(String, String)> {
    let bad = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    bad.into_iter().map(|violation| (violation.field, violation.reason)).collect()
}

/// Whether an answer says that it is an earlier one.
pub(crate) fn is_repeated<T>(response: &Response<T>) -> bool {
    response.metadata().get("phasegate-repeated").is_some_and(|value| value == "1")
}
