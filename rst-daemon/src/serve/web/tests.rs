//! What a web configuration file may say, and what is said of one that is wrong.

use super::*;

const HASH: &str = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG";

fn parse(text: &str) -> Result<WebConfig, String> {
    WebConfig::parse(text, Path::new("/etc/rst/web.yml")).map_err(|error| error.to_string())
}

#[test]
fn an_empty_file_asks_for_nothing() {
    for text in ["", "# nothing\n", "basic_auth_users:\n"] {
        let config = parse(text).unwrap();
        assert_eq!(config, WebConfig::default(), "{text:?}");
        assert!(!config.authenticates());
    }
}

#[test]
fn the_whole_of_what_is_supported() {
    let text = format!(
        "tls_server_config:
  cert_file: rst.crt
  key_file: /keys/rst.key
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: ca.crt
  min_version: TLS12
  max_version: TLS12
  cipher_suites:
    - TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
  prefer_server_cipher_suites: false
http_server_config:
  http2: false
basic_auth_users:
  alice: {HASH}
  'bob': '{HASH}'
"
    );
    let config = parse(&text).unwrap();
    assert_eq!(
        config.tls,
        Some(Tls {
            cert: "/etc/rst/rst.crt".into(),
            key: "/keys/rst.key".into(),
            client: Client::Required("/etc/rst/ca.crt".into()),
            versions: Versions {
                tls12: true,
                tls13: false
            },
            suites: vec!["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384".into()],
            own_order: false,
        })
    );
    assert_eq!(config.users.len(), 2);
    assert_eq!(config.users["bob"], HASH);
    assert!(config.authenticates());
}

#[test]
fn everything_that_is_wrong_is_told_with_its_line() {
    let message = parse(
        "tls_server_config:
  cert_file: rst.crt
  min_version: TLS10
  curve_preferences: [X25519]
  certfile: x
http_server_config:
  http2: true
rate_limit:
  burst: 3
basic_auth_users:
  alice: secret
  bob: $2y$31$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG
web: {}
",
    )
    .unwrap_err();
    let expected = [
        "2: tls_server_config needs `cert_file` and `key_file`",
        "3: `min_version` is a version that is not supported: it is broken; write TLS12 or TLS13",
        "4: `curve_preferences` is not supported by rst: those of rustls are offered: X25519, P-256, P-384",
        "5: unknown key `certfile` in tls_server_config; remove it",
        "7: `http2` is not supported by rst: HTTP/1.1 is spoken; write false",
        "9: `rate_limit` is not supported by rst: the daemon paces its answers by itself",
        "11: `alice` has no bcrypt hash; make one with `htpasswd -nBC 10 \"\" | tr -d ':\\n'`",
        "12: `bob` has a hash of cost 31; use one from 4 to 16, 10 takes about 70 ms",
        "13: unknown key `web` in the file; remove it",
    ];
    let got: Vec<_> = message.lines().collect();
    let expected: Vec<_> = expected
        .iter()
        .map(|line| format!("/etc/rst/web.yml:{line}"))
        .collect();
    assert_eq!(got, expected);
    assert!(!message.contains("secret"));
}

#[test]
fn what_can_not_be_is_refused() {
    let tls = |rest: &str| format!("tls_server_config:\n  cert_file: c\n  key_file: k\n{rest}");
    for (text, part) in [
        ("a: [".to_owned(), "/etc/rst/web.yml:"),
        ("[]".to_owned(), "the file is no mapping"),
        ("a: 1\na: 2".to_owned(), "duplicated key"),
        ("{}\n---\n{}\n".to_owned(), "a second document"),
        ("1: x".to_owned(), "a key of the file is no string"),
        (
            tls("  client_ca_file: ca"),
            "`client_ca_file` without a `client_auth_type`",
        ),
        (
            tls("  client_auth_type: RequireAndVerifyClientCert"),
            "needs a `client_ca_file`",
        ),
        (
            tls("  client_auth_type: RequireAnyClientCert"),
            "it proves nothing",
        ),
        (tls("  client_auth_type: Any"), "is \"Any\""),
        (
            tls("  min_version: TLS13\n  max_version: TLS12"),
            "`min_version` is above",
        ),
        (tls("  client_allowed_sans: [a]"), "is not supported by rst"),
        (tls("  cipher_suites: a"), "is no list"),
        (
            format!("basic_auth_users:\n  'a:b': {HASH}"),
            "it has no colon",
        ),
        ("basic_auth_users: x".to_owned(), "is no mapping"),
    ] {
        let message = parse(&text).unwrap_err();
        assert!(message.contains(part), "{text}: {message}");
    }
}
