//! `phasegate key`: API keys of the tenant.

use clap::Subcommand;
use phasegate_client::request_id;
use phasegate_proto::participant::v1::{
    CreateKeyRequest, Key, ListKeysRequest, RevokeKeyRequest, RotateKeyRequest,
};

use super::failure::Failure;
use super::output::{Ink, word};
use super::session::Session;
use super::table::{Table, plain, state};
use super::{Page, moment};

/// Full name of a key.
const KEY: &str = "phasegate.participant.v1.Key";

/// What can be done with keys.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Make a key and print its secret, which is shown this once
    #[command(
        before_help = "Examples:\n  phasegate key create ci --scope instances:start --scope instances:read --expires-in 90d\n  phasegate key create architect --scope workers:poll --scope artifacts:read --scope artifacts:write --queue solution_architect --show > key"
    )]
    Create {
        /// Name for people
        name: String,
        /// What its holder may call; may be repeated
        #[arg(long, required = true)]
        scope: Vec<String>,
        /// Queue whose work its holder gets, with the scope workers:poll; may be repeated
        #[arg(long)]
        queue: Vec<String>,
        /// Participant whom its holder decides for, with the scope approvals:decide
        #[arg(long, default_value = "", hide_default_value = true)]
        participant: String,
        /// Service that the record names as the caller; the key itself when not given
        #[arg(long, default_value = "", hide_default_value = true)]
        service: String,
        /// How long it is good: 5m to 366d; for ever when not given
        #[arg(long, default_value = "", hide_default_value = true, value_name = "DURATION")]
        expires_in: String,
        /// Print the secret where no terminal is, too
        #[arg(long)]
        show: bool,
    },
    /// List keys, newest first, without their secrets
    #[command(before_help = "Example:\n  phasegate key list --all")]
    List {
        /// Those, too, that are no longer good
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        page: Page,
    },
    /// Withdraw a key, or one of its secrets
    #[command(before_help = "Example:\n  phasegate key revoke key-123 --prefix phasegate_sk_Abcd1234")]
    Revoke {
        /// Key
        key_id: String,
        /// Only the secret that begins so
        #[arg(long, default_value = "", hide_default_value = true)]
        prefix: String,
    },
    /// Give a key a second secret; the one before stays good for a while
    #[command(before_help = "Example:\n  phasegate key rotate key-123 --grace 1h")]
    Rotate {
        /// Key
        key_id: String,
        /// How long the secret before stays good: 0s to 30d; 24h when not given
        #[arg(long, default_value = "", hide_default_value = true, value_name = "DURATION")]
        grace: String,
        /// Print the secret where no terminal is, too
        #[arg(long)]
        show: bool,
    },
}

/// Does it.
pub(super) async fn run(verb: Verb, session: &mut Session<'_>) -> Result<(), Failure> {
    match verb {
        Verb::Create { name, scope, queue, participant, service, expires_in, show } => {
            may_show(show, session)?;
            let request = CreateKeyRequest {
                name,
                scopes: scope,
                queues: queue,
                participant_id: participant,
                service,
                expires_in,
                request_id: request_id(),
            };
            let answer = session
                .call(request, async |client, request| client.keys().create_key(request).await)
                .await?;
            if session.is_for_programs() {
                return session.output.message(&answer, "phasegate.participant.v1.CreateKeyResponse");
            }
            made(&answer.secret, &answer.key.unwrap_or_default(), session)
        }
        Verb::List { all, page } => {
            let request = ListKeysRequest { all, page_size: page.limit, page_token: page.page_token };
            list(request, session).await
        }
        Verb::Revoke { key_id, prefix } => {
            session.confirm(&format!("Withdraw {key_id}? Whoever uses it is shut out at once."))?;
            let request = RevokeKeyRequest { key_id, prefix, request_id: request_id() };
            let answer = session
                .call(request, async |client, request| client.keys().revoke_key(request).await)
                .await?;
            let key = answer.key.unwrap_or_default();
            if session.is_for_programs() {
                return session.output.message(&key, KEY);
            }
            let status = word(key.status().as_str_name(), "KEY_STATUS_");
            session.output.lines(&format!("{} {status}", key.id))
        }
        Verb::Rotate { key_id, grace, show } => {
            may_show(show, session)?;
            let request = RotateKeyRequest { key_id, grace, request_id: request_id() };
            let answer = session
                .call(request, async |client, request| client.keys().rotate_key(request).await)
                .await?;
            if session.is_for_programs() {
                return session.output.message(&answer, "phasegate.participant.v1.RotateKeyResponse");
            }
            made(&answer.secret, &answer.key.unwrap_or_default(), session)
        }
    }
}

