use std::time::Duration;

use bytes::Bytes;
use http::Method;
use midward_wire::{MidState, paths};

use super::instance::{Scripted, answer, claims, json, signed_answer, token_answer};
use crate::link::{Link, LinkError, LinkState};

const PATH: &str = paths::OUTCOMES;

async fn call(link: &Link) -> Result<Bytes, LinkError> {
    link.call(Method::POST, PATH, Bytes::from_static(b"{}"), Duration::from_secs(5), 1024).await
}

#[tokio::test]
async fn a_token_is_asked_for_once_with_an_assertion_of_its_own_and_then_kept() {
    let instance = Scripted::start(|seen| token_answer(seen).unwrap_or_else(|| json(200, "{}"))).await;
    let link = instance.link();
    for _ in 0..3 {
        assert_eq!(call(&link).await, Ok(Bytes::from_static(b"{}")));
    }
    assert!(instance.seen(PATH).iter().all(|seen| seen.authorization == "Bearer own-token"));
    let asked = instance.seen(paths::TOKEN);
    assert_eq!(asked.len(), 1);
    let claims = claims(&asked[0]);
    assert_eq!(claims["iss"], "mid-1");
    assert_eq!(claims["sub"], "mid-1");
    assert_eq!(claims["aud"], format!("{}/mid/v1/token", instance.url));
    assert_eq!(claims["exp"].as_i64().expect("exp") - claims["iat"].as_i64().expect("iat"), 60);
    assert_eq!(*link.state().borrow(), LinkState::Known(MidState::Validated));
}

#[tokio::test]
async fn a_captive_portal_is_not_the_instance() {
    for (status, media_type) in [(200, "text/html"), (401, "text/html"), (407, "text/plain"), (302, "text/html")] {
        let instance = Scripted::start(move |_| answer(status, media_type, "<html>log in</html>")).await;
        let link = instance.link();
        let error = call(&link).await.expect_err("not the instance");
        assert!(matches!(error, LinkError::NotTheInstance { status: got, .. } if got == status), "{error}");
        assert!(matches!(&*link.state().borrow(), LinkState::Disturbed(_)));
    }
}

#[tokio::test]
async fn a_refusal_without_proof_is_no_word_about_our_state() {
    let instance = Scripted::start(|_| json(401, r#"{"error":"invalid_client"}"#)).await;
    let error = call(&instance.link()).await.expect_err("refused");
    assert_eq!(error, LinkError::Unauthorized("invalid_client".into()));
}

#[tokio::test]
async fn only_the_pinned_keys_signature_over_our_own_question_counts() {
    let instance = Scripted::start(|_| json(500, "{}")).await;
    let signer = instance.signer();
    instance.answer_with(move |seen| signer(MidState::Invalidated, seen));
    let link = instance.link();
    assert_eq!(call(&link).await, Err(LinkError::State(MidState::Invalidated)));
    assert_eq!(*link.state().borrow(), LinkState::Known(MidState::Invalidated));

    // Signed by somebody else.
    let stranger = Scripted::start(|_| json(500, "{}")).await;
    let forger = stranger.signer();
    instance.answer_with(move |seen| forger(MidState::Invalidated, seen));
    assert!(matches!(call(&link).await, Err(LinkError::Unauthorized(_))));

    // Nonsense in place of a signature.
    instance.answer_with(|_| signed_answer(MidState::Invalidated, "AAAA".into()));
    assert!(matches!(call(&link).await, Err(LinkError::Unauthorized(_))));

    // Our word of yesterday, played again.
    let signer = instance.signer();
    let first = std::sync::Mutex::new(None);
    instance.answer_with(move |seen| {
        let mut first = first.lock().expect("one thread at a time");
        signer(MidState::Invalidated, first.get_or_insert_with(|| seen.clone()))
    });
    assert_eq!(call(&link).await, Err(LinkError::State(MidState::Invalidated)));
    assert!(matches!(call(&link).await, Err(LinkError::Unauthorized(_))));
}

#[tokio::test]
async fn a_token_that_is_refused_is_replaced_once() {
    let instance = Scripted::start(|seen| token_answer(seen).unwrap_or_else(|| json(401, "{}"))).await;
    assert_eq!(call(&instance.link()).await, Err(LinkError::Unauthorized("401".into())));
    assert_eq!(instance.seen(PATH).len(), 2);
    assert_eq!(instance.seen(paths::TOKEN).len(), 2);
}

#[tokio::test]
async fn an_instance_that_is_away_is_unreachable() {
    let instance = Scripted::start(|_| json(200, "{}")).await;
    let link = instance.link();
    drop(instance);
    assert!(matches!(call(&link).await, Err(LinkError::Unreachable(_))));
}

#[tokio::test]
async fn another_protocol_version_is_named() {
    let instance =
        Scripted::start(|seen| token_answer(seen).unwrap_or_else(|| json(200, r#"{"version":7,"x":1}"#))).await;
    let error = instance
        .link()
        .post::<midward_wire::HeartbeatReply>(PATH, &(), Duration::from_secs(5))
        .await
        .expect_err("another version");
    assert!(error.to_string().contains("protocol version 7"), "{error}");
}

#[tokio::test]
async fn who_has_our_key_and_came_later_has_our_place() {
    let told = r#"{"code":"mid_cloned","hop":"mid","added_later":1}"#;
    let instance = Scripted::start(move |seen| token_answer(seen).unwrap_or_else(|| json(409, told))).await;
    let link = instance.link();
    assert_eq!(call(&link).await, Err(LinkError::Cloned));
    assert_eq!(*link.state().borrow(), LinkState::Disturbed(LinkError::Cloned));
    instance.answer_with(|seen| token_answer(seen).unwrap_or_else(|| json(409, r#"{"code":"else"}"#)));
    assert_eq!(call(&link).await, Err(LinkError::Refused(409)), "about this message only");
}

#[tokio::test]
async fn a_newer_instance_is_understood() {
    let newer = include_str!("../../../wire/tests/golden/newer/heartbeat-reply.json");
    let instance = Scripted::start(move |seen| token_answer(seen).unwrap_or_else(|| json(200, newer))).await;
    let reply = instance.link().post::<midward_wire::HeartbeatReply>(PATH, &(), Duration::from_secs(5)).await;
    assert_eq!(reply.expect("understood").state, MidState::Paused);
}
