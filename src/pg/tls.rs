//! TLS as `sslmode` asks for it (PostgreSQL manual, 34.19), on rustls.
//!
//! The handshake's signature is checked in every mode, also where any certificate is taken: channel binding proves
//! that client and server saw the same certificate, which is worth something only if its key was there too.

mod certificate;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature_with_raw_key};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use certificate::Certificate;
pub use certificate::server_end_point;

/// The `sslmode` connection option (PostgreSQL manual, table 34.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// Never encrypted.
    Disable,
    /// Encrypted if the server insists.
    Allow,
    /// Encrypted if the server can.
    Prefer,
    /// Encrypted; the certificate is checked only if there is a root certificate.
    Require,
    /// Encrypted, and the certificate leads to a root certificate.
    VerifyCa,
    /// Moreover the certificate names the host.
    VerifyFull,
}

/// The `sslrootcert` connection option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCertificates {
    /// Those the operating system trusts.
    System,
    /// Those of a PEM file, which need not exist where `sslmode` does not verify.
    File(PathBuf),
    /// None: no file is named, and there is no home directory to look in.
    None,
}

/// What is asked of an encrypted connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPolicy {
    /// The `sslmode`.
    pub mode: SslMode,
    /// The `sslrootcert`.
    pub roots: RootCertificates,
    /// The `sslcert`; a missing file means no client certificate.
    pub certificate: Option<PathBuf>,
    /// The `sslkey`, needed where the client certificate exists.
    pub key: Option<PathBuf>,
    /// Whether the host is named in the handshake (`sslsni`).
    pub sni: bool,
}

/// Settings for a client that keeps the policy. Reads the certificate files anew, so that renewed ones are seen.
///
/// # Errors
/// A message, worded as PostgreSQL's, when a file is missing, cannot be read or holds nothing usable.
pub fn client_config(policy: &TlsPolicy) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier { trust: trust(policy)?, provider: Arc::clone(&provider) };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match client_certificate(policy)? {
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| format!("client certificate and private key cannot be used: {error}"))?,
        None => builder.with_no_client_auth(),
    };
    config.enable_sni = policy.sni;
    Ok(config)
}

fn trust(policy: &TlsPolicy) -> Result<Trust, String> {
    match policy.mode {
        // Falling back to no encryption because of a certificate would be worse than taking it.
        SslMode::Disable | SslMode::Allow | SslMode::Prefer => Ok(Trust::Anyone),
        SslMode::Require => match root_certificates(&policy.roots)? {
            Some(roots) => Ok(Trust::Roots { roots, named: false }),
            None => Ok(Trust::Anyone),
        },
        SslMode::VerifyCa | SslMode::VerifyFull => match root_certificates(&policy.roots)? {
            Some(roots) => Ok(Trust::Roots { roots, named: policy.mode == SslMode::VerifyFull }),
            None => Err(match &policy.roots {
                RootCertificates::File(path) => format!("root certificate file \"{}\" does not exist", path.display()),
                RootCertificates::System | RootCertificates::None => "there are no root certificates".to_owned(),
            }),
        },
    }
}

/// `None` where the file does not exist.
fn root_certificates(source: &RootCertificates) -> Result<Option<Roots>, String> {
    let (certificates, place) = match source {
        RootCertificates::None => return Ok(None),
        RootCertificates::System => {
            (rustls_native_certs::load_native_certs().certs, "the operating system's store".to_owned())
        }
        RootCertificates::File(path) => {
            let Some(pem) = read_if_there(path, "root certificate file")? else { return Ok(None) };
            (certificates_of(&pem, path)?, format!("root certificate file \"{}\"", path.display()))
        }
    };
    let mut anchors = RootCertStore::empty();
    let (usable, _) = anchors.add_parsable_certificates(certificates.iter().cloned());
    if usable == 0 {
        return Err(format!("no usable certificate in {place}"));
    }
    Ok(Some(Roots { anchors, certificates }))
}

type ClientCertificate = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_certificate(policy: &TlsPolicy) -> Result<Option<ClientCertificate>, String> {
    let Some(path) = &policy.certificate else { return Ok(None) };
    let Some(pem) = read_if_there(path, "certificate file")? else { return Ok(None) };
    let chain = certificates_of(&pem, path)?;
    let missing = || format!("certificate \"{}\" is present, but its private key file is not", path.display());
    let key_path = policy.key.as_ref().ok_or_else(missing)?;
    let pem = read_if_there(key_path, "private key file")?.ok_or_else(missing)?;
    refuse_shared_key(key_path)?;
    let key = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|error| format!("could not read private key file \"{}\": {error}", key_path.display()))?;
    Ok(Some((chain, key)))
}

/// As libpq: others may do nothing with the key, the group may read it where root owns it.
fn refuse_shared_key(path: &Path) -> Result<(), String> {
    let status = std::fs::metadata(path)
        .map_err(|error| format!("could not read private key file \"{}\": {error}", path.display()))?;
    let forbidden = if status.uid() == 0 { 0o037 } else { 0o077 };
    if status.mode() & forbidden == 0 {
        return Ok(());
    }
    Err(format!(
        "private key file \"{}\" has group or world access; it must have permissions u=rw (0600) or less if owned by \
         the current user, or u=rw,g=r (0640) or less if owned by root",
        path.display()
    ))
}

fn read_if_there(path: &Path, what: &str) -> Result<Option<Vec<u8>>, String> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => Ok(None),
        Err(error) => Err(format!("could not read {what} \"{}\": {error}", path.display())),
    }
}

fn certificates_of(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("could not read certificate file \"{}\": {error}", path.display()))?;
    if certificates.is_empty() {
        return Err(format!("there is no certificate in file \"{}\"", path.display()));
    }
    Ok(certificates)
}

/// Whose certificate is taken.
#[derive(Debug)]
enum Trust {
    Anyone,
    Roots { roots: Roots, named: bool },
}

/// Root certificates, as what a chain may end in and as they are.
#[derive(Debug)]
struct Roots {
    anchors: RootCertStore,
    certificates: Vec<CertificateDer<'static>>,
}

impl Verifier {
    /// A server's self-signed certificate that is its own root, as the manual's first recipe makes it (19.9.5), says
    /// that it is an authority, which a chain must not begin with: being in the file is enough, while it is valid.
    fn verify_trust(
        &self,
        certificate: &ParsedCertificate<'_>,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        roots: &Roots,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        if !roots.certificates.contains(end_entity) {
            let algorithms = self.provider.signature_verification_algorithms.all;
            return verify_server_cert_signed_by_trust_anchor(
                certificate,
                &roots.anchors,
                intermediates,
                now,
                algorithms,
            );
        }
        match Certificate::parse(end_entity).and_then(|parts| parts.is_valid_at(now.as_secs())) {
            Some(true) => Ok(()),
            Some(false) => Err(CertificateError::Expired.into()),
            None => Err(CertificateError::BadEncoding.into()),
        }
    }
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Trust::Roots { roots, named } = &self.trust {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            self.verify_trust(&certificate, end_entity, intermediates, roots, now)?;
            if *named {
                verify_server_name(&certificate, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // By the key alone: version 1 certificates, which the manual's recipe with an authority makes (19.9.5), are
        // as good as any other where any is taken.
        let parts = Certificate::parse(certificate).ok_or(CertificateError::BadEncoding)?;
        let key = SubjectPublicKeyInfoDer::from(parts.public_key);
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
