//! Who calls: what a call from outside brings along becomes a principal, or the call is refused.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use phasegate_principal::Principal;

use crate::refusal::Refused;

/// Finds out who calls. In `dev` a call without a credential is the operator's; elsewhere it is refused. There are no
/// keys yet, so that a credential is never valid, in `dev` either: whoever sends one does not mean to be somebody else.
pub(crate) fn identify(headers: &HeaderMap, dev: bool) -> Result<Principal, Refused> {
    match headers.get(AUTHORIZATION) {
        Some(_) => Err(Refused::CredentialsInvalid),
        None if dev => Ok(Principal::dev_operator()),
        None => Err(Refused::CredentialsMissing),
    }
}
