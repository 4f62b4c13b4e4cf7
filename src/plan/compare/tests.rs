//! Tables of runs that differ in one thing each.

use super::*;

fn passed() -> Vec<RunEvent> {
    let lines = include_str!("../../../tests/fixtures/run-passed.jsonl").lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn console(text: &str) -> BTreeMap<DeviceId, Vec<u8>> {
    [(DeviceId::new("laptop-vm-1").unwrap(), text.as_bytes().to_vec())].into()
}

/// The passed run beside one in which these pieces of its JSON are others.
fn compared(changes: &[(&str, &str)]) -> Comparison {
    let mut text = passed().iter().map(|e| serde_json::to_string(e).unwrap() + "\n").collect::<String>();
    for (from, to) in changes {
        assert!(text.contains(from), "{from} is not in\n{text}");
        text = text.replace(from, to);
    }
    let other: Vec<RunEvent> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (events, none) = (passed(), BTreeMap::new());
    compare(Side { events: &events, consoles: &none }, Side { events: &other, consoles: &none })
}

fn told(changes: &[Change]) -> Vec<String> {
    let word = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
    changes.iter().map(|c| format!("{}: {} -> {}", c.what, word(&c.before), word(&c.after))).collect()
}

#[test]
fn a_run_is_as_it_is_itself_also_on_another_device_at_another_time() {
    let same = compared(&[]);
    assert!(!same.differs() && same.consoles.is_empty() && same.timings.iter().all(|t| !t.notable));
    let moved = compared(&[
        ("laptop-vm-1", "laptop-vm-2"),
        ("\"attempt\":1", "\"attempt\":41"),
        ("answered in 12 ms", "answered in 900 ms"),
        ("ping-3f9c", "ping-81aa"),
    ]);
    assert!(!moved.differs(), "{moved:?}");
}

#[test]
fn each_kind_of_difference_is_told() {
    let failed = compared(&[
        (
            r#"{"verdict":"passed","reason":""}"#,
            r#"{"verdict":"failed","reason":"phase is Failed","step":0}"#,
        ),
        (
            r#"{"result":"ok","seen":"agent 0.1.0 answered in 12 ms"}"#,
            r#"{"result":"fault","fault":{"kind":"agent","cause":"it was silent"}}"#,
        ),
    ]);
    assert_eq!(told(&failed.run), ["verdict: passed -> failed", "reason:  -> phase is Failed"]);
    assert_eq!(told(&failed.steps), ["step 1 \"ping\": ok -> fault: it was silent"]);
    assert!(failed.differs());
    let slower = compared(&[(r#""after":0.9"#, r#""after":9.0"#)]);
    let notable: Vec<_> =
        slower.timings.iter().filter(|t| t.notable).map(|t| (t.what.as_str(), t.after)).collect();
    assert_eq!(notable, [("dut boot 1: kernel", 9.0)]);
    assert!(!slower.differs(), "only a time");
    let other = compared(&[("7d7f1a5a2c2b", "8d7f1a5a2c2b"), ("vm-aarch64", "pi4b")]);
    assert_eq!(told(&other.run).len(), 2, "{other:?}");
}

#[test]
fn consoles_differ_in_what_is_no_noise() {
    let events = passed();
    let before = console("[ 0.1] Linux 6.1.0\r\nsshd[12]: up\n\x1b[32mOK\x1b[0m\nsame\nsame\n");
    let after = console("sshd[99]: up\n[ 7.7] Linux 6.12.0\nOK\nsame\n");
    let found =
        compare(Side { events: &events, consoles: &before }, Side { events: &events, consoles: &after });
    let [differ] = found.consoles.as_slice() else { panic!("{found:?}") };
    assert_eq!((differ.role.as_str(), differ.same), ("dut", 3));
    assert_eq!(differ.gone, ["Linux 6.1.0", "same"]);
    assert_eq!(differ.new, ["Linux 6.12.0"]);
    assert!(!found.differs());
}

#[test]
fn what_only_one_of_them_has_is_told_and_lists_are_bounded() {
    let events = passed();
    let many = console(&(0..500).map(|n| format!("line-{n}\n")).collect::<String>());
    let none = BTreeMap::new();
    let found =
        compare(Side { events: &events, consoles: &none }, Side { events: &events[..2], consoles: &many });
    assert_eq!(found.consoles[0].new.len(), MOST_LINES);
    assert_eq!(found.consoles[0].more, 300);
    assert!(told(&found.run).contains(&"verdict: passed -> none".to_owned()), "{found:?}");
    assert!(told(&found.steps).contains(&"step 1 \"ping\": ok -> none".to_owned()));
}
