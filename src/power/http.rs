//! A switch that is told over HTTP. Plain HTTP: such switches stand in the lab's own network, and the usual
//! ones speak nothing else.

use super::digest::Challenge;
use super::error::PowerError;
use super::reading::{Reader, quote};
use crate::model::power::{PowerReading, PowerState};
use crate::model::wiring::{Dialect, Generic, HttpAuth, HttpCall, HttpSwitch};
use data_encoding::HEXLOWER;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use std::time::Duration;

/// How long a connection may take to be made: on one network it takes milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest answer that is read, in bytes. A Shelly's whole status has some 4 KiB.
const LIMIT: usize = 64 * 1024;

pub(super) struct HttpDriver {
    client: Client,
    timeout: Duration,
    login: Option<Login>,
    on: Call,
    off: Call,
    get: Option<(Call, Reader)>,
    /// An answer that tells no state is a fault, and not just unknown.
    strict: bool,
    /// The answer to setting is one to reading back as well.
    echoes: bool,
}

/// Who we are.
struct Login {
    auth: HttpAuth,
    user: String,
    password: String,
}

/// One request, ready to be sent.
struct Call {
    method: Method,
    url: Url,
    body: Option<String>,
    content_type: Option<String>,
}

impl Call {
    fn new(call: HttpCall) -> Result<Self, PowerError> {
        let bad = |what, source| PowerError::Description { what, source };
        let url = Url::parse(&call.url).map_err(|e| bad("address", e.into()))?;
        let method = Method::from_bytes(call.method.as_bytes()).map_err(|e| bad("method", e.into()))?;
        Ok(Self { method, url, body: call.body, content_type: call.content_type })
    }

    fn get(base: &str, target: &str) -> Result<Self, PowerError> {
        let url = format!("{base}{target}");
        Self::new(HttpCall { method: "GET".to_owned(), url, body: None, content_type: None })
    }
}

impl HttpDriver {
    pub(super) fn new(switch: HttpSwitch) -> Result<Self, PowerError> {
        let HttpSwitch { dialect, credentials, timeout } = switch;
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(timeout)
            .redirect(Policy::none())
            .no_proxy()
            // A plug has room for few connections, and drops idle ones without a word.
            .pool_max_idle_per_host(0)
            .build();
        let client = client.map_err(|e| PowerError::Description { what: "HTTP client", source: e.into() })?;
        let (strict, echoes) = (
            !matches!(dialect, Dialect::Generic(_)),
            matches!(dialect, Dialect::ShellyGen1 { .. } | Dialect::Tasmota { .. }),
        );
        let (auth, on, off, get) = match dialect {
            // https://shelly-api-docs.shelly.cloud/gen1/#shelly1-relay-0
            Dialect::ShellyGen1 { base, switch } => {
                let call = |query| Call::get(&base, &format!("/relay/{switch}{query}"));
                (
                    HttpAuth::Basic,
                    call("?turn=on")?,
                    call("?turn=off")?,
                    Some((call("")?, Reader::json(&["/ison"])?)),
                )
            }
            // https://shelly-api-docs.shelly.cloud/gen2/ComponentsAndServices/Switch
            Dialect::ShellyGen2 { base, switch } => {
                let call = |verb, rest| Call::get(&base, &format!("/rpc/Switch.{verb}?id={switch}{rest}"));
                let (on, off) = (call("Set", "&on=true")?, call("Set", "&on=false")?);
                (HttpAuth::Digest, on, off, Some((call("GetStatus", "")?, Reader::json(&["/output"])?)))
            }
            // https://tasmota.github.io/docs/Commands/#with-web-requests
            Dialect::Tasmota { base, switch } => {
                let call = |word| Call::get(&base, &format!("/cm?cmnd=Power{switch}{word}"));
                // A device with one relay leaves the number out of its answer.
                let numbered = format!("/POWER{switch}");
                let pointers = if switch == 1 { vec![&*numbered, "/POWER"] } else { vec![&*numbered] };
                (
                    HttpAuth::Query,
                    call("%20On")?,
                    call("%20Off")?,
                    Some((call("")?, Reader::json(&pointers)?)),
                )
            }
            Dialect::Generic(generic) => {
                let Generic { on, off, get, auth } = *generic;
                let get = match get {
                    Some((call, read)) => Some((Call::new(call)?, Reader::new(read)?)),
                    None => None,
                };
                (auth, Call::new(on)?, Call::new(off)?, get)
            }
        };
        let login = match credentials {
            Some(credentials) => {
                let path = credentials.password_file;
                let password = std::fs::read_to_string(&path);
                let password = password.map_err(|source| PowerError::Password { path, source })?;
                let password = password.trim_end_matches(['\r', '\n']).to_owned();
                Some(Login { auth, user: credentials.user, password })
            }
            None => None,
        };
        Ok(Self { client, timeout, login, on, off, get, strict, echoes })
    }

