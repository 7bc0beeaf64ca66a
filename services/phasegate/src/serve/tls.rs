//! The files of certificates between services, looked at again and again: what is new in them holds for connections that
//! begin from then on. To change the authority, too, let the file name both until every service has a new certificate.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use phasegate_serve::{Certificates, Tls};
use tokio_util::sync::CancellationToken;

use super::{Options, Settings};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(2);

/// Files of certificates.
#[derive(Debug, Clone, Copy)]
struct Files<'a> {
    authorities: &'a Path,
    chain: &'a Path,
    key: &'a Path,
}

impl<'a> Files<'a> {
    fn of(options: &'a Options) -> anyhow::Result<Option<Self>> {
        match (&options.tls_ca_file, &options.tls_cert_file, &options.tls_key_file) {
            (None, None, None) => Ok(None),
            (Some(authorities), Some(chain), Some(key)) => Ok(Some(Self { authorities, chain, key })),
            _ => bail!("--tls-ca-file, --tls-cert-file and --tls-key-file belong together"),
        }
    }

    fn read(self) -> anyhow::Result<Certificates> {
        let read =
            |file: &Path| std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()));
        Ok(Certificates {
            authorities: read(self.authorities)?,
            chain: read(self.chain)?,
            key: read(self.key)?,
        })
    }
}

/// The certificates that the settings name; nothing where services speak in the clear. Whoever speaks with certificates
/// does so to every peer.
pub(super) fn read(options: &Options) -> anyhow::Result<Option<Tls>> {
    let Some(files) = Files::of(options)? else { return Ok(None) };
    Ok(Some(Tls::new(&files.read()?)?))
}

/// Refuses addresses of peers that are spoken to otherwise than this process speaks.
pub(super) fn check_peers(settings: &Settings) -> anyhow::Result<()> {
    let is_on = settings.tls.is_some();
    for (service, address) in
        settings.peers.iter().flat_map(|(service, all)| all.iter().map(move |one| (service, one)))
    {
        let (scheme, when) =
            if is_on { ("https", "with --tls-cert-file") } else { ("http", "without --tls-cert-file") };
        ensure!(
            address.is_secure() == is_on,
            "--peers {}={address}: must begin with {scheme}:// {when}",
            service.name()
        );
    }
    Ok(())
}

/// Looks at the files until shutdown. What cannot be used changes nothing.
pub(super) async fn watch(options: &Options, tls: Option<Tls>, shutdown: CancellationToken) {
    let (Some(tls), Ok(Some(files))) = (tls, Files::of(options)) else { return };
    let _told = phasegate_telemetry::metrics::observe(Arc::new(tls.clone()));
    let mut seen = files.read().ok();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
        // Files that are being replaced may be missing, or not belong together yet: then the next look finds them.
        let Ok(found) = files.read() else { continue };
        if seen.as_ref() == Some(&found) {
            continue;
        }
        match tls.replace(&found) {
            Ok(()) => tracing::info!("the certificates between services were replaced"),
            Err(error) => tracing::warn!(%error, "the certificates between services stay as they are"),
        }
        seen = Some(found);
    }
}
