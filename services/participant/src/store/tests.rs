//! The tables on both databases.

use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_database::{Database, args};
use phasegate_id::{InstanceId, LinkId, ParticipantId, TenantId};
use phasegate_test_database::{TestDatabase, both};

use super::link as links;
use super::participant::{self as people, End, Known};
use super::session as sessions;
use super::{Error, MIGRATIONS, Place, Store};
use crate::domain::Author;
use crate::domain::link::{FRESH_WINDOW, Link, Revoked, WRITERS_MAX};
use crate::domain::permission::Permissions;
use crate::domain::person::{Person, Preferences, RaidRole, tests::person};
use crate::domain::session::Session;

/// Does something in a transaction of its own.
macro_rules! within {
    ($store:expr, |$tx:ident| $work:expr) => {
        $store.db.transaction(move |$tx| Box::pin(async move { $work })).await
    };
}

#[tokio::test]
async fn people_come_back_as_they_were_and_come_once() -> anyhow::Result<()> {
    both(|database| async move {
        let store = open(&database).await?;
        let preferences = Preferences { email: Some(false), slack: None, in_app: Some(true) };
        let ciso = Person {
            id: ParticipantId::trusted("ciso"),
            raid_role: RaidRole::Delegator,
            external: false,
            preferences,
            can_delegate: true,
            ..person()
        };
        for person in [person(), ciso.clone(), Person { name: "Somebody else".into(), ..person() }] {
            within!(store, |tx| people::person_insert_in(tx, &here(), &person).await)?;
        }
        assert_eq!(store.person_list(&here(), "", 9).await?, [ciso.clone(), person()]);
        assert_eq!(store.person_list(&here(), "ciso", 9).await?, [person()]);
        assert_eq!(store.person_get(&here(), &ciso.id).await?, Some(ciso.clone()));
        let locked = within!(store, |tx| people::person_lock_in(tx, &here(), &person().id).await)?;
        assert_eq!(locked, Some(person()));
        let named = ["ciso".to_owned(), "nobody".to_owned()];
        assert_eq!(store.people(&here(), &named).await?, [ciso]);
        assert_eq!(store.people(&here(), &[]).await?.len(), 2);
        for elsewhere in [
            Place { tenant: TenantId::trusted("other"), ..here() },
            Place { instance: InstanceId::trusted("i-2"), ..here() },
        ] {
            assert!(store.people(&elsewhere, &[]).await?.is_empty());
            assert_eq!(store.person_get(&elsewhere, &person().id).await?, None);
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_end_of_an_instance_may_come_before_its_start() -> anyhow::Result<()> {
    both(|database| async move {
        let store = open(&database).await?;
        assert_eq!(store.instance(&here()).await?, None);
        within!(store, |tx| people::instance_end_in(tx, &here(), End::Cancelled, at(1)).await)?;
        let known = Known { has_people: false, end: Some(End::Cancelled) };
        assert_eq!(store.instance(&here()).await?, Some(known));
        within!(store, |tx| people::instance_start_in(tx, &here(), at(2)).await)?;
        within!(store, |tx| people::instance_end_in(tx, &here(), End::Completed, at(3)).await)?;
        let known = within!(store, |tx| people::instance_in(tx, &here()).await)?;
        assert_eq!(known, Some(Known { has_people: true, end: Some(End::Cancelled) }));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn links_come_back_as_they_were_and_are_listed_newest_first() -> anyhow::Result<()> {
    both(|database| async move {
        let store = open(&database).await?;
        add_person(&store).await?;
        let mailed = Link { purpose: Some("ntf-1".into()), ..link("lnk-2", 1) };
        for link in [link("lnk-1", 1), mailed.clone(), link("lnk-3", 2)] {
            within!(store, |tx| links::link_insert_in(tx, &link).await)?;
        }
        assert_eq!(store.link_find(&mailed.id).await?, Some(mailed.clone()));
        assert_eq!(store.link_get(&TenantId::trusted("other"), &mailed.id).await?, None);
        let found = within!(store, |tx| links::link_of_purpose_in(tx, &here(), &person().id, "ntf-1").await)?;
        assert_eq!(found, Some(mailed.clone()));
        let again = Link { id: LinkId::trusted("lnk-4"), ..mailed };
        let twice = within!(store, |tx| links::link_insert_in(tx, &again).await);
        assert!(twice.is_err_and(|error| error.is_race()));

        let mut seen = Vec::new();
        let mut after = None;
        loop {
            let page = store.link_list(&here(), "", after.as_ref(), 2).await?;
            let Some(last) = page.last() else { break };
            after = Some(links::After { created_at: last.created_at, id: last.id.clone() });
            seen.extend(page.into_iter().map(|link| link.id.into_string()));
        }
        assert_eq!(seen, ["lnk-3", "lnk-2", "lnk-1"]);
        assert_eq!(store.link_list(&here(), person().id.as_str(), None, 9).await?.len(), 3);
        assert!(store.link_list(&here(), "nobody", None, 9).await?.is_empty());

        // Those of notifications do not count among a person's; all of them count among the instance's.
        let live = within!(store, |tx| links::live_of_person_in(tx, &here(), &person().id, at(9)).await)?;
        assert_eq!(live, [LinkId::trusted("lnk-1"), LinkId::trusted("lnk-3")]);
        let late = link("", 0).expires_at;
        assert!(
            within!(store, |tx| links::live_of_person_in(tx, &here(), &person().id, late).await)?.is_empty()
        );
        assert_eq!(within!(store, |tx| links::live_of_instance_in(tx, &here(), at(9)).await)?.len(), 3);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_link_is_withdrawn_once() -> anyhow::Result<()> {
    both(|database| async move {
        let store = open(&database).await?;
        add_person(&store).await?;
        within!(store, |tx| links::link_insert_in(tx, &link("lnk-1", 1)).await)?;
        for (reason, expected) in [("lost", true), ("again", false)] {
            let id = LinkId::trusted("lnk-1");
            let revoked =
                within!(store, |tx| links::link_revoke_in(tx, &here().tenant, &id, reason, at(5)).await)?;
            assert_eq!(revoked, expected);
        }
        let found = store.link_find(&LinkId::trusted("lnk-1")).await?.unwrap();
        assert_eq!(found.revoked, Some(Revoked { at: at(5), reason: "lost".into() }));
        assert!(within!(store, |tx| links::live_of_instance_in(tx, &here(), at(9)).await)?.is_empty());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_link_takes_ten_sessions_that_write_and_no_more() -> anyhow::Result<()> {
    both(|database| async move {
        let store = open(&database).await?;
        add_person(&store).await?;
        within!(store, |tx| links::link_insert_in(tx, &link("lnk-1", 1)).await)?;
        let mut writers = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let store = store.clone();
            writers.spawn(async move {
                let id = LinkId::trusted("lnk-1");
                within!(store, |tx| links::writer_add_in(tx, &here().tenant, &id, WRITERS_MAX, at(7)).await)
            });
        }
        let mut counted = Vec::new();
        while let Some(done) = writers.join_next().await {
            counted.extend(done??);
        }
        counted.sort_unstable();
        assert_eq!(counted, (1..=WRITERS_MAX).collect::<Vec<_>>());
        let link = store.link_find(&LinkId::trusted("lnk-1")).await?;
        assert!(link.is_some_and(|link| link.is_exhausted()));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn sessions_are_found_by_hash_used_and_counted_once() -> anyhow::Result<()> {
    both(|database| async move {
        let store = open(&database).await?;
        add_session(&store, [1; 32], at(100)).await?;
        let found = store.session_find(&[1; 32]).await?.unwrap();
        assert_eq!(found, session(at(100)));
        assert_eq!(store.session_find(&[2; 32]).await?, None);
        within!(store, |tx| sessions::session_touch_in(tx, &[1; 32], at(150), at(50)).await)?;
        let found = store.session_find(&[1; 32]).await?.unwrap();
        assert_eq!((found.last_used_at, found.expires_at), (at(50), at(150)));
        for (now, expected) in [(at(150), false), (at(60), true), (at(61), false)] {
            let first = within!(store, |tx| sessions::session_write_in(tx, &[1; 32], now).await)?;
            assert_eq!(first, expected, "{now}");
        }
        assert!(store.session_find(&[1; 32]).await?.is_some_and(|session| session.has_written));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_nonce_is_good_once_for_its_session_and_subject_while_all_is_live() -> anyhow::Result<()> {
    both(|database| async move {
        let store = open(&database).await?;
        add_session(&store, [1; 32], at(100)).await?;
        add_session(&store, [2; 32], at(100)).await?;
        for nonce in 1..=5_u8 {
            let session = session(at(100));
            within!(store, |tx| sessions::nonce_insert_in(
                tx,
                &session,
                &[1; 32],
                &[nonce; 32],
                "decide:apr-1",
                at(90),
                at(0)
            )
            .await)?;
        }
        let table: [(u8, u8, &'static str, i64, bool); 6] = [
            (1, 9, "decide:apr-1", 10, false),
            (2, 1, "decide:apr-1", 10, false),
            (1, 1, "decide:apr-2", 10, false),
            (1, 1, "decide:apr-1", 90, false),
            (1, 1, "decide:apr-1", 10, true),
            (1, 1, "decide:apr-1", 11, false),
        ];
        for (session, nonce, subject, now, expected) in table {
            let used = within!(store, |tx| sessions::nonce_use_in(
                tx,
                &[session; 32],
                &[nonce; 32],
                subject,
                at(now)
            )
            .await)?;
            assert_eq!(used, expected, "{session} {nonce} {subject} {now}");
        }

        // Sixteen at once: one is told that it was good.
        let mut takers = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let store = store.clone();
            takers.spawn(async move {
                within!(store, |tx| sessions::nonce_use_in(tx, &[1; 32], &[2; 32], "decide:apr-1", at(10))
                    .await)
            });
        }
        let mut good = 0;
        while let Some(done) = takers.join_next().await {
            good += i32::from(done??);
        }
        assert_eq!(good, 1);

        // A form of a session that was left alone too long, and of a link that was withdrawn, is good for nothing.
        within!(store, |tx| sessions::session_touch_in(tx, &[1; 32], at(20), at(15)).await)?;
        let used =
            within!(store, |tx| sessions::nonce_use_in(tx, &[1; 32], &[3; 32], "decide:apr-1", at(21))
                .await)?;
        assert!(!used);
        let id = LinkId::trusted("lnk-1");
        within!(store, |tx| links::link_revoke_in(tx, &here().tenant, &id, "lost", at(16)).await)?;
        let used =
            within!(store, |tx| sessions::nonce_use_in(tx, &[1; 32], &[4; 32], "decide:apr-1", at(17))
                .await)?;
        assert!(!used);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_is_over_is_swept_in_batches() -> anyhow::Result<()> {
    both(|database| async move {
        let store = open(&database).await?;
        for number in 1..=5_u8 {
            add_session(&store, [number; 32], at(10 * i64::from(number))).await?;
            let session = session(at(10));
            within!(store, |tx| sessions::nonce_insert_in(
                tx,
                &session,
                &[number; 32],
                &[number; 32],
                "x",
                at(99),
                at(0)
            )
            .await)?;
            let event = number.to_string();
            within!(store, |tx| links::fresh_insert_in(
                tx,
                &here(),
                &person().id,
                &event,
                at(i64::from(number))
            )
            .await)?;
        }
        let later = at(5) + FRESH_WINDOW;
        assert_eq!(within!(store, |tx| links::fresh_count_in(tx, &here(), &person().id, at(5)).await)?, 5);
        assert_eq!(within!(store, |tx| links::fresh_count_in(tx, &here(), &person().id, later).await)?, 0);
        let last_but_one = later - Duration::from_micros(1);
        assert_eq!(
            within!(store, |tx| links::fresh_count_in(tx, &here(), &person().id, last_but_one).await)?,
            1
        );

        assert!(store.sweep(at(45), at(3), 3).await?);
        assert!(!store.sweep(at(45), at(3), 3).await?);
        let mut counts = Vec::new();
        for table in ["session", "nonce", "fresh_link"] {
            let row = store.db.fetch_optional(format!("select count(*) as n from {table}"), args![]).await?;
            counts.push(row.unwrap().get::<i64>("n")?);
        }
        assert_eq!(counts, [1, 1, 3]);
        assert!(store.session_find(&[5; 32]).await?.is_some());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn rows_that_nobody_wrote_are_named_or_refused() -> anyhow::Result<()> {
    both(|database| async move {
        let store = open(&database).await?;
        add_session(&store, [1; 32], at(100)).await?;
        for broken in [
            "update link set permissions = 0",
            "update link set permissions = 16",
            "update link set expires_at = expires_at + 1",
            "update link set writers = 11",
            "update link set writers = 1",
            "update link set revoked_at = 1",
            "update participant set raid_role = 'boss'",
            "update session set expires_at = ends_at + 1",
            "update session set link_id = 'lnk-9'",
        ] {
            let done = within!(store, |tx| tx.execute(broken, args![]).await.map_err(Error::from));
            assert!(done.is_err(), "{broken}");
        }
        let broken = "update participant set required_approvals = $1";
        within!(store, |tx| tx.execute(broken, args![b"{".to_vec()]).await.map_err(Error::from))?;
        let read = store.person_get(&here(), &person().id).await;
        assert!(matches!(read, Err(Error::Inconsistent { table: "participant", row }) if row == person().id.as_str()));
        Ok(())
    })
    .await
}

async fn open(database: &TestDatabase) -> anyhow::Result<Store> {
    let db: Database = database.open(&MIGRATIONS).await?;
    Ok(Store::over(db))
}

async fn add_person(store: &Store) -> Result<(), Error> {
    within!(store, |tx| people::person_insert_in(tx, &here(), &person()).await)
}

async fn add_session(store: &Store, hash: [u8; 32], expires_at: Timestamp) -> Result<(), Error> {
    add_person(store).await?;
    if store.link_find(&LinkId::trusted("lnk-1")).await?.is_none() {
        within!(store, |tx| links::link_insert_in(tx, &link("lnk-1", 1)).await)?;
    }
    within!(store, |tx| sessions::session_insert_in(tx, &session(expires_at), &hash, at(0)).await)
}

fn here() -> Place {
    Place { tenant: TenantId::trusted("default"), instance: InstanceId::trusted("i-1") }
}

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

fn session(expires_at: Timestamp) -> Session {
    Session {
        tenant: here().tenant,
        link: LinkId::trusted("lnk-1"),
        last_used_at: at(0),
        ends_at: at(1_000),
        expires_at,
        has_written: false,
    }
}

fn link(id: &str, created: i64) -> Link {
    Link {
        tenant: here().tenant,
        id: LinkId::trusted(id),
        instance: here().instance,
        participant: person().id,
        purpose: None,
        permissions: Permissions::USUAL,
        created_by: Author(b"somebody".to_vec()),
        created_at: at(created),
        expires_at: Timestamp::from_micros(3_000_000),
        last_used_at: None,
        writers: 0,
        revoked: None,
    }
}
