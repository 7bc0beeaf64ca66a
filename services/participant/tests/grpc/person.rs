//! People.

use crate::world::{INSTANCE, World, operator, participant, refused, started, wish};
use phasegate_principal::{Permission, Principal};
use phasegate_proto::instance::v1::InstanceStatus;
use phasegate_proto::internal::participant::v1::GetPeopleRequest;
use phasegate_proto::participant::v1::{
    CreateLinkRequest, GetParticipantRequest, ListLinksRequest, ListParticipantsRequest,
};
use phasegate_test_database::both;
use tonic::Code;

#[tokio::test]
async fn people_come_with_their_instance() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        // Twice is once.
        world.publish(INSTANCE, "started", started()).await?;
        let mut client = world.people();
        let list = |page_size, page_token: String| ListParticipantsRequest {
            instance_id: INSTANCE.into(),
            page_size,
            page_token,
        };
        let page =
            client.list_participants(world.call(&operator(), list(3, String::new()))).await?.into_inner();
        let ids: Vec<&str> = page.participants.iter().map(|person| person.id.as_str()).collect();
        assert_eq!(ids, ["ghost", "it_admin", "lead"]);
        assert_eq!(page.participants[1].email, "it-admin@acme.com");
        let rest = list(3, page.next_page_token);
        let page = client.list_participants(world.call(&operator(), rest)).await?.into_inner();
        assert_eq!((page.participants.len(), page.next_page_token.as_str()), (1, ""));

        let get =
            |id: &str| GetParticipantRequest { instance_id: INSTANCE.into(), participant_id: id.into() };
        let got = client.get_participant(world.call(&operator(), get("lead"))).await?.into_inner();
        assert_eq!(got.participant.unwrap_or_default().name, "Name of lead");
        // A person sees the own address and nobody else's.
        let person = participant(INSTANCE, &[Permission::View]);
        for (id, email) in [("it_admin", "it-admin@acme.com"), ("lead", "")] {
            let got = client.get_participant(world.call(&person, get(id))).await?.into_inner();
            assert_eq!(got.participant.unwrap_or_default().email, email, "{id}");
        }

        let ask = |ids: &[&str]| GetPeopleRequest {
            instance_id: INSTANCE.into(),
            participant_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        };
        let system = Principal::system("approval", "default");
        for (ids, count) in [(&["lead", "it\0admin", "nobody"][..], 1), (&["it\0admin"], 0), (&[], 4)] {
            let found = world.internal().get_people(world.call(&system, ask(ids))).await?.into_inner();
            assert_eq!(found.participants.len(), count, "{ids:?}");
        }

        for id in ["nobody", "", "it admin"] {
            let answer = client.get_participant(world.call(&operator(), get(id))).await;
            refused(answer, Code::NotFound, "PARTICIPANT_NOT_FOUND", id)?;
        }
        let elsewhere = Principal { tenant: "other".into(), ..operator() };
        for (principal, code, reason) in [
            (elsewhere, Code::NotFound, "INSTANCE_NOT_FOUND"),
            (participant("i-2", &[Permission::View]), Code::NotFound, "INSTANCE_NOT_FOUND"),
            (
                participant(INSTANCE, &[Permission::Approve]),
                Code::PermissionDenied,
                "LINK_PERMISSION_MISSING",
            ),
        ] {
            let what = format!("{principal:?}");
            refused(client.get_participant(world.call(&principal, get("lead"))).await, code, reason, &what)?;
            let answer = client.list_participants(world.call(&principal, list(0, String::new()))).await;
            refused(answer, code, reason, &what)?;
        }
        let answer = client.list_participants(world.call(&operator(), list(-1, String::new()))).await;
        refused(answer, Code::InvalidArgument, "PAGE_SIZE_INVALID", "page size")?;
        let answer = client.list_participants(world.call(&operator(), list(0, "bm9uc2Vuc2U".into()))).await;
        refused(answer, Code::InvalidArgument, "PAGE_TOKEN_INVALID", "page token")?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn whoever_is_faster_than_the_event_finds_the_people_all_the_same() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        world.instance.set_status("i-2", InstanceStatus::Running);
        let early = CreateLinkRequest { instance_id: "i-2".into(), ..wish("it_admin") };
        world.links().create_link(world.call(&operator(), early.clone())).await?;
        world.instance.set_status("i-4", InstanceStatus::Running);
        let system = Principal::system("approval", "default");
        for instance in ["i-2", "i-4"] {
            let ask = || GetPeopleRequest { instance_id: instance.into(), participant_ids: vec![] };
            let before = world.internal().get_people(world.call(&system, ask())).await?.into_inner();
            assert_eq!(before.participants.len(), 4, "{instance}");
            // The event still comes, and finds everybody there.
            world.publish(instance, &format!("started-{instance}"), started()).await?;
            let after = world.internal().get_people(world.call(&system, ask())).await?.into_inner();
            assert_eq!(after, before, "{instance}");
        }
        let list = ListLinksRequest { instance_id: "i-2".into(), ..Default::default() };
        let links = world.links().list_links(world.call(&operator(), list)).await?.into_inner().links;
        assert_eq!(links.len(), 1);

        world.instance.set_status("i-3", InstanceStatus::Unspecified);
        let never = CreateLinkRequest { instance_id: "i-3".into(), ..early };
        let answer = world.links().create_link(world.call(&operator(), never)).await;
        refused(answer, Code::Unavailable, "DEPENDENCY_DOWN", "nobody can tell")?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn other_services_ask_for_people() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let ask = |tenant: &str, ids: &[&str]| {
            let participant_ids = ids.iter().map(|id| (*id).to_owned()).collect();
            let message = GetPeopleRequest { instance_id: INSTANCE.into(), participant_ids };
            world.call(&Principal::system("approval", tenant), message)
        };
        for (ids, expected) in [(&["lead", "nobody"][..], 1), (&[], 4)] {
            let people = world.internal().get_people(ask("default", ids)).await?.into_inner().participants;
            assert_eq!(people.len(), expected, "{ids:?}");
        }
        let elsewhere = world.internal().get_people(ask("other", &[])).await;
        refused(elsewhere, Code::NotFound, "INSTANCE_NOT_FOUND", "another tenant")?;
        Ok(())
    })
    .await
}
