//! Magic links. A link is a row; its token only names the row and proves that we made it. What the row says is looked
//! at on every use, so that whatever is changed there holds from the next request on.

use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_id::{InstanceId, LinkId, ParticipantId, TenantId};

use super::Author;
use super::permission::{Permission, Permissions};
use super::person::Person;

/// Shortest life of a link: a mail needs a while to arrive.
pub const LIFE_MIN: Duration = Duration::from_mins(5);
/// Life of a link that nobody gave one.
pub const LIFE_DEFAULT: Duration = Duration::from_hours(7 * 24);
/// Longest life of a link.
pub const LIFE_MAX: Duration = Duration::from_hours(14 * 24);
/// Live links of one person that were asked for; one more ends the oldest. Those of notifications are not counted:
/// a mail must not make the page dead that somebody is reading.
pub const LIVE_MAX: usize = 5;
/// Sessions of one link that may write. Mail scanners open links and press buttons, so that reading counts nothing.
pub const WRITERS_MAX: i64 = 10;
/// Fresh links that one person may ask for within [`FRESH_WINDOW`].
pub const FRESH_MAX: i64 = 3;
/// See [`FRESH_MAX`].
pub const FRESH_WINDOW: Duration = Duration::from_hours(1);
/// Longest reason for revoking, in bytes.
pub const REASON_BYTES_MAX: usize = 4 << 10;

/// A magic link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Tenant.
    pub tenant: TenantId,
    /// Id; unique among all tenants.
    pub id: LinkId,
    /// Instance.
    pub instance: InstanceId,
    /// Person.
    pub participant: ParticipantId,
    /// The notification that it was made for, or that it is a fresh one; nothing where an operator asked for it.
    pub purpose: Option<String>,
    /// What the row allows; the person's role allows less, perhaps.
    pub permissions: Permissions,
    /// Who made it.
    pub created_by: Author,
    /// When.
    pub created_at: Timestamp,
    /// Its end, a whole second.
    pub expires_at: Timestamp,
    /// When a session of it was last used.
    pub last_used_at: Option<Timestamp>,
    /// Sessions of it that have written.
    pub writers: i64,
    /// Its withdrawal.
    pub revoked: Option<Revoked>,
}

/// The withdrawal of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}

/// Where a link stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Works.
    Active,
    /// Its time is over.
    Expired,
    /// Withdrawn.
    Revoked,
}

/// Why a link is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The person is not external, or has no address.
    #[error("the participant {participant} must be external and have an address")]
    ParticipantInvalid {
        /// Person.
        participant: ParticipantId,
    },
    /// The address is another one.
    #[error("the email is not the address of the participant {participant}")]
    EmailMismatch {
        /// Person.
        participant: ParticipantId,
    },
    /// The life is too short, too long or unreadable.
    #[error("the expiry must be a duration of 5 minutes to 14 days")]
    ExpiryInvalid,
    /// A permission is unknown, or more than the role allows.
    #[error("the permissions must not exceed those of the role of the participant")]
    PermissionsInvalid,
}

/// What a link for `person` may allow, if there may be one. `wanted` empty asks for the usual.
pub fn decide(person: &Person, email: &str, wanted: &[Permission]) -> Result<Permissions, Rejection> {
    if !person.external || person.email.is_empty() {
        return Err(Rejection::ParticipantInvalid { participant: person.id.clone() });
    }
    if !email.is_empty() && !person.has_address(email) {
        return Err(Rejection::EmailMismatch { participant: person.id.clone() });
    }
    let most = Permissions::of_role(person);
    if wanted.is_empty() {
        return Ok(Permissions::USUAL.and(most));
    }
    // What was asked for by name is not dropped in silence.
    let asked: Permissions = wanted.iter().copied().collect();
    if asked.and(most) == asked { Ok(asked) } else { Err(Rejection::PermissionsInvalid) }
}

/// When a link made at `now` ends: after a life within bounds, on a whole second, because that is what a token says.
pub fn expires_at(now: Timestamp, life: Duration) -> Result<Timestamp, Rejection> {
    if (LIFE_MIN..=LIFE_MAX).contains(&life) {
        Ok(whole_second(now + life))
    } else {
        Err(Rejection::ExpiryInvalid)
    }
}

/// When the link of a notification ends that wants it until `wanted`: within the same bounds.
pub fn expires_within(now: Timestamp, wanted: Option<Timestamp>) -> Timestamp {
    let wanted = wanted.unwrap_or(now + LIFE_DEFAULT);
    whole_second(wanted.clamp(now + LIFE_MIN, now + LIFE_MAX))
}

/// Which of a person's live links, oldest first, end when one more is made.
pub fn crowded_out(live_oldest_first: &[LinkId]) -> &[LinkId] {
    let too_many = (live_oldest_first.len() + 1).saturating_sub(LIVE_MAX);
    &live_oldest_first[..too_many.min(live_oldest_first.len())]
}

/// Seconds since the epoch, as a token writes them.
pub fn seconds(time: Timestamp) -> i64 {
    time.as_micros().div_euclid(MICROS)
}

const MICROS: i64 = 1_000_000;

fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_micros(time.as_micros().div_euclid(MICROS).saturating_mul(MICROS))
}

// === impl Link ===

impl Link {
    /// Where it stands at `now`. A withdrawal outlasts the end.
    pub fn state(&self, now: Timestamp) -> State {
        if self.revoked.is_some() {
            State::Revoked
        } else if self.expires_at <= now {
            State::Expired
        } else {
            State::Active
        }
    }

    /// No further session of it may write.
    pub fn is_exhausted(&self) -> bool {
        self.writers >= WRITERS_MAX
    }

    /// What its holder may do: what its row and the person's role have in common.
    pub fn allows(&self, person: &Person) -> Permissions {
        self.permissions.and(Permissions::of_role(person))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::person::RaidRole;
    use crate::domain::person::tests::person;

    type Case<'a> = (&'a Person, &'a str, &'a [Permission], Result<Permissions, Rejection>);

    fn ids(count: usize) -> Vec<LinkId> {
        (0..count).map(|n| LinkId::trusted(format!("lnk-{n}"))).collect()
    }

    #[test]
    fn who_may_have_a_link() {
        use Permission::{Approve, Comment, Delegate, View};
        let approver = person();
        let informed = Person { raid_role: RaidRole::Informed, ..person() };
        let inside = Person { external: false, ..person() };
        let without = Person { email: String::new(), ..person() };
        let id = approver.id.clone();
        let usual = Ok(Permissions::USUAL);
        let invalid = Err(Rejection::ParticipantInvalid { participant: id.clone() });
        let table: [Case<'_>; 11] = [
            (&approver, "", &[], usual.clone()),
            (&approver, "IT-admin@acme.com", &[], usual),
            (&approver, "ciso@acme.com", &[], Err(Rejection::EmailMismatch { participant: id })),
            (&approver, "", &[View], Ok([View].into_iter().collect())),
            (&approver, "", &[Comment, Approve, Comment], Ok([Approve, Comment].into_iter().collect())),
            (&approver, "", &[Approve, Delegate], Err(Rejection::PermissionsInvalid)),
            (&approver, "", &[Delegate], Err(Rejection::PermissionsInvalid)),
            (&informed, "", &[], Ok([View, Comment].into_iter().collect())),
            (&informed, "", &[Approve], Err(Rejection::PermissionsInvalid)),
            (&inside, "", &[], invalid.clone()),
            (&without, "", &[], invalid),
        ];
        for (person, email, wanted, expected) in table {
            assert_eq!(decide(person, email, wanted), expected, "{person:?} {email} {wanted:?}");
        }
    }

    #[test]
    fn lives_are_bounded_and_end_on_a_whole_second() {
        let now = Timestamp::from_micros(1_700_000_000_123_456);
        let end = expires_at(now, LIFE_DEFAULT).unwrap();
        assert_eq!(end.as_micros() % MICROS, 0);
        assert_eq!(end.as_micros(), 1_700_604_800_000_000);
        assert_eq!(seconds(end), 1_700_604_800);
        assert!(expires_at(now, LIFE_MIN).is_ok());
        assert!(expires_at(now, LIFE_MAX).is_ok());
        let second = Duration::from_secs(1);
        for life in [Duration::ZERO, LIFE_MIN.saturating_sub(second), LIFE_MAX + second, Duration::MAX] {
            assert_eq!(expires_at(now, life), Err(Rejection::ExpiryInvalid), "{life:?}");
        }
        assert_eq!(expires_within(now, None), end);
        assert_eq!(expires_within(now, Some(now)), expires_at(now, LIFE_MIN).unwrap());
        assert_eq!(expires_within(now, Some(now + Duration::MAX)), expires_at(now, LIFE_MAX).unwrap());
    }

    #[test]
    fn the_sixth_live_link_ends_the_oldest() {
        for (live, ended) in [(0, 0), (4, 0), (5, 1), (7, 3)] {
            let live = ids(live);
            assert_eq!(crowded_out(&live), &live[..ended], "{}", live.len());
        }
    }

    #[test]
    fn a_withdrawal_outlasts_the_end() {
        let end = Timestamp::from_micros(10);
        let mut link = Link {
            tenant: TenantId::trusted("default"),
            id: LinkId::trusted("lnk-1"),
            instance: InstanceId::trusted("proc-inst-1"),
            participant: person().id,
            purpose: None,
            permissions: Permissions::from_bits(15).unwrap(),
            created_by: Author(Vec::new()),
            created_at: Timestamp::from_micros(0),
            expires_at: end,
            last_used_at: None,
            writers: 0,
            revoked: None,
        };
        assert_eq!(link.state(Timestamp::from_micros(9)), State::Active);
        assert_eq!(link.state(end), State::Expired);
        // A row that was widened by hand gives no more than the role.
        assert_eq!(link.allows(&person()), Permissions::USUAL);
        link.revoked = Some(Revoked { at: end, reason: "lost".into() });
        assert_eq!(link.state(Timestamp::from_micros(9)), State::Revoked);
        assert_eq!(link.state(Timestamp::from_micros(11)), State::Revoked);
    }
}
