//! TLS as `sslmode` asks for it (PostgreSQL manual, 34.19), on rustls.
//!
//! The handshake's signature is checked in every mode, also where any certificate is taken: channel binding proves
//! that client and server saw the same certificate, which is worth something only if its key was there too.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

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
            Some(roots) => Ok(Trust::Chain { roots, named: false }),
            None => Ok(Trust::Anyone),
        },
        SslMode::VerifyCa | SslMode::VerifyFull => match root_certificates(&policy.roots)? {
            Some(roots) => Ok(Trust::Chain { roots, named: policy.mode == SslMode::VerifyFull }),
            None => Err(match &policy.roots {
                RootCertificates::File(path) => format!("root certificate file \"{}\" does not exist", path.display()),
                RootCertificates::System | RootCertificates::None => "there are no root certificates".to_owned(),
            }),
        },
    }
}

/// `None` where the file does not exist.
fn root_certificates(source: &RootCertificates) -> Result<Option<RootCertStore>, String> {
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
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(certificates);
    if usable == 0 {
        return Err(format!("no usable certificate in {place}"));
    }
    Ok(Some(roots))
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
    Chain { roots: RootCertStore, named: bool },
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
        if let Trust::Chain { roots, named } = &self.trust {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
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
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The `tls-server-end-point` channel binding of a server's certificate (RFC 5929, section 4): its hash by the hash
/// function of its own signature, SHA-256 in place of MD5 and SHA-1.
///
/// `None` where the signature names no hash function by itself (Ed25519, RSA-PSS): the server then does without
/// channel binding.
pub fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let hash = match signature_algorithm(certificate)? {
        // md5WithRSAEncryption, sha1WithRSAEncryption, sha256WithRSAEncryption (RFC 8017); ecdsa-with-SHA1,
        // ecdsa-with-SHA256 (RFC 5758)
        RSA_MD5 | RSA_SHA1 | RSA_SHA256 | ECDSA_SHA1 | ECDSA_SHA256 => &digest::SHA256,
        RSA_SHA384 | ECDSA_SHA384 => &digest::SHA384,
        RSA_SHA512 | ECDSA_SHA512 => &digest::SHA512,
        _ => return None,
    };
    Some(digest::digest(hash, certificate).as_ref().to_vec())
}

const RSA_MD5: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4];
const RSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5];
const RSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11];
const RSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12];
const RSA_SHA512: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 13];
const ECDSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1];
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
const ECDSA_SHA512: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4];

/// `Certificate ::= SEQUENCE { tbsCertificate SEQUENCE, signatureAlgorithm SEQUENCE { OID, … }, … }` (RFC 5280,
/// section 4.1): the OID's content.
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    const SEQUENCE: u8 = 0x30;
    const OBJECT_IDENTIFIER: u8 = 0x06;
    let (certificate, _) = der_element(certificate, SEQUENCE)?;
    let (_, after_body) = der_element(certificate, SEQUENCE)?;
    let (algorithm, _) = der_element(after_body, SEQUENCE)?;
    Some(der_element(algorithm, OBJECT_IDENTIFIER)?.0)
}

/// The content of a DER element that must have this tag, and what follows it.
fn der_element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = bytes.split_first_chunk()?;
    if found != tag {
        return None;
    }
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        let length = length.iter().try_fold(0usize, |sum, byte| sum.checked_mul(256)?.checked_add(usize::from(*byte)));
        (length?, rest)
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An element with its length in the shortest form.
    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut made = vec![tag];
        match u8::try_from(content.len()) {
            Ok(length) if length < 0x80 => made.push(length),
            Ok(length) => made.extend([0x81, length]),
            Err(_) => {
                made.push(0x82);
                made.extend(u16::try_from(content.len()).expect("short").to_be_bytes());
            }
        }
        made.extend(content);
        made
    }

    fn certificate(algorithm: &[u8], body_bytes: usize) -> Vec<u8> {
        let body = element(0x30, &vec![7; body_bytes]);
        let algorithm = element(0x30, &element(0x06, algorithm));
        element(0x30, &[body, algorithm, element(0x03, &[0; 8])].concat())
    }

    #[test]
    fn the_hash_is_that_of_the_signature() {
        for (algorithm, bytes) in [
            (RSA_MD5, Some(32)),
            (RSA_SHA1, Some(32)),
            (RSA_SHA256, Some(32)),
            (ECDSA_SHA384, Some(48)),
            (RSA_SHA512, Some(64)),
            (ECDSA_SHA512, Some(64)),
            (&[0x2b, 0x65, 0x70][..], None),
        ] {
            for body_bytes in [3, 200, 900] {
                let hash = server_end_point(&certificate(algorithm, body_bytes));
                assert_eq!(hash.map(|hash| hash.len()), bytes, "{algorithm:?}");
            }
        }
        assert_eq!(server_end_point(&certificate(RSA_SHA256, 900)[..500]), None, "cut short");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = server_end_point(&bytes);
        }
    }
}
