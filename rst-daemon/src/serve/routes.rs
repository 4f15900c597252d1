//! From a request to its answer.

use std::convert::Infallible;
use std::sync::Arc;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, Request, Response, StatusCode};
use jiff::Timestamp;
use tokio::sync::{Semaphore, watch};

use crate::filter::Filter;
use crate::serve::stream::{self, Source};
use crate::serve::users::Admission;
use crate::serve::{Gate, Limits, Serve};

/// Content type of the Prometheus text format.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";

/// Any answer's body.
pub(super) type Answer = Response<BoxBody<Bytes, Infallible>>;

/// What a listener offers beside metrics and health, and within what limits.
#[derive(Clone)]
pub(super) struct Offer {
    /// What its clients may use up.
    pub(super) limits: Limits,
    /// Places for streams; none where the listener has no stream.
    pub(super) streams: Option<Arc<Semaphore>>,
    /// What clients go through first; nothing where the socket's file guards it.
    pub(super) gate: Option<Arc<Gate>>,
    /// Turns true when the daemon stops.
    pub(super) shutdown: watch::Receiver<bool>,
}

enum Route {
    Metrics,
    Live,
    Ready,
    Status,
    StatusText,
    Stream(Arc<Semaphore>),
    Incidents,
}

/// The answer to who is not let in.
pub(super) fn refuse(admission: Admission) -> Option<Answer> {
    match admission {
        Admission::Admitted => None,
        Admission::Refused => {
            let mut answer = text(
                StatusCode::UNAUTHORIZED,
                "a user and password of basic_auth_users are needed",
            );
            let how = HeaderValue::from_static("Basic realm=\"rst\"");
            answer.headers_mut().insert(WWW_AUTHENTICATE, how);
            Some(answer)
        }
        Admission::Busy => Some(text(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many passwords wait to be checked; try again",
        )),
    }
}

/// Answers one request. The client is not trusted.
pub(super) async fn respond(serve: &Serve, offer: &Offer, request: &Request<impl Body>) -> Answer {
    let route = match (request.uri().path(), &offer.streams) {
        ("/metrics", _) => Route::Metrics,
        ("/livez", _) => Route::Live,
        ("/readyz", _) => Route::Ready,
        ("/api/v1/status", Some(_)) => Route::Status,
        ("/api/v1/status.txt", Some(_)) => Route::StatusText,
        ("/api/v1/stream", Some(places)) => Route::Stream(Arc::clone(places)),
        ("/api/v1/incidents", Some(_)) => Route::Incidents,
        _ => return text(StatusCode::NOT_FOUND, "not found"),
    };
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut answer = text(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET and HEAD are served",
        );
        let allow = HeaderValue::from_static("GET, HEAD");
        answer.headers_mut().insert(ALLOW, allow);
        return answer;
    }
    if !request.body().is_end_stream() {
        return text(StatusCode::PAYLOAD_TOO_LARGE, "a request has no body here");
    }
    match route {
        Route::Metrics => match serve.scrape.get().await {
            Ok(metrics) => answer(StatusCode::OK, METRICS, metrics),
            Err(message) => text(StatusCode::INTERNAL_SERVER_ERROR, message),
        },
        Route::Live => text(StatusCode::OK, "ok"),
        Route::Ready if serve.ready.is_ready() => text(StatusCode::OK, "ok"),
        Route::Ready => text(
            StatusCode::SERVICE_UNAVAILABLE,
            "probes are not attached yet",
        ),
        Route::Incidents => incidents(serve, request.uri().query().unwrap_or_default()),
        Route::Status => match (serve.status)().to_json(serve.ready.is_ready()) {
            Ok(json) => answer(StatusCode::OK, JSON, json),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        },
        Route::StatusText => {
            let ready = serve.ready.is_ready();
            text(StatusCode::OK, (serve.status)().to_text(ready))
        }
        Route::Stream(places) => stream(serve, offer, places, request),
    }
}

