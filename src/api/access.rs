//! Who may ask: whoever shows the token.

use std::sync::Arc;

use axum::{
    extract::Request,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{AUTHORIZATION, WWW_AUTHENTICATE},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use ring::hmac;

use super::problem::Problem;

/// The token that requests must carry. Only its digest is kept.
pub struct AccessToken {
    key: hmac::Key,
    digest: hmac::Tag,
}

impl AccessToken {
    /// The token `text`.
    pub fn new(text: &str) -> Self {
        // Digests are compared so that neither the length nor a common beginning shows in the time; the key is no secret.
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"undercurrent http token");
        let digest = hmac::sign(&key, text.as_bytes());
        Self { key, digest }
    }

    /// Whether `presented` is the token, in a time that does not depend on where they differ.
    fn admits(&self, presented: &[u8]) -> bool {
        hmac::verify(&self.key, presented, self.digest.as_ref()).is_ok()
    }
}

impl std::fmt::Debug for AccessToken {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("AccessToken(***)")
    }
}

/// Lets a request with the token pass; answers any other with 401 (RFC 6750), before its body is read.
pub(super) async fn require(token: Arc<AccessToken>, request: Request, next: Next) -> Response {
    match presented(request.headers()) {
        Some(text) if token.admits(text) => next.run(request).await,
        Some(_) => refuse("Bearer realm=\"undercurrent\", error=\"invalid_token\"", "this is not the token"),
        None => refuse(
            "Bearer realm=\"undercurrent\"",
            "a token is needed: send `Authorization: Bearer TOKEN`, the token that `http.token_file` holds",
        ),
    }
}

/// What stands after `Bearer`.
fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, rest) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii())
}

fn refuse(challenge: &'static str, detail: &'static str) -> Response {
    let mut response = Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail).into_response();
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    response
}
