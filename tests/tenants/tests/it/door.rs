//! A service's own port hears nobody whom the gateway has not vouched for, there and then.

use anyhow::{Context as _, ensure};
use phasegate_principal::{HEADER, Principal, Signer};
use phasegate_rpc_error::reason_of;
use phasegate_serve::{Keys, Peers, Service};
use phasegate_tenants::call::{all_methods, call};
use phasegate_tenants::world::World;
use phasegate_test_database::both;
use serde_json::json;
use tonic::Code;
use tonic::metadata::MetadataMap;

#[tokio::test(flavor = "multi_thread")]
async fn no_method_of_any_service_is_open_on_its_own_port() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database, None).await?;
        let admin = world.tenant("acme").await?;
        let forger = Signer::new(&Keys::derive(&[2; 32]).principal, world.context.clock.clone());
        let forger = Peers::none(forger);
        let operator = Principal::dev_operator();
        let mut tried = 0;
        for method in all_methods() {
            let Some(service) = home(method.parent_service().package_name()) else { continue };
            let port = world.ports.get(&service).context("every service has a port")?.clone();
            let other =
                Service::ALL.into_iter().find(|other| *other != service).context("there are others")?;
            let signed = |peers: &Peers, audience| {
                let mut metadata = MetadataMap::new();
                peers.sign(audience, &operator, &mut metadata);
                metadata
            };
            let mut nonsense = MetadataMap::new();
            nonsense.insert(HEADER, "nonsense".parse()?);
            for (what, metadata) in [
                ("no principal", MetadataMap::new()),
                ("nonsense", nonsense),
                ("a forged principal", signed(&forger, service)),
                ("a principal for another service", signed(&world.context.peers, other)),
                ("a key", phasegate_tenants::world::bearer(admin.expose())?),
            ] {
                let refused = call(port.clone(), &method, &json!({}), metadata).await?;
                let refused =
                    refused.err().with_context(|| format!("{} takes {what}", method.full_name()))?;
                ensure!(
                    refused.code() == Code::Unauthenticated
                        && reason_of(&refused).as_deref() == Some("INTERNAL_AUTH"),
                    "{} with {what}: {refused:?}",
                    method.full_name()
                );
                tried += 1;
            }
        }
        ensure!(tried > 300, "only {tried} calls were tried");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_principal_without_scopes_gets_nowhere() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database, None).await?;
        let nobody = Principal { scopes: Vec::new(), ..Principal::dev_operator() };
        for method in phasegate_tenants::call::public_methods() {
            let Some(service) = home(method.parent_service().package_name()) else { continue };
            // The token is what opens that one.
            if method.name() == "RequestNewLink" {
                continue;
            }
            let port = world.ports.get(&service).context("every service has a port")?.clone();
            let mut metadata = MetadataMap::new();
            world.context.peers.sign(service, &nobody, &mut metadata);
            let refused = call(port, &method, &json!({}), metadata).await?;
            let refused = refused.err().with_context(|| format!("{} needs no scope", method.full_name()))?;
            ensure!(
                refused.code() == Code::PermissionDenied
                    && reason_of(&refused).as_deref() == Some("SCOPE_MISSING"),
                "{}: {refused:?}",
                method.full_name()
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_services_ask_each_other_nobody_else_may_ask() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database, None).await?;
        // As it could be read on the wire: genuine, in time, for this service, and of somebody who may do everything.
        let admin = Principal::dev_operator();
        let mut tried = 0;
        for method in all_methods() {
            let package = method.parent_service().package_name().to_owned();
            let Some(service) = home(&package).filter(|_| package.contains(".internal.")) else { continue };
            let port = world.ports.get(&service).context("every service has a port")?.clone();
            let mut metadata = MetadataMap::new();
            world.context.peers.sign(service, &admin, &mut metadata);
            let refused = call(port, &method, &json!({}), metadata).await?;
            let refused = refused.err().with_context(|| format!("{} answers", method.full_name()))?;
            ensure!(refused.code() == Code::PermissionDenied, "{}: {refused:?}", method.full_name());
            tried += 1;
        }
        ensure!(tried > 8, "only {tried} methods were tried");
        Ok(())
    })
    .await
}

/// The service behind the gateway that serves a package.
fn home(package: &str) -> Option<Service> {
    let mut parts = package.split('.').skip(1);
    let context = match parts.next()? {
        "internal" => parts.next()?,
        context => context,
    };
    match context {
        "worker" => Some(Service::Instance),
        // Receivers confirm events to whichever service sent them.
        "event" => Some(Service::Instance),
        context => Service::named(context),
    }
}
