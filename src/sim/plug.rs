//! Switches that are told over HTTP: byte for byte what a Shelly or a Tasmota answers.
//!
//! Sources: first generation, `https://shelly-api-docs.shelly.cloud/gen1/#shelly1-relay-0` and captures of a
//! Shelly 1 with firmware 1.12.1; second generation,
//! `https://shelly-api-docs.shelly.cloud/gen2/ComponentsAndServices/Switch` and `…/gen2/General/Authentication`;
//! Tasmota, `https://tasmota.github.io/docs/Commands/#with-web-requests` and `xdrv_01_9_webserver.ino` of
//! Tasmota 14, which answers 401 where versions before 8.2.3 answered 200.

use crate::support::lock::lock;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};
use sha2::{Digest, Sha256};
use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The user's name, which none of them lets its owner change.
const USER: &str = "admin";
const REALM: &str = "shellyplus1-08b61fcb7f3c";
const NONCE: &str = "1690192352";

/// Which switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlugKind {
    /// A Shelly of the first generation.
    ShellyGen1,
    /// A Shelly of the second generation.
    ShellyGen2,
    /// Anything with Tasmota.
    Tasmota,
}

/// What is wrong with a switch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PlugFault {
    /// Nothing.
    #[default]
    None,
    /// It answers nothing, and does nothing.
    Hangs,
    /// The next request that switches is obeyed and never answered.
    LosesAnswer,
    /// It says that it switches, and its contact does not move.
    Sticks,
    /// It sends its callers somewhere else.
    Redirects,
    /// It answers without end.
    Floods,
    /// It answers that it is overloaded.
    Unavailable,
}

/// What a switch is like.
#[derive(Debug, Clone)]
pub struct PlugOptions {
    /// Which it is.
    pub kind: PlugKind,
    /// How many contacts it has.
    pub relays: usize,
    /// The password of `admin`, if one is set.
    pub password: Option<String>,
}

#[derive(Debug)]
struct Inside {
    options: PlugOptions,
    relays: Vec<bool>,
    fault: PlugFault,
    requests: Vec<String>,
    /// Of [`Plug::contacts`].
    moved: watch::Sender<Vec<bool>>,
}

/// A switch on a port of its own on this machine. All its contacts are open at first.
#[derive(Debug, Clone)]
pub struct Plug {
    base: String,
    inside: Arc<Mutex<Inside>>,
}

impl Plug {
    /// Plugs it in; it answers until `token` is cancelled. Fails when there is no port.
    pub async fn start(
        options: PlugOptions,
        tracker: &TaskTracker,
        token: CancellationToken,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let base = format!("http://{}", listener.local_addr()?);
        let relays = vec![false; options.relays];
        let moved = watch::Sender::new(relays.clone());
        let inside = Inside { options, relays, fault: PlugFault::None, requests: Vec::new(), moved };
        let inside = Arc::new(Mutex::new(inside));
        let router = Router::new().fallback(answer).with_state(Arc::clone(&inside));
        tracker.spawn(async move {
            // Whoever hangs on to a connection does not keep it plugged in.
            let serve = axum::serve(listener, router);
            token.run_until_cancelled(async { serve.await }).await;
        });
        Ok(Self { base, inside })
    }

    /// `http://127.0.0.1:port`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Whether a contact, counted from 0, is closed: what a lamp would show.
    pub fn relay(&self, number: usize) -> bool {
        lock(&self.inside).relays.get(number).copied().unwrap_or_default()
    }

    /// All its contacts, each time one moves: what the boards behind it feel.
    pub fn contacts(&self) -> watch::Receiver<Vec<bool>> {
        lock(&self.inside).moved.subscribe()
    }

    /// From now on this is wrong with it.
    pub fn set_fault(&self, fault: PlugFault) {
        lock(&self.inside).fault = fault;
    }

    /// Method and target of each request since the last call.
    pub fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.inside).requests)
    }
}

async fn answer(State(inside): State<Arc<Mutex<Inside>>>, request: Request) -> Response {
    let outcome = lock(&inside).outcome(&request);
    match outcome {
        Some(response) => response,
        None => pending().await,
    }
}

