//! Certificates between services: everything works with them, nothing without, and new ones need no restart.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use phasegate_clock::{Clock as _, SystemClock, Timestamp};
use phasegate_principal::{Principal, Signer};
use phasegate_proto::participant::v1::GetParticipantRequest;
use phasegate_proto::participant::v1::participant_service_client::ParticipantServiceClient;
use phasegate_rpc_error::reason_of;
use phasegate_serve::{Certificates, Channel, Peers, Service, Tls};
use phasegate_tenants::scene::Scene;
use phasegate_tenants::world::World;
use phasegate_test_database::{postgres, sqlite};
use serde_json::json;
use tempfile::TempDir;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

/// Copies of peers are looked for this often, and new certificates with them.
const NOTICED: Duration = Duration::from_secs(7);

/// An authority, in a folder of its own.
struct Authority(TempDir);

impl Authority {
    fn new() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        openssl(
            folder.path(),
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=authority \
             -keyout ca.key -out ca.crt",
        )?;
        let usage = "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n";
        std::fs::write(folder.path().join("usage"), usage)?;
        Ok(Self(folder))
    }

    fn read(&self, name: &str) -> anyhow::Result<Vec<u8>> {
        Ok(std::fs::read(self.0.path().join(name))?)
    }

    /// A new certificate for this machine, for one who believes these authorities.
    fn issue(&self, authorities: &[&Self]) -> anyhow::Result<Certificates> {
        openssl(
            self.0.path(),
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=phasegate -keyout tls.key -out tls.csr",
        )?;
        openssl(
            self.0.path(),
            "x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile usage -out tls.crt",
        )?;
        let authorities: Vec<_> =
            authorities.iter().map(|one| one.read("ca.crt")).collect::<anyhow::Result<_>>()?;
        Ok(Certificates {
            authorities: authorities.concat(),
            chain: self.read("tls.crt")?,
            key: self.read("tls.key")?,
        })
    }
}

fn openssl(folder: &Path, arguments: &str) -> anyhow::Result<()> {
    let output = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .context("openssl is not installed")?;
    ensure!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Whether a service hears a call with a good principal over a channel: what it answers has a reason then, and what the
/// connection breaks with has none.
async fn is_heard(world: &World, channel: impl Into<Channel>) -> bool {
    let clock = world.context.clock.clone();
    let peers = Peers::none(Signer::new(&world.context.keys.principal, clock));
    let question = GetParticipantRequest { instance_id: "i".to_owned(), participant_id: "p".to_owned() };
    let question = peers.request(Service::Participant, &Principal::dev_operator(), question);
    let answer = ParticipantServiceClient::new(channel.into()).get_participant(question).await;
    answer.err().is_none_or(|status| reason_of(&status).is_some())
}

/// Whether it hears one who has certificates.
async fn is_heard_with(world: &World, address: &str, tls: &Tls) -> anyhow::Result<bool> {
    let places = BTreeMap::from([(Service::Participant, vec![address.parse()?])]);
    let signer = Signer::new(&world.context.keys.principal, world.context.clock.clone());
    let peers = Peers::over_network(places, Some(tls), signer);
    Ok(is_heard(world, peers.channel(Service::Participant)).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn services_speak_to_those_with_a_certificate_and_to_nobody_else() -> anyhow::Result<()> {
    let (ours, others) = (Authority::new()?, Authority::new()?);
    let tls = Tls::new(&ours.issue(&[&ours])?)?;
    let database = postgres().await?;
    let world = World::start_with(&database, None, Some(tls.clone())).await?;
    // Starts, leases, stores, asks, links and mails: all services, and events.
    let scene = Scene::set(&world, "acme").await?;
    world.done(&scene.key, "GetInstance", json!({"instanceId": scene.instance})).await?;

    for (service, address) in &world.addresses {
        let good = Tls::new(&ours.issue(&[&ours])?)?;
        ensure!(is_heard_with(&world, address, &good).await?, "{} with a good one", service.name());
        let in_the_clear = Endpoint::from_shared(address.replace("https", "http"))?.connect_lazy();
        ensure!(!is_heard(&world, in_the_clear).await, "{} in the clear", service.name());
        let believing = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ours.read("ca.crt")?));
        let nameless = Endpoint::from_shared(address.clone())?.tls_config(believing)?.connect_lazy();
        ensure!(!is_heard(&world, nameless).await, "{} without one", service.name());
        // Of another authority, though it would believe us.
        let foreign = Tls::new(&others.issue(&[&ours, &others])?)?;
        ensure!(!is_heard_with(&world, address, &foreign).await?, "{} with a foreign one", service.name());
        // Of ours, but believing others alone: services have to show who they are, too.
        let doubting = Tls::new(&ours.issue(&[&others])?)?;
        ensure!(!is_heard_with(&world, address, &doubting).await?, "{} is believed anyway", service.name());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn new_certificates_need_no_restart() -> anyhow::Result<()> {
    let (old, new) = (Authority::new()?, Authority::new()?);
    let of_old = Tls::new(&old.issue(&[&old, &new])?)?;
    let of_new = Tls::new(&new.issue(&[&old, &new])?)?;
    let tls = Tls::new(&old.issue(&[&old])?)?;
    let database = sqlite().await?;
    let world = World::start_with(&database, None, Some(tls.clone())).await?;
    // Issued for two days.
    let told = phasegate_telemetry::metrics::observe(Arc::new(tls.clone()));
    let metrics = phasegate_telemetry::metrics::text().await;
    drop(told);
    for whose in ["own", "authority"] {
        let begin = format!("phasegate_certificate_expires_timestamp_seconds{{certificate=\"{whose}\"}} ");
        let end = metrics.lines().find_map(|line| line.strip_prefix(&begin)).context("it is not told")?;
        let left = Timestamp::from_micros(end.parse::<i64>()? * 1_000_000).duration_since(SystemClock.now());
        ensure!(left > Duration::from_hours(47) && left <= Duration::from_hours(48), "{whose}: {left:?}");
    }
    let key = world.tenant("acme").await?.expose().to_owned();
    let address = world.addresses.get(&Service::Participant).context("an address")?.clone();
    let lets_in = async |tls: &Tls| is_heard_with(&world, &address, tls).await;
    ensure!(lets_in(&of_old).await? && !lets_in(&of_new).await?);
    // Both authorities, then the new certificate, then the new authority alone; calls go on all the time.
    for certificates in [old.issue(&[&old, &new])?, new.issue(&[&old, &new])?] {
        tls.replace(&certificates)?;
        ensure!(lets_in(&of_old).await? && lets_in(&of_new).await?);
        tokio::time::sleep(NOTICED).await;
        world.done(&key, "ListInstances", json!({})).await?;
    }
    tls.replace(&new.issue(&[&new])?)?;
    ensure!(!lets_in(&of_old).await? && lets_in(&of_new).await?);
    tokio::time::sleep(NOTICED).await;
    world.done(&key, "ListInstances", json!({})).await?;
    // What cannot be used changes nothing.
    let broken = Certificates { chain: b"nonsense".to_vec(), ..new.issue(&[&new])? };
    ensure!(tls.replace(&broken).is_err());
    let swapped = Certificates { key: old.issue(&[&old])?.key, ..new.issue(&[&new])? };
    ensure!(tls.replace(&swapped).is_err(), "a key of another certificate");
    ensure!(lets_in(&of_new).await?);
    Ok(())
}
