//! Fetches a wheel over HTTPS from a package index (the "simple" interface, JSON or HTML), for machines without pip.

use super::{settings::Settings, wheels::Wheel};
use crate::progress::Progress;
use anyhow::{Context, Result, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use std::{
    fs::OpenOptions,
    io::{Read, Write},
    path::Path,
    time::Duration,
};
use ureq::{
    Agent, Body, Proxy, ResponseExt,
    http::{Response, StatusCode},
    tls::{Certificate, RootCerts, TlsConfig},
};

/// Downloads `wheel` to `part`, continuing what an earlier run left there. The caller checks size and hash.
pub fn download(wheel: &Wheel, settings: &Settings, part: &Path) -> Result<()> {
    let agent = agent(settings)?;
    let mut problems = Vec::new();
    for index in &settings.indexes {
        let result = find(&agent, index, wheel).and_then(|url| fetch_with_retries(&agent, &url, wheel, settings, part));
        match result {
            Ok(()) => return Ok(()),
            Err(problem) => problems.push(format!("{}: {problem:#}", without_credentials(index))),
        }
    }
    bail!("{}", problems.join("; "))
}

/// A client with the system's certificates and the user's, the user's proxy and time limits.
fn agent(settings: &Settings) -> Result<Agent> {
    let mut roots = rustls_native_certs::load_native_certs().certs;
    for path in &settings.certificates {
        let (file, folder) = if path.is_dir() { (None, Some(path.as_path())) } else { (Some(path.as_path()), None) };
        let loaded = rustls_native_certs::load_certs_from_paths(file, folder);
        if let (true, Some(error)) = (loaded.certs.is_empty(), loaded.errors.first()) {
            bail!("the certificates that the settings name cannot be read: {error}");
        }
        roots.extend(loaded.certs);
    }
    let roots = RootCerts::from(roots.iter().map(|der| Certificate::from_der(der).to_owned()));
    let wait = Some(Duration::from_secs(settings.timeout));
    let mut config = Agent::config_builder()
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .http_status_as_error(true)
        .timeout_resolve(wait)
        .timeout_connect(wait)
        .timeout_per_read(wait);
    if let Some(proxy) = &settings.proxy {
        config = config.proxy(Some(Proxy::new(proxy).context("the configured proxy is not a proxy's address")?));
    }
    Ok(config.build().new_agent())
}

/// The URL of the wheel's file on the project's page.
fn find(agent: &Agent, index: &str, wheel: &Wheel) -> Result<String> {
    let page = format!("{}/{}/", index.trim_end_matches('/'), wheel.project());
    let (address, authorization) = split_credentials(&page);
    let mut request = agent.get(&address).header("Accept", "application/vnd.pypi.simple.v1+json, text/html;q=0.1");
    if let Some(value) = &authorization {
        request = request.header("Authorization", value);
    }
    let mut answer = request.call().with_context(|| format!("no page of {} at the index", wheel.project()))?;
    let base = answer.get_uri().to_string();
    let json = answer.body().mime_type().is_some_and(|kind| kind.ends_with("json"));
    let text = answer.body_mut().with_config().limit(64 << 20).read_to_string()?;
    let link = if json { link_in_json(&text, wheel.file)? } else { link_in_html(&text, wheel.file) };
    let link = link.with_context(|| format!("the index has no {}", wheel.file))?;
    let url = join(&base, link.split('#').next().unwrap_or(&link));
    Ok(match (authorization, host(&url) == host(&address)) {
        (Some(_), true) => with_credentials_of(&page, &url),
        _ => url,
    })
}

fn fetch_with_retries(agent: &Agent, url: &str, wheel: &Wheel, settings: &Settings, part: &Path) -> Result<()> {
    let mut attempt = 0;
    loop {
        match fetch(agent, url, wheel, part) {
            Ok(()) => return Ok(()),
            Err(problem) if attempt >= settings.retries => return Err(problem),
            Err(problem) => {
                attempt += 1;
                eprintln!("{}: {problem:#}; trying again ({attempt} of {})", wheel.label, settings.retries);
                std::thread::sleep(Duration::from_secs(1 << attempt.min(5)));
            }
        }
    }
}

fn fetch(agent: &Agent, url: &str, wheel: &Wheel, part: &Path) -> Result<()> {
    let mut have = std::fs::metadata(part).map_or(0, |file| file.len());
    if have > wheel.bytes {
        std::fs::remove_file(part)?;
        have = 0;
    }
    if have == wheel.bytes {
        return Ok(());
    }
    let mut answer = request(agent, url, have)?;
    if answer.status() != StatusCode::PARTIAL_CONTENT {
        have = 0;
    }
    let mut file = OpenOptions::new().create(true).append(have > 0).write(true).truncate(have == 0).open(part)?;
    let mut reader = answer.body_mut().with_config().limit(wheel.bytes + 1).reader();
    let mut progress = Progress::start(&format!("fetching {}", wheel.label), wheel.bytes);
    let mut buffer = vec![0; 1 << 18];
    loop {
        let n = reader.read(&mut buffer).context("the connection broke")?;
        if n == 0 {
            break;
        }
        file.write_all(&buffer[..n]).with_context(|| format!("{} cannot be written", part.display()))?;
        have += n as u64;
        progress.at(have);
    }
    progress.finish();
    if have < wheel.bytes {
        bail!("the connection ended after {have} of {} bytes", wheel.bytes);
    }
    Ok(())
}

fn request(agent: &Agent, url: &str, from: u64) -> Result<Response<Body>> {
    let (address, authorization) = split_credentials(url);
    let mut request = agent.get(&address);
    if let Some(value) = authorization {
        request = request.header("Authorization", value);
    }
    if from > 0 {
        request = request.header("Range", format!("bytes={from}-"));
    }
    request.call().with_context(|| format!("{} cannot be fetched", without_credentials(url)))
}

fn link_in_json(page: &str, file: &str) -> Result<Option<String>> {
    let page: serde_json::Value = serde_json::from_str(page).context("the index's answer is not the JSON that it says it is")?;
    let files = page["files"].as_array().context("the index's answer has no list of files")?;
    Ok(files.iter().find(|entry| entry["filename"] == file).and_then(|entry| entry["url"].as_str()).map(str::to_owned))
}

fn link_in_html(page: &str, file: &str) -> Option<String> {
    let links = page.split("href=").skip(1).filter_map(|rest| {
        let quote = rest.chars().next().filter(|c| "\"'".contains(*c))?;
        rest[1..].split(quote).next()
    });
    links
        .map(|link| link.replace("&amp;", "&"))
        .find(|link| link.split(['#', '?']).next().and_then(|path| path.rsplit('/').next()) == Some(file))
}

/// `link` as seen from the page at `base`.
fn join(base: &str, link: &str) -> String {
    if link.contains("://") {
        return link.to_owned();
    }
    let (scheme, rest) = base.split_once("://").unwrap_or(("https", base));
    if let Some(other_host) = link.strip_prefix("//") {
        return format!("{scheme}://{other_host}");
    }
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let mut parts: Vec<&str> = if link.starts_with('/') { Vec::new() } else { path.split('/').collect() };
    parts.pop();
    for part in link.trim_start_matches('/').split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." => {}
            part => parts.push(part),
        }
    }
    format!("{scheme}://{host}/{}", parts.join("/"))
}

