//! Looked at before anything else of a call: its size, where it comes from, and whether a secret stands in its address.
//!
//! A server on a developer's machine is within reach of every page that the developer's browser opens. So a page of
//! another site must neither send anything here, nor reach the server under a name that it made its own (DNS rebinding).

use http::header::{HeaderMap, HeaderName, HeaderValue, ORIGIN};
use http::request::Parts;
use http::{Method, Uri};

use crate::config::Limits;
use crate::refusal::Refused;

/// Parameters that carry a credential elsewhere, without separators and in lower case.
const CREDENTIAL_PARAMETERS: [&str; 6] =
    ["apikey", "accesstoken", "authtoken", "bearertoken", "authorization", "secret"];

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What a call is checked against.
#[derive(Debug)]
pub(crate) struct Guard {
    dev: bool,
    public_host: Option<String>,
    header_bytes_max: usize,
    headers_max: usize,
}

impl Guard {
    pub(crate) fn new(dev: bool, public_url: &str, limits: &Limits) -> Self {
        let public_host = public_url.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_lowercase));
        Self { dev, public_host, header_bytes_max: limits.header_bytes_max, headers_max: limits.headers_max }
    }

    /// Refuses what must not come in at all.
    pub(crate) fn admit(&self, parts: &Parts) -> Result<(), Refused> {
        self.check_size(&parts.headers)?;
        if self.dev && !host(parts).is_some_and(|host| self.is_own(&host)) {
            return Err(Refused::ForeignHost);
        }
        check_site(parts)?;
        check_query(parts.uri.query().unwrap_or_default())
    }

    fn check_size(&self, headers: &HeaderMap) -> Result<(), Refused> {
        let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if bytes > self.header_bytes_max || headers.len() > self.headers_max {
            let (bytes_max, headers_max) = (self.header_bytes_max, self.headers_max);
            return Err(Refused::HeadersTooLarge { bytes_max, headers_max });
        }
        Ok(())
    }

    fn is_own(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.');
        let is_loopback =
            host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let is_local = host == "localhost" || host.ends_with(".localhost");
        is_loopback || is_local || self.public_host.as_deref() == Some(host)
    }
}

/// The host that a call is for, in lower case and without its port: the authority of HTTP/2, or `Host`.
fn host(parts: &Parts) -> Option<String> {
    let authority = authority(parts)?;
    let without_port = match authority.rfind(':') {
        Some(colon) if !authority.ends_with(']') => authority.get(..colon)?,
        _ => &authority,
    };
    Some(without_port.to_lowercase())
}

fn authority(parts: &Parts) -> Option<String> {
    let header = || parts.headers.get(http::header::HOST)?.to_str().ok();
    let authority = parts.uri.authority().map(http::uri::Authority::as_str).or_else(header)?;
    // A name before "@" is not part of the host.
    Some(authority.rsplit('@').next().unwrap_or(authority).to_owned())
}

/// Refuses what a browser sends for a page of another site, unless it only reads: without CORS headers that page does
/// not see the answer.
fn check_site(parts: &Parts) -> Result<(), Refused> {
    if [Method::GET, Method::HEAD, Method::OPTIONS].contains(&parts.method) {
        return Ok(());
    }
    let site = parts.headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes);
    if site.is_some_and(|site| ![&b"same-origin"[..], b"none"].contains(&site)) {
        return Err(Refused::ForeignSite);
    }
    if let Some(origin) = parts.headers.get(ORIGIN) {
        // A page that sends no referrer has its own forms sent with the origin "null". Then the browser's word counts,
        // which no page can put there.
        if origin.as_bytes() == b"null" && site == Some(&b"same-origin"[..]) {
            return Ok(());
        }
        let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, rest)| rest);
        let own = authority(parts);
        if origin.is_none() || origin.map(str::to_lowercase) != own.map(|own| own.to_lowercase()) {
            return Err(Refused::ForeignSite);
        }
    }
    Ok(())
}

