//! The mailboxes of `phasegate dev`: a small real mail server that keeps what it is given instead of sending it on, and pages
//! that show each mail with its live link. It listens on loopback only, unless it runs alone and is told otherwise.

mod alone;
mod mail;
mod mailbox;
mod page;
mod smtp;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use phasegate_clock::SystemClock;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use mailbox::Mailbox;

pub use alone::Alone;

/// The mail server and its pages.
#[derive(Debug)]
pub struct MailCatcher {
    listener: TcpListener,
    address: SocketAddr,
    mailbox: Arc<Mailbox>,
    shutdown: CancellationToken,
}

/// Why mail cannot be caught.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder cannot be used.
    #[error("the mail folder {folder} cannot be used")]
    Folder {
        /// The folder.
        folder: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no port to listen on.
    #[error("the mail catcher cannot listen")]
    Listen(#[source] io::Error),
}

impl MailCatcher {
    /// Reads the mails that are in `folder`, which is made where it is missing, and takes a free port.
    pub async fn start(folder: &Path, shutdown: CancellationToken) -> Result<MailCatcher, Error> {
        Self::start_at(folder, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), shutdown).await
    }

    /// The same at a given address.
    async fn start_at(
        folder: &Path,
        address: SocketAddr,
        shutdown: CancellationToken,
    ) -> Result<MailCatcher, Error> {
        let mailbox = Mailbox::open(folder, SystemClock::shared()).await;
        let mailbox =
            mailbox.map_err(|source| Error::Folder { folder: folder.display().to_string(), source })?;
        let listener = TcpListener::bind(address).await.map_err(Error::Listen)?;
        let address = listener.local_addr().map_err(Error::Listen)?;
        Ok(MailCatcher { listener, address, mailbox: Arc::new(mailbox), shutdown })
    }

    /// Where mail is taken.
    pub fn smtp_address(&self) -> SocketAddr {
        self.address
    }

    /// The pages: `/dev/mail`, `/dev/mail/{id}`, and `/dev/mail/messages` as JSON.
    pub fn router(&self) -> axum::Router {
        page::router(Arc::clone(&self.mailbox))
    }

    /// Takes mail until shutdown.
    pub async fn run(self) -> io::Result<()> {
        smtp::serve(self.listener, self.mailbox, self.shutdown).await
    }
}

#[cfg(test)]
mod tests;
