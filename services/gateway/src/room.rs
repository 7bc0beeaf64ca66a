//! Room for calls: how many are under way at a time, and whose.

use phasegate_serve::{Overloaded, Place, Places};

use crate::config::Limits;
use crate::method::PublicMethod;
use crate::refusal::Refused;

/// Whoever is not known, or only once a session has been looked up.
pub(crate) const VISITORS: &str = "visitors";

/// The places of the gateway.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    calls: Places,
    polls: Places,
}

impl Room {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { calls: Places::new(limits.calls_max), polls: Places::new(limits.polls_max) }
    }

    /// A place for a call of a tenant. A stream needs none once it is open, and opening it is a call.
    pub(crate) fn enter(&self, method: &PublicMethod, tenant: &str) -> Result<Place, Refused> {
        let places = if method.waits { &self.polls } else { &self.calls };
        taken(places.enter(tenant))
    }

    /// A place for a page of the portal.
    pub(crate) fn visit(&self) -> Result<Place, Refused> {
        taken(self.calls.enter(VISITORS))
    }
}

fn taken(place: Option<Place>) -> Result<Place, Refused> {
    place.ok_or_else(|| Overloaded::shed("gateway").into())
}
