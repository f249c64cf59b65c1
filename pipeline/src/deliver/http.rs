//! The one HTTP client of the destinations. What always holds: certificates are verified (a CA file adds trust, nothing
//! takes it away); plain `http://` reaches only this machine; no redirects, no proxies of the environment; every call
//! ends within its time-out; secrets never show in errors.

use std::io::Read;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::blocking::{Client, RequestBuilder};
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Url, redirect};

use super::destination::DestinationError;
use super::secret::Secret;
use super::target::{self, PublicOnly};

/// Bytes of a reply that are read; the rest is passed over.
pub const REPLY_BYTES_MAX: u64 = 64 << 10;

/// A destination that makes several calls for one batch begins no further one after so long: the stage must get its
/// thread back in time to serve its group and to stop.
pub const CALLS_BUDGET: Duration = Duration::from_secs(5);

/// How to reach a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// `https://...`; `http://` only to a loopback address or `localhost`.
    pub url: String,
    /// Longest call, from connecting to the end of the reply.
    pub timeout: Duration,
    /// PEM file of further certificate authorities.
    pub ca_file: Option<PathBuf>,
    /// May reach addresses that are not public ([`target::is_private`]), this machine among them.
    pub private_allowed: bool,
}

/// What the server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Status.
    pub status: u16,
    /// `Retry-After` in seconds or as a date, from now.
    pub retry_after: Option<Duration>,
    /// The body, at most [`REPLY_BYTES_MAX`], secrets cut out.
    pub body: String,
}

/// A client for one URL.
#[derive(Debug)]
pub struct HttpClient {
    client: Client,
    url: Url,
    secrets: Vec<Secret>,
}

impl HttpClient {
    /// Opens a client. Headers with secrets go into every request; `path_default` is taken when the URL names none.
    pub fn open(config: &HttpConfig, headers: Vec<(String, Secret)>, path_default: &str) -> Result<Self, DestinationError> {
        let mut url = parse_url(&config.url)?;
        if !config.private_allowed && literal(&url).is_some_and(target::is_private) {
            let reason = "is a private address, which this destination may not reach unless that is allowed".to_owned();
            return Err(DestinationError::Url { url: shown(&url), reason });
        }
        if url.path() == "/" {
            url.set_path(path_default);
        }
        // Whoever was first has installed the same provider: this workspace compiles in no other.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .user_agent(concat!("tidewatch/", env!("CARGO_PKG_VERSION")))
            .timeout(config.timeout)
            .connect_timeout(config.timeout)
            .redirect(redirect::Policy::none())
            .referer(false)
            .no_proxy();
        if !config.private_allowed {
            builder = builder.dns_resolver(Arc::new(PublicOnly));
        }
        if let Some(path) = &config.ca_file {
            builder = builder.tls_certs_merge(read_certificates(path)?);
        }
        let mut all = HeaderMap::new();
        let mut secrets = Vec::new();
        for (name, secret) in headers {
            let wrong = |reason: String| DestinationError::Setting { setting: "headers", reason };
            let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong(format!("{name:?} is no header name")))?;
            let mut value = HeaderValue::from_str(secret.expose())
                .map_err(|_| wrong(format!("the value of {name} holds characters no header can carry")))?;
            value.set_sensitive(true);
            all.append(header, value);
            secrets.push(secret);
        }
        let client = builder
            .default_headers(all)
            .build()
            .map_err(|e| DestinationError::Setting { setting: "tls", reason: describe(&e.without_url()) })?;
        Ok(Self { client, url, secrets })
    }

    /// Keeps a further secret out of what is shown.
    pub fn guard(&mut self, secret: Secret) {
        self.secrets.push(secret);
    }

    /// Posts a body. `Err` says why there was no reply.
    pub fn post(&self, content_type: &str, gzip: bool, headers: &[(&str, String)], body: Vec<u8>) -> Result<Reply, String> {
        let mut request = self.client.post(self.url.clone()).header(CONTENT_TYPE, content_type);
        if gzip {
            request = request.header(CONTENT_ENCODING, "gzip");
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let (status, retry_after, body) = self.send(request, body)?;
        Ok(Reply { status, retry_after, body: self.scrub(&String::from_utf8_lossy(&body)) })
    }

    /// Posts a body whose reply is no text: status, `Retry-After` and the reply's bytes, secrets and all.
    pub(crate) fn post_bytes(&self, content_type: &str, body: Vec<u8>) -> Result<(u16, Option<Duration>, Vec<u8>), String> {
        self.send(self.client.post(self.url.clone()).header(CONTENT_TYPE, content_type), body)
    }

    fn send(&self, request: RequestBuilder, body: Vec<u8>) -> Result<(u16, Option<Duration>, Vec<u8>), String> {
        let response = request.body(body).send().map_err(|e| self.scrub(&describe(&e.without_url())))?;
        let status = response.status().as_u16();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(parse_retry_after);
        let mut body = Vec::new();
        // A reply that breaks off still has its status.
        let _ = response.take(REPLY_BYTES_MAX).read_to_end(&mut body);
        Ok((status, retry_after, body))
    }

    /// The text without secrets, should the server have sent one back.
    pub(crate) fn scrub(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| secret.scrub(&text))
    }
}

