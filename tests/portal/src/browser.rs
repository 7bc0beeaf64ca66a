//! A browser without JavaScript: a cookie jar, links and forms. It follows no redirect by itself, so that a test sees it.
//!
//! With each form it says of itself what browsers say for a page that sends no referrer: its origin is "null", and the
//! form is the site's own.

use anyhow::Context as _;
use reqwest::header::{COOKIE, HeaderMap, LOCATION, SET_COOKIE};
use reqwest::{Client, Method};

/// A browser with cookies of its own.
#[derive(Debug)]
pub struct Browser {
    address: String,
    http: Client,
    cookies: Vec<String>,
}

/// What came back.
#[derive(Debug)]
pub struct Page {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Text.
    pub html: String,
}

/// A form of a page.
#[derive(Debug, Clone)]
pub struct Form {
    /// Path that it is sent to.
    pub action: String,
    /// Its hidden fields.
    pub fields: Vec<(String, String)>,
}

impl Browser {
    /// A fresh one.
    pub fn new(address: &str) -> anyhow::Result<Self> {
        let http = Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
        Ok(Self { address: address.to_owned(), http, cookies: Vec::new() })
    }

    /// Opens a path or a whole URL.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<Page> {
        self.send(Method::GET, path, &[], &[]).await
    }

    /// Opens a link of a mail and follows it to the first page. Returns its path, too.
    pub async fn enter(&mut self, link: &str) -> anyhow::Result<(String, Page)> {
        let page = self.get(link).await?;
        let location = page.headers.get(LOCATION).context("a link leads on")?.to_str()?.to_owned();
        let home = self.get(&location).await?;
        Ok((location, home))
    }

    /// Sends a form with further fields.
    pub async fn submit(&mut self, form: &Form, more: &[(&str, &str)]) -> anyhow::Result<Page> {
        let mut fields = form.fields.clone();
        fields.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        self.send(Method::POST, &form.action, &fields, &[]).await
    }

    /// Sends anything.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        fields: &[(String, String)],
        headers: &[(&'static str, &str)],
    ) -> anyhow::Result<Page> {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.address) };
        let mut request = self.http.request(method.clone(), url).header(COOKIE, self.cookies());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if method == Method::POST {
            request = request.form(fields);
            // Whoever says where a form comes from says all of it.
            let own = [("origin", "null"), ("sec-fetch-site", "same-origin")];
            if headers.iter().all(|(given, _)| own.iter().all(|(name, _)| name != given)) {
                request = own.iter().fold(request, |request, (name, value)| request.header(*name, *value));
            }
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        for cookie in headers.get_all(SET_COOKIE) {
            let pair = cookie.to_str()?.split(';').next().unwrap_or_default().to_owned();
            self.cookies.push(pair);
        }
        Ok(Page { status, headers, html: response.text().await? })
    }

    /// Its cookies, as it sends them.
    pub fn cookies(&self) -> String {
        self.cookies.join("; ")
    }
}

impl Page {
    /// A header; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The form whose path ends with something.
    pub fn form(&self, action: &str) -> anyhow::Result<Form> {
        let forms = self.html.split("<form ").skip(1).filter_map(|rest| rest.split("</form>").next());
        for form in forms {
            let tag = form.split('>').next().unwrap_or_default();
            let Some(path) = attribute(tag, "action").filter(|path| path.ends_with(action)) else { continue };
            let inputs = form.split("<input ").skip(1).filter_map(|input| input.split('>').next());
            let fields = inputs
                .filter(|input| input.contains("type=\"hidden\""))
                .filter_map(|input| Some((attribute(input, "name")?, attribute(input, "value")?)))
                .collect();
            return Ok(Form { action: path, fields });
        }
        anyhow::bail!("no form {action} on this page:\n{}", self.html)
    }
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let start = tag.find(&format!("{name}=\""))? + name.len() + 2;
    let value = tag.get(start..)?.split('"').next()?;
    Some(value.replace("&#34;", "\"").replace("&#39;", "'").replace("&#38;", "&").replace("&amp;", "&"))
}
