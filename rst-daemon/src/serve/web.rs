//! The web configuration file of Prometheus' exporters (exporter-toolkit,
//! docs/web-configuration.md): TLS and basic authentication of the TCP listener.
//!
//! It is walked by hand, as the daemon's own settings are: every fault is told, with its
//! line. What rst does not do is a fault too: nobody is left to believe that it does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bcrypt::HashParts;
use saphyr::{LoadableYamlNode as _, MarkedYaml, Scalar, YamlData};

use crate::config::{ConfigError, Problem};

/// Highest cost of a password's hash, log2 of the rounds: checking it takes seconds.
const MAX_COST: u32 = 16;

/// What the file asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct WebConfig {
    /// Without it, plain HTTP.
    pub(super) tls: Option<Tls>,
    /// Hashes of the passwords (bcrypt), by user; empty: nobody is asked.
    pub(super) users: BTreeMap<String, String>,
}

/// `tls_server_config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tls {
    /// The certificate, and those between it and its authority, PEM.
    pub(super) cert: PathBuf,
    /// Its key, PEM.
    pub(super) key: PathBuf,
    /// Whose certificates clients show.
    pub(super) client: Client,
    /// Versions that are spoken.
    pub(super) versions: Versions,
    /// Suites of TLS 1.2, by their names; empty: all there are.
    pub(super) suites: Vec<String>,
    /// Whether the server's order of suites decides.
    pub(super) own_order: bool,
}

/// `client_auth_type` with `client_ca_file`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Client {
    /// They are not asked for one.
    Unasked,
    /// One that is shown must be signed by these.
    Verified(PathBuf),
    /// Each shows one that is signed by these.
    Required(PathBuf),
}

/// `min_version` and `max_version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Versions {
    /// TLS 1.2.
    pub(super) tls12: bool,
    /// TLS 1.3.
    pub(super) tls13: bool,
}

impl WebConfig {
    /// Reads a file.
    pub(super) fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.into(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Reads the text of a file. Files that it names lie beside it.
    pub(super) fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let invalid = |problems| ConfigError::Invalid {
            path: path.into(),
            problems,
        };
        let documents = MarkedYaml::load_from_str(text).map_err(|error| {
            invalid(vec![Problem {
                line: error.marker().line(),
                message: error.info().to_owned(),
            }])
        })?;
        let mut walk = Walk {
            beside: path.parent().unwrap_or(Path::new("")),
            problems: Vec::new(),
        };
        let config = match documents.as_slice() {
            [] => Self::default(),
            [document] => walk.file(document),
            [_, second, ..] => {
                walk.complain(second, "a second document; write one");
                Self::default()
            }
        };
        if walk.problems.is_empty() {
            return Ok(config);
        }
        walk.problems.sort_by_key(|problem| problem.line);
        Err(invalid(walk.problems))
    }

    /// Whether everybody who is served has proven who they are.
    pub(super) fn authenticates(&self) -> bool {
        let certificate = |tls: &Tls| matches!(tls.client, Client::Required(_));
        !self.users.is_empty() || self.tls.as_ref().is_some_and(certificate)
    }
}

type Node<'a> = MarkedYaml<'a>;

/// Goes through a file and notes what is wrong.
struct Walk<'a> {
    /// The directory that relative names start from.
    beside: &'a Path,
    problems: Vec<Problem>,
}

impl Walk<'_> {
    fn complain(&mut self, node: &Node<'_>, message: impl Into<String>) {
        self.problems.push(Problem {
            line: node.span.start.line(),
            message: message.into(),
        });
    }

    /// Hands each key with its value to `set`, which says what is wrong with the value, or
    /// `None` where it knows no such key.
    fn each(
        &mut self,
        node: &Node<'_>,
        what: &str,
        mut set: impl FnMut(&mut Self, &str, &Node<'_>) -> Option<Result<(), String>>,
    ) {
        // A key with nothing after it.
        if let YamlData::Value(Scalar::Null) = node.data {
            return;
        }
        let YamlData::Mapping(map) = &node.data else {
            return self.complain(node, format!("{what} is no mapping; write `key: value`"));
        };
        for (key, value) in map {
            let Some(name) = text(key) else {
                self.complain(
                    key,
                    format!("a key of {what} is no string; put it in quotes"),
                );
                continue;
            };
            match set(self, name, value) {
                Some(Ok(())) => {}
                Some(Err(message)) => self.complain(value, format!("`{name}` {message}")),
                None => self.complain(
                    key,
                    format!("unknown key `{}` in {what}; remove it", name.escape_debug()),
                ),
            }
        }
    }

    fn file(&mut self, document: &Node<'_>) -> WebConfig {
        let mut config = WebConfig::default();
        self.each(document, "the file", |walk, key, value| {
            match key {
                "tls_server_config" => config.tls = walk.tls(value),
                "http_server_config" => walk.http(value),
                "basic_auth_users" => config.users = walk.users(value),
                "rate_limit" => {
                    return Some(unsupported("the daemon paces its answers by itself"));
                }
                _ => return None,
            }
            Some(Ok(()))
        });
        config
    }

    fn http(&mut self, node: &Node<'_>) {
        self.each(node, "http_server_config", |_, key, value| {
            Some(match key {
                "http2" if flag(value) == Ok(false) => Ok(()),
                "http2" => unsupported("HTTP/1.1 is spoken; write false"),
                "headers" => unsupported("no page is served that a browser would show"),
                _ => return None,
            })
        });
    }

    fn users(&mut self, node: &Node<'_>) -> BTreeMap<String, String> {
        let mut users = BTreeMap::new();
        self.each(node, "basic_auth_users", |_, user, value| {
            Some(hash(value).and_then(|hash| {
                if user.is_empty() || user.contains(':') {
                    return Err("is no name of a user; it has no colon".to_owned());
                }
                users.insert(user.to_owned(), hash);
                Ok(())
            }))
        });
        users
    }

    fn tls(&mut self, node: &Node<'_>) -> Option<Tls> {
        let before = self.problems.len();
        let (mut cert, mut key, mut ca) = (None, None, None);
        let mut client = Ok("NoClientCert".to_owned());
        let (mut min, mut max) = (12, 13);
        let mut suites = Vec::new();
        let mut own_order = true;
        self.each(node, "tls_server_config", |walk, name, value| {
            let file = |slot: &mut Option<PathBuf>| {
                string(value).map(|name| *slot = Some(walk.beside.join(name)))
            };
            Some(match name {
                "cert_file" => file(&mut cert),
                "key_file" => file(&mut key),
                "client_ca_file" => file(&mut ca),
                "client_auth_type" => string(value).map(|kind| client = Ok(kind.to_owned())),
                "min_version" => version(value).map(|it| min = it),
                "max_version" => version(value).map(|it| max = it),
                "cipher_suites" => strings(value).map(|names| suites = names),
                "prefer_server_cipher_suites" => flag(value).map(|it| own_order = it),
                "cert" => unsupported("use cert_file"),
                "key" => unsupported("use key_file"),
                "client_ca" => unsupported("use client_ca_file"),
                "client_allowed_sans" => {
                    unsupported("use a client_ca_file that signs for those alone who may read")
                }
                "curve_preferences" => {
                    unsupported("those of rustls are offered: X25519, P-256, P-384")
                }
                _ => return None,
            })
        });
        let client = client.and_then(|kind| client_of(&kind, ca));
        if min > max {
            self.complain(node, "`min_version` is above `max_version`; swap them");
        }
        let client = client.map_err(|message| self.complain(node, message)).ok();
        if cert.is_none() || key.is_none() {
            self.complain(node, "tls_server_config needs `cert_file` and `key_file`");
        }
        if self.problems.len() != before {
            return None;
        }
        Some(Tls {
            cert: cert?,
            key: key?,
            client: client?,
            versions: Versions {
                tls12: min == 12,
                tls13: max == 13,
            },
            suites,
            own_order,
        })
    }
}

