//! The service with a real store and a real mail server that misbehaves: what is promised about delivery.

mod batches;
mod mail_server;
mod people;
mod promises;
mod record;

use std::sync::Arc;
use std::time::Duration;

use phasegate_bus::{Bus, HandleError};
use phasegate_clock::{SystemClock, Timestamp};
use phasegate_database::{Reach, args};
use phasegate_id::{InstanceId, TenantId};
use phasegate_outbox::event;
use phasegate_principal::{Principal, Signer};
use phasegate_proto::approval::v1::{Approval, ApprovalStatus, Approver, ApproverStatus};
use phasegate_proto::definition::v1::RaidRole;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_proto::internal::event::v1::{
    ApprovalSettled, ApprovalsRequested, Event, InstanceStarted, NotificationSettled,
};
use phasegate_proto::participant::v1::Participant;
use phasegate_serve::{Context, Keys, Peers};
use phasegate_test_database::TestDatabase;
use prost::Message as _;
use tokio_util::sync::CancellationToken;

use crate::domain::{Notification, RetryPolicy};
use crate::{Config, Service};
use mail_server::{MailServer, Manner};
use people::People;

const TENANT: &str = "default";
const INSTANCE: &str = "proc-inst-1";

/// The service under test.
struct House {
    context: Context,
    people: Arc<People>,
    server: MailServer,
    service: Service,
    config: Config,
}

impl House {
    /// Opens the service on a fresh database. It delivers nothing before [`House::deliver`].
    async fn open(database: &TestDatabase, manners: &[Manner]) -> anyhow::Result<House> {
        let server = MailServer::start(manners).await?;
        let mut config = Config::new(database.settings());
        config.smtp_port = server.port;
        config.smtp_timeout = Duration::from_millis(400);
        config.retry = RetryPolicy {
            first_wait: Duration::from_millis(10),
            longest_wait: Duration::from_millis(40),
            tries: 4,
        };
        let people = Arc::new(People::default());
        people.add("it_admin", "John Smith", "it-admin@acme.com", true);
        people.add("ciso", "Jane Doe", "ciso@acme.com", false);
        people.add("pm", "Pat", "pm@acme.com", true);
        people.add("boss", "Bo", "boss@acme.com", false);
        people.add("ghost", "Gho", "", true);
        let context = context();
        let directory: Arc<dyn crate::app::Directory> = people.clone();
        let service = Service::open_with(config.clone(), context.clone(), directory).await?;
        Ok(House { context, people, server, service, config })
    }

    /// Lets the service hear of the start of the instance and of an event.
    async fn hear(&self, payload: Payload) -> anyhow::Result<Event> {
        self.publish(of(started())).await?;
        let event = of(payload);
        self.publish(event.clone()).await?;
        Ok(event)
    }

    async fn publish(&self, event: Event) -> Result<(), HandleError> {
        self.context.bus.publish("instance", Arc::new(event)).await.map(drop)
    }

    /// Starts delivering; the handle ends it.
    fn deliver(&self) -> Delivering {
        let shutdown = CancellationToken::new();
        let courier = Arc::clone(&self.service.courier);
        let task = crate::reconcile::deliver_due(courier, Arc::clone(&self.service.added), shutdown.clone());
        Delivering { shutdown, task: tokio::spawn(task) }
    }

    /// Delivers until nothing is queued.
    async fn deliver_all(&self) -> anyhow::Result<Vec<Notification>> {
        let delivering = self.deliver();
        let done = self.wait_until(|all| all.iter().all(|one| one.status.as_str() != "queued")).await;
        delivering.stop().await?;
        done
    }