/// The query is `since=` with a time of RFC 3339, or empty: all that are remembered.
fn incidents(serve: &Serve, query: &str) -> Answer {
    let since = match query.strip_prefix("since=") {
        Some(time) => time.parse().ok(),
        None => query.is_empty().then_some(Timestamp::MIN),
    };
    let Some(since) = since else {
        return text(
            StatusCode::BAD_REQUEST,
            "bad query: write since= and a time such as 2026-11-20T14:00:00Z, or nothing",
        );
    };
    match (serve.incidents)(since) {
        Ok(incidents) => answer(StatusCode::OK, JSON, incidents),
        Err(message) => text(StatusCode::INTERNAL_SERVER_ERROR, message),
    }
}

fn stream(
    serve: &Serve,
    offer: &Offer,
    places: Arc<Semaphore>,
    request: &Request<impl Body>,
) -> Answer {
    let filter = match Filter::from_query(request.uri().query().unwrap_or_default()) {
        Ok(filter) => filter,
        Err(error) => return text(StatusCode::BAD_REQUEST, error.to_string()),
    };
    if request.method() == Method::HEAD {
        return answer(StatusCode::OK, EVENTS, "");
    }
    let Ok(place) = places.try_acquire_owned() else {
        return text(
            StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "as many streams are open as there may be ({}); close one and try again",
                offer.limits.streams
            ),
        );
    };
    let source = Source {
        // Here and not in the pump: what happens after the answer's head is
        // in the stream.
        told: serve.hub.subscribe(),
        filter,
        keep_alive: offer.limits.keep_alive,
        place,
    };
    let body = stream::start(source, offer.shutdown.clone());
    build(StatusCode::OK, EVENTS, body.boxed())
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    answer(status, TEXT, body)
}

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    build(status, kind, Full::new(body.into()).boxed())
}

