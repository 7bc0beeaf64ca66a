//! `phasegate artifact`: what agents and people of an instance share.

use clap::{Args, Subcommand};
use phasegate_client::request_id;
use phasegate_proto::artifact::v1::{
    Artifact, GetArtifactRequest, ListArtifactsRequest, StoreArtifactRequest,
};
use serde_json::{Map, Value};

use super::failure::Failure;
use super::output::{Ink, document};
use super::session::Session;
use super::table::{Table, plain, short};
use super::{Page, input, moment};

/// Full name of an artifact.
const ARTIFACT: &str = "phasegate.artifact.v1.Artifact";

/// Media type of JSON.
const JSON: &str = "application/json";

/// What can be done with artifacts.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Store a new version
    #[command(
        before_help = "Examples:\n  phasegate artifact put proc-inst-123 sso_requirements -f requirements.json\n  phasegate artifact put proc-inst-123 diagram -f diagram.png --type image --content-type image/png\n  echo '{\"idpType\": \"okta\"}' | phasegate artifact put proc-inst-123 sso_requirements -f -"
    )]
    Put(Put),
    /// Write the content of an artifact
    #[command(
        disable_version_flag = true,
        before_help = "Examples:\n  phasegate artifact get proc-inst-123 sso_requirements\n  phasegate artifact get proc-inst-123 diagram --out diagram.png"
    )]
    Get {
        /// Instance
        instance_id: String,
        /// Name
        key: String,
        /// Version; the newest when not given
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        version: i32,
        /// Write the content to this file
        #[arg(long, value_name = "FILE")]
        out: Option<String>,
    },
    /// List artifacts, the newest version of each
    #[command(before_help = "Example:\n  phasegate artifact list proc-inst-123 --phase discovery")]
    List {
        /// Instance
        instance_id: String,
        /// Listed under this phase only
        #[arg(long, default_value = "", hide_default_value = true)]
        phase: String,
        /// Of this kind only
        #[arg(long = "type", default_value = "", hide_default_value = true, value_name = "TYPE")]
        kind: String,
        #[command(flatten)]
        page: Page,
    },
}

/// What to store.
#[derive(Clone, Debug, Args)]
pub struct Put {
    /// Instance
    instance_id: String,
    /// Name
    key: String,
    /// File with the content; - for standard input. JSON is stored as JSON unless --content-type says otherwise
    #[arg(short, long, value_name = "FILE")]
    file: String,
    /// Kind
    #[arg(long = "type", default_value = "document", value_name = "TYPE")]
    kind: String,
    /// Media type of content that is not JSON
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Phase that it is listed under
    #[arg(long)]
    phase: Option<String>,
    /// Kept beside it; may be repeated
    #[arg(long, value_parser = input::pair, value_name = "KEY=VALUE")]
    metadata: Vec<(String, String)>,
    /// Only if this is the newest version; 0: only if there is none
    #[arg(long, value_name = "VERSION")]
    if_version: Option<i32>,
}

impl Verb {
    /// The instance that it is about.
    pub(super) fn instance_id(&self) -> &str {
        match self {
            Verb::Put(put) => &put.instance_id,
            Verb::Get { instance_id, .. } | Verb::List { instance_id, .. } => instance_id,
        }
    }
}

/// Does it.
pub(super) async fn run(verb: Verb, session: &mut Session<'_>) -> Result<(), Failure> {
    match verb {
        Verb::Put(given) => put(given, session).await,
        Verb::Get { instance_id, key, version, out } => {
            get(GetArtifactRequest { instance_id, key, version }, out, session).await
        }
        Verb::List { instance_id, phase, kind, page } => {
            let request = ListArtifactsRequest {
                instance_id,
                phase,
                r#type: kind,
                page_size: page.limit,
                page_token: page.page_token,
            };
            list(request, session).await
        }
    }
}

async fn put(given: Put, session: &mut Session<'_>) -> Result<(), Failure> {
    let bytes = input::bytes(&given.file)?;
    let mut metadata: Map<String, Value> =
        given.metadata.into_iter().map(|(key, value)| (key, Value::String(value))).collect();
    if let Some(phase) = given.phase {
        metadata.insert("phase".to_owned(), Value::String(phase));
    }
    let mut request = StoreArtifactRequest {
        instance_id: given.instance_id,
        key: given.key,
        r#type: given.kind,
        metadata: if metadata.is_empty() { None } else { Some(input::structure(metadata)?) },
        if_version: given.if_version,
        request_id: request_id(),
        ..StoreArtifactRequest::default()
    };
    let parsed = phasegate_proto_json::parse(&bytes);
    match (given.content_type, parsed) {
        (None, Ok(value)) => request.content = Some(input::value(&value)?),
        (Some(kind), Ok(value)) if kind == JSON => request.content = Some(input::value(&value)?),
        // What should be JSON and is not is the caller's mistake, not bytes.
        (Some(kind), Err(faults)) if kind == JSON => {
            return Err(input::faulty(&given.file, &faults, session.output));
        }
        (Some(kind), _) => {
            request.content_type = kind;
            request.raw_content = bytes;
        }
        (None, Err(_)) => {
            let is_text = std::str::from_utf8(&bytes).is_ok();
            let kind = if is_text { "text/plain; charset=utf-8" } else { "application/octet-stream" };
            kind.clone_into(&mut request.content_type);
            request.raw_content = bytes;
        }
    }
    let answer = session
        .call(request, async |client, request| client.artifacts().store_artifact(request).await)
        .await?;
    let artifact = answer.artifact.unwrap_or_default();
    if session.is_for_programs() {
        return session.output.message(&artifact, ARTIFACT);
    }
    session.output.lines(&format!("{} version {}", artifact.key, artifact.version))
}