    pub(super) async fn set(&self, state: PowerState) -> Result<(), PowerError> {
        let call = match state {
            PowerState::On => &self.on,
            PowerState::Off => &self.off,
        };
        match self.exchange(call).await {
            Ok(answer) if self.echoes => self.read(&answer).map(|_| ()),
            Ok(_) => Ok(()),
            // It may have done it, and its answer was lost.
            Err(error) if error.leaves_doubt() => match self.get().await {
                Ok(reading) if reading == PowerReading::from(state) => Ok(()),
                _ => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    pub(super) async fn get(&self) -> Result<PowerReading, PowerError> {
        match &self.get {
            Some((call, _)) => self.read(&self.exchange(call).await?),
            None => Ok(PowerReading::Unknown),
        }
    }

    fn read(&self, answer: &str) -> Result<PowerReading, PowerError> {
        let reading = self.get.as_ref().map_or(PowerReading::Unknown, |(_, reader)| reader.read(answer));
        if reading == PowerReading::Unknown && self.strict {
            return Err(PowerError::Answer { answer: self.quote(answer) });
        }
        Ok(reading)
    }

    /// Sends a request, again with the answer to a challenge if there is one, and answers the body.
    async fn exchange(&self, call: &Call) -> Result<String, PowerError> {
        let mut response = self.send(self.request(call)).await?;
        if response.status() == StatusCode::UNAUTHORIZED
            && let Some(login) = self.login.as_ref().filter(|login| login.auth == HttpAuth::Digest)
        {
            let challenge = challenge(&response);
            let challenge = challenge.ok_or_else(|| PowerError::Denied {
                answer: "it asks in another way than digest with SHA-256".to_owned(),
            })?;
            let answer = login.answer(&challenge, call);
            response = self.send(self.request(call).header(AUTHORIZATION, answer)).await?;
        }
        let status = response.status();
        let body = self.body(response).await?;
        match status {
            status if status.is_success() => Ok(body),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(PowerError::Denied { answer: self.quote(&body) })
            }
            status => Err(PowerError::Status { status: status.as_u16(), answer: self.quote(&body) }),
        }
    }

    fn request(&self, call: &Call) -> RequestBuilder {
        let mut url = call.url.clone();
        let login = self.login.as_ref();
        if let Some(login) = login.filter(|login| login.auth == HttpAuth::Query) {
            url.query_pairs_mut().append_pair("user", &login.user).append_pair("password", &login.password);
        }
        let mut request = self.client.request(call.method.clone(), url);
        if let Some(login) = login.filter(|login| login.auth == HttpAuth::Basic) {
            request = request.basic_auth(&login.user, Some(&login.password));
        }
        if let Some(content_type) = &call.content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        match &call.body {
            Some(body) => request.body(body.clone()),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, PowerError> {
        request.send().await.map_err(|error| self.fault(error))
    }

    async fn body(&self, mut response: Response) -> Result<String, PowerError> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.fault(error))? {
            if body.len() + chunk.len() > LIMIT {
                return Err(PowerError::TooLong { limit: LIMIT });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// The URL, which may hold a password, is not shown.
    fn fault(&self, error: reqwest::Error) -> PowerError {
        let error = error.without_url();
        if error.is_connect() {
            PowerError::Connect(error)
        } else if error.is_timeout() {
            PowerError::TimedOut { timeout: self.timeout }
        } else {
            PowerError::Exchange(error)
        }
    }

    /// The beginning of an answer, also of one that repeats what it should not.
    fn quote(&self, answer: &str) -> String {
        match &self.login {
            Some(login) if !login.password.is_empty() => quote(&answer.replace(&login.password, "…")),
            _ => quote(answer),
        }
    }
}

impl Login {
    fn answer(&self, challenge: &Challenge, call: &Call) -> String {
        let target = match call.url.query() {
            Some(query) => format!("{}?{query}", call.url.path()),
            None => call.url.path().to_owned(),
        };
        let cnonce = HEXLOWER.encode(&rand::random::<[u8; 16]>());
        challenge.answer(&self.user, &self.password, call.method.as_str(), &target, &cnonce)
    }
}

fn challenge(response: &Response) -> Option<Challenge> {
    let headers = response.headers().get_all(WWW_AUTHENTICATE).iter();
    headers.filter_map(|header| header.to_str().ok()).find_map(Challenge::parse)
}