fn client_of(kind: &str, ca: Option<PathBuf>) -> Result<Client, String> {
    match (kind, ca) {
        ("NoClientCert" | "", None) => Ok(Client::Unasked),
        ("VerifyClientCertIfGiven", Some(ca)) => Ok(Client::Verified(ca)),
        ("RequireAndVerifyClientCert", Some(ca)) => Ok(Client::Required(ca)),
        ("NoClientCert" | "", Some(_)) => Err(
            "`client_ca_file` without a `client_auth_type`; write RequireAndVerifyClientCert"
                .to_owned(),
        ),
        ("VerifyClientCertIfGiven" | "RequireAndVerifyClientCert", None) => Err(format!(
            "`client_auth_type` {kind} needs a `client_ca_file`"
        )),
        ("RequestClientCert" | "RequireAnyClientCert", _) => Err(format!(
            "`client_auth_type` {kind} is not supported: it proves nothing; write RequireAndVerifyClientCert"
        )),
        _ => Err(format!(
            "`client_auth_type` is {kind:?}; write NoClientCert, VerifyClientCertIfGiven or RequireAndVerifyClientCert"
        )),
    }
}

fn unsupported(instead: &str) -> Result<(), String> {
    Err(format!("is not supported by rst: {instead}"))
}

/// The text of a scalar that is one.
fn text<'a>(node: &'a Node<'_>) -> Option<&'a str> {
    if let YamlData::Value(Scalar::String(text)) = &node.data {
        return Some(text);
    }
    None
}

fn string<'a>(node: &'a Node<'_>) -> Result<&'a str, String> {
    text(node)
        .filter(|text| !text.is_empty())
        .ok_or_else(|| "is no string; write one, in quotes if need be".to_owned())
}

fn strings(node: &Node<'_>) -> Result<Vec<String>, String> {
    let YamlData::Sequence(nodes) = &node.data else {
        return Err("is no list; write one string a line, each after `- `".to_owned());
    };
    nodes
        .iter()
        .map(|node| string(node).map(str::to_owned))
        .collect()
}

fn flag(node: &Node<'_>) -> Result<bool, String> {
    let YamlData::Value(Scalar::Boolean(flag)) = node.data else {
        return Err("is neither true nor false".to_owned());
    };
    Ok(flag)
}

/// 12 or 13.
fn version(node: &Node<'_>) -> Result<u8, String> {
    match string(node)? {
        "TLS12" => Ok(12),
        "TLS13" => Ok(13),
        "TLS10" | "TLS11" => {
            Err("is a version that is not supported: it is broken; write TLS12 or TLS13".to_owned())
        }
        other => Err(format!("is {other:?}; write TLS12 or TLS13")),
    }
}

fn hash(node: &Node<'_>) -> Result<String, String> {
    let hash = string(node)?;
    // What is written there may be the password itself: it is not repeated.
    let parts: HashParts = hash.parse().map_err(|_| {
        "has no bcrypt hash; make one with `htpasswd -nBC 10 \"\" | tr -d ':\\n'`".to_owned()
    })?;
    if !(4..=MAX_COST).contains(&parts.get_cost()) {
        return Err(format!(
            "has a hash of cost {}; use one from 4 to {MAX_COST}, 10 takes about 70 ms",
            parts.get_cost()
        ));
    }
    Ok(hash.to_owned())
}

#[cfg(test)]
mod tests;