async fn get(
    request: GetArtifactRequest,
    out: Option<String>,
    session: &mut Session<'_>,
) -> Result<(), Failure> {
    let answer =
        session.call(request, async |client, request| client.artifacts().get_artifact(request).await).await?;
    let artifact = answer.artifact.unwrap_or_default();
    if let Some(path) = out {
        std::fs::write(&path, content(&artifact)?)
            .map_err(|error| Failure::local(&format!("write {path}"), &error))?;
        session.output.note(&format!("{} version {} is in {path}", artifact.key, artifact.version));
        return Ok(());
    }
    if session.is_for_programs() {
        return session.output.message(&artifact, ARTIFACT);
    }
    session.output.bytes(&content(&artifact)?)
}

/// The content as its bytes; JSON laid out for reading.
fn content(artifact: &Artifact) -> Result<Vec<u8>, Failure> {
    let Some(value) = &artifact.content else { return Ok(artifact.raw_content.clone()) };
    let value = document(value, "google.protobuf.Value")?;
    let mut text =
        serde_json::to_string_pretty(&value).map_err(|error| Failure::local("write JSON", &error))?;
    text.push('\n');
    Ok(text.into_bytes())
}

async fn list(request: ListArtifactsRequest, session: &mut Session<'_>) -> Result<(), Failure> {
    let answer = session
        .call(request, async |client, request| client.artifacts().list_artifacts(request).await)
        .await?;
    if session.is_for_programs() {
        return session.output.items(&answer.artifacts, ARTIFACT, &answer.next_page_token);
    }
    let now = moment::now();
    let text = table(&answer.artifacts, session.output.ink, |artifact| {
        moment::relative(artifact.created_at.as_ref(), now)
    });
    session.output.lines(&text)?;
    session.output.more(&answer.next_page_token);
    Ok(())
}

/// Artifacts for people.
fn table(artifacts: &[Artifact], ink: Ink, stored: impl Fn(&Artifact) -> String) -> String {
    let mut table = Table::new(&["KEY", "VERSION", "TYPE", "PHASE", "SIZE", "BY", "STORED", "DIGEST"]);
    for artifact in artifacts {
        table.row(vec![
            plain(&artifact.key),
            plain(artifact.version.to_string()),
            plain(&artifact.r#type),
            plain(&artifact.phase),
            plain(size(artifact.size_bytes)),
            plain(artifact.created_by.as_ref().map(|actor| actor.id.as_str()).unwrap_or_default()),
            plain(stored(artifact)),
            short(&artifact.digest, 20),
        ]);
    }
    table.render(ink)
}

/// A size in its largest unit.
fn size(bytes: i64) -> String {
    match bytes {
        ..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{} KiB", bytes / 1_024),
        _ => format!("{} MiB", bytes / 1_048_576),
    }
}

#[cfg(test)]
mod tests {
    use phasegate_proto::actor::v1::Actor;

    use super::*;

    #[test]
    fn artifacts_are_listed_with_who_stored_them() {
        let artifacts = [Artifact {
            key: "sso_requirements".to_owned(),
            version: 2,
            r#type: "document".to_owned(),
            phase: "discovery".to_owned(),
            size_bytes: 2_100,
            digest: "sha256:0123456789abcdef0123".to_owned(),
            created_by: Some(Actor { id: "sso_agent".to_owned(), ..Actor::default() }),
            ..Artifact::default()
        }];
        let expected = "\
KEY               VERSION  TYPE      PHASE      SIZE   BY         STORED   DIGEST
sso_requirements  2        document  discovery  2 KiB  sso_agent  2 h ago  sha256:0123456789ab…
";
        assert_eq!(table(&artifacts, Ink(false), |_| "2 h ago".to_owned()), expected);
    }

    #[test]
    fn sizes_have_a_unit() {
        for (bytes, text) in [(0, "0 B"), (1_023, "1023 B"), (1_024, "1 KiB"), (8 << 20, "8 MiB")] {
            assert_eq!(size(bytes), text);
        }
    }
}