/// The URL without its user part, and the header that stands for it: from the URL, else from the user's netrc.
fn split_credentials(url: &str) -> (String, Option<String>) {
    let Some((scheme, rest)) = url.split_once("://") else { return (url.to_owned(), None) };
    let host_end = rest.find('/').unwrap_or(rest.len());
    let (credentials, address) = match rest[..host_end].rfind('@') {
        Some(at) => (Some(decode_percent(&rest[..at])), format!("{scheme}://{}", &rest[at + 1..])),
        None => (None, url.to_owned()),
    };
    let credentials = credentials.or_else(|| {
        let netrc = std::env::var_os("NETRC").map(Into::into).or_else(|| std::env::home_dir().map(|home| home.join(".netrc")))?;
        netrc_credentials(&std::fs::read_to_string(netrc).ok()?, host(&address))
    });
    let pair = credentials.map(|pair| if pair.contains(':') { pair } else { format!("{pair}:") });
    (address, pair.map(|pair| format!("Basic {}", BASE64_STANDARD.encode(pair))))
}

fn with_credentials_of(from: &str, url: &str) -> String {
    let user = from.split_once("://").and_then(|(_, rest)| rest.split('/').next()?.rsplit_once('@')).map(|(user, _)| user);
    match (user, url.split_once("://")) {
        (Some(user), Some((scheme, rest))) => format!("{scheme}://{user}@{rest}"),
        _ => url.to_owned(),
    }
}

