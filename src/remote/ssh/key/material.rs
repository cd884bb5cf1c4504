//! From the numbers of a key, wherever they came from, to the key: checked, and written in the form that libssh2 reads.

use openssl::bn::{BigNum, BigNumContext, BigNumRef};
use openssl::ec::{EcGroup, EcKey, EcPoint, PointConversionForm};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Private};
use openssl::rsa::Rsa;
use openssl::sign::{Signer, Verifier};

use super::openssh::Writer;
use super::{KeyError, PrivateKey, RSA_BITS, one_line, openssh};

/// Most bits of the public exponent that OpenSSL takes with large keys.
const EXPONENT_BITS_MAX: i32 = 64;

/// SSH's names of the curves (RFC 5656 §10.1).
pub(super) const CURVES: [(&str, Nid); 3] =
    [("nistp256", Nid::X9_62_PRIME256V1), ("nistp384", Nid::SECP384R1), ("nistp521", Nid::SECP521R1)];

/// `seed`: 32 bytes.
pub(super) fn ed25519(seed: &[u8], comment: &str) -> Result<PrivateKey, KeyError> {
    let pair = PKey::private_key_from_raw_bytes(seed, Id::ED25519);
    let point = pair.and_then(|pair| pair.raw_public_key()).map_err(|_| KeyError::Damaged("it has a wrong length"))?;
    let comment = one_line(comment.as_bytes());
    let mut public = Writer::default();
    public.string(b"ssh-ed25519").string(&point);
    let mut secret = Writer::default();
    secret.string(b"ssh-ed25519").string(&point).string(&[seed, &point].concat());
    let text = openssh::container(&public.0, secret, &comment);
    Ok(PrivateKey { text, public: public.0, comment })
}

/// The numbers of an RSA key; the others follow from them.
pub(super) struct RsaNumbers {
    pub(super) modulus: BigNum,
    pub(super) exponent: BigNum,
    pub(super) secret: BigNum,
    pub(super) primes: (BigNum, BigNum),
}

pub(super) fn rsa(numbers: &RsaNumbers, comment: &str) -> Result<PrivateKey, KeyError> {
    let bits = numbers.modulus.num_bits();
    if !RSA_BITS.contains(&bits) {
        return Err(KeyError::RsaBits { bits });
    }
    // Bounds on what is computed next, whatever the text says.
    let exponent = (2..=EXPONENT_BITS_MAX).contains(&numbers.exponent.num_bits()) && numbers.exponent.is_odd();
    let sizes = numbers.secret.num_bits() <= bits && exponent;
    let factors = product(&numbers.primes.0, &numbers.primes.1).is_ok_and(|product| product == numbers.modulus);
    if !sizes || !factors {
        return Err(KeyError::Damaged("its numbers do not belong together"));
    }
    let key = assemble(numbers).map_err(|_| KeyError::Damaged("its numbers do not belong together"))?;
    // A complete check would test the primes, which takes seconds, in every command: what counts is that its signatures are good.
    if !signs(&key, numbers).unwrap_or(false) {
        return Err(KeyError::Damaged("its private and public numbers do not belong together"));
    }
    let mut public = Writer::default();
    public.string(b"ssh-rsa").number(&numbers.exponent).number(&numbers.modulus);
    Ok(PrivateKey { text: pkcs8(&key)?, public: public.0, comment: one_line(comment.as_bytes()) })
}

fn product(one: &BigNumRef, other: &BigNumRef) -> Result<BigNum, ErrorStack> {
    let mut product = BigNum::new()?;
    product.checked_mul(one, other, &mut *BigNumContext::new()?)?;
    Ok(product)
}

fn copy(number: &BigNumRef) -> Result<BigNum, ErrorStack> {
    number.to_owned()
}

fn assemble(numbers: &RsaNumbers) -> Result<PKey<Private>, ErrorStack> {
    let mut context = BigNumContext::new_secure()?;
    let (p, q) = &numbers.primes;
    let mut reduced = |prime: &BigNumRef| {
        let (mut before, mut remainder) = (copy(prime)?, BigNum::new()?);
        before.sub_word(1)?;
        remainder.checked_rem(&numbers.secret, &before, &mut context)?;
        Ok::<_, ErrorStack>(remainder)
    };
    let (dmp1, dmq1) = (reduced(p)?, reduced(q)?);
    let mut inverse = BigNum::new()?;
    inverse.mod_inverse(q, p, &mut context)?;
    let (n, e, d) = (copy(&numbers.modulus)?, copy(&numbers.exponent)?, copy(&numbers.secret)?);
    PKey::from_rsa(Rsa::from_private_components(n, e, d, copy(p)?, copy(q)?, dmp1, dmq1, inverse)?)
}

fn signs(key: &PKey<Private>, numbers: &RsaNumbers) -> Result<bool, ErrorStack> {
    let message = b"is this key good?";
    let signature = Signer::new(MessageDigest::sha256(), key)?.sign_oneshot_to_vec(message)?;
    let public = Rsa::from_public_components(copy(&numbers.modulus)?, copy(&numbers.exponent)?)?;
    Verifier::new(MessageDigest::sha256(), &*PKey::from_rsa(public)?)?.verify_oneshot(&signature, message)
}

/// `curve`: SSH's name. The public point follows from the secret.
pub(super) fn ecdsa(curve: &str, secret: &BigNumRef, comment: &str) -> Result<PrivateKey, KeyError> {
    let Some((_, nid)) = CURVES.iter().find(|(name, _)| *name == curve) else {
        return Err(KeyError::UnknownType(format!("ECDSA on the curve {curve}")));
    };
    let (key, point) = on_curve(*nid, secret).map_err(|_| KeyError::Damaged("its number does not fit its curve"))?;
    let mut public = Writer::default();
    public.string(format!("ecdsa-sha2-{curve}").as_bytes()).string(curve.as_bytes()).string(&point);
    Ok(PrivateKey { text: pkcs8(&key)?, public: public.0, comment: one_line(comment.as_bytes()) })
}

fn on_curve(nid: Nid, secret: &BigNumRef) -> Result<(PKey<Private>, Vec<u8>), ErrorStack> {
    let group = EcGroup::from_curve_name(nid)?;
    let mut context = BigNumContext::new_secure()?;
    let mut point = EcPoint::new(&group)?;
    point.mul_generator2(&group, secret, &mut context)?;
    let key = EcKey::from_private_components(&group, secret, &point)?;
    key.check_key()?;
    let bytes = point.to_bytes(&group, PointConversionForm::UNCOMPRESSED, &mut context)?;
    Ok((PKey::from_ec_key(key)?, bytes))
}

fn pkcs8(key: &PKey<Private>) -> Result<String, KeyError> {
    let text = key.private_key_to_pem_pkcs8().ok().and_then(|text| String::from_utf8(text).ok());
    text.ok_or(KeyError::Damaged("it cannot be written in PKCS#8 form"))
}
