//! The doors between services, which nobody else may use.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use phasegate_bad_input::{Doors, Refusal};
use phasegate_bus::Bus;
use phasegate_clock::{ManualClock, SystemClock, Timestamp};
use phasegate_principal::{HEADER, Principal, Signer};
use phasegate_proto::definition::v1::CreateTeamTemplateRequest;
use phasegate_proto::definition::v1::team_template_service_client::TeamTemplateServiceClient;
use phasegate_proto::internal::definition::v1::PinDefinitionRequest;
use phasegate_proto::internal::definition::v1::definition_internal_service_client::DefinitionInternalServiceClient;
use phasegate_rpc_error::reason_of;
use phasegate_serve::{Context, Keys, Peers, Service};
use phasegate_test_database::both;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

/// Far longer than a principal is believed.
const LATER: Duration = Duration::from_hours(1);

#[tokio::test]
async fn services_take_only_signed_principals() -> anyhow::Result<()> {
    both(|database| async move {
        let clock = Arc::new(ManualClock::new(Timestamp::from_micros(1_731_510_000_000_000)));
        let keys = Keys::derive(&[1; 32]);
        let (listener, channel) = phasegate_serve::pipe();
        let channels = BTreeMap::from([(Service::Definition, channel.clone())]);
        let context = Context {
            clock: clock.clone(),
            peers: Peers::new(channels.clone(), Signer::new(&keys.principal, clock.clone())),
            bus: Bus::local(),
            keys,
            public_url: "http://127.0.0.1:7460".into(),
            limits: phasegate_serve::Limits::default(),
            draining: CancellationToken::new(),
            shutdown: CancellationToken::new(),
        };
        let config = phasegate_definition::Config::new(database.settings());
        let service = phasegate_definition::Service::open(config, context.clone()).await?;
        let running = tokio::spawn(service.run(listener));

        let forger = Peers::new(channels, Signer::new(&Keys::derive(&[2; 32]).principal, clock.clone()));
        let operator = Principal::dev_operator();
        let mut refused = Vec::new();
        for make in [
            // B023: none, nonsense, for another service, and signed by somebody else.
            &(|_: &Context| Request::new(())) as &(dyn Fn(&Context) -> Request<()> + Sync),
            &|_| with_header("nonsense"),
            &|context| context.peers.request(Service::Instance, &operator, ()),
            &|_| forger.request(Service::Definition, &operator, ()),
        ] {
            refused.push(make(&context));
        }
        // One that has run out.
        let old = context.peers.request(Service::Definition, &operator, ());
        clock.advance(LATER);
        refused.push(old);
        for (number, request) in refused.into_iter().enumerate() {
            let create = || CreateTeamTemplateRequest { validate_only: true, ..Default::default() };
            let mut templates = TeamTemplateServiceClient::new(channel.clone());
            let outcome = templates.create_team_template(again(&request, create())).await;
            told(outcome.map(drop), number)?;
            let mut internal = DefinitionInternalServiceClient::new(channel.clone());
            let outcome = internal.pin_definition(again(&request, PinDefinitionRequest::default())).await;
            told(outcome.map(drop), number)?;
        }
        // And one that is right is looked at.
        let service = Principal::system("instance", &operator.tenant);
        let right = context.peers.request(Service::Definition, &service, PinDefinitionRequest::default());
        let outcome = DefinitionInternalServiceClient::new(channel.clone()).pin_definition(right).await;
        ensure!(outcome.is_err_and(|status| status.code() == Code::NotFound), "a right one is taken");
        context.shutdown.cancel();
        running.await??;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_call_without_credentials_is_for_development_only() -> anyhow::Result<()> {
    let clock = SystemClock::shared();
    let keys = Keys::derive(&[1; 32]);
    let context = Context {
        peers: Peers::none(Signer::new(&keys.principal, clock.clone())),
        clock,
        bus: Bus::local(),
        keys,
        public_url: "http://127.0.0.1:7460".into(),
        limits: phasegate_serve::Limits::default(),
        draining: CancellationToken::new(),
        shutdown: CancellationToken::new(),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let doors = Doors::new(format!("http://{}", listener.local_addr()?))?;
    let config = phasegate_gateway::Config::default();
    let gateway = phasegate_gateway::Service::open(config, context.clone(), axum::Router::new())?;
    let running = tokio::spawn(gateway.run(listener));
    for (method, message) in
        [("ListProcessDefinitions", json!({})), ("StartInstance", json!({"processId": "launch"}))]
    {
        // B017: the same words over both, and how to do better.
        let by_rest = doors.rest(method, &message).await?;
        ensure!(
            by_rest.status == 401 && by_rest.headers["www-authenticate"] == "Bearer",
            "B017: {by_rest:?}"
        );
        let by_rest = Refusal::of_body(&by_rest.body)?;
        let by_grpc = doors.grpc(method, &message).await?;
        let by_grpc = by_grpc.err().map(|status| Refusal::of_status(&status));
        ensure!(
            by_rest.reason == "CREDENTIALS_MISSING" && by_grpc.as_ref() == Some(&by_rest),
            "B017: {by_grpc:?}"
        );
    }
    context.shutdown.cancel();
    running.await??;
    Ok(())
}

#[tokio::test]
async fn a_call_over_the_rate_is_told_when_to_come_back() -> anyhow::Result<()> {
    let clock = SystemClock::shared();
    let keys = Keys::derive(&[1; 32]);
    let context = Context {
        peers: Peers::none(Signer::new(&keys.principal, clock.clone())),
        clock,
        bus: Bus::local(),
        keys,
        public_url: "http://127.0.0.1:7460".into(),
        limits: phasegate_serve::Limits::default(),
        draining: CancellationToken::new(),
        shutdown: CancellationToken::new(),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let doors = Doors::new(format!("http://{}", listener.local_addr()?))?;
    let tenant = Some(phasegate_gateway::Rate { per_second: 1, burst: 3 });
    let rates = phasegate_gateway::Rates { tenant, ..Default::default() };
    let config = phasegate_gateway::Config { dev: true, rates, ..Default::default() };
    let gateway = phasegate_gateway::Service::open(config, context.clone(), axum::Router::new())?;
    let running = tokio::spawn(gateway.run(listener));
    let mut refused = Vec::new();
    while refused.len() < 2 {
        // B031: over both doors, which have one budget.
        let by_rest = doors.rest("GetCaller", &json!({})).await?;
        if by_rest.status == 429 {
            let seconds: u64 = by_rest.headers["retry-after"].to_str()?.parse()?;
            ensure!((1..=2).contains(&seconds), "B031: {by_rest:?}");
            refused.push(Refusal::of_body(&by_rest.body)?);
        }
        if let Err(status) = doors.grpc("GetCaller", &json!({})).await? {
            let wait = status.get_details_retry_info().and_then(|info| info.retry_delay);
            let is_short = wait.is_some_and(|wait| !wait.is_zero() && wait <= Duration::from_secs(2));
            ensure!(status.code() == Code::ResourceExhausted && is_short, "B031: {status:?}");
            refused.push(Refusal::of_status(&status));
        }
    }
    ensure!(refused.iter().all(|refusal| refusal.reason == "RATE_LIMITED"), "B031: {refused:?}");
    context.shutdown.cancel();
    running.await??;
    Ok(())
}

fn with_header(value: &'static str) -> Request<()> {
    let mut request = Request::new(());
    request.metadata_mut().insert(HEADER, tonic::metadata::MetadataValue::from_static(value));
    request
}

/// The metadata of a request with another message.
fn again<T>(request: &Request<()>, message: T) -> Request<T> {
    Request::from_parts(request.metadata().clone(), tonic::Extensions::new(), message)
}

fn told(outcome: Result<(), Status>, number: usize) -> anyhow::Result<()> {
    let status = outcome.err().ok_or_else(|| anyhow::anyhow!("B023: principal {number} was taken"))?;
    let is_right =
        status.code() == Code::Unauthenticated && reason_of(&status).as_deref() == Some("INTERNAL_AUTH");
    ensure!(is_right, "B023: principal {number}: {status:?}");
    Ok(())
}
