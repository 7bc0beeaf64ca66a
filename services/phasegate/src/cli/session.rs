//! What a command works with: the connection, the output, the person at the terminal.

use std::io::{BufRead as _, IsTerminal as _};

use phasegate_client::{Client, Error};
use tonic::{Request, Response, Status};

use super::failure::Failure;
use super::output::Output;
use super::{Format, Global};

/// A command under way.
pub(super) struct Session<'a> {
    pub(super) client: Client,
    pub(super) output: &'a mut Output,
    pub(super) global: Global,
}

impl<'a> Session<'a> {
    /// Connects to the server.
    pub(super) async fn open(global: Global, output: &'a mut Output) -> Result<Session<'a>, Failure> {
        let connected = Client::connect(global.server()).await;
        let mut client = connected.map_err(|error| {
            if error.code == tonic::Code::Unavailable {
                Failure::Unreachable(error)
            } else {
                Failure::Usage(error.message.clone())
            }
        })?;
        client = client.with_credential(global.credential().map_err(Failure::Usage)?);
        if let Some(timeout) = global.timeout {
            client = client.with_deadline(timeout);
        }
        Ok(Session { client, output, global })
    }

    /// Calls a method; see [`Client::call`].
    pub(super) async fn call<M: Clone, R>(
        &self,
        message: M,
        send: impl AsyncFn(&Client, Request<M>) -> Result<Response<R>, Status>,
    ) -> Result<R, Error> {
        self.client.call(message, send).await
    }

    /// Tells whether a program reads the output.
    pub(super) fn is_for_programs(&self) -> bool {
        self.global.format() != Format::Table
    }

    /// Asks before something is done. Where nobody can be asked it needs `--yes`.
    pub(super) fn confirm(&mut self, question: &str) -> Result<(), Failure> {
        if self.global.yes {
            return Ok(());
        }
        let input = std::io::stdin();
        if !input.is_terminal() || !std::io::stderr().is_terminal() {
            return Err(Failure::Usage(format!(
                "{question} Nobody is there to be asked; say --yes if it is meant"
            )));
        }
        self.output.ask(&format!("{question} [y/N] "))?;
        let mut answer = String::new();
        input.lock().read_line(&mut answer).map_err(|error| Failure::local("read the answer", &error))?;
        if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
            Ok(())
        } else {
            Err(Failure::Declined)
        }
    }
}
