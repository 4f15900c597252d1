//! The TCP listener behind a web configuration file.

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::*;

/// An authority and certificates of it, made by openssl.
struct Pki(TempDir);

impl Pki {
    fn new() -> Self {
        let pki = Self(TempDir::new());
        pki.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
             -subj /CN=authority -keyout ca.key -out ca.crt",
        );
        pki.sign("server");
        pki.sign("client");
        pki
    }

    /// A certificate under this name, in place of one there.
    fn sign(&self, name: &str) {
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} \
             -keyout {name}.key -out {name}.csr"
        ));
        std::fs::write(self.0.join("ext"), "subjectAltName=IP:127.0.0.1").unwrap();
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 \
             -extfile ext -out {name}.crt"
        ));
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(self.0.join(""))
            .output()
            .expect("openssl runs: the tests install it");
        assert!(output.status.success(), "{output:?}");
    }

    fn web(&self, text: &str) -> PathBuf {
        let path = self.0.join("web.yml");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// What a client with or without a certificate trusts and shows.
    fn client(&self, certificate: Option<&str>) -> TlsConnector {
        let read = |name: &str| CertificateDer::from_pem_file(self.0.join(name)).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(read("ca.crt")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match certificate {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let key = PrivateKeyDer::from_pem_file(self.0.join(format!("{name}.key")));
                let chain = vec![read(&format!("{name}.crt"))];
                builder.with_client_auth_cert(chain, key.unwrap()).unwrap()
            }
        };
        TlsConnector::from(Arc::new(config))
    }
}

const TLS: &str = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n";

fn users() -> String {
    let hash = bcrypt::hash("s3cret", 4).unwrap();
    format!("basic_auth_users:\n  prometheus: {hash}\n")
}

fn with_password(target: &str, password: &str) -> Vec<u8> {
    let token = STANDARD.encode(format!("prometheus:{password}"));
    format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nauthorization: Basic {token}\r\n\r\n")
        .into_bytes()
}

async fn behind(path: &Path, details: bool) -> Server {
    let gate = Gate::open(path, details).unwrap();
    Server::behind(Some(Arc::new(gate)), Limits::default()).await
}

/// What is answered over TLS, or the error of the handshake or of what comes after it.
async fn over_tls(server: &Server, client: &TlsConnector, sent: &[u8]) -> io::Result<String> {
    let tcp = TcpStream::connect(server.address).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut io = client.connect(name, tcp).await?;
    io.write_all(sent).await?;
    let mut answer = Vec::new();
    io.read_to_end(&mut answer).await?;
    Ok(String::from_utf8(answer).unwrap())
}

#[test]
fn tls_and_a_password_are_asked_for() {
    testing::run(async {
        let pki = Pki::new();
        let server = behind(&pki.web(&(TLS.to_owned() + &users())), false).await;
        let client = pki.client(None);
        for (sent, status) in [
            (with_password("/metrics", "s3cret"), "200 OK"),
            (with_password("/livez", "s3cret"), "200 OK"),
            (with_password("/metrics", "guess"), "401 Unauthorized"),
            (request("GET", "/metrics"), "401 Unauthorized"),
            (request("GET", "/livez"), "401 Unauthorized"),
            // Only where it is asked for.
            (with_password("/api/v1/status", "s3cret"), "404 Not Found"),
        ] {
            let answer = over_tls(&server, &client, &sent).await.unwrap();
            let head = format!("HTTP/1.1 {status}\r\n");
            assert!(answer.starts_with(&head), "{status}: {answer}");
            let challenged = answer.contains("www-authenticate: Basic realm=\"rst\"");
            assert_eq!(challenged, status.starts_with("401"), "{answer}");
        }
        // Plain HTTP gets nothing.
        let mut io = server.tcp(&with_password("/metrics", "s3cret")).await;
        assert!(!read_all(&mut io).await.contains("HTTP"));
        // The socket's file is its own guard.
        let mut io = server.unix(&request("GET", "/livez")).await;
        assert!(read_all(&mut io).await.ends_with("ok"));
    });
}

#[test]
fn a_password_without_tls_guards_too() {
    testing::run(async {
        let pki = Pki(TempDir::new());
        let server = behind(&pki.web(&users()), false).await;
        let mut io = server.tcp(&request("GET", "/metrics")).await;
        assert!(read_all(&mut io).await.starts_with("HTTP/1.1 401 "));
        let mut io = server.tcp(&with_password("/metrics", "s3cret")).await;
        assert!(read_all(&mut io).await.starts_with("HTTP/1.1 200 "));
    });
}

