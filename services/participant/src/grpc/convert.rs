//! Messages and what they mean here.

use phasegate_process::parse_duration;
use phasegate_proto::actor::v1::Actor;
use phasegate_proto::definition::v1::{NotificationPreferences, RaidRole as ProtoRole};
use phasegate_proto::participant::v1 as proto;
use prost::Message as _;

use crate::app::Error;
use crate::app::link::{Held, Wish, proto_permission};
use crate::app::session::Standing;
use crate::domain::Author;
use crate::domain::link::{self as rules, Link, REASON_BYTES_MAX, Rejection, State};
use crate::domain::permission::Permission;
use crate::domain::person::{Person, Preferences, RaidRole};
use phasegate_clock::Timestamp;
use phasegate_rpc_error::Invalid;

/// Reads what a caller wants of a new link.
pub(super) fn wish(request: &proto::CreateLinkRequest) -> Result<Wish, Error> {
    let life = match request.expires_in.as_str() {
        "" => rules::LIFE_DEFAULT,
        text => parse_duration(text).map_err(|_| Rejection::ExpiryInvalid)?,
    };
    // The bounds are the rules'; looked at before anything else, because they depend on nothing else.
    rules::expires_at(Timestamp::default(), life)?;
    let permissions = request.permissions().map(permission).collect::<Result<_, _>>()?;
    let unknown = request.permissions.iter().any(|number| proto::LinkPermission::try_from(*number).is_err());
    if unknown {
        return Err(Rejection::PermissionsInvalid.into());
    }
    Ok(Wish { participant: request.participant_id.clone(), email: request.email.clone(), life, permissions })
}

/// Checks a reason.
pub(super) fn reason(text: &str) -> Result<(), Error> {
    let plain = !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'));
    if text.len() <= REASON_BYTES_MAX && plain {
        return Ok(());
    }
    let message = format!("must be plain text of at most {REASON_BYTES_MAX} bytes");
    Err(Invalid::new("TEXT_INVALID", "reason", message).into())
}

/// Writes a person.
pub(super) fn person(instance_id: &str, person: Person) -> proto::Participant {
    let raid_role = match person.raid_role {
        RaidRole::Responsible => ProtoRole::Responsible,
        RaidRole::Approver => ProtoRole::Approver,
        RaidRole::Informed => ProtoRole::Informed,
        RaidRole::Delegator => ProtoRole::Delegator,
    };
    let Preferences { email, slack, in_app } = person.preferences;
    let said = email.is_some() || slack.is_some() || in_app.is_some();
    proto::Participant {
        id: person.id.into_string(),
        instance_id: instance_id.to_owned(),
        name: person.name,
        email: person.email,
        role: person.role,
        raid_role: raid_role.into(),
        external: person.external,
        required_approvals: person.required_approvals,
        notification_preferences: said.then_some(NotificationPreferences { email, slack, in_app }),
        can_delegate: person.can_delegate,
        created_at: Some(person.created_at.to_proto()),
    }
}

/// Writes a link as it stands.
pub(super) fn held(held: &Held) -> proto::Link {
    link(&held.link, &held.person, held.now)
}

/// Writes the link of a session.
pub(super) fn standing(standing: &Standing) -> proto::Link {
    link(&standing.link, &standing.person, standing.now)
}

fn link(link: &Link, person: &Person, now: Timestamp) -> proto::Link {
    let status = match link.state(now) {
        State::Active => proto::LinkStatus::Active,
        State::Expired => proto::LinkStatus::Expired,
        State::Revoked => proto::LinkStatus::Revoked,
    };
    proto::Link {
        id: link.id.as_str().to_owned(),
        instance_id: link.instance.as_str().to_owned(),
        participant_id: link.participant.as_str().to_owned(),
        email: person.email.clone(),
        permissions: link.allows(person).iter().map(|allowed| proto_permission(allowed).into()).collect(),
        status: status.into(),
        created_at: Some(link.created_at.to_proto()),
        expires_at: Some(link.expires_at.to_proto()),
        last_used_at: link.last_used_at.map(Timestamp::to_proto),
        created_by: Some(actor(&link.created_by)),
        revoked_reason: link.revoked.as_ref().map(|revoked| revoked.reason.clone()).unwrap_or_default(),
    }
}

fn permission(permission: proto::LinkPermission) -> Result<Permission, Rejection> {
    match permission {
        proto::LinkPermission::View => Ok(Permission::View),
        proto::LinkPermission::Approve => Ok(Permission::Approve),
        proto::LinkPermission::Comment => Ok(Permission::Comment),
        proto::LinkPermission::Delegate => Ok(Permission::Delegate),
        proto::LinkPermission::Unspecified => Err(Rejection::PermissionsInvalid),
    }
}

/// An author that cannot be read is nobody; the link is shown all the same.
fn actor(author: &Author) -> Actor {
    Actor::decode(author.0.as_slice()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn wishes_are_read() {
        let request = |expires_in: &str, permissions: &[i32]| proto::CreateLinkRequest {
            expires_in: expires_in.into(),
            permissions: permissions.to_vec(),
            ..Default::default()
        };
        let week = Duration::from_hours(7 * 24);
        for (expires_in, expected) in
            [("", week), ("7d", week), ("P7D", week), ("5m", Duration::from_mins(5)), ("14d", 2 * week)]
        {
            assert_eq!(wish(&request(expires_in, &[])).unwrap().life, expected, "{expires_in}");
        }
        for bad in ["4m59s", "14d1s", "0s", "-7d", "soon", "7"] {
            let refused = wish(&request(bad, &[]));
            assert!(matches!(refused, Err(Error::Link(Rejection::ExpiryInvalid))), "{bad}");
        }
        let read = wish(&request("", &[3, 1])).unwrap().permissions;
        assert_eq!(read, [Permission::Comment, Permission::View]);
        for bad in [&[0][..], &[1, 9], &[-1]] {
            let refused = wish(&request("", bad));
            assert!(matches!(refused, Err(Error::Link(Rejection::PermissionsInvalid))), "{bad:?}");
        }
    }
}