fn build(status: StatusCode, kind: &'static str, body: BoxBody<Bytes, Infallible>) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;

    use super::*;
    use crate::hub::Hub;
    use crate::serve::{Paced, Readiness};
    use crate::status::tests::report;
    use crate::testing;

    fn serve(scrape: Result<Vec<u8>, String>) -> Serve {
        Serve {
            hub: Hub::new(),
            ready: Readiness::new(),
            scrape: Paced::new(Arc::new(move || scrape.clone())),
            incidents: Arc::new(|since| Ok(format!("[{:?}]", since.to_string()).into())),
            status: Arc::new(report),
        }
    }

    fn offer(streams: usize) -> Offer {
        Offer {
            limits: Limits {
                streams,
                ..Limits::default()
            },
            streams: (streams != 0).then(|| Arc::new(Semaphore::new(streams))),
            gate: None,
            shutdown: watch::channel(false).1,
        }
    }

    async fn ask(serve: &Serve, offer: &Offer, method: Method, target: &str) -> (u16, String) {
        let request = Request::builder()
            .method(method)
            .uri(target)
            .body(Empty::<Bytes>::new())
            .unwrap();
        let answer = respond(serve, offer, &request).await;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn the_plain_routes() {
        testing::run(async {
            let serve = serve(Ok(b"rst_build_info 1\n".to_vec()));
            let offer = offer(0);
            for (target, status, body) in [
                ("/metrics", 200, "rst_build_info 1\n"),
                ("/metrics?x=1", 200, "rst_build_info 1\n"),
                ("/livez", 200, "ok"),
                ("/readyz", 503, "probes are not attached yet"),
                ("/", 404, "not found"),
                ("/metrics/", 404, "not found"),
                // Only where streams are offered.
                ("/api/v1/stream", 404, "not found"),
                ("/api/v1/status", 404, "not found"),
                ("/api/v1/status.txt", 404, "not found"),
            ] {
                let got = ask(&serve, &offer, Method::GET, target).await;
                assert_eq!(got, (status, body.into()), "{target}");
            }
            serve.ready.set_ready();
            let got = ask(&serve, &offer, Method::GET, "/readyz").await;
            assert_eq!(got, (200, "ok".into()));
        });
    }

    #[test]
    fn incidents_are_asked_for_since_a_time() {
        testing::run(async {
            let serve = serve(Ok(Vec::new()));
            let bad = "bad query: write since= and a time such as 2026-11-20T14:00:00Z, or nothing";
            for (query, status, body) in [
                (
                    "?since=2026-11-20T14:00:00Z",
                    200,
                    "[\"2026-11-20T14:00:00Z\"]",
                ),
                ("", 200, "[\"-009999-01-02T01:59:59Z\"]"),
                ("?since=yesterday", 400, bad),
                ("?until=2026-11-20T14:00:00Z", 400, bad),
            ] {
                let target = format!("/api/v1/incidents{query}");
                let got = ask(&serve, &offer(1), Method::GET, &target).await;
                assert_eq!(got, (status, body.into()), "{query}");
                let (status, _) = ask(&serve, &offer(0), Method::GET, &target).await;
                assert_eq!(status, 404, "they carry addresses: not on TCP");
            }
        });
    }

    #[test]
    fn the_status_is_told_in_both_forms() {
        testing::run(async {
            let serve = serve(Ok(Vec::new()));
            serve.ready.set_ready();
            let json = ask(&serve, &offer(1), Method::GET, "/api/v1/status").await;
            let expected = String::from_utf8(report().to_json(true).unwrap()).unwrap();
            assert_eq!(json, (200, expected));
            let text = ask(&serve, &offer(1), Method::GET, "/api/v1/status.txt").await;
            assert_eq!(text, (200, report().to_text(true)));
        });
    }

    #[test]
    fn a_failed_scrape_says_why() {
        testing::run(async {
            let serve = serve(Err("can't read the map".into()));
            let got = ask(&serve, &offer(0), Method::GET, "/metrics").await;
            assert_eq!(got, (500, "can't read the map".into()));
        });
    }

    #[test]
    fn only_get_and_head_are_served() {
        testing::run(async {
            let serve = serve(Ok(Vec::new()));
            for method in [Method::POST, Method::OPTIONS, Method::DELETE] {
                let request = Request::builder()
                    .method(method)
                    .uri("/metrics")
                    .body(Empty::<Bytes>::new())
                    .unwrap();
                let answer = respond(&serve, &offer(0), &request).await;
                assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
                assert_eq!(answer.headers()[ALLOW], "GET, HEAD");
            }
        });
    }

    #[test]
    fn request_bodies_are_refused() {
        let mut request = Request::new(Full::new(Bytes::from_static(b"x")));
        *request.uri_mut() = "/metrics".parse().unwrap();
        testing::run(async {
            let answer = respond(&serve(Ok(Vec::new())), &offer(0), &request).await;
            assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
        });
    }

    #[test]
    fn a_bad_filter_is_refused_with_its_reason() {
        testing::run(async {
            let (status, body) = ask(
                &serve(Ok(Vec::new())),
                &offer(1),
                Method::GET,
                "/api/v1/stream?port=x",
            )
            .await;
            assert_eq!(status, 400);
            assert_eq!(
                body,
                "bad value \"x\" for the filter port: expected a number up to 65535"
            );
        });
    }

    #[test]
    fn streams_are_limited_and_give_their_place_back() {
        testing::run(async {
            let serve = serve(Ok(Vec::new()));
            let (_keep, shutdown) = watch::channel(false);
            let offer = Offer {
                shutdown,
                ..offer(1)
            };
            let request = Request::builder()
                .uri("/api/v1/stream")
                .body(Empty::<Bytes>::new())
                .unwrap();
            let first = respond(&serve, &offer, &request).await;
            assert_eq!(first.status(), StatusCode::OK);
            assert_eq!(first.headers()[CONTENT_TYPE], EVENTS);
            let (status, body) = ask(&serve, &offer, Method::GET, "/api/v1/stream").await;
            assert_eq!(status, 503);
            assert_eq!(
                body,
                "as many streams are open as there may be (1); close one and try again"
            );
            let (status, _) = ask(&serve, &offer, Method::HEAD, "/api/v1/stream").await;
            assert_eq!(status, 200, "HEAD takes no place");

            drop(first);
            let places = offer.streams.clone().unwrap();
            testing::until("the place is free", || places.available_permits() == 1).await;
            assert!(!serve.hub.has_subscribers());
        });
    }
}
