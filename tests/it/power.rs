//! Power drivers over switches that answer byte for byte as the real ones do, and over real programs.

use pilab::device::ports::{PortError, Power};
use pilab::model::id::DeviceId;
use pilab::model::lease::FencingToken;
use pilab::model::power::{PowerReading, PowerState};
use pilab::model::wiring::{
    CommandSwitch, Credentials, Dialect, Generic, HttpAuth, HttpCall, HttpSwitch, PowerSwitch, ReadBack,
};
use pilab::power;
use pilab::sim::{Plug, PlugFault, PlugKind, PlugOptions};
use pilab::support::chain::Chain;
use pilab::support::command::Command;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const KINDS: [PlugKind; 3] = [PlugKind::ShellyGen1, PlugKind::ShellyGen2, PlugKind::Tasmota];
const OLD: FencingToken = FencingToken { epoch: 1, sequence: 1 };
const NEW: FencingToken = FencingToken { epoch: 1, sequence: 2 };
const TIMEOUT: Duration = Duration::from_secs(5);
/// What must not stand in an error, a log or a URL that is shown.
const SECRET: &str = "joker&co s3cret";

/// Plugs that end with the test.
struct Rack {
    tracker: TaskTracker,
    token: CancellationToken,
}

impl Rack {
    fn new() -> Self {
        Self { tracker: TaskTracker::new(), token: CancellationToken::new() }
    }

    async fn plug(&self, kind: PlugKind, relays: usize, password: Option<&str>) -> Plug {
        let options = PlugOptions { kind, relays, password: password.map(str::to_owned) };
        Plug::start(options, &self.tracker, self.token.clone()).await.unwrap()
    }
}

