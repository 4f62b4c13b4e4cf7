//! What is tried: who, what, and how it must be refused.

use serde_json::json;

/// Who attacks. The victims are the device `lab-two`, the coordinator, and the person `bob`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// The device `lab-one`, with the credentials of its boot attempt.
    Device,
    /// The person `ann`, with the credentials of her login.
    Person,
}

/// What is done.
#[derive(Debug, Clone)]
pub(super) enum Act {
    /// Publishes a request, perhaps with a header; the answer is awaited in an inbox of the attacker's own.
    Ask { subject: String, header: Option<(&'static str, &'static str)>, body: String },
    /// Publishes a request whose answer is aimed at somebody else.
    Aim { subject: String, body: String, reply: String },
    /// Subscribes.
    Hear { subject: String },
}

/// How it must end. In every case what the server holds is afterwards what it was, but for the attacker's
/// own status after [`Refusal::AnswerLost`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The server names the subject as not permitted.
    Violation,
    /// JetStream answers with this error code.
    Error(u64),
    /// The request is permitted; its answer is stored and heard nowhere.
    AnswerLost,
    /// The request is permitted; its answer reaches another device, and has not the form of a request: what
    /// decision 0007 leaves.
    NoRequest,
}

/// A row.
#[derive(Debug, Clone)]
pub(super) struct Attack {
    pub(super) name: String,
    pub(super) by: By,
    pub(super) act: Act,
    pub(super) refusal: Refusal,
    /// Whether the same act with the coordinator's rights changes what the server holds: what shows that
    /// the comparison can fail.
    pub(super) harms: bool,
}

impl Attack {
    fn new(by: By, name: impl Into<String>, act: Act, refusal: Refusal) -> Self {
        Self { name: name.into(), by, act, refusal, harms: false }
    }

    fn harms(self) -> Self {
        Self { harms: true, ..self }
    }
}

fn ask(by: By, name: &str, subject: &str, body: impl ToString) -> Attack {
    let act = Act::Ask { subject: subject.to_owned(), header: None, body: body.to_string() };
    Attack::new(by, name, act, Refusal::Violation)
}

fn hear(by: By, name: &str, subject: &str) -> Attack {
    Attack::new(by, name, Act::Hear { subject: subject.to_owned() }, Refusal::Violation)
}

/// JetStream's API, by the device.
fn api(name: &str, call: &str, body: impl ToString) -> Attack {
    ask(By::Device, name, &format!("$JS.API.{call}"), body)
}

/// Every row. `ack` is the subject that acknowledges an entry which `lab-two` has been given and not yet
/// acknowledged.
pub(super) fn attacks(ack: &str) -> Vec<Attack> {
    [reads(), writes(), consumers(ack), structure(), others(), ears(), aims(ack), people()].concat()
}

