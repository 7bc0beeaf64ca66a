//! Patience with a server whose parts may end and come back while the story is told. Whatever changes something carries a
//! request id, or says the same twice without harm, so that asking again is safe.

use std::error::Error as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use reqwest::{RequestBuilder, StatusCode, Url};
use tonic::{Code, Response, Status};

/// Longest wait for a part that is away.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// What came back over HTTP.
pub(super) struct Answer {
    /// Its status.
    pub(super) status: StatusCode,
    /// Where it came from, after all redirections.
    pub(super) url: Url,
    /// Its text.
    pub(super) text: String,
}

/// Calls until somebody answers.
pub(super) async fn call<C: Clone, R: Clone, T, F>(
    client: &C,
    request: R,
    send: impl Fn(C, R) -> F,
) -> Result<T, Status>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let begun = Instant::now();
    loop {
        match send(client.clone(), request.clone()).await {
            Err(status) if is_away(&status) && begun.elapsed() < PATIENCE => pause().await,
            answer => return answer.map(Response::into_inner),
        }
    }
}

/// Nobody is there, or whoever was there ended in the middle of the call: then the connection is the source of what is told.
pub(super) fn is_away(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::Unknown) || status.source().is_some()
}

/// Waits a little before the next try.
pub(super) async fn pause() {
    tokio::time::sleep(PAUSE).await;
}

/// Sends a request until it is answered. Addresses may hold secrets, so that an error does not show them.
pub(super) async fn fetch(request: RequestBuilder) -> anyhow::Result<Answer> {
    let begun = Instant::now();
    loop {
        let again = request.try_clone().context("the request can be sent once only")?;
        let is_late = begun.elapsed() >= PATIENCE;
        match once(again).await {
            Ok(answer) if is_late || !is_absence(answer.status) => return Ok(answer),
            Err(error) if is_late => return Err(error.without_url().into()),
            Ok(_) | Err(_) => pause().await,
        }
    }
}

async fn once(request: RequestBuilder) -> reqwest::Result<Answer> {
    let response = request.send().await?;
    let (status, url) = (response.status(), response.url().clone());
    Ok(Answer { status, url, text: response.text().await? })
}

fn is_absence(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// Names a change, so that the server knows it again.
pub(super) fn request_id() -> String {
    phasegate_id::EventId::generate().into_string()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "plays a server")]
    async fn tries(code: Code, away: u32) -> (Result<(), Code>, u32) {
        let tried = AtomicU32::new(0);
        let answer = call(&(), (), |(), ()| async {
            if tried.fetch_add(1, Ordering::Relaxed) < away {
                Err(Status::new(code, "no"))
            } else {
                Ok(Response::new(()))
            }
        });
        (answer.await.map_err(|status| status.code()), tried.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn who_is_away_is_waited_for_and_a_refusal_is_final() {
        assert_eq!(tries(Code::Unavailable, 2).await, (Ok(()), 3));
        assert_eq!(tries(Code::NotFound, 2).await, (Err(Code::NotFound), 1));
    }
}
