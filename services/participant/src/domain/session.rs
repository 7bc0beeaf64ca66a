//! Portal sessions and the nonces of their forms. A session dies of its link, of idleness, or of age.

use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_id::{LinkId, TenantId};

use super::link::State;

/// A session that is not used for this long ends.
pub const IDLE_MAX: Duration = Duration::from_mins(30);
/// A session ends after this long, used or not.
pub const LIFE_MAX: Duration = Duration::from_hours(8);
/// The use of a session is written down when the last one is this long ago, so that reading a page is not a write
/// each time. A session may end this much early.
pub const TOUCH_AFTER: Duration = Duration::from_secs(30);
/// A form that is not sent for this long must be opened again.
pub const NONCE_LIFE_MAX: Duration = Duration::from_hours(1);
/// Longest subject of a nonce, in bytes.
pub const SUBJECT_BYTES_MAX: usize = 512;

/// A portal session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Tenant of its link.
    pub tenant: TenantId,
    /// Its link.
    pub link: LinkId,
    /// When it was last used, as far as that was written down.
    pub last_used_at: Timestamp,
    /// Its end, used or not.
    pub ends_at: Timestamp,
    /// Its end, if it is not used again.
    pub expires_at: Timestamp,
    /// It is one of those of its link that have written.
    pub has_written: bool,
}

/// What the use of a session comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// The end to write down; nothing where the last one will do.
    pub touch: Option<Timestamp>,
    /// The session writes for the first time: it must be counted.
    pub first_write: bool,
}

/// Why a session or a token is good for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Not a token of ours, whatever it is.
    #[error("the link is not valid")]
    LinkInvalid,
    /// A token of ours whose link has ended.
    #[error("the link has expired")]
    LinkExpired,
    /// A token of ours whose link was withdrawn.
    #[error("the link was revoked")]
    LinkRevoked,
    /// Too many sessions of one link have written.
    #[error("the link was used from too many places")]
    LinkExhausted,
    /// No such session, or it has ended.
    #[error("the session has ended")]
    SessionExpired,
    /// No such nonce, used up, of another session or for another subject.
    #[error("the form was not opened by this session, or was sent already")]
    Csrf,
}

/// The two ends of a session opened at `now` of a link that ends at `link_ends_at`: the last one, and the one that
/// comes if it is not used.
pub fn open(now: Timestamp, link_ends_at: Timestamp) -> (Timestamp, Timestamp) {
    let ends_at = link_ends_at.min(now + LIFE_MAX);
    (ends_at, ends_at.min(now + IDLE_MAX))
}

/// Whether a link in this state can be used.
pub fn check_link(state: State) -> Result<(), Rejection> {
    match state {
        State::Active => Ok(()),
        State::Expired => Err(Rejection::LinkExpired),
        State::Revoked => Err(Rejection::LinkRevoked),
    }
}

/// What the use of a session at `now` comes to. `writes` means that the request changes something.
pub fn decide(session: &Session, link: State, writes: bool, now: Timestamp) -> Result<Use, Rejection> {
    check_link(link)?;
    if session.expires_at <= now {
        return Err(Rejection::SessionExpired);
    }
    let touch = now.duration_since(session.last_used_at) >= TOUCH_AFTER;
    Ok(Use {
        touch: touch.then(|| session.ends_at.min(now + IDLE_MAX)),
        first_write: writes && !session.has_written,
    })
}

/// When a nonce made at `now` ends.
pub fn nonce_expires_at(now: Timestamp, session_ends_at: Timestamp) -> Timestamp {
    session_ends_at.min(now + NONCE_LIFE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn start() -> Timestamp {
        Timestamp::from_micros(1_700_000_000_000_000)
    }

    fn session(has_written: bool) -> Session {
        let (ends_at, expires_at) = open(start(), start() + 100 * LIFE_MAX);
        Session {
            tenant: TenantId::trusted("default"),
            link: LinkId::trusted("lnk-1"),
            last_used_at: start(),
            ends_at,
            expires_at,
            has_written,
        }
    }

    #[test]
    fn a_session_ends_of_idleness_of_age_and_with_its_link() {
        assert_eq!(open(start(), start() + 100 * LIFE_MAX), (start() + LIFE_MAX, start() + IDLE_MAX));
        assert_eq!(open(start(), start() + MINUTE), (start() + MINUTE, start() + MINUTE));

        let session = session(false);
        let at = |minutes: u32| decide(&session, State::Active, false, start() + minutes * MINUTE);
        assert_eq!(at(0), Ok(Use { touch: None, first_write: false }));
        let touched = start() + 29 * MINUTE + IDLE_MAX;
        assert_eq!(at(29), Ok(Use { touch: Some(touched), first_write: false }));
        assert_eq!(at(30), Err(Rejection::SessionExpired));

        // However often it is used, it does not outlive eight hours.
        let used = Session { expires_at: session.ends_at, ..session.clone() };
        let last = start() + LIFE_MAX - MINUTE;
        let answer = decide(&used, State::Active, false, last);
        assert_eq!(answer, Ok(Use { touch: Some(session.ends_at), first_write: false }));
        assert_eq!(decide(&used, State::Active, false, session.ends_at), Err(Rejection::SessionExpired));
    }

    #[test]
    fn the_link_says_first_why_nothing_works() {
        let late = start() + LIFE_MAX;
        for (state, expected) in [
            (State::Active, Rejection::SessionExpired),
            (State::Expired, Rejection::LinkExpired),
            (State::Revoked, Rejection::LinkRevoked),
        ] {
            assert_eq!(decide(&session(false), state, true, late), Err(expected), "{state:?}");
        }
    }

    #[test]
    fn only_the_first_write_of_a_session_is_counted() {
        for (has_written, writes, expected) in
            [(false, false, false), (false, true, true), (true, true, false), (true, false, false)]
        {
            let answer = decide(&session(has_written), State::Active, writes, start()).unwrap();
            assert_eq!(answer.first_write, expected, "{has_written} {writes}");
        }
    }

    #[test]
    fn a_nonce_ends_with_its_session_or_after_an_hour() {
        assert_eq!(nonce_expires_at(start(), start() + LIFE_MAX), start() + NONCE_LIFE_MAX);
        assert_eq!(nonce_expires_at(start(), start() + MINUTE), start() + MINUTE);
    }
}