fn reads() -> Vec<Attack> {
    let two = r#"{"last_by_subj":"$KV.desired.lab-two.web"}"#;
    let mut rows = vec![
        api("another's desired state", "DIRECT.GET.KV_desired.$KV.desired.lab-two.web", ""),
        api("another's index", "DIRECT.GET.KV_desired.$KV.desired.lab-two._index", ""),
        api("any message by its number", "DIRECT.GET.KV_desired", r#"{"seq":1}"#),
        api("another's desired state by its body", "DIRECT.GET.KV_desired", two),
        api("all desired state", "DIRECT.GET.KV_desired.$KV.desired.>", ""),
        api("one name of every device", "DIRECT.GET.KV_desired.$KV.desired.*.web", ""),
        api("the whole bucket's subject", "DIRECT.GET.KV_desired.>", ""),
        api("a stored message by its number", "STREAM.MSG.GET.KV_desired", r#"{"seq":1}"#),
        api("a stored message by its subject", "STREAM.MSG.GET.KV_desired", two),
        api(
            "its own status, into which it could put bytes",
            "DIRECT.GET.KV_status.$KV.status.lab-one.web",
            "",
        ),
        api("another's status", "DIRECT.GET.KV_status.$KV.status.lab-two.web", ""),
        api("another's presence", "DIRECT.GET.KV_presence.$KV.presence.lab-two", ""),
        api("the lab's records", "DIRECT.GET.KV_lab-lab.$KV.lab-lab.lease.x", ""),
        api("the keys of a bucket", "STREAM.INFO.KV_desired", r#"{"subjects_filter":">"}"#),
    ];
    for key in LIKE_ITS_OWN {
        let subject = format!("DIRECT.GET.KV_desired.$KV.desired.{key}");
        rows.push(api(&format!("desired state of a name like its own: {key}"), &subject, ""));
    }
    rows
}

/// Names that begin like `lab-one`'s, are shorter or longer, or hold its name in another place.
const LIKE_ITS_OWN: [&str; 5] = ["lab-one2.web", "lab-on.web", "lab-one", "x.lab-one.web", "*.web"];

fn writes() -> Vec<Attack> {
    let put = |name: &str, subject: &str| ask(By::Device, name, subject, "forged").harms();
    let mut rows = vec![
        put("another's status", "$KV.status.lab-two.web"),
        put("another's presence", "$KV.presence.lab-two"),
        put("its own desired state", "$KV.desired.lab-one.web"),
        put("its own index", "$KV.desired.lab-one._index"),
        put("another's desired state", "$KV.desired.lab-two.web"),
        put("the lab's records", "$KV.lab-lab.lease.x"),
        put("a presence below its own", "$KV.presence.lab-one.x"),
    ];
    for key in &LIKE_ITS_OWN[..4] {
        rows.push(put(&format!("the status of a name like its own: {key}"), &format!("$KV.status.{key}")));
    }
    // "message roll-ups not permitted" (errors.json of nats-server).
    for (what, scope) in [("the whole bucket", "all"), ("a key's history", "sub")] {
        for subject in ["$KV.status.lab-one.web", "$KV.presence.lab-one"] {
            let header = Some(("Nats-Rollup", scope));
            let act = Act::Ask { subject: subject.to_owned(), header, body: "x".to_owned() };
            let name = format!("{what} emptied by a header on {subject}");
            rows.push(Attack::new(By::Device, name, act, Refusal::Error(10_111)));
        }
    }
    rows
}

fn consumers(ack: &str) -> Vec<Attack> {
    let all = json!({"stream_name": "KV_desired", "config": {"filter_subject": "$KV.desired.>", "ack_policy": "none"}});
    let many = json!({"stream_name": "KV_desired", "config": {
        "durable_name": "lab-one", "filter_subjects": ["$KV.desired.lab-one.>", "$KV.desired.lab-two.>"],
        "ack_policy": "none"}});
    let stolen = json!({"stream_name": "KV_desired", "config": {
        "durable_name": "lab-two", "filter_subject": "$KV.desired.lab-one.>", "deliver_policy": "last_per_subject",
        "ack_policy": "explicit", "ack_wait": 30_000_000_000_u64, "max_ack_pending": 64, "max_deliver": -1}});
    let injected = json!({"stream_name": "KV_desired", "config": {
        "deliver_subject": "fleet.lab-two.ping", "filter_subject": "$KV.desired.lab-one.>", "ack_policy": "none"}});
    let pull = r#"{"batch":1,"no_wait":true}"#;
    let mut rows = vec![
        api("a consumer of everything, which watching a bucket needs", "CONSUMER.CREATE.KV_desired", &all)
            .harms(),
        api("a named consumer of everything", "CONSUMER.CREATE.KV_desired.lab-one.$KV.desired.>", &all),
        api("a consumer under any name", "CONSUMER.CREATE.KV_desired.*.$KV.desired.lab-one.>", &all),
        api(
            "several filters behind its own",
            "CONSUMER.CREATE.KV_desired.lab-one.$KV.desired.lab-one.>",
            &many,
        ),
        api("several filters in its own durable", "CONSUMER.CREATE.KV_desired.lab-one", &many),
        api(
            "another's durable by the body alone",
            "CONSUMER.CREATE.KV_desired.x.$KV.desired.lab-one.>",
            &stolen,
        ),
        api("another's durable by name", "CONSUMER.CREATE.KV_desired.lab-two.$KV.desired.lab-one.>", &stolen),
        api("another's durable pointed elsewhere", "CONSUMER.DURABLE.CREATE.KV_desired.lab-two", &stolen)
            .harms(),
        api("another's durable through its own name", "CONSUMER.DURABLE.CREATE.KV_desired.lab-one", &stolen),
        api("its own durable made by itself", "CONSUMER.DURABLE.CREATE.KV_desired.lab-one", &many),
        api("deliveries as another's requests", "CONSUMER.CREATE.KV_desired", &injected).harms(),
        api("another's entries", "CONSUMER.MSG.NEXT.KV_desired.lab-two", pull).harms(),
        api("entries of a name like its own", "CONSUMER.MSG.NEXT.KV_desired.lab-one2", pull),
        api("entries of every durable", "CONSUMER.MSG.NEXT.KV_desired.*", pull),
        api("entries of another bucket", "CONSUMER.MSG.NEXT.KV_status.lab-one", pull),
        api("another's cursor shown", "CONSUMER.INFO.KV_desired.lab-two", ""),
        api("its own cursor shown", "CONSUMER.INFO.KV_desired.lab-one", ""),
        api("all cursors shown", "CONSUMER.LIST.KV_desired", ""),
        api("all cursors named", "CONSUMER.NAMES.KV_desired", ""),
        api("another's cursor deleted", "CONSUMER.DELETE.KV_desired.lab-two", "").harms(),
        api("its own cursor deleted", "CONSUMER.DELETE.KV_desired.lab-one", "").harms(),
        api("another's cursor without a leader", "CONSUMER.LEADER.STEPDOWN.KV_desired.lab-two", ""),
    ];
    for (name, word) in
        [("acknowledged", "+ACK"), ("ended", "+TERM"), ("given back", "-NAK"), ("held", "+WPI")]
    {
        let row = ask(By::Device, &format!("another's entry {name}"), ack, word);
        rows.push(if matches!(word, "+ACK" | "+TERM") { row.harms() } else { row });
    }
    let guessed = "$JS.ACK.KV_desired.lab-one2.1.1.1.1.1";
    rows.push(ask(By::Device, "an entry of a name like its own acknowledged", guessed, "+ACK"));
    rows.push(ask(By::Device, "flow control of a bucket", "$JS.FC.KV_desired.x", ""));
    rows
}

fn structure() -> Vec<Attack> {
    let capture = json!({"name": "TRAP", "subjects": ["fleet.>"], "storage": "memory"});
    let weaker = json!({"name": "KV_status", "subjects": ["$KV.status.>"], "storage": "file", "discard": "new",
        "max_msgs_per_subject": 1, "allow_rollup_hdrs": true, "deny_delete": true, "allow_direct": true,
        "num_replicas": 1, "retention": "limits"});
    vec![
        api("the account", "INFO", ""),
        api("all streams", "STREAM.LIST", ""),
        api("all streams by name", "STREAM.NAMES", ""),
        api("a stream of its own that hears all requests", "STREAM.CREATE.TRAP", &capture).harms(),
        api("a bucket's rules made weaker", "STREAM.UPDATE.KV_status", &weaker).harms(),
        api("a bucket deleted", "STREAM.DELETE.KV_status", "").harms(),
        api("a bucket emptied", "STREAM.PURGE.KV_status", "").harms(),
        api("another's keys purged", "STREAM.PURGE.KV_desired", r#"{"filter":"$KV.desired.lab-two.>"}"#)
            .harms(),
        api("a message deleted", "STREAM.MSG.DELETE.KV_status", r#"{"seq":1}"#),
        api("a bucket copied out", "STREAM.SNAPSHOT.KV_desired", r#"{"deliver_subject":"_INBOX.lab-one.x"}"#),
        api("a bucket replaced", "STREAM.RESTORE.KV_desired", json!({"config": {"name": "KV_desired"}})),
        api("a stream template", "STREAM.TEMPLATE.CREATE.x", ""),
        api("a bucket without a leader", "STREAM.LEADER.STEPDOWN.KV_desired", ""),
        api("the server removed from its cluster", "SERVER.REMOVE", r#"{"peer":"x"}"#),
        api("the account's streams purged", "ACCOUNT.PURGE.lab", ""),
        ask(By::Device, "the same by another domain's name", "$JS.hub.API.STREAM.PURGE.KV_status", ""),
        ask(By::Device, "an event of the store forged", "$JS.EVENT.ADVISORY.STREAM.DELETED.KV_status", "x"),
    ]
}

fn others() -> Vec<Attack> {
    let by = By::Device;
    vec![
        ask(by, "a request to another device", "fleet.lab-two.ping", ""),
        ask(by, "a request to itself", "fleet.lab-one.ping", ""),
        ask(by, "a person's request", "lab.lab.req.ann.run", ""),
        ask(by, "a run's event", "lab.lab.run.r1", ""),
        ask(by, "a journal's event", "lab.lab.event.lab-one", ""),
        ask(by, "a console's bytes", "lab.lab.console.lab-one", ""),
        ask(by, "an answer to the coordinator that nobody asked for", "_INBOX.coordinator.x.y", ""),
        ask(by, "an answer to another device", "_INBOX.lab-two.x", ""),
        ask(by, "an answer to a person", "_INBOX.ann.x", ""),
        ask(by, "the server's own requests", "$SYS.REQ.SERVER.PING", ""),
        ask(by, "who is connected", "$SYS.REQ.ACCOUNT.PING.CONNZ", ""),
        ask(by, "new claims of the account", "$SYS.REQ.ACCOUNT.lab.CLAIMS.UPDATE", "x"),
        ask(by, "all accounts deleted", "$SYS.REQ.CLAIMS.DELETE", "x"),
        ask(by, "services asked for", "$SRV.PING", ""),
    ]
}

fn ears() -> Vec<Attack> {
    [
        ("everything", ">"),
        ("everything of one token", "*"),
        ("all keys", "$KV.>"),
        ("its own desired state as it is put", "$KV.desired.lab-one.web"),
        ("all status", "$KV.status.>"),
        ("all inboxes", "_INBOX.>"),
        ("the inboxes of each", "_INBOX.*.>"),
        ("the coordinator's answers", "_INBOX.coordinator.>"),
        ("another's answers", "_INBOX.lab-two.>"),
        ("the answers of a name like its own", "_INBOX.lab-one2.>"),
        ("all requests", "fleet.>"),
        ("one request of all devices", "fleet.*.ping"),
        ("another's requests", "fleet.lab-two.>"),
        ("people's requests", "lab.lab.req.>"),
        ("another's console", "lab.lab.console.lab-two"),
        ("the server's events", "$SYS.>"),
        ("the account's events", "$SYS.ACCOUNT.>"),
        ("the store's calls", "$JS.>"),
        ("acknowledgements", "$JS.ACK.>"),
        ("the store's events", "$JS.EVENT.ADVISORY.>"),
    ]
    .map(|(name, subject)| hear(By::Device, &format!("hearing {name}"), subject))
    .to_vec()
}

/// JetStream answers to whatever reply subject a request names, and has no rights of its own to check.
/// Every request that a device may make, aimed at everything that would do harm.
fn aims(ack: &str) -> Vec<Attack> {
    let requests = [
        ("its own desired state", "$JS.API.DIRECT.GET.KV_desired.$KV.desired.lab-one.web", ""),
        ("a key that is not there", "$JS.API.DIRECT.GET.KV_desired.$KV.desired.lab-one.none", ""),
        ("a pull that is none", "$JS.API.CONSUMER.MSG.NEXT.KV_desired.lab-one", "{"),
        ("a pull", "$JS.API.CONSUMER.MSG.NEXT.KV_desired.lab-one", r#"{"batch":1,"no_wait":true}"#),
        ("an acknowledgement of nothing", "$JS.ACK.KV_desired.lab-one.1.99.99.1.1", "+NXT"),
        ("its own status", "$KV.status.lab-one.web", "x"),
        ("its own presence", "$KV.presence.lab-one", "x"),
    ];
    let targets = [
        "$KV.desired.lab-two.web",
        "$KV.desired.lab-two._index",
        "$KV.desired.lab-one.web",
        "$KV.status.lab-two.web",
        "$KV.presence.lab-two",
        "$KV.lab-lab.lease.x",
        "$JS.API.STREAM.DELETE.KV_status",
        "$JS.API.CONSUMER.DELETE.KV_desired.lab-two",
        ack,
        "_INBOX.coordinator.witness.x",
        "lab.lab.req.ann.run",
        "lab.lab.run.r1",
        "fleet.lab-two.ping",
        "_INBOX.lab-two.witness.x",
    ];
    let mut rows = Vec::new();
    for (what, subject, body) in requests {
        for reply in targets {
            let refusal = if reply.starts_with("fleet.") || reply.starts_with("_INBOX.lab-two") {
                Refusal::NoRequest
            } else {
                Refusal::AnswerLost
            };
            let act =
                Act::Aim { subject: subject.to_owned(), body: body.to_owned(), reply: reply.to_owned() };
            rows.push(Attack::new(
                By::Device,
                format!("the answer to {what} aimed at {reply}"),
                act,
                refusal,
            ));
        }
    }
    rows
}

fn people() -> Vec<Attack> {
    let by = By::Person;
    let mut rows = vec![
        ask(by, "a request under another's name", "lab.lab.req.bob.hello", ""),
        ask(by, "a request under all names", "lab.lab.req.*.hello", ""),
        ask(by, "a request to another lab", "lab.other.req.ann.hello", ""),
        ask(by, "a run's event", "lab.lab.run.r1", ""),
        ask(by, "a journal's event", "lab.lab.event.lab-one", ""),
        ask(by, "a console's bytes", "lab.lab.console.lab-one", ""),
        ask(by, "a request to a device", "fleet.lab-one.ping", ""),
        ask(by, "desired state past the coordinator", "$KV.desired.lab-two.web", "x").harms(),
        ask(by, "a device's status", "$KV.status.lab-two.web", "x").harms(),
        ask(by, "the lab's records", "$KV.lab-lab.lease.x", "x").harms(),
        ask(by, "desired state read", "$JS.API.DIRECT.GET.KV_desired.$KV.desired.lab-two.web", ""),
        ask(by, "a device's entries", "$JS.API.CONSUMER.MSG.NEXT.KV_desired.lab-two", ""),
        ask(by, "the account", "$JS.API.INFO", ""),
        ask(by, "all streams", "$JS.API.STREAM.LIST", ""),
        ask(by, "a bucket emptied", "$JS.API.STREAM.PURGE.KV_status", "").harms(),
        ask(by, "an answer to the coordinator", "_INBOX.coordinator.x", ""),
        ask(by, "an answer to another person", "_INBOX.bob.x", ""),
        ask(by, "an answer to a device", "_INBOX.lab-two.x", ""),
        ask(by, "the server's own requests", "$SYS.REQ.SERVER.PING", ""),
    ];
    for (name, subject) in [
        ("everything", ">"),
        ("all inboxes", "_INBOX.>"),
        ("another's answers", "_INBOX.bob.>"),
        ("the coordinator's answers", "_INBOX.coordinator.>"),
        ("all requests", "lab.lab.req.>"),
        ("another's requests", "lab.lab.req.bob.>"),
        ("requests to devices", "fleet.>"),
        ("all keys", "$KV.>"),
        ("another lab's events", "lab.other.event.>"),
        ("the server's events", "$SYS.>"),
        ("the store's calls", "$JS.>"),
    ] {
        rows.push(hear(by, &format!("hearing {name}"), subject));
    }
    rows
}
