//! `phasegate link`: magic links of external participants.

use clap::Subcommand;
use phasegate_client::request_id;
use phasegate_proto::participant::v1::{
    CreateLinkRequest, Link, LinkPermission, ListLinksRequest, RevokeLinkRequest,
};

use super::failure::Failure;
use super::output::{Ink, word};
use super::session::Session;
use super::table::{Table, plain, state};
use super::{Page, moment};

/// Full name of a link.
const LINK: &str = "phasegate.participant.v1.Link";

/// What can be done with links.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Make a link and print its URL, which is shown this once
    #[command(
        before_help = "Examples:\n  phasegate link create proc-inst-123 customer_it_admin --expires-in 7d --permission view --permission approve\n  phasegate link create proc-inst-123 customer_it_admin --show | qrencode -t utf8"
    )]
    Create {
        /// Instance
        instance_id: String,
        /// Person
        participant_id: String,
        /// Must be the person's address
        #[arg(long, default_value = "", hide_default_value = true)]
        email: String,
        /// How long it works: 5m to 14d; 7d when not given
        #[arg(long, default_value = "", hide_default_value = true, value_name = "DURATION")]
        expires_in: String,
        /// What it lets its holder do; view, approve and comment when not given; may be repeated
        #[arg(long, value_parser = ["view", "approve", "comment", "delegate"])]
        permission: Vec<String>,
        /// Print the URL where no terminal is, too: whoever reads it there can use it
        #[arg(long)]
        show: bool,
    },
    /// List links, newest first, without their URLs
    #[command(before_help = "Example:\n  phasegate link list proc-inst-123")]
    List {
        /// Instance
        instance_id: String,
        /// Of this person only
        #[arg(long, default_value = "", hide_default_value = true, value_name = "PARTICIPANT")]
        participant: String,
        #[command(flatten)]
        page: Page,
    },
    /// Withdraw a link and the sessions that it opened, at once
    #[command(
        before_help = "Example:\n  phasegate link revoke lnk-123 --reason \"sent to the wrong person\""
    )]
    Revoke {
        /// Link
        link_id: String,
        /// Why
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
}

/// Does it.
pub(super) async fn run(verb: Verb, session: &mut Session<'_>) -> Result<(), Failure> {
    match verb {
        Verb::Create { instance_id, participant_id, email, expires_in, permission, show } => {
            if !show && !session.output.is_terminal {
                return Err(Failure::Usage(
                    "whoever reads a link's URL can use it, and standard output is no terminal; no link was made. \
                     Say --show if the URL is to go there"
                        .to_owned(),
                ));
            }
            let permissions =
                permission.iter().filter_map(|word| self::permission(word)).map(i32::from).collect();
            let request = CreateLinkRequest {
                instance_id,
                participant_id,
                email,
                expires_in,
                permissions,
                request_id: request_id(),
            };
            create(request, session).await
        }
        Verb::List { instance_id, participant, page } => {
            let request = ListLinksRequest {
                instance_id,
                participant_id: participant,
                page_size: page.limit,
                page_token: page.page_token,
            };
            list(request, session).await
        }
        Verb::Revoke { link_id, reason } => {
            session.confirm(&format!("Withdraw {link_id}? Whoever uses it is shut out at once."))?;
            let request = RevokeLinkRequest { link_id, reason, request_id: request_id() };
            let answer = session
                .call(request, async |client, request| client.links().revoke_link(request).await)
                .await?;
            let link = answer.link.unwrap_or_default();
            if session.is_for_programs() {
                return session.output.message(&link, LINK);
            }
            let status = word(link.status().as_str_name(), "LINK_STATUS_");
            session.output.lines(&format!("{} {status}", link.id))
        }
    }
}

fn permission(word: &str) -> Option<LinkPermission> {
    LinkPermission::from_str_name(&format!("LINK_PERMISSION_{}", word.to_uppercase()))
}

async fn create(request: CreateLinkRequest, session: &mut Session<'_>) -> Result<(), Failure> {
    let answer =
        session.call(request, async |client, request| client.links().create_link(request).await).await?;
    if session.is_for_programs() {
        return session.output.message(&answer, "phasegate.participant.v1.CreateLinkResponse");
    }
    session.output.lines(&answer.url)?;
    let link = answer.link.unwrap_or_default();
    let end = moment::relative(link.expires_at.as_ref(), moment::now());
    session.output.note(&format!(
        "It is for {} alone, ends {end}, and is not shown again. Withdraw it with: phasegate link revoke {}",
        link.participant_id, link.id
    ));
    Ok(())
}

async fn list(request: ListLinksRequest, session: &mut Session<'_>) -> Result<(), Failure> {
    let answer =
        session.call(request, async |client, request| client.links().list_links(request).await).await?;
    if session.is_for_programs() {
        return session.output.items(&answer.links, LINK, &answer.next_page_token);
    }
    let now = moment::now();
    let text = table(&answer.links, session.output.ink, |time| moment::relative(time, now));
    session.output.lines(&text)?;
    session.output.more(&answer.next_page_token);
    Ok(())
}

/// Links for people.
fn table(links: &[Link], ink: Ink, when: impl Fn(Option<&prost_types::Timestamp>) -> String) -> String {
    let mut table = Table::new(&["ID", "PARTICIPANT", "STATUS", "MAY", "MADE", "ENDS", "LAST USED"]);
    for link in links {
        let may: Vec<String> =
            link.permissions().map(|one| word(one.as_str_name(), "LINK_PERMISSION_")).collect();
        table.row(vec![
            plain(&link.id),
            plain(&link.participant_id),
            state(&word(link.status().as_str_name(), "LINK_STATUS_")),
            plain(may.join(", ")),
            plain(when(link.created_at.as_ref())),
            plain(when(link.expires_at.as_ref())),
            plain(when(link.last_used_at.as_ref())),
        ]);
    }
    table.render(ink)
}

impl Verb {
    /// The instance that it is about.
    pub(super) fn instance_id(&self) -> Option<&str> {
        match self {
            Verb::Create { instance_id, .. } | Verb::List { instance_id, .. } => Some(instance_id),
            Verb::Revoke { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use phasegate_proto::participant::v1::LinkStatus;

    use super::*;

    #[test]
    fn links_are_listed_with_what_they_allow() {
        let links = [Link {
            id: "lnk-1".to_owned(),
            participant_id: "customer_ciso".to_owned(),
            status: LinkStatus::Active.into(),
            permissions: vec![LinkPermission::View.into(), LinkPermission::Approve.into()],
            ..Link::default()
        }];
        let expected = "\
ID     PARTICIPANT    STATUS  MAY            MADE  ENDS  LAST USED
lnk-1  customer_ciso  active  view, approve  x     x     x
";
        assert_eq!(table(&links, Ink(false), |_| "x".to_owned()), expected);
    }

    #[test]
    fn permissions_are_found_by_their_word() {
        assert_eq!(permission("approve"), Some(LinkPermission::Approve));
        assert_eq!(permission("everything"), None);
    }
}
