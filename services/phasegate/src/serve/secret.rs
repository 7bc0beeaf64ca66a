//! The file of secrets, looked at again and again: a new first line signs from then on, and every line is believed.
//!
//! To replace a secret without anybody noticing: add the new one as the last line everywhere, then make it the first
//! line, then take the old one out once nothing that it signed is still in use (links live two weeks).

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use phasegate_serve::Keys;
use tokio_util::sync::CancellationToken;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(2);

/// The secrets in a file, the one that signs first.
pub(super) fn read(file: &Path) -> anyhow::Result<Vec<[u8; 32]>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let secrets: Option<Vec<[u8; 32]>> = lines.map(|line| hex::decode(line).ok()?.try_into().ok()).collect();
    let secrets = secrets.filter(|secrets| !secrets.is_empty());
    secrets.with_context(|| {
        format!(
            "{} must hold 64 hexadecimal digits a line, at least one line; make one with: openssl rand -hex 32",
            file.display()
        )
    })
}

/// Looks at the file until shutdown. What cannot be read changes nothing.
pub(super) async fn watch(file: &Path, mut known: Vec<[u8; 32]>, keys: &Keys, shutdown: CancellationToken) {
    let mut was_bad = false;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
        match read(file) {
            Ok(secrets) if secrets == known => was_bad = false,
            Ok(secrets) => {
                keys.replace(&secrets);
                tracing::info!(secrets = secrets.len(), "the secrets of the installation were replaced");
                known = secrets;
                was_bad = false;
            }
            Err(error) => {
                if !was_bad {
                    tracing::warn!(error = format!("{error:#}"), "the secrets stay as they are");
                }
                was_bad = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {

    use phasegate_bus::Bus;
    use phasegate_clock::SystemClock;
    use phasegate_principal::{Principal, Signer, Verifier};
    use phasegate_proto::participant::v1::GetParticipantRequest;
    use phasegate_proto::participant::v1::participant_service_client::ParticipantServiceClient;
    use phasegate_serve::{Context, Peers, Service, pipe, serve};
    use tonic::Code;
    use tonic::service::Routes;
    use tonic::transport::Channel;

    use super::*;

    /// A server with nothing behind its door.
    struct Running(Channel);

    impl Running {
        fn start(keys: &Keys, shutdown: &CancellationToken) -> Self {
            let (listener, channel) = pipe();
            let clock = SystemClock::shared();
            let context = Context {
                peers: Peers::none(Signer::new(&keys.principal, clock.clone())),
                clock,
                bus: Bus::local(),
                keys: keys.clone(),
                public_url: "http://127.0.0.1:7460".to_owned(),
                limits: phasegate_serve::Limits::default(),
                draining: CancellationToken::new(),
                shutdown: shutdown.clone(),
            };
            tokio::spawn(async move {
                serve(Service::Participant, Routes::builder().routes(), &context, listener).await
            });
            Self(channel)
        }

        /// Whether it lets a call in that was signed with this secret.
        async fn believes(&self, secret: &[u8; 32]) -> bool {
            let signer = Signer::new(&Keys::derive(secret).principal, SystemClock::shared());
            let peers = Peers::none(signer);
            let question = GetParticipantRequest::default();
            let question = peers.request(Service::Participant, &Principal::dev_operator(), question);
            let answer = ParticipantServiceClient::new(self.0.clone()).get_participant(question).await;
            match answer.map_err(|status| status.code()) {
                Err(Code::Unimplemented) => true,
                Err(Code::Unauthenticated) => false,
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_file_that_changes_replaces_the_keys_and_a_damaged_one_does_not() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("secret");
        let (old, new) = (hex::encode([1; 32]), hex::encode([2; 32]));
        std::fs::write(&file, format!("{old}\n"))?;
        let known = read(&file)?;
        let keys = Keys::derive(&[1; 32]);
        let shutdown = CancellationToken::new();
        let service = Running::start(&keys, &shutdown);
        assert!(service.believes(&[1; 32]).await && !service.believes(&[2; 32]).await);
        let watching = {
            let (file, keys, shutdown) = (file.clone(), keys.clone(), shutdown.clone());
            tokio::spawn(async move { watch(&file, known, &keys, shutdown).await })
        };
        let expected = |secret: &[u8; 32]| Keys::derive(secret).principal.signing();
        std::fs::write(&file, "nonsense")?;
        tokio::time::sleep(PERIOD + Duration::from_millis(500)).await;
        assert_eq!(keys.principal.signing(), expected(&[1; 32]));
        assert!(service.believes(&[1; 32]).await && !service.believes(&[2; 32]).await);
        std::fs::write(&file, format!("{new}\n{old}\n"))?;
        tokio::time::sleep(PERIOD + Duration::from_millis(500)).await;
        assert_eq!(keys.principal.all().as_ref(), [expected(&[2; 32]), expected(&[1; 32])]);
        assert!(service.believes(&[1; 32]).await && service.believes(&[2; 32]).await, "old and new");
        // What the service signs itself is believed by those who know the new one alone.
        let token = Signer::new(&keys.principal, SystemClock::shared());
        let token = token.sign(&Principal::dev_operator(), "instance")?;
        let new = Verifier::new(&Keys::derive(&[2; 32]).principal, "instance", SystemClock::shared());
        assert!(new.verify(&token).is_ok(), "the new one signs");
        std::fs::write(&file, hex::encode([2; 32]))?;
        tokio::time::sleep(PERIOD + Duration::from_millis(500)).await;
        assert!(!service.believes(&[1; 32]).await && service.believes(&[2; 32]).await, "the old one is out");
        shutdown.cancel();
        watching.await?;
        Ok(())
    }
}