#[test]
fn clients_show_a_certificate_of_the_authority() {
    testing::run(async {
        let (pki, strangers) = (Pki::new(), Pki::new());
        let required = format!(
            "{TLS}  client_ca_file: ca.crt\n  client_auth_type: RequireAndVerifyClientCert\n"
        );
        let server = behind(&pki.web(&required), true).await;
        let sent = request("GET", "/api/v1/status");
        let answer = over_tls(&server, &pki.client(Some("client")), &sent).await;
        assert!(answer.unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
        let nameless = over_tls(&server, &pki.client(None), &sent).await;
        assert!(nameless.is_err(), "{nameless:?}");
        // It trusts this server, and shows what another authority has signed.
        for file in ["client.crt", "client.key"] {
            std::fs::copy(strangers.0.join(file), pki.0.join(file)).unwrap();
        }
        let stranger = over_tls(&server, &pki.client(Some("client")), &sent).await;
        assert!(stranger.is_err(), "{stranger:?}");
    });
}

#[test]
fn details_are_served_only_behind_tls_and_proof() {
    let pki = Pki::new();
    for text in [TLS.to_owned(), users(), String::new()] {
        let error = Gate::open(&pki.web(&text), true).unwrap_err();
        assert!(matches!(error, GateError::Open(_)), "{text}: {error}");
    }
    testing::run(async {
        let server = behind(&pki.web(&(TLS.to_owned() + &users())), true).await;
        let client = pki.client(None);
        let answer = over_tls(&server, &client, &with_password("/api/v1/status", "s3cret")).await;
        assert!(answer.unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
        for target in ["/api/v1/status", "/api/v1/stream", "/api/v1/incidents"] {
            let answer = over_tls(&server, &client, &request("GET", target)).await;
            assert!(answer.unwrap().starts_with("HTTP/1.1 401 "), "{target}");
        }
    });
}

#[test]
fn faults_are_told() {
    let pki = Pki::new();
    let open = |text: &str| Gate::open(&pki.web(text), false).unwrap_err().to_string();
    let beside = |name: &str| pki.0.join(name).display().to_string();
    assert_eq!(
        open("tls_server_config:\n  cert_file: no\n  key_file: server.key\n"),
        format!(
            "can't read certificates from {}: I/O error: No such file or directory (os error 2)",
            beside("no")
        )
    );
    assert!(
        open("tls_server_config:\n  cert_file: server.crt\n  key_file: client.key\n")
            .starts_with(&format!("{} is no key for ", beside("client.key")))
    );
    assert_eq!(
        open("tls_server_config:\n  cert_file: server.key\n  key_file: server.key\n"),
        format!(
            "{} holds no certificate; write them as PEM",
            beside("server.key")
        )
    );
    let suite = open(&format!(
        "{TLS}  cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]\n"
    ));
    assert!(
        suite.starts_with("the cipher suite TLS_RSA_WITH_RC4_128_SHA is not supported; of TLS 1.2 there are TLS_ECDHE_"),
        "{suite}"
    );
}

#[test]
fn files_that_change_are_read_again_and_faulty_ones_are_not_taken() {
    let pki = Pki::new();
    let path = pki.web(&(TLS.to_owned() + &users()));
    let gate = Gate::open(&path, true).unwrap();
    let mut now = Instant::now();
    // As a client would that comes two seconds later.
    let mut later = || {
        now += Duration::from_secs(2);
        gate.door(now)
    };
    let first = later();
    assert!(Arc::ptr_eq(&first, &later()), "nothing has changed");
    pki.sign("server");
    let second = later();
    assert!(!Arc::ptr_eq(&first, &second), "the certificate is new");
    // Half of a new pair; no users; no YAML.
    pki.openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out server.key");
    assert!(Arc::ptr_eq(&second, &later()));
    for text in [TLS, "a: ["] {
        pki.web(text);
        assert!(Arc::ptr_eq(&second, &later()), "{text}");
    }
    pki.web(&(TLS.to_owned() + &users()));
    pki.sign("server");
    assert!(!Arc::ptr_eq(&second, &later()), "all is well again");
}
