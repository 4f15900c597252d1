//! Basic authentication (RFC 7617) against hashes by bcrypt, which are slow on purpose:
//! one is checked at a time, off the server's thread, and who has passed is remembered.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::HeaderValue;
use ring::hmac;
use ring::rand::SystemRandom;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// Passwords that are remembered; with more, all are forgotten.
const REMEMBERED: usize = 64;

/// Clients whose password waits to be checked; more are turned away.
const WAITING: usize = 8;

/// After a wrong password nothing is checked for so many times what the check took:
/// guessing takes a fifth of a CPU at most.
const REST: u32 = 4;

/// Who may be served.
pub(super) struct Users {
    hashes: BTreeMap<String, String>,
    /// Of this list of users alone, and never told: without it, nobody can make two names
    /// and passwords that look alike, nor learn from how long it takes to find one.
    key: hmac::Key,
    passed: Mutex<HashSet<Vec<u8>>>,
    waiting: Arc<Semaphore>,
    turn: Arc<Semaphore>,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is served.
    Admitted,
    /// No name and password, or wrong ones.
    Refused,
    /// Too many passwords wait to be checked.
    Busy,
}

impl Users {
    /// An error where the system gives no random numbers.
    pub(super) fn new(hashes: BTreeMap<String, String>) -> Result<Self, ring::error::Unspecified> {
        Ok(Self {
            hashes,
            key: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())?,
            passed: Mutex::default(),
            waiting: Arc::new(Semaphore::new(WAITING)),
            turn: Arc::new(Semaphore::new(1)),
        })
    }

    /// Whether the `Authorization` of a request lets it in. Without users, all come in.
    pub(super) async fn admit(&self, authorization: Option<&HeaderValue>) -> Admission {
        let Some(first) = self.hashes.values().next() else {
            return Admission::Admitted;
        };
        let Some((user, password)) = authorization.and_then(credentials) else {
            return Admission::Refused;
        };
        // Somebody who is not known takes as long as one who is.
        let known = self.hashes.contains_key(&user);
        let hash = self.hashes.get(&user).unwrap_or(first).clone();
        let tag = self.tag(&user, &hash, &password);
        let passed = || self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        if known && passed().contains(&tag) {
            return Admission::Admitted;
        }
        let Ok(place) = Arc::clone(&self.waiting).try_acquire_owned() else {
            return Admission::Busy;
        };
        let Ok(turn) = Arc::clone(&self.turn).acquire_owned().await else {
            return Admission::Busy;
        };
        // Both places are held until it is done, also where the client has gone.
        let checked = spawn_blocking(move || {
            let _held = (place, turn);
            let started = Instant::now();
            let right = bcrypt::verify(&password, &hash).unwrap_or(false) && known;
            if !right {
                thread::sleep(started.elapsed() * REST);
            }
            right
        });
        if !matches!(checked.await, Ok(true)) {
            return Admission::Refused;
        }
        let mut passed = passed();
        if passed.len() >= REMEMBERED {
            passed.clear();
        }
        passed.insert(tag);
        Admission::Admitted
    }

    /// What stands for a user with this hash and password; the parts' lengths keep them
    /// apart.
    fn tag(&self, user: &str, hash: &str, password: &[u8]) -> Vec<u8> {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [user.as_bytes(), hash.as_bytes(), password] {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        context.sign().as_ref().to_vec()
    }
}

/// Name and password of `Basic ...`.
fn credentials(value: &HeaderValue) -> Option<(String, Vec<u8>)> {
    let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let plain = STANDARD.decode(encoded.trim()).ok()?;
    let colon = plain.iter().position(|byte| *byte == b':')?;
    let user = String::from_utf8(plain.get(..colon)?.to_vec()).ok()?;
    Some((user, plain.get(colon + 1..)?.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn basic(user: &str, password: &str) -> HeaderValue {
        let text = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        text.parse().unwrap()
    }

    fn users() -> Users {
        let hash = bcrypt::hash("s3:cret", 4).unwrap();
        Users::new([("prometheus".to_owned(), hash)].into()).unwrap()
    }

    #[test]
    fn only_the_right_password_of_a_known_user_is_let_in() {
        testing::run(async {
            let users = users();
            for (header, expected) in [
                (Some(basic("prometheus", "s3:cret")), Admission::Admitted),
                // From what is remembered.
                (Some(basic("prometheus", "s3:cret")), Admission::Admitted),
                (Some(basic("prometheus", "s3:cre")), Admission::Refused),
                (Some(basic("prometheus", "")), Admission::Refused),
                // Whose hash it is does not matter to the one that is not known.
                (Some(basic("other", "s3:cret")), Admission::Refused),
                (Some(basic("", "s3:cret")), Admission::Refused),
                (Some("Bearer s3:cret".parse().unwrap()), Admission::Refused),
                (Some("Basic !".parse().unwrap()), Admission::Refused),
                (Some("Basic".parse().unwrap()), Admission::Refused),
                (None, Admission::Refused),
            ] {
                let got = users.admit(header.as_ref()).await;
                assert_eq!(got, expected, "{header:?}");
            }
            assert_eq!(users.passed.lock().unwrap().len(), 1);
        });
    }

    #[test]
    fn without_users_all_come_in() {
        testing::run(async {
            let users = Users::new(BTreeMap::new()).unwrap();
            assert_eq!(users.admit(None).await, Admission::Admitted);
        });
    }

    #[test]
    fn guesses_wait_in_a_short_line_and_hold_up_nobody_who_has_passed() {
        testing::run(async {
            let users = Arc::new(users());
            let right = basic("prometheus", "s3:cret");
            assert_eq!(users.admit(Some(&right)).await, Admission::Admitted);
            // Nothing is checked until it is given back.
            let turn = users.turn.acquire().await.unwrap();
            let guesses: Vec<_> = (0..WAITING)
                .map(|number| {
                    let users = Arc::clone(&users);
                    let guess = basic("prometheus", &number.to_string());
                    tokio::spawn(async move { users.admit(Some(&guess)).await })
                })
                .collect();
            testing::until("all wait", || users.waiting.available_permits() == 0).await;
            let late = basic("prometheus", "guess");
            assert_eq!(users.admit(Some(&late)).await, Admission::Busy);
            assert_eq!(users.admit(Some(&right)).await, Admission::Admitted);
            drop(turn);
            for guess in guesses {
                assert_eq!(guess.await.unwrap(), Admission::Refused);
            }
            assert_eq!(users.waiting.available_permits(), WAITING);
        });
    }
}