impl Drop for Rack {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

fn dialect(kind: PlugKind, base: &str, relay: u8) -> Dialect {
    let base = base.to_owned();
    match kind {
        PlugKind::ShellyGen1 => Dialect::ShellyGen1 { base, switch: relay },
        PlugKind::ShellyGen2 => Dialect::ShellyGen2 { base, switch: relay },
        PlugKind::Tasmota => Dialect::Tasmota { base, switch: relay + 1 },
    }
}

fn http(dialect: Dialect) -> HttpSwitch {
    HttpSwitch { dialect, credentials: None, timeout: TIMEOUT }
}

fn open(switch: PowerSwitch) -> Arc<dyn Power> {
    power::open(DeviceId::new("lab-pi-1").unwrap(), switch)
        .unwrap_or_else(|error| panic!("{}", Chain(&error)))
}

fn driver(plug: &Plug, kind: PlugKind, relay: u8) -> Arc<dyn Power> {
    open(PowerSwitch::Http(http(dialect(kind, plug.base(), relay))))
}

/// What people see of an error: the chain, then the hint.
fn shown(error: &PortError) -> String {
    let hint = match error {
        PortError::Failed { hint: Some(hint), .. } => format!("\nhint: {hint}"),
        _ => String::new(),
    };
    format!("{}{hint}", Chain(error))
}

#[tokio::test]
async fn each_kind_switches_its_own_contact_and_reads_it_back() {
    let rack = Rack::new();
    for kind in KINDS {
        for relays in [1, 2] {
            let plug = rack.plug(kind, relays, None).await;
            let last = relays - 1;
            let driver = driver(&plug, kind, u8::try_from(last).unwrap());
            assert_eq!(driver.get().await.unwrap(), PowerReading::Off, "{kind:?}");
            for state in [PowerState::On, PowerState::On, PowerState::Off] {
                driver.set(NEW, state).await.unwrap();
                assert_eq!(plug.relay(last), state == PowerState::On, "{kind:?} with {relays}");
                assert_eq!(driver.get().await.unwrap(), state.into(), "{kind:?} with {relays}");
            }
            assert!(relays == 1 || !plug.relay(0), "the neighbour is left alone");
            let fenced = driver.set(OLD, PowerState::On).await;
            assert!(matches!(fenced, Err(PortError::Fenced(_))), "{fenced:?}");
            assert!(!plug.relay(last), "a passed lease has no effect");
        }
    }
}

#[tokio::test]
async fn the_requests_are_those_of_the_vendors_documents() {
    let rack = Rack::new();
    let expected: [[&str; 3]; 3] = [
        ["GET /relay/1?turn=on", "GET /relay/1?turn=off", "GET /relay/1"],
        [
            "GET /rpc/Switch.Set?id=1&on=true",
            "GET /rpc/Switch.Set?id=1&on=false",
            "GET /rpc/Switch.GetStatus?id=1",
        ],
        ["GET /cm?cmnd=Power2%20On", "GET /cm?cmnd=Power2%20Off", "GET /cm?cmnd=Power2"],
    ];
    for (kind, expected) in KINDS.into_iter().zip(expected) {
        let plug = rack.plug(kind, 2, None).await;
        let driver = driver(&plug, kind, 1);
        driver.set(NEW, PowerState::On).await.unwrap();
        driver.set(NEW, PowerState::Off).await.unwrap();
        driver.get().await.unwrap();
        assert_eq!(plug.take_requests(), expected);
    }
}

#[tokio::test]
async fn a_password_is_shown_as_each_kind_wants_it_and_never_to_people() {
    let (rack, dir) = (Rack::new(), tempfile::tempdir().unwrap());
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (right, wrong) = (file("right", &format!("{SECRET}\n")), file("wrong", &format!("{SECRET}!\n")));
    for kind in KINDS {
        let plug = rack.plug(kind, 1, Some(SECRET)).await;
        let login = |file: &Path| {
            let credentials = Some(Credentials { user: "admin".to_owned(), password_file: file.to_owned() });
            open(PowerSwitch::Http(HttpSwitch { credentials, ..http(dialect(kind, plug.base(), 0)) }))
        };
        let known = login(&right);
        known.set(NEW, PowerState::On).await.unwrap();
        assert_eq!(known.get().await.unwrap(), PowerReading::On, "{kind:?}");
        for stranger in [login(&wrong), driver(&plug, kind, 0)] {
            let error = stranger.set(NEW, PowerState::Off).await.unwrap_err();
            let error = format!("{}\n{error:?}", shown(&error));
            assert!(error.contains("it refused the credentials, or wants some"), "{error}");
            assert!(error.contains("hint: check `user` and `password_file`"), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        assert!(plug.relay(0), "strangers switch nothing");
    }
    let missing = Credentials { user: "admin".to_owned(), password_file: dir.path().join("none") };
    let switch = http(dialect(PlugKind::Tasmota, "http://127.0.0.1:1", 0));
    let switch = PowerSwitch::Http(HttpSwitch { credentials: Some(missing), ..switch });
    let error = power::open(DeviceId::new("d").unwrap(), switch).err().expect("there is no file");
    assert!(error.to_string().starts_with("cannot read the password in /"), "{error}");
}

/// The simulated switch is right about digests if a client that is not ours gets in.
#[tokio::test]
async fn curl_gets_in_with_the_password_and_not_without() {
    if !crate::agent::lab::installed("curl", "curl") {
        return;
    }
    let rack = Rack::new();
    let plug = rack.plug(PlugKind::ShellyGen2, 1, Some(SECRET)).await;
    let url = format!("{}/rpc/Switch.Set?id=0&on=true", plug.base());
    let curl = async |user: String| {
        let quiet = ["--silent", "--noproxy", "*", "--digest", "--user"];
        Command::new("curl").args(quiet).arg(user).arg(&url).output().await.unwrap()
    };
    assert_eq!(curl(format!("admin:{SECRET}!")).await, b"401 Unauthorized");
    assert!(!plug.relay(0));
    assert_eq!(curl(format!("admin:{SECRET}")).await, b"{\"was_on\":false}");
    assert!(plug.relay(0));
}

#[tokio::test]
async fn an_answer_that_is_lost_is_made_up_for_by_reading_back() {
    let rack = Rack::new();
    for kind in KINDS {
        let plug = rack.plug(kind, 1, None).await;
        let switch =
            HttpSwitch { timeout: Duration::from_millis(500), ..http(dialect(kind, plug.base(), 0)) };
        let driver = open(PowerSwitch::Http(switch));
        plug.set_fault(PlugFault::LosesAnswer);
        driver.set(NEW, PowerState::On).await.unwrap();
        assert!(plug.relay(0), "{kind:?}");
        plug.set_fault(PlugFault::Hangs);
        let error = shown(&driver.set(NEW, PowerState::Off).await.unwrap_err());
        assert!(error.contains("it did not answer within 0.5 s"), "{error}");
        let error = shown(&driver.get().await.unwrap_err());
        assert!(error.contains("it did not answer within 0.5 s"), "{error}");
    }
}

#[tokio::test]
async fn what_goes_wrong_names_device_switch_cause_and_what_to_try() {
    let rack = Rack::new();
    for kind in KINDS {
        let plug = rack.plug(kind, 1, None).await;
        let driver = driver(&plug, kind, 0);
        let table = [
            (PlugFault::Redirects, "it answered 302: ", "hint: redirects are not followed"),
            (PlugFault::Unavailable, "it answered 503: Too many connections", "hint: "),
            (PlugFault::Floods, "it answered with more than 65536 bytes", ""),
        ];
        for (fault, cause, hint) in table {
            plug.set_fault(fault);
            plug.take_requests();
            let error = shown(&driver.set(NEW, PowerState::On).await.unwrap_err());
            let number = u8::from(kind == PlugKind::Tasmota);
            let place = format!("cannot switch lab-pi-1 on at {} switch {number}: ", plug.base());
            assert!(error.starts_with(&place), "{error}");
            assert!(error.contains(cause) && error.contains(hint), "{fault:?}: {error}");
            assert!(!plug.take_requests().iter().any(|request| request.contains("elsewhere")));
        }
    }
    // No such contact, and another kind of switch than the file says.
    let plug = rack.plug(PlugKind::ShellyGen2, 1, None).await;
    let error = shown(&driver(&plug, PlugKind::ShellyGen2, 7).set(NEW, PowerState::On).await.unwrap_err());
    assert!(error.contains("it answered 500: {\"code\":-105"), "{error}");
    let plug = rack.plug(PlugKind::Tasmota, 1, None).await;
    let error = shown(&driver(&plug, PlugKind::Tasmota, 7).set(NEW, PowerState::On).await.unwrap_err());
    assert!(error.contains("its answer is not understood: {\"Command\":\"Unknown\"}"), "{error}");
    assert!(error.contains("hint: check `kind` and `switch`"), "{error}");
    let nobody = open(PowerSwitch::Http(http(dialect(PlugKind::ShellyGen1, "http://127.0.0.1:1", 0))));
    let error = shown(&nobody.get().await.unwrap_err());
    assert!(
        error.starts_with(
            "cannot read the power of lab-pi-1 at http://127.0.0.1:1 switch 0: it cannot be reached: "
        ),
        "{error}"
    );
    assert!(error.contains("refused") && error.contains("hint: check that the switch has power"), "{error}");
}

#[tokio::test]
async fn a_switch_of_any_kind_is_described_call_by_call() {
    let rack = Rack::new();
    let plug = rack.plug(PlugKind::ShellyGen1, 1, None).await;
    let call = |method: &str, query: &str, body: Option<&str>| HttpCall {
        method: method.to_owned(),
        url: format!("{}/relay/0{query}", plug.base()),
        body: body.map(str::to_owned),
        content_type: body.map(|_| "application/json".to_owned()),
    };
    let read = |on: &str| ReadBack {
        pointer: Some("/ison".to_owned()),
        on: on.to_owned(),
        off: "^false$".to_owned(),
    };
    let generic = |get| {
        let (on, off) = (call("POST", "?turn=on&key=s3cret", Some("{}")), call("PUT", "?turn=off", None));
        PowerSwitch::Http(http(Dialect::Generic(Box::new(Generic { on, off, get, auth: HttpAuth::Basic }))))
    };
    let switch = generic(Some((call("GET", "", None), read("^true$"))));
    assert_eq!(switch.to_string(), format!("{}/relay/0", plug.base()), "a query may hold a key");
    let known = open(switch);
    known.set(NEW, PowerState::On).await.unwrap();
    assert_eq!((plug.relay(0), known.get().await.unwrap()), (true, PowerReading::On));
    known.set(NEW, PowerState::Off).await.unwrap();
    assert_eq!((plug.relay(0), known.get().await.unwrap()), (false, PowerReading::Off));
    let requests = plug.take_requests();
    assert_eq!(requests[0], "POST /relay/0?turn=on&key=s3cret");
    assert_eq!(requests[2], "PUT /relay/0?turn=off");
    // What tells nothing is unknown, and so is what is not asked.
    known.set(NEW, PowerState::On).await.unwrap();
    let blind = open(generic(Some((call("GET", "", None), read("^yes$")))));
    assert_eq!(blind.get().await.unwrap(), PowerReading::Unknown);
    assert_eq!(open(generic(None)).get().await.unwrap(), PowerReading::Unknown);
    let bad = power::open(DeviceId::new("d").unwrap(), generic(Some((call("GET", "", None), read("(")))));
    assert_eq!(bad.err().unwrap().to_string(), "the switch's pattern for on cannot be used");
}

/// A program that keeps its state in a file.
fn tool(dir: &Path) -> CommandSwitch {
    let state = dir.join("state").display().to_string();
    let argv = |script: &str| ["sh", "-c", script, "relay", &state].map(str::to_owned).to_vec();
    let words = |word: &str| format!("^{word}$");
    let read = ReadBack { pointer: None, on: words("on"), off: words("off") };
    CommandSwitch {
        on: argv("echo on > \"$1\""),
        off: argv("echo off > \"$1\""),
        get: Some((argv("cat \"$1\""), read)),
        timeout: TIMEOUT,
    }
}

#[tokio::test]
async fn a_program_switches_and_its_exit_code_decides() {
    let dir = tempfile::tempdir().unwrap();
    let driver = open(PowerSwitch::Command(tool(dir.path())));
    let error = shown(&driver.get().await.unwrap_err());
    assert!(error.contains("ended with exit status: 1: cat: ") && error.contains("\nhint: "), "{error}");
    for state in [PowerState::On, PowerState::Off] {
        driver.set(NEW, state).await.unwrap();
        assert_eq!(driver.get().await.unwrap(), state.into());
    }
    let fenced = driver.set(OLD, PowerState::On).await;
    assert!(matches!(fenced, Err(PortError::Fenced(_))), "{fenced:?}");
    assert_eq!(driver.get().await.unwrap(), PowerReading::Off);
    std::fs::write(dir.path().join("state"), b"\xff\xfe").unwrap();
    assert_eq!(driver.get().await.unwrap(), PowerReading::Unknown, "what is no word tells nothing");

    let blind = open(PowerSwitch::Command(CommandSwitch { get: None, ..tool(dir.path()) }));
    assert_eq!(blind.get().await.unwrap(), PowerReading::Unknown);
    let sh = |script: &str| ["sh", "-c", script].map(str::to_owned).to_vec();
    let table = [
        (vec!["no-such-tool".to_owned()], "no-such-tool is not installed"),
        (sh("echo 'no such port' >&2; exit 3"), "ended with exit status: 3: no such port"),
        (sh("yes"), "wrote more than 65536 bytes"),
        (sh("yes >&2"), "wrote more than 65536 bytes"),
        (sh("sleep 60"), "did not end within 5 s"),
    ];
    for (on, cause) in table {
        let driver = open(PowerSwitch::Command(CommandSwitch { on, ..tool(dir.path()) }));
        let begun = Instant::now();
        let error = shown(&driver.set(NEW, PowerState::On).await.unwrap_err());
        assert!(error.starts_with("cannot switch lab-pi-1 on at "), "{error}");
        assert!(error.contains(cause), "{error}");
        assert!(begun.elapsed() < 3 * TIMEOUT, "{error}");
    }
}

#[tokio::test]
async fn without_a_switch_nothing_is_known_and_nothing_is_switched() {
    let driver = open(PowerSwitch::None);
    assert_eq!(driver.get().await.unwrap(), PowerReading::Unknown);
    let error = shown(&driver.set(NEW, PowerState::Off).await.unwrap_err());
    assert!(
        error.starts_with("cannot switch lab-pi-1 off at no switch: no power switch is wired"),
        "{error}"
    );
    assert!(error.contains("docs/wiring.md"), "{error}");
}