/// A reply's text for people: one line, control characters escaped, at most 200 characters.
pub fn excerpt(text: &str) -> String {
    let mut out = String::new();
    for c in text.trim().chars().take(200) {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// The error with its causes: reqwest's own text says only that a request failed.
fn describe(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text.chars().take(400).collect()
}

fn parse_url(text: &str) -> Result<Url, DestinationError> {
    let wrong = |shown: &str, reason: &str| DestinationError::Url { url: shown.to_owned(), reason: reason.to_owned() };
    let url = Url::parse(text).map_err(|e| wrong("(not shown)", &e.to_string()))?;
    let shown = shown(&url);
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong(&shown, "holds a user or password; put it into a secret header"));
    }
    let loopback = match url.host_str() {
        None => return Err(wrong(&shown, "names no host")),
        Some("localhost") => true,
        Some(_) => literal(&url).is_some_and(|ip| ip.is_loopback()),
    };
    match url.scheme() {
        "https" => Ok(url),
        "http" if loopback => Ok(url),
        "http" => Err(wrong(&shown, "plain http is allowed only to this machine; use https")),
        _ => Err(wrong(&shown, "is neither https nor http")),
    }
}

/// Without user and query, where secrets may stand.
fn shown(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

/// The address, where the URL names one.
fn literal(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_matches(['[', ']']).parse().ok()
}

#[allow(clippy::disallowed_methods, reason = "the edge where certificates enter")]
fn read_certificates(path: &PathBuf) -> Result<Vec<Certificate>, DestinationError> {
    let wrong = |reason: String| DestinationError::File { path: path.display().to_string(), reason };
    let pem = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|e| wrong(describe(&e)))?;
    if certificates.is_empty() { Err(wrong("holds no certificate".into())) } else { Ok(certificates) }
}

pub(crate) fn parse_retry_after(text: &str) -> Option<Duration> {
    if let Ok(secs) = text.trim().parse() {
        return Some(Duration::from_secs(secs));
    }
    let at = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp();
    let now = (crate::log::local::wall_clock())().0;
    let wait_ns = i64::try_from(at.as_nanosecond()).ok()?.saturating_sub(now);
    Some(Duration::from_nanos(u64::try_from(wait_ns).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_safe_urls_are_taken() {
        for good in ["https://siem.example/x?y=1", "http://127.0.0.1:8088/", "http://[::1]:1/", "http://localhost/"] {
            assert!(parse_url(good).is_ok(), "{good}");
        }
        for bad in ["http://siem.example/", "http://10.0.0.1/", "ftp://127.0.0.1/", "nonsense", "http://127.0.0.1.example/"] {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
        let shown = parse_url("https://user:hunter2@siem.example/?token=hunter2").err().map(|e| e.to_string());
        assert!(shown.is_some_and(|text| !text.contains("hunter2")));
    }

    #[test]
    fn private_targets_need_to_be_allowed() {
        let open = |url: &str, private_allowed| {
            let config = HttpConfig { url: url.into(), timeout: Duration::from_secs(5), ca_file: None, private_allowed };
            HttpClient::open(&config, vec![], "/")
        };
        assert!(open("https://169.254.169.254/latest", false).is_err());
        assert!(open("https://[fd00::1]/", false).is_err());
        assert!(open("http://127.0.0.1/", true).is_ok());
        let inwards = open("http://localhost:9/", false).map(|c| c.post("text/plain", false, &[], vec![]));
        assert!(inwards.is_ok_and(|reply| reply.is_err_and(|reason| reason.contains("private"))));
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        assert_eq!(parse_retry_after(" 120 "), Some(Duration::from_secs(120)));
        assert_eq!(parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert!(parse_retry_after("Fri, 31 Dec 2100 23:59:59 GMT").is_some_and(|d| d.as_secs() > 1 << 30));
        assert_eq!(parse_retry_after("soon"), None);
    }

    #[test]
    fn excerpts_are_one_short_line() {
        assert_eq!(excerpt(" a\r\nb\u{1b}[0m \"q\" "), "a\\r\\nb\\u{1b}[0m \"q\"");
        assert_eq!(excerpt(&"x".repeat(900)).len(), 200);
    }
}
