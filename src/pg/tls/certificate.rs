//! The few fields of an X.509 certificate that rustls keeps to itself.

use jiff::Timestamp;
use ring::digest;

/// Views into a DER-encoded certificate (RFC 5280, section 4.1).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Certificate<'a> {
    /// The OID of its own signature's algorithm, without tag and length.
    signature_algorithm: &'a [u8],
    /// Two times, each with its tag.
    validity: &'a [u8],
    /// SubjectPublicKeyInfo, with its tag.
    pub(super) public_key: &'a [u8],
}

const INTEGER: u8 = 0x02;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// The version, which version 1 leaves out.
const CONTEXT_0: u8 = 0xa0;

impl<'a> Certificate<'a> {
    /// `None` where the bytes are no certificate. Says nothing about its being good for anything.
    pub(super) fn parse(der: &'a [u8]) -> Option<Self> {
        let (certificate, _) = element(der, SEQUENCE)?;
        let (body, rest) = element(certificate, SEQUENCE)?;
        let (algorithm, _) = element(rest, SEQUENCE)?;
        let (signature_algorithm, _) = element(algorithm, OBJECT_IDENTIFIER)?;

        let rest = element(body, CONTEXT_0).map_or(body, |(_, rest)| rest);
        let (_serial, rest) = element(rest, INTEGER)?;
        let (_signature, rest) = element(rest, SEQUENCE)?;
        let (_issuer, rest) = element(rest, SEQUENCE)?;
        let (validity, rest) = element(rest, SEQUENCE)?;
        let (_subject, rest) = element(rest, SEQUENCE)?;
        let (_, after_key) = element(rest, SEQUENCE)?;
        let public_key = &rest[..rest.len() - after_key.len()];
        Some(Certificate { signature_algorithm, validity, public_key })
    }

    /// Whether the time, in seconds since 1970, lies in the period of validity; `None` where that cannot be read.
    pub(super) fn is_valid_at(&self, seconds: u64) -> Option<bool> {
        let (begin, rest) = time(self.validity)?;
        let (end, _) = time(rest)?;
        let now = Timestamp::from_second(i64::try_from(seconds).ok()?).ok()?;
        let now = now.strftime("%Y%m%d%H%M%SZ").to_string();
        Some(begin <= now && now <= end)
    }
}

/// A time as `YYYYMMDDHHMMSSZ`, which sorts by itself, and what follows it. The two digits of a UTCTime's year are of
/// 1950 to 2049 (RFC 5280, section 4.1.2.5.1).
fn time(der: &[u8]) -> Option<(String, &[u8])> {
    let (text, century, rest) = match element(der, UTC_TIME) {
        Some((text, rest)) if text.first()? < &b'5' => (text, "20", rest),
        Some((text, rest)) => (text, "19", rest),
        None => {
            let (text, rest) = element(der, GENERALIZED_TIME)?;
            (text, "", rest)
        }
    };
    let text = format!("{century}{}", str::from_utf8(text).ok()?);
    let (digits, zone) = text.split_at_checked(14)?;
    (zone == "Z" && digits.bytes().all(|digit| digit.is_ascii_digit())).then_some((text, rest))
}

/// The `tls-server-end-point` channel binding of a server's certificate (RFC 5929, section 4): its hash by the hash
/// function of its own signature, SHA-256 in place of MD5 and SHA-1.
///
/// `None` where the signature names no hash function by itself (Ed25519, RSA-PSS): the server then does without
/// channel binding.
pub fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let hash = match Certificate::parse(certificate)?.signature_algorithm {
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

/// The content of a DER element that must have this tag, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
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
    use std::iter;

    use proptest::prelude::*;

    use super::*;

    /// An element with its length in the shortest form.
    fn made(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = match u8::try_from(content.len()) {
            Ok(length) if length < 0x80 => vec![length],
            Ok(length) => vec![0x81, length],
            Err(_) => {
                let length = u16::try_from(content.len()).expect("short");
                iter::once(0x82).chain(length.to_be_bytes()).collect()
            }
        };
        [&[tag], &length[..], content].concat()
    }

    struct Sample {
        version: Option<u8>,
        algorithm: &'static [u8],
        validity: [(u8, &'static str); 2],
        key_bytes: usize,
    }

    const SAMPLE: Sample = Sample {
        version: Some(2),
        algorithm: RSA_SHA256,
        validity: [(UTC_TIME, "260101000000Z"), (UTC_TIME, "270101000000Z")],
        key_bytes: 270,
    };

    impl Sample {
        fn der(&self) -> Vec<u8> {
            let version = self.version.map(|version| made(CONTEXT_0, &made(INTEGER, &[version])));
            let algorithm = made(SEQUENCE, &made(OBJECT_IDENTIFIER, self.algorithm));
            let name = made(SEQUENCE, &[]);
            let validity = self.validity.map(|(tag, text)| made(tag, text.as_bytes())).concat();
            let body = [
                version.unwrap_or_default(),
                made(INTEGER, &[1]),
                algorithm.clone(),
                name.clone(),
                made(SEQUENCE, &validity),
                name,
                made(SEQUENCE, &vec![7; self.key_bytes]),
            ];
            made(SEQUENCE, &[made(SEQUENCE, &body.concat()), algorithm, made(0x03, &[0; 8])].concat())
        }
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
            // Ed25519
            (&[0x2b, 0x65, 0x70][..], None),
        ] {
            for (key_bytes, version) in [(3, None), (200, Some(2)), (900, Some(2))] {
                let hash = server_end_point(&Sample { version, algorithm, key_bytes, ..SAMPLE }.der());
                assert_eq!(hash.map(|hash| hash.len()), bytes, "{algorithm:?}");
            }
        }
    }

    #[test]
    fn the_key_is_found_in_either_version() {
        for version in [None, Some(2)] {
            let der = Sample { version, ..SAMPLE }.der();
            let parts = Certificate::parse(&der).expect("a certificate");
            assert_eq!(parts.public_key, made(SEQUENCE, &[7; 270]));
            for length in 0..der.len() {
                assert_eq!(Certificate::parse(&der[..length]), None, "cut short");
            }
        }
    }

    #[test]
    fn validity_is_a_period() {
        const NOW: u64 = 1_790_000_000; // 2026-09-21
        for (validity, expected) in [
            (SAMPLE.validity, Some(true)),
            ([(UTC_TIME, "260101000000Z"), (GENERALIZED_TIME, "20500101000000Z")], Some(true)),
            ([(UTC_TIME, "500101000000Z"), (UTC_TIME, "490101000000Z")], Some(true)),
            ([(UTC_TIME, "270101000000Z"), (UTC_TIME, "280101000000Z")], Some(false)),
            ([(UTC_TIME, "250101000000Z"), (UTC_TIME, "260101000000Z")], Some(false)),
            ([(UTC_TIME, "2501010000Z"), (UTC_TIME, "260101000000Z")], None),
            ([(UTC_TIME, ""), (UTC_TIME, "260101000000Z")], None),
            ([(INTEGER, "1"), (UTC_TIME, "260101000000Z")], None),
        ] {
            let der = Sample { validity, ..SAMPLE }.der();
            let parts = Certificate::parse(&der).expect("a certificate");
            assert_eq!(parts.is_valid_at(NOW), expected, "{validity:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = server_end_point(&bytes);
        }

        #[test]
        fn any_spoiled_certificate_is_read(at in 0..300usize, byte: u8) {
            let mut der = SAMPLE.der();
            der[at] = byte;
            let _ = server_end_point(&der);
            let _ = Certificate::parse(&der).and_then(|parts| parts.is_valid_at(0));
        }
    }
}