fn without_credentials(url: &str) -> String {
    split_credentials(url).0
}

fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', ':']).next().unwrap_or_default()
}

fn netrc_credentials(text: &str, host: &str) -> Option<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let start = words.windows(2).position(|pair| pair == ["machine", host]).map(|at| at + 2)?;
    let entry = words[start..].split(|word| ["machine", "default"].contains(word)).next()?;
    let value = |key: &str| entry.windows(2).find(|pair| pair[0] == key).map(|pair| pair[1]);
    Some(format!("{}:{}", value("login")?, value("password")?))
}

fn decode_percent(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = (first == b'%')
            .then(|| tail.get(..2))
            .flatten()
            .and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_joined_as_a_browser_does() {
        let base = "https://host/simple/torch/";
        assert_eq!(join(base, "https://files/a.whl"), "https://files/a.whl");
        assert_eq!(join(base, "../../packages/a.whl"), "https://host/packages/a.whl");
        assert_eq!(join(base, "/packages/a.whl"), "https://host/packages/a.whl");
        assert_eq!(join(base, "a.whl"), "https://host/simple/torch/a.whl");
        assert_eq!(join(base, "//files/a.whl"), "https://files/a.whl");
    }

    #[test]
    fn both_kinds_of_page_are_read() {
        let html = "<a href='../x-1.whl'>x</a> <a class=y href=\"/p/a-1.whl?t=1&amp;u=2#sha256=00\">a</a>";
        assert_eq!(link_in_html(html, "a-1.whl").as_deref(), Some("/p/a-1.whl?t=1&u=2#sha256=00"));
        assert_eq!(link_in_html(html, "b-1.whl"), None);
        let json = r#"{"files": [{"filename": "a-1.whl", "url": "u"}]}"#;
        assert_eq!(link_in_json(json, "a-1.whl").unwrap().as_deref(), Some("u"));
        assert!(link_in_json("<html>", "a-1.whl").is_err());
    }

    #[test]
    fn credentials_become_a_header_and_never_a_message() {
        let (address, header) = split_credentials("https://me:s%40crt@host/simple");
        assert_eq!(address, "https://host/simple");
        assert_eq!(header.unwrap(), format!("Basic {}", BASE64_STANDARD.encode("me:s@crt")));
        assert_eq!(without_credentials("https://me:secret@host/x"), "https://host/x");
        assert_eq!(with_credentials_of("https://me:s@host/a", "https://host/b"), "https://me:s@host/b");
    }

    #[test]
    fn netrc() {
        let text = "machine other login a password b\nmachine host\n  login me\n  password secret\ndefault login x password y";
        assert_eq!(netrc_credentials(text, "host").as_deref(), Some("me:secret"));
        assert_eq!(netrc_credentials(text, "third"), None);
    }
}
