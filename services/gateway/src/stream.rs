//! Streams: how many are open at a time, whose they are, and until when. A stream outlives what was known of its caller
//! when it began, so its credential is looked at again and again: a key that is revoked hears nothing more.

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use phasegate_principal::Principal;
use phasegate_serve::{Place, Places};
use rand::Rng as _;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::caller::Callers;
use crate::refusal::Refused;
use crate::room::VISITORS;

/// From one look at the credential of a stream to the next.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Room for streams.
#[derive(Debug, Clone)]
pub(crate) struct Streams {
    places: Places,
    /// Of those whom nobody knows: they take no place of anybody who is.
    visitors: Places,
    limit: usize,
    callers: Arc<Callers>,
    shutdown: CancellationToken,
}

/// A stream that is open for as long as this is kept.
#[derive(Debug)]
pub(crate) struct Open {
    /// When it has to end: the gateway stops, or its caller is not let in any more. The client comes back, and is served
    /// by another copy or refused.
    pub(crate) stop: CancellationToken,
    _place: Place,
    _watch: DropGuard,
}

impl Streams {
    pub(crate) fn new(streams_max: usize, callers: Arc<Callers>, shutdown: CancellationToken) -> Self {
        let [places, visitors] = [(); 2].map(|()| Places::new(streams_max));
        Self { places, visitors, limit: streams_max, callers, shutdown }
    }

    /// Whether the gateway stops.
    pub(crate) fn are_ending(&self) -> bool {
        self.shutdown.is_cancelled()
    }

    /// A place for what is open to everybody: whether we are well, and what we understand.
    pub(crate) fn visit(&self) -> Result<Place, Refused> {
        self.taken(self.visitors.enter(VISITORS))
    }

    fn taken(&self, place: Option<Place>) -> Result<Place, Refused> {
        place.ok_or(Refused::TooManyStreams { streams_max: self.limit })
    }

    /// Opens one for a caller, whose call this is.
    pub(crate) fn open(&self, parts: &Parts, principal: &Principal) -> Result<Open, Refused> {
        let place = self.taken(self.places.enter(&principal.tenant))?;
        let stop = self.shutdown.child_token();
        let (callers, headers, watched) = (self.callers.clone(), parts.headers.clone(), stop.clone());
        let tenant = principal.tenant.clone();
        tokio::spawn(async move {
            let goes_on = async {
                loop {
                    let pause = LOOK_EVERY.mul_f64(rand::rng().random_range(0.7..1.3));
                    tokio::time::sleep(pause).await;
                    if !callers.still_lets_in(&headers, &tenant).await {
                        return;
                    }
                }
            };
            tokio::select! {
                () = watched.cancelled() => {}
                () = goes_on => watched.cancel(),
            }
        });
        Ok(Open { _watch: stop.clone().drop_guard(), stop, _place: place })
    }
}
