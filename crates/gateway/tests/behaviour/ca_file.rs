//! An upstream whose certificate only a file of the configuration knows.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use crate::common::{MESSAGE, REQUEST, TestGateway, config, send};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower_claude_gateway::Config;

/// A certificate of its own for `127.0.0.1`, with its key, in a folder that is removed at the end.
struct Certificate {
    folder: PathBuf,
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Certificate {
    fn new() -> Self {
        let name = format!("tower-claude-ca-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let certificate = Self { folder };
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "2"])
            .args([
                "-subj",
                "/CN=test",
                "-addext",
                "subjectAltName=IP:127.0.0.1",
            ])
            .args(["-addext", "basicConstraints=critical,CA:false"])
            .arg("-keyout")
            .arg(certificate.key())
            .arg("-out")
            .arg(certificate.file())
            .output()
            .expect("openssl is installed");
        let errors = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "{errors}");
        certificate
    }

    fn file(&self) -> PathBuf {
        self.folder.join("cert.pem")
    }

    fn key(&self) -> PathBuf {
        self.folder.join("key.pem")
    }

    /// Starts a server that answers each connection with a message. Returns its URL.
    async fn serve(&self) -> String {
        let chain = CertificateDer::pem_file_iter(self.file()).unwrap();
        let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(self.key()).unwrap();
        let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await.unwrap();
                let response = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\
                     content-length: {}\r\n\r\n{MESSAGE}",
                    MESSAGE.len()
                );
                stream.write_all(response.as_bytes()).await.unwrap();
                let _ = stream.shutdown().await;
            }
        });
        format!("https://{addr}")
    }
}

fn with_file(url: &str, file: Option<&Path>) -> String {
    let file = file.map_or_else(String::new, |file| {
        format!("ca_file = {:?}\n", file.display().to_string())
    });
    format!("[[upstreams]]\nname = \"main\"\nurl = \"{url}\"\nmax_attempts = 1\n{file}")
}

#[tokio::test]
async fn certificate_of_a_file_is_trusted_and_no_other() {
    let certificate = Certificate::new();
    let url = certificate.serve().await;
    let trusting = TestGateway::new(config(&with_file(&url, Some(&certificate.file())))).await;
    let got = send(trusting.message(), REQUEST).await;
    assert_eq!((got.status, got.text()), (200, MESSAGE));
    let other = TestGateway::new(config(&with_file(&url, None))).await;
    let got = send(other.message(), REQUEST).await;
    assert_eq!((got.status, got.error_type().as_str()), (502, "api_error"));
}

#[test]
fn file_without_certificates_is_an_error_with_its_line() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (file, reason) in [
        ("Cargo.toml", "has no certificate"),
        ("missing.pem", "No such file"),
    ] {
        let toml = with_file("https://127.0.0.1", Some(&own.join(file)));
        let errors = Config::from_toml(&toml).unwrap_err().to_string();
        assert!(
            errors.contains("line 5: upstreams[0].ca_file: the file"),
            "{errors}"
        );
        assert!(errors.contains(reason), "{errors}");
    }
}