    async fn wait_until(&self, done: impl Fn(&[Notification]) -> bool) -> anyhow::Result<Vec<Notification>> {
        for _ in 0..1_000 {
            let all = self.all().await?;
            if done(&all) {
                return Ok(all);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::bail!("it never came to be: {:#?}", self.all().await?)
    }

    /// All messages, oldest first.
    async fn all(&self) -> anyhow::Result<Vec<Notification>> {
        let (tenant, instance) = (TenantId::trusted(TENANT), InstanceId::trusted(INSTANCE));
        let listing = self.service.store.notification_list(&tenant, &instance, None, None, 10_000);
        let mut all = Reach::of_tenant(TENANT).within(listing).await?;
        all.reverse();
        Ok(all)
    }

    /// What the others were told.
    async fn news(&self) -> anyhow::Result<Vec<NotificationSettled>> {
        let database = self.service.store.database().across_tenants();
        let rows = database.fetch_all("select payload from outbox", args![]).await?;
        let mut news = Vec::new();
        for row in rows {
            let event = Event::decode(row.get::<Vec<u8>>("payload")?.as_slice())?;
            match event.payload {
                Some(Payload::NotificationSettled(settled)) => news.push(settled),
                other => anyhow::bail!("unexpected {other:?}"),
            }
        }
        Ok(news)
    }
}

/// A running delivery.
struct Delivering {
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Delivering {
    async fn stop(self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        Ok(self.task.await?)
    }
}

fn context() -> Context {
    let keys = Keys::derive(&[7; 32]);
    let clock = SystemClock::shared();
    Context {
        peers: Peers::none(Signer::new(&keys.principal, clock.clone())),
        clock,
        bus: Bus::local(),
        keys,
        public_url: "https://app.example.com".to_owned(),
        limits: phasegate_serve::Limits::default(),
        draining: CancellationToken::new(),
        shutdown: CancellationToken::new(),
    }
}

fn now() -> Timestamp {
    SystemClock::shared().now()
}

/// An event of the instance.
fn of(payload: Payload) -> Event {
    event(TENANT, INSTANCE, Principal::system("test", TENANT).actor(), now(), payload)
}

fn started() -> Payload {
    let person = |id: &str, role: RaidRole| Participant {
        id: id.to_owned(),
        raid_role: role.into(),
        ..Participant::default()
    };
    Payload::InstanceStarted(InstanceStarted {
        process_name: "Enterprise SSO Deployment".to_owned(),
        instance_name: "Acme Corp SSO Deployment".to_owned(),
        participants: vec![
            person("it_admin", RaidRole::Approver),
            person("ciso", RaidRole::Approver),
            person("late", RaidRole::Approver),
            person("ghost", RaidRole::Delegator),
            person("pm", RaidRole::Informed),
            person("boss", RaidRole::Informed),
        ],
        ..InstanceStarted::default()
    })
}

fn approval(id: &str, title: &str, approvers: &[&str]) -> Approval {
    let approver = |id: &&str| Approver {
        participant_id: (*id).to_owned(),
        status: ApproverStatus::Pending.into(),
        ..Approver::default()
    };
    Approval {
        id: id.to_owned(),
        instance_id: INSTANCE.to_owned(),
        title: title.to_owned(),
        description: "The SSO configuration for your deployment is ready for review.".to_owned(),
        round: 1,
        status: ApprovalStatus::Pending.into(),
        approvers: approvers.iter().map(approver).collect(),
        requested_at: Some(now().to_proto()),
        expires_at: Some((now() + Duration::from_hours(48)).to_proto()),
        ..Approval::default()
    }
}

fn requested(approvals: Vec<Approval>) -> Payload {
    let boundary_id = "bnd-1".to_owned();
    Payload::ApprovalsRequested(ApprovalsRequested { boundary_id, approvals, ..Default::default() })
}

fn settled(id: &str) -> Payload {
    let mut approval = approval(id, "Settled", &["it_admin"]);
    approval.status = ApprovalStatus::Withdrawn.into();
    Payload::ApprovalSettled(ApprovalSettled { approval: Some(approval), ..ApprovalSettled::default() })
}

fn one_request() -> Payload {
    requested(vec![approval("apr-1", "SSO Configuration Review", &["it_admin"])])
}