/// Refuses before anything is made, because what is made is shown once.
fn may_show(show: bool, session: &Session<'_>) -> Result<(), Failure> {
    if show || session.output.is_terminal {
        return Ok(());
    }
    Err(Failure::Usage(
        "whoever reads a secret can use it, and standard output is no terminal; nothing was made. Say --show if it is \
         to go there"
            .to_owned(),
    ))
}

fn made(secret: &str, key: &Key, session: &mut Session<'_>) -> Result<(), Failure> {
    if secret.is_empty() {
        // The first answer was lost: nobody has the secret, and nobody can have it.
        session.output.note(&format!(
            "{} was made, but its secret was lost on the way; withdraw it and make another: phasegate key revoke {}",
            key.id, key.id
        ));
        return Ok(());
    }
    session.output.lines(secret)?;
    session.output.note(&format!(
        "It is for {} ({}), and is not shown again. Call with it by --key-file or PHASEGATE_KEY. Withdraw it with: \
         phasegate key revoke {}",
        key.name, key.id, key.id
    ));
    Ok(())
}

async fn list(request: ListKeysRequest, session: &mut Session<'_>) -> Result<(), Failure> {
    let answer =
        session.call(request, async |client, request| client.keys().list_keys(request).await).await?;
    if session.is_for_programs() {
        return session.output.items(&answer.keys, KEY, &answer.next_page_token);
    }
    let now = moment::now();
    let text = table(&answer.keys, session.output.ink, |time| moment::relative(time, now));
    session.output.lines(&text)?;
    session.output.more(&answer.next_page_token);
    Ok(())
}

/// Keys for people.
fn table(keys: &[Key], ink: Ink, when: impl Fn(Option<&prost_types::Timestamp>) -> String) -> String {
    let mut table = Table::new(&["ID", "NAME", "STATUS", "SECRETS", "SCOPES", "MADE", "ENDS", "LAST USED"]);
    for key in keys {
        let secrets: Vec<&str> = key.secrets.iter().map(|secret| secret.prefix.as_str()).collect();
        table.row(vec![
            plain(&key.id),
            plain(&key.name),
            state(&word(key.status().as_str_name(), "KEY_STATUS_")),
            plain(secrets.join(", ")),
            plain(key.scopes.join(", ")),
            plain(when(key.created_at.as_ref())),
            plain(when(key.expires_at.as_ref())),
            plain(when(key.last_used_at.as_ref())),
        ]);
    }
    table.render(ink)
}

#[cfg(test)]
mod tests {
    use phasegate_proto::participant::v1::{KeySecret, KeyStatus};

    use super::*;

    #[test]
    fn keys_are_listed_with_how_their_secrets_begin() {
        let secret = KeySecret { prefix: "phasegate_sk_Abcd1234".to_owned(), ..KeySecret::default() };
        let keys = [Key {
            id: "key-1".to_owned(),
            name: "ci".to_owned(),
            status: KeyStatus::Active.into(),
            scopes: vec!["tasks:read".to_owned()],
            secrets: vec![secret],
            ..Key::default()
        }];
        let expected = "\
ID     NAME  STATUS  SECRETS                SCOPES      MADE  ENDS  LAST USED
key-1  ci    active  phasegate_sk_Abcd1234  tasks:read  x     x     x
";
        assert_eq!(table(&keys, Ink(false), |_| "x".to_owned()), expected);
    }
}