impl Inside {
    /// None when nothing is answered.
    fn outcome(&mut self, request: &Request) -> Option<Response> {
        let (method, uri) = (request.method(), request.uri());
        self.requests.push(format!("{method} {uri}"));
        match self.fault {
            PlugFault::Hangs => return None,
            PlugFault::Redirects => return Some(redirect()),
            PlugFault::Floods => return Some(flood()),
            PlugFault::Unavailable => {
                return Some(text(StatusCode::SERVICE_UNAVAILABLE, "Too many connections"));
            }
            PlugFault::None | PlugFault::LosesAnswer | PlugFault::Sticks => {}
        }
        if let Some(refused) = self.refused(method.as_str(), uri, request.headers()) {
            return Some(refused);
        }
        let before = self.relays.clone();
        let response = match self.options.kind {
            PlugKind::ShellyGen1 => self.gen1(uri),
            PlugKind::ShellyGen2 => self.gen2(uri),
            PlugKind::Tasmota => self.tasmota(uri),
        };
        if self.fault == PlugFault::Sticks {
            self.relays = before;
            return Some(response);
        }
        let moves = self.relays != before;
        if moves {
            self.moved.send_replace(self.relays.clone());
        }
        if moves && self.fault == PlugFault::LosesAnswer {
            self.fault = PlugFault::None;
            return None;
        }
        Some(response)
    }

    fn refused(&self, method: &str, uri: &Uri, headers: &HeaderMap) -> Option<Response> {
        let password = self.options.password.as_ref()?;
        let shown = headers.get(AUTHORIZATION).and_then(|shown| shown.to_str().ok()).unwrap_or_default();
        let (fits, challenge) = match self.options.kind {
            PlugKind::ShellyGen1 => {
                let wanted = format!("Basic {}", BASE64.encode(format!("{USER}:{password}").as_bytes()));
                (shown == wanted, "Basic realm=\"shelly1-32A5B2\"".to_owned())
            }
            PlugKind::ShellyGen2 => {
                let challenge =
                    format!("Digest qop=\"auth\", realm=\"{REALM}\", nonce=\"{NONCE}\", algorithm=SHA-256");
                (digest_fits(shown, password, method, uri), challenge)
            }
            PlugKind::Tasmota => {
                let fits = parameter(uri, "user").as_deref() == Some(USER)
                    && parameter(uri, "password").as_ref() == Some(password);
                let warning = "{\"WARNING\":\"Need user=<username>&password=<password>\"}";
                return (!fits).then(|| json(StatusCode::UNAUTHORIZED, warning));
            }
        };
        let mut response = text(StatusCode::UNAUTHORIZED, "401 Unauthorized");
        if let Ok(challenge) = challenge.parse() {
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        (!fits).then_some(response)
    }

    fn gen1(&mut self, uri: &Uri) -> Response {
        let number = uri.path().strip_prefix("/relay/").and_then(|number| number.parse::<usize>().ok());
        let Some(relay) = number.and_then(|number| self.relays.get_mut(number)) else {
            return text(StatusCode::NOT_FOUND, "Not Found");
        };
        match parameter(uri, "turn").as_deref() {
            Some("on") => *relay = true,
            Some("off") => *relay = false,
            Some("toggle") => *relay = !*relay,
            None => {}
            Some(_) => return text(StatusCode::BAD_REQUEST, "Bad turn!"),
        }
        let ison = *relay;
        json(
            StatusCode::OK,
            format!(
                "{{\"ison\":{ison},\"has_timer\":false,\"timer_started\":0,\"timer_duration\":0,\
                 \"timer_remaining\":0,\"source\":\"http\"}}"
            ),
        )
    }

    fn gen2(&mut self, uri: &Uri) -> Response {
        let id = parameter(uri, "id").unwrap_or_default();
        let Some(relay) = id.parse::<usize>().ok().and_then(|number| self.relays.get_mut(number)) else {
            let body = format!("{{\"code\":-105,\"message\":\"Argument 'id', value {id} not found!\"}}");
            return json(StatusCode::INTERNAL_SERVER_ERROR, body);
        };
        match (uri.path(), parameter(uri, "on").as_deref()) {
            ("/rpc/Switch.Set", Some(on @ ("true" | "false"))) => {
                let was_on = std::mem::replace(relay, on == "true");
                json(StatusCode::OK, format!("{{\"was_on\":{was_on}}}"))
            }
            ("/rpc/Switch.Set", _) => {
                let body = "{\"code\":-103,\"message\":\"Missing or bad argument 'on'!\"}";
                json(StatusCode::INTERNAL_SERVER_ERROR, body)
            }
            ("/rpc/Switch.GetStatus", _) => {
                let output = *relay;
                let body = format!(
                    "{{\"id\":{id}, \"source\":\"HTTP_in\", \"output\":{output},\
                     \"temperature\":{{\"tC\":46.8, \"tF\":116.2}}}}"
                );
                json(StatusCode::OK, body)
            }
            (path, _) => {
                let method = path.trim_start_matches("/rpc/");
                let body = format!("{{\"code\":404,\"message\":\"No handler for {method}\"}}");
                json(StatusCode::NOT_FOUND, body)
            }
        }
    }

    fn tasmota(&mut self, uri: &Uri) -> Response {
        let command = parameter(uri, "cmnd").filter(|_| uri.path() == "/cm").unwrap_or_default();
        let (name, word) = command.split_once(' ').unwrap_or((&command, ""));
        let single = self.relays.len() == 1;
        let number = match name.to_ascii_lowercase().strip_prefix("power") {
            Some("") => Some(1),
            Some(number) => number.parse::<usize>().ok(),
            None => None,
        };
        let relay = number.and_then(|number| number.checked_sub(1)).and_then(|n| self.relays.get_mut(n));
        let (Some(number), Some(relay)) = (number, relay) else {
            return json(StatusCode::OK, "{\"Command\":\"Unknown\"}");
        };
        match word.to_ascii_lowercase().as_str() {
            "on" | "1" | "true" => *relay = true,
            "off" | "0" | "false" => *relay = false,
            "toggle" | "2" => *relay = !*relay,
            _ => {}
        }
        let state = if *relay { "ON" } else { "OFF" };
        let number = if single { String::new() } else { number.to_string() };
        json(StatusCode::OK, format!("{{\"POWER{number}\":\"{state}\"}}"))
    }
}

/// A parameter of the query, decoded.
fn parameter(uri: &Uri, name: &str) -> Option<String> {
    let query = uri.query().unwrap_or_default();
    url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into())
}

