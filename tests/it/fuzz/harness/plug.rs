//! What a plug answers over HTTP: its state, and how it wants to know who asks.

use pilab::model::power::PowerReading;
use pilab::model::wiring::ReadBack;
use pilab::power::{Challenge, Reader};

pub(crate) fn corpus() -> Vec<Vec<u8>> {
    [
        r#"{"id":0,"source":"init","output":true,"temperature":{"tC":40.1}}"#,
        r#"{"ison":false,"has_timer":false}"#,
        r#"{"POWER1":"OFF","POWER":"ON"}"#,
        r#"{"ports":[{},{},{},{"state":1}]}"#,
        " on\r\n",
        "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
        r#"Digest qop="auth", realm="shellyplus1-08b61fcb7f3c", nonce="60dc59c6", algorithm=SHA-256"#,
        r#"digest realm="a,b", nonce="", qop="auth-int, auth", algorithm=sha-256, opaque="=""#,
        "Digest realm=x, nonce=y, qop=auth, algorithm=SHA-256,,,=,",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

pub(crate) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let described = |pointer: Option<&str>, on: &str, off: &str| {
        Reader::new(ReadBack { pointer: pointer.map(str::to_owned), on: on.to_owned(), off: off.to_owned() })
    };
    let readers = [
        Reader::json(&["/output"]),
        Reader::json(&["/ison"]),
        Reader::json(&["/POWER1", "/POWER"]),
        described(None, "on", "off"),
        described(Some("/ports/3/state"), "^1$", "^0$"),
    ];
    for reader in readers {
        let reading = reader.unwrap().read(&text);
        assert!(!text.trim().is_empty() || reading == PowerReading::Unknown, "nothing tells nothing");
    }
    if let Some(challenge) = Challenge::parse(&text) {
        let answer = challenge.answer("us\"er", "secret", "GET", "/rpc?id=0", "c");
        assert!(answer.starts_with("Digest username=\"us\\\"er\", realm=\"") && !answer.contains("secret"));
        assert!(text.contains(['\r', '\n']) || !answer.contains(['\r', '\n']), "a header is one line");
    }
}
