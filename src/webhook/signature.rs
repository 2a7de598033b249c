//! Signatures as [Standard Webhooks](https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md)
//! has them: HMAC-SHA256 over id, time and body.

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::hmac;

/// Characters of a secret that is not base64, at least: as many bytes as the specification asks for.
const LEAST_BYTES: usize = 24;

/// A secret that signs nothing safely.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WrongSecret {
    /// After `whsec_` comes no base64.
    #[error("what follows `whsec_` in the secret of the webhook is not base64")]
    NotBase64,
    /// Too short to be one.
    #[error("the secret of the webhook has {bytes} bytes, it must have at least {LEAST_BYTES}")]
    TooShort {
        /// Its length.
        bytes: usize,
    },
}

/// Signs what is sent.
pub struct Signer(hmac::Key);

impl Signer {
    /// Takes `whsec_` and base64, or any other text as it is.
    pub fn new(secret: &str) -> Result<Self, WrongSecret> {
        let bytes = match secret.strip_prefix("whsec_") {
            Some(encoded) => STANDARD.decode(encoded).map_err(|_| WrongSecret::NotBase64)?,
            None => secret.as_bytes().to_vec(),
        };
        if bytes.len() < LEAST_BYTES {
            return Err(WrongSecret::TooShort { bytes: bytes.len() });
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    /// The value of `webhook-signature` for a message sent at `timestamp_s` (seconds since the Unix epoch).
    pub fn sign(&self, id: &str, timestamp_s: i64, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(format!("{id}.{timestamp_s}.").as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Signer(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_reference_implementation() {
        // The example of the specification's libraries.
        let signer = Signer::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert!(!format!("{signer:?}").contains("MfKQ"));
    }

    #[test]
    fn secrets_that_are_none_are_refused() {
        assert_eq!(Signer::new("whsec_***").unwrap_err(), WrongSecret::NotBase64);
        assert_eq!(Signer::new("hunter2").unwrap_err(), WrongSecret::TooShort { bytes: 7 });
        assert_eq!(Signer::new("whsec_aHVudGVyMg==").unwrap_err(), WrongSecret::TooShort { bytes: 7 });
        assert!(Signer::new("correct horse battery staple").is_ok());
    }
}