fn check_query(query: &str) -> Result<(), Refused> {
    for pair in query.split('&') {
        let name = pair.split('=').next().unwrap_or_default();
        let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        if CREDENTIAL_PARAMETERS.contains(&plain.to_lowercase().as_str()) {
            return Err(Refused::CredentialsInUrl { parameter: name.to_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn admit(method: &str, uri: &str, headers: &[(&str, &str)]) -> Result<(), String> {
        use phasegate_rpc_error::Refusal as _;
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).map_err(|error| error.to_string())?.into_parts();
        let guard = Guard::new(true, "http://phasegate.test:7460", &Limits::default());
        guard.admit(&parts).map_err(|refused| refused.reason().to_owned())
    }

    #[test]
    fn only_own_names_are_answered_to() {
        let own = [
            "localhost",
            "localhost:7460",
            "127.0.0.1:7460",
            "127.1.2.3",
            "[::1]:7460",
            "[::1]",
            "LOCALHOST:1",
        ];
        for host in own.into_iter().chain(["phasegate.test:7460", "acme.localhost:7460", "localhost.:7460"]) {
            assert_eq!(admit("GET", "/", &[("host", host)]), Ok(()), "{host}");
        }
        let foreign = [
            "evil.test",
            "evil.test:7460",
            "localhost.evil.test",
            "127.0.0.1.evil.test",
            "10.0.0.1:7460",
            "",
        ];
        for host in foreign.into_iter().chain(["evil.test#localhost", "xlocalhost", "[::2]:7460"]) {
            assert_eq!(admit("GET", "/", &[("host", host)]), Err("CSRF".to_owned()), "{host}");
        }
        assert_eq!(admit("GET", "/", &[]), Err("CSRF".to_owned()));
        assert_eq!(admit("GET", "http://evil.test/", &[("host", "localhost")]), Err("CSRF".to_owned()));
        assert_eq!(admit("GET", "http://localhost@evil.test/", &[]), Err("CSRF".to_owned()));
    }

    #[test]
    fn a_page_of_another_site_cannot_write() {
        let host = ("host", "localhost:7460");
        let same = [
            vec![],
            vec![("origin", "http://localhost:7460")],
            vec![("sec-fetch-site", "same-origin"), ("origin", "http://localhost:7460")],
            vec![("sec-fetch-site", "none")],
            vec![("sec-fetch-site", "same-origin"), ("origin", "null")],
        ];
        let foreign = [
            vec![("origin", "http://evil.test")],
            vec![("origin", "null")],
            vec![("origin", "http://localhost:9999")],
            vec![("origin", "http://localhost")],
            vec![("sec-fetch-site", "cross-site")],
            vec![("sec-fetch-site", "same-site")],
            vec![("sec-fetch-site", "none"), ("origin", "null")],
            vec![("sec-fetch-site", "cross-site"), ("origin", "null")],
            vec![("sec-fetch-site", "same-origin"), ("origin", "http://evil.test")],
            vec![("sec-fetch-site", "cross-site"), ("origin", "http://localhost:7460")],
        ];
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            for headers in &same {
                assert_eq!(
                    admit(method, "/", &[&[host], headers.as_slice()].concat()),
                    Ok(()),
                    "{headers:?}"
                );
            }
            for headers in &foreign {
                let headers = [&[host], headers.as_slice()].concat();
                assert_eq!(admit(method, "/", &headers), Err("CSRF".to_owned()), "{method} {headers:?}");
                assert_eq!(admit("GET", "/", &headers), Ok(()));
            }
        }
    }

    #[test]
    fn http_2_names_its_host_in_the_address() {
        let address = "http://localhost:7460/external/lnk-1/comments";
        for (origin, answer) in [
            ("http://localhost:7460", Ok(())),
            ("http://LOCALHOST:7460", Ok(())),
            ("http://evil.test", Err("CSRF".to_owned())),
            ("null", Err("CSRF".to_owned())),
        ] {
            assert_eq!(admit("POST", address, &[("origin", origin)]), answer, "{origin}");
        }
        let forged = [("host", "evil.test"), ("origin", "http://evil.test")];
        assert_eq!(admit("POST", address, &forged), Err("CSRF".to_owned()), "the address counts");
    }

    #[test]
    fn no_credential_may_stand_in_the_address() {
        let host = ("host", "localhost");
        for query in ["api_key=x", "a=1&apiKey=x", "API-KEY=", "access_token=x", "authorization"] {
            let refused = admit("GET", &format!("/api/processes?{query}"), &[host]);
            assert_eq!(refused, Err("CREDENTIALS_IN_URL".to_owned()), "{query}");
        }
        assert_eq!(admit("GET", "/external/approve?token=eyJ", &[host]), Ok(()));
        assert_eq!(admit("GET", "/api/processes?pageToken=x", &[host]), Ok(()));
    }

    #[test]
    fn headers_are_bounded() {
        let long = "x".repeat(17 * 1024);
        assert_eq!(
            admit("GET", "/", &[("host", "localhost"), ("a", &long)]),
            Err("HEADERS_TOO_LARGE".to_owned())
        );
        let many = vec![("a", "b"); 101];
        assert_eq!(admit("GET", "/", &many), Err("HEADERS_TOO_LARGE".to_owned()));
    }
}
