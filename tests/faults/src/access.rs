//! How the clients show who they are.

use anyhow::Context as _;

use crate::machine::Machine;

/// A key that is there already.
const VARIABLE: &str = "PHASEGATE_FAULTS_KEY";

/// The key of the clients: from the environment of the run. None where nobody asks for one.
#[expect(clippy::unused_async, reason = "a key is made by the program itself")]
pub(crate) async fn key(_machine: &Machine) -> anyhow::Result<Option<String>> {
    #[expect(clippy::disallowed_methods, reason = "a test is told who it is")]
    match std::env::var(VARIABLE) {
        Ok(key) => Ok(Some(key)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(error) => Err(error).context(VARIABLE),
    }
}
