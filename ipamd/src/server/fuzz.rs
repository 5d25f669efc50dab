//! Fuzzing of the socket: every input gets an error in a sentence or is parsed, and what is parsed is the same after it
//! is written and parsed again.

use ::fuzz::{Form, Target, one_sentence, same};
use ipamd_api::{Reply, frame, wire::Envelope};

use super::connection::parse;

fn request(body: &[u8]) -> Result<(), String> {
    let told = |error: &dyn ToString| error.to_string();
    if let Ok(framed) = frame::encode(body) {
        same("a frame, read again", &frame::read(&framed[..]).map_err(|it| told(&it))?, &body.to_vec())?;
    }
    // As if the client began in the middle of a frame.
    if let Err(error) = frame::read(body) {
        one_sentence(&error.to_string())?;
    }
    match parse(body) {
        Err(error) => one_sentence(&error.message),
        Ok(request) => {
            let text = serde_json::to_vec(&Envelope::from(request.clone())).map_err(|it| told(&it))?;
            same("a request, written again", &parse(&text).map_err(|it| it.message)?, &request)
        }
    }
}

/// A reply is read by a plugin or a `cambricctl` of another release, perhaps.
fn reply(body: &[u8]) -> Result<(), String> {
    let Ok(reply) = serde_json::from_slice::<Reply>(body) else { return Ok(()) };
    let text = serde_json::to_vec(&reply).map_err(|error| error.to_string())?;
    let again: Reply = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    same("a reply, written again", &again, &reply)
}

#[test]
fn whatever_a_client_sends_is_understood_or_refused_in_a_sentence() {
    Target::new("requests", Form::Text).holds(request);
}

#[test]
fn whatever_reply_is_understood_says_the_same_when_it_is_written_again() {
    Target::new("replies", Form::Text).holds(reply);
}
