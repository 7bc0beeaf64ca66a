//! What `phasegate serve` is told: by flag, by environment variable, by file, in this order; and what it makes of it.
//!
//! The options below are the one list of settings: their help is the table of the README, and their names are the keys of
//! the file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum};
use phasegate_bus::Settings as Redis;
use phasegate_database::{Opening, Settings as Database};
use phasegate_gateway::Oidc;
use phasegate_serve::{Address, Service, Tls};

use super::limits::LimitOptions;

/// What a service is called, with the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Name {
    /// One port for everything outside.
    Gateway,
    /// Definitions, templates, teams.
    Definition,
    /// The engine.
    Instance,
    /// Requests and decisions.
    Approval,
    /// Artifacts and comments.
    Artifact,
    /// People, links, sessions.
    Participant,
    /// Mail.
    Notification,
}

/// Settings of `phasegate serve`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// File with these settings in TOML: the names of the long options, without the dashes before them
    #[arg(long, env = "PHASEGATE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address to listen on, for all services or for one; their ports are 7460 (gateway) to 7466
    #[arg(
        long,
        env = "PHASEGATE_LISTEN",
        value_name = "[SERVICE=]HOST[:PORT]",
        value_delimiter = ',',
        default_value = "0.0.0.0"
    )]
    pub listen: Vec<String>,
    /// Address for probes and metrics, without authentication: keep it inside
    #[arg(long, env = "PHASEGATE_ADMIN_LISTEN", value_name = "HOST:PORT", default_value = "0.0.0.0:9460")]
    pub admin_listen: SocketAddr,
    /// PostgreSQL: postgres://user:password@host:port/database; {service} stands for the name of the service
    #[arg(long, env = "PHASEGATE_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<String>,
    /// Schema of each service; {service} stands for its name
    #[arg(
        long,
        env = "PHASEGATE_DATABASE_SCHEMA",
        value_name = "NAME",
        default_value = "phasegate_{service}"
    )]
    pub database_schema: String,
    /// Connections to PostgreSQL that each service holds at most
    #[arg(
        long,
        env = "PHASEGATE_DATABASE_CONNECTIONS",
        value_name = "NUMBER",
        default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(2..=1_000)
    )]
    pub database_connections: u32,
    /// Redis: redis://:password@host:port or rediss://…
    #[arg(long, env = "PHASEGATE_REDIS_URL", hide_env_values = true, value_name = "URL")]
    pub redis_url: Option<String>,
    /// Begins the names of the keys in Redis, so that installations can share a server
    #[arg(long, env = "PHASEGATE_REDIS_PREFIX", value_name = "TEXT", default_value = "phasegate")]
    pub redis_prefix: String,
    /// Where the other services are; a name with several addresses stands for several copies, and so does a repetition
    #[arg(
        long,
        env = "PHASEGATE_PEERS",
        value_name = "SERVICE=URL",
        value_delimiter = ',',
        default_value = "definition=http://127.0.0.1:7461,instance=http://127.0.0.1:7462,\
                         approval=http://127.0.0.1:7463,artifact=http://127.0.0.1:7464,\
                         participant=http://127.0.0.1:7465,notification=http://127.0.0.1:7466"
    )]
    pub peers: Vec<String>,
    /// File with the authority's certificates, in PEM: services speak TLS with each other, and each shows a certificate of its own
    #[arg(long, env = "PHASEGATE_TLS_CA_FILE", value_name = "FILE")]
    pub tls_ca_file: Option<PathBuf>,
    /// File with the certificate of this process, and those between it and the authority
    #[arg(long, env = "PHASEGATE_TLS_CERT_FILE", value_name = "FILE")]
    pub tls_cert_file: Option<PathBuf>,
    /// File with its private key
    #[arg(long, env = "PHASEGATE_TLS_KEY_FILE", value_name = "FILE")]
    pub tls_key_file: Option<PathBuf>,
    /// Links begin with this: the address that people outside reach the gateway by
    #[arg(long, env = "PHASEGATE_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,
    /// File with the secret of the installation: 64 hexadecimal digits a line; the first line signs, all are believed
    #[arg(long, env = "PHASEGATE_SECRET_FILE", value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// Issuer of `OpenID` Connect whose access tokens operators may call with, besides keys
    #[arg(long, env = "PHASEGATE_OIDC_ISSUER", value_name = "URL")]
    pub oidc_issuer: Option<String>,
    /// Audience that those tokens must be for
    #[arg(long, env = "PHASEGATE_OIDC_AUDIENCE", value_name = "TEXT")]
    pub oidc_audience: Option<String>,
    /// Claim of those tokens with the roles: viewer, operator, `process_admin`, admin
    #[arg(long, env = "PHASEGATE_OIDC_ROLES_CLAIM", value_name = "NAME", default_value = "roles")]
    pub oidc_roles_claim: String,
    /// Claim of those tokens with the tenant
    #[arg(long, env = "PHASEGATE_OIDC_TENANT_CLAIM", value_name = "NAME", default_value = "tenant")]
    pub oidc_tenant_claim: String,
    /// Mail server
    #[arg(long, env = "PHASEGATE_SMTP_HOST", value_name = "HOST", default_value = "127.0.0.1")]
    pub smtp_host: String,
    /// Its port
    #[arg(long, env = "PHASEGATE_SMTP_PORT", value_name = "PORT", default_value_t = 25)]
    pub smtp_port: u16,
    /// How the connection to it is protected
    #[arg(long, env = "PHASEGATE_SMTP_TLS", value_name = "HOW", default_value = "upgraded")]
    pub smtp_tls: SmtpTls,
    /// User at the mail server
    #[arg(long, env = "PHASEGATE_SMTP_USER", value_name = "NAME")]
    pub smtp_user: Option<String>,
    /// File with the user's password
    #[arg(long, env = "PHASEGATE_SMTP_PASSWORD_FILE", value_name = "FILE")]
    pub smtp_password_file: Option<PathBuf>,
    /// Who the mail is from
    #[arg(
        long,
        env = "PHASEGATE_MAIL_FROM",
        value_name = "NAME <ADDRESS>",
        default_value = "Phasegate <phasegate@localhost>"
    )]
    pub mail_from: String,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its text would become that of the whole command")]
    pub limits: LimitOptions,
}