/// RFC 7616 §3.4.1, from the server's side.
fn digest_fits(shown: &str, password: &str, method: &str, uri: &Uri) -> bool {
    let field = |name: &str| {
        let (_, after) = shown.split_once(&format!(" {name}="))?;
        Some(after.split(',').next().unwrap_or_default().trim_matches('"').to_owned())
    };
    let hash = |text: String| HEXLOWER.encode(&Sha256::digest(text));
    let (Some(nc), Some(cnonce), Some(response)) = (field("nc"), field("cnonce"), field("response")) else {
        return false;
    };
    let target = uri.to_string();
    let secret = hash(format!("{USER}:{REALM}:{password}"));
    let request = hash(format!("{method}:{target}"));
    field("uri").as_ref() == Some(&target)
        && field("nonce").as_deref() == Some(NONCE)
        && response == hash(format!("{secret}:{NONCE}:{nc}:{cnonce}:auth:{request}"))
}

fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, axum::http::HeaderValue::from_static(content_type));
    response
}

fn json(status: StatusCode, body: impl Into<Body>) -> Response {
    reply(status, "application/json", body)
}

fn text(status: StatusCode, body: &'static str) -> Response {
    reply(status, "text/plain", body)
}

fn redirect() -> Response {
    let mut response = text(StatusCode::FOUND, "");
    response.headers_mut().insert(LOCATION, axum::http::HeaderValue::from_static("/elsewhere"));
    response
}

fn flood() -> Response {
    let chunks = futures_util::stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from_static(&[b'x'; 4096])));
    reply(StatusCode::OK, "text/plain", Body::from_stream(chunks))
}
