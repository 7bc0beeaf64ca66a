//! Who looks at a page: a cookie names a session, the participant service says whom it stands for, on every request.

use std::fmt::Write as _;

use axum::http::{HeaderMap, HeaderValue, header};
use phasegate_clock::Timestamp;
use phasegate_participant_v1::{Link, LinkPermission, Participant};
use phasegate_principal::{Participation, Permission, Principal};
use phasegate_proto::participant::v1 as phasegate_participant_v1;

use super::Portal;
use super::fault::{Fault, Renewal};

/// Somebody behind a link.
#[derive(Debug)]
pub(super) struct Visitor {
    /// As the services know the person.
    pub(super) principal: Principal,
    /// The person.
    pub(super) person: Participant,
    /// The link that the session came from.
    pub(super) link: Link,
    /// The session, for nonces.
    pub(super) session_token: String,
    /// The path that all pages of the link begin with.
    pub(super) base: String,
}

impl Visitor {
    /// The instance that the link belongs to.
    pub(super) fn instance_id(&self) -> &str {
        &self.link.instance_id
    }

    /// Whether the link lets its holder do something.
    pub(super) fn may(&self, permission: Permission) -> bool {
        self.principal.permits(permission)
    }

    /// The person's name, or the id where there is none.
    pub(super) fn name(&self) -> &str {
        if self.person.name.is_empty() { &self.person.id } else { &self.person.name }
    }
}

impl Portal {
    /// Whom a request stands for. `writes` says that it changes something.
    pub(super) async fn visitor(
        &self,
        link_id: &str,
        headers: &HeaderMap,
        writes: bool,
    ) -> Result<Visitor, Fault> {
        let token = self.session_token(headers, link_id).ok_or(Fault::NoSession)?;
        let verified = self
            .verify_session(token, link_id, writes)
            .await
            .map_err(|status| Fault::of_link(status, || Renewal::Session { link: link_id.to_owned() }))?;
        let (Some(link), Some(person)) = (verified.link, verified.participant) else {
            return Err(Fault::NoSession);
        };
        let permissions = link.permissions().filter_map(permission).collect();
        let participation = Participation {
            instance_id: link.instance_id.clone(),
            participant_id: person.id.clone(),
            link_id: link.id.clone(),
            permissions,
        };
        let principal = Principal::participant(&verified.tenant_id, &person.name, participation);
        phasegate_serve::note_caller(&principal);
        let base = format!("/external/{}", link.id);
        Ok(Visitor { principal, person, link, session_token: token.to_owned(), base })
    }

    /// What the cookie of a link says.
    pub(super) fn session_token<'a>(&self, headers: &'a HeaderMap, link_id: &str) -> Option<&'a str> {
        cookie(headers, &self.cookie_name(link_id))
    }

    /// The cookie of a new session. `__Host-` binds it to this host; that needs TLS, which `dev` has not.
    pub(super) fn set_cookie(
        &self,
        link_id: &str,
        token: &str,
        ends: Option<Timestamp>,
    ) -> Option<HeaderValue> {
        let mut text = format!("{}={token}; Path=/; HttpOnly; SameSite=Lax", self.cookie_name(link_id));
        if !self.dev {
            text.push_str("; Secure");
        }
        if let Some(ends) = ends {
            let seconds = ends.duration_since(self.context.clock.now()).as_secs();
            // Writing to a string does not fail.
            let _ = write!(text, "; Max-Age={seconds}");
        }
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    fn cookie_name(&self, link_id: &str) -> String {
        let prefix = if self.dev { "" } else { "__Host-" };
        format!("{prefix}phasegate_{link_id}")
    }
}

fn permission(permission: LinkPermission) -> Option<Permission> {
    match permission {
        LinkPermission::View => Some(Permission::View),
        LinkPermission::Approve => Some(Permission::Approve),
        LinkPermission::Comment => Some(Permission::Comment),
        LinkPermission::Delegate => Some(Permission::Delegate),
        LinkPermission::Unspecified => None,
    }
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_found_by_name() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=1; phasegate_lnk-1=abc"));
        headers.append(header::COOKIE, HeaderValue::from_static("phasegate_lnk-2=def"));
        assert_eq!(cookie(&headers, "phasegate_lnk-1"), Some("abc"));
        assert_eq!(cookie(&headers, "phasegate_lnk-2"), Some("def"));
        assert_eq!(cookie(&headers, "phasegate_lnk-3"), None);
    }
}