/// How the connection to the mail server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SmtpTls {
    /// Not at all: for a server on the same machine.
    None,
    /// Begins in the clear and must be upgraded before anything is said.
    Upgraded,
    /// From the first byte.
    Implicit,
}

/// The settings, read and found to be good.
#[derive(Debug)]
pub struct Settings {
    options: Options,
    /// Where each service of this process listens.
    pub listen: BTreeMap<Name, SocketAddr>,
    /// Where the copies of each service are.
    pub peers: BTreeMap<Service, Vec<Address>>,
    /// Redis.
    pub redis: Redis,
    /// Links begin with this; no slash at its end.
    pub public_url: String,
    /// The secrets of the installation; the first one signs.
    pub secrets: Vec<[u8; 32]>,
    /// What services show each other; in the clear without.
    pub tls: Option<Tls>,
    /// Whose access tokens operators may call with.
    pub oidc: Option<Oidc>,
    /// User and password at the mail server.
    pub smtp_credentials: Option<(String, String)>,
}

impl Name {
    /// All, in the order of their ports.
    pub const ALL: [Self; 7] = [
        Self::Gateway,
        Self::Definition,
        Self::Instance,
        Self::Approval,
        Self::Artifact,
        Self::Participant,
        Self::Notification,
    ];

    /// The service of that name; none for the gateway.
    pub fn service(self) -> Option<Service> {
        Service::named(self.text())
    }

    /// As it is written.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Definition => "definition",
            Self::Instance => "instance",
            Self::Approval => "approval",
            Self::Artifact => "artifact",
            Self::Participant => "participant",
            Self::Notification => "notification",
        }
    }

    /// Where it listens if nothing else is said.
    pub(super) const fn port(self) -> u16 {
        match self {
            Self::Gateway => 7460,
            Self::Definition => 7461,
            Self::Instance => 7462,
            Self::Approval => 7463,
            Self::Artifact => 7464,
            Self::Participant => 7465,
            Self::Notification => 7466,
        }
    }
}

// === impl Options ===

impl Options {
    /// Where the database of a service is.
    pub fn database(&self, service: Service, opening: Opening) -> anyhow::Result<Database> {
        let url = required(self.database_url.as_deref(), "--database-url")?;
        Ok(Database::Postgres {
            url: url.replace("{service}", service.name()),
            schema: self.database_schema.replace("{service}", service.name()),
            max_connections: self.database_connections,
            opening,
        })
    }

    /// Reads what files hold, and checks everything that can be checked without asking anybody.
    pub fn read(self, services: &[Name]) -> anyhow::Result<Settings> {
        // The gateway has no data.
        for service in services.iter().filter_map(|name| name.service()) {
            self.database(service, Opening::Check)?;
        }
        let redis = Redis {
            prefix: self.redis_prefix.clone(),
            ..Redis::new(required(self.redis_url.as_deref(), "--redis-url")?)
        };
        let public_url =
            required(self.public_url.as_deref(), "--public-url")?.trim_end_matches('/').to_owned();
        ensure!(
            public_url.starts_with("https://") || public_url.starts_with("http://"),
            "--public-url must begin with https:// (or http://, where nobody can listen), not be {public_url:?}"
        );
        let secret_file = self.secret_file.as_deref().context(missing("--secret-file"))?;
        let secrets = super::secret::read(secret_file)?;
        let smtp_credentials = match (&self.smtp_user, &self.smtp_password_file) {
            (None, None) => None,
            (Some(user), Some(file)) => Some((user.clone(), read(file)?.trim().to_owned())),
            _ => bail!("--smtp-user and --smtp-password-file belong together"),
        };
        let oidc = oidc(&self)?;
        let listen = super::places::listen(&self.listen, services)?;
        let peers = super::places::peers(&self.peers)?;
        let tls = super::tls::read(&self)?;
        let settings = Settings {
            options: self,
            listen,
            peers,
            redis,
            public_url,
            secrets,
            tls,
            oidc,
            smtp_credentials,
        };
        super::tls::check_peers(&settings)?;
        Ok(settings)
    }
}

// === impl Settings ===

impl Settings {
    /// As they were given.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// All of them in TOML, each as it is in effect, secrets masked.
    pub fn effective(&self) -> String {
        let options = &self.options;
        let mut text = String::new();
        let mut line = |name: &str, value: &str| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name} = {value:?}");
        };
        let listen = self.listen.iter().map(|(name, address)| format!("{}={address}", name.text()));
        line("listen", &listen.collect::<Vec<_>>().join(","));
        line("admin-listen", &options.admin_listen.to_string());
        line("database-url", &masked(options.database_url.as_deref().unwrap_or_default()));
        line("database-schema", &options.database_schema);
        line("database-connections", &options.database_connections.to_string());
        line("redis-url", &masked(options.redis_url.as_deref().unwrap_or_default()));
        line("redis-prefix", &options.redis_prefix);
        let peers = self.peers.iter().flat_map(|(service, addresses)| {
            addresses.iter().map(|address| format!("{}={address}", service.name()))
        });
        line("peers", &peers.collect::<Vec<_>>().join(","));
        line("tls-ca-file", &path(options.tls_ca_file.as_deref()));
        line("tls-cert-file", &path(options.tls_cert_file.as_deref()));
        line("tls-key-file", &path(options.tls_key_file.as_deref()));
        line("public-url", &self.public_url);
        line("secret-file", &path(options.secret_file.as_deref()));
        line("oidc-issuer", options.oidc_issuer.as_deref().unwrap_or_default());
        line("oidc-audience", options.oidc_audience.as_deref().unwrap_or_default());
        line("oidc-roles-claim", &options.oidc_roles_claim);
        line("oidc-tenant-claim", &options.oidc_tenant_claim);
        line("smtp-host", &options.smtp_host);
        line("smtp-port", &options.smtp_port.to_string());
        line("smtp-tls", &format!("{:?}", options.smtp_tls).to_lowercase());
        line("smtp-user", options.smtp_user.as_deref().unwrap_or_default());
        line("smtp-password-file", &path(options.smtp_password_file.as_deref()));
        line("mail-from", &options.mail_from);
        text.push_str(&options.limits.effective());
        text
    }
}

fn path(path: Option<&Path>) -> String {
    path.map(|path| path.display().to_string()).unwrap_or_default()
}

fn missing(option: &str) -> String {
    let variable = option.trim_start_matches('-').replace('-', "_").to_uppercase();
    format!("{option} is needed; give it, or set PHASEGATE_{variable}, or write it into the file of --config")
}

fn required<'a>(value: Option<&'a str>, option: &str) -> anyhow::Result<&'a str> {
    value.filter(|value| !value.is_empty()).context(missing(option))
}

/// A URL without its password, wherever it stands.
fn masked(url: &str) -> String {
    let (url, parameters) = url.split_once('?').unwrap_or((url, ""));
    let shown = parameters.split('&').filter(|one| !one.is_empty()).map(|one| match one.split_once('=') {
        Some((name, _)) if name.contains("pass") => format!("{name}=…"),
        Some(_) | None => one.to_owned(),
    });
    let shown: Vec<String> = shown.collect();
    let url = without_password(url);
    if shown.is_empty() { url } else { format!("{url}?{}", shown.join("&")) }
}

fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "…".to_owned() };
    match rest.rsplit_once('@') {
        None => url.to_owned(),
        Some((user, place)) => {
            let user = user.split_once(':').map_or(user, |(user, _)| user);
            format!("{scheme}://{user}:…@{place}")
        }
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))
}

fn oidc(options: &Options) -> anyhow::Result<Option<Oidc>> {
    match (&options.oidc_issuer, &options.oidc_audience) {
        (None, None) => Ok(None),
        (Some(issuer), Some(audience)) => {
            ensure!(
                issuer.starts_with("https://") || issuer.starts_with("http://"),
                "--oidc-issuer must begin with https:// (or http://, where nobody can listen), not be {issuer:?}"
            );
            Ok(Some(Oidc {
                issuer: issuer.clone(),
                audience: audience.clone(),
                roles_claim: options.oidc_roles_claim.clone(),
                tenant_claim: options.oidc_tenant_claim.clone(),
            }))
        }
        _ => bail!("--oidc-issuer and --oidc-audience belong together"),
    }
}
