//! Extensions, transfers, releases, heartbeats; and holders whose lease has passed.

use super::*;
use crate::model::lease::Present;

#[test]
fn a_lease_is_extended_up_to_the_longest_one() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.ask(request("a", "ann", &["any"]));
    lab.pass(30 * MINUTE);
    lab.extend("ann", "a", HOUR).unwrap();
    assert_eq!(lab.left("a"), Some(90 * MINUTE));
    assert_eq!(
        lab.extend("ann", "a", 3 * HOUR),
        Err(Refusal::TooLong { max: 4 * HOUR, left: 2 * HOUR }),
        "two hours of the four are granted"
    );
    lab.extend("ann", "a", 2 * HOUR).unwrap();
    lab.pass(210 * MINUTE);
    assert_eq!(lab.left("a"), None, "four hours after the grant it has ended");
}

#[test]
fn nobody_extends_what_somebody_waits_for() {
    let mut lab = Lab::of(&["pi-1", "usb-1"]);
    lab.ask(request("a", "ann", &["pi-1"]));
    lab.ask(request("b", "bob", &["usb-1"]));
    lab.ask(request("c", "cid", &["usb"]));
    lab.extend("ann", "a", MINUTE).unwrap();
    let waited = Refusal::WaitedFor { device: device_id("usb-1"), request: lease_id("c"), user: user("cid") };
    assert_eq!(lab.extend("bob", "b", MINUTE), Err(waited));
    lab.ask(request("d", "dan", &["pi-1"]));
    let waited = Refusal::WaitedFor { device: device_id("pi-1"), request: lease_id("d"), user: user("dan") };
    assert_eq!(lab.extend("ann", "a", MINUTE), Err(waited), "it is waited for by name");
    lab.release("dan", "d").unwrap();
    lab.extend("ann", "a", MINUTE).unwrap();
}

#[test]
fn a_request_that_can_not_be_met_as_things_are_forbids_no_extension() {
    let mut lab = Lab::of(&["usb-1", "usb-2"]);
    lab.ask(request("a", "ann", &["usb-1"]));
    lab.health("usb-2", Health::Quarantined);
    lab.ask(request("b", "bob", &["usb", "usb"]));
    lab.extend("ann", "a", MINUTE).unwrap();
}

#[test]
fn nobody_extends_into_a_booking() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.ask(request("a", "ann", &["any"]));
    lab.reserve(starting(2 * HOUR, request("later", "bob", &["any"]))).unwrap();
    let booked = Refusal::Booked { device: device_id("pi-1"), booking: lease_id("later"), user: user("bob") };
    assert_eq!(lab.extend("ann", "a", HOUR), Err(booked), "the handover takes its time too");
    lab.extend("ann", "a", 55 * MINUTE).unwrap();
}

#[test]
fn a_transfer_gives_the_lease_a_new_token_and_leaves_its_deadline() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.ask(request("a", "ann", &["any"]));
    lab.extend("ann", "a", MINUTE).unwrap();
    let before = lab.lease("a").unwrap().clone();
    lab.pass(MINUTE);
    lab.transfer("ann", "a", "bob").unwrap();
    let after = lab.lease("a").unwrap().clone();
    assert!(after.token > before.token);
    assert_eq!((after.request.holder.as_str(), lab.left("a")), ("bob", Some(HOUR)));
    assert_eq!(lab.bucket.keys().filter(|key| matches!(key, Key::Renewal(_))).count(), 0);
    assert_eq!(lab.book.usage(&user("ann")), Usage::default());
    let lost = lab.book.holds(&device_id("pi-1"), before.token).unwrap_err().present.unwrap();
    assert_eq!(lost.holder, user("bob"), "the holder before is told who has it");
    assert!(lab.book.holds(&device_id("pi-1"), after.token).is_ok());
    let taken = lab.release("ann", "a");
    assert!(
        matches!(&taken, Err(Refusal::LeaseLost(LeaseLost { present: Some(now) })) if now.holder == user("bob")),
        "{taken:?}"
    );
    assert_eq!(
        lab.book.former(&user("ann"), &device_id("pi-1")).unwrap().present.unwrap().holder,
        user("bob")
    );
    assert_eq!(lab.book.former(&user("eve"), &device_id("pi-1")), None);
    assert_eq!(lab.transfer("bob", "a", "bob"), Ok(Vec::new()), "to oneself is nothing");
}

#[test]
fn a_transfer_respects_the_new_holders_quota() {
    let quotas = BTreeMap::from([(user("bob"), Quota { devices: 1, requests: 1 })]);
    let mut lab = Lab::with(Policy { quotas, ..policy() }, &["pi-1", "pi-2"]);
    lab.ask(request("a", "ann", &["any", "any"]));
    let refused = lab.transfer("ann", "a", "bob");
    assert!(matches!(refused, Err(Refusal::DeviceQuota { quota: 1, .. })), "{refused:?}");
}

#[test]
fn only_the_holder_and_an_admin_touch_a_lease() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.ask(request("a", "ann", &["any"]));
    lab.ask(request("b", "bob", &["any"]));
    let not_yours = |id, holder| Err(Refusal::NotYours { lease: lease_id(id), holder: user(holder) });
    assert_eq!(lab.extend("eve", "a", MINUTE), not_yours("a", "ann"));
    assert_eq!(lab.transfer("eve", "a", "eve"), not_yours("a", "ann"));
    assert_eq!(lab.heartbeat("eve", "a"), not_yours("a", "ann"));
    assert_eq!(lab.release("eve", "a"), not_yours("a", "ann"));
    assert_eq!(lab.release("eve", "b"), not_yours("b", "bob"));
    lab.put(Input::Release { by: admin(), lease: lease_id("b") }).unwrap();
    lab.put(Input::Release { by: admin(), lease: lease_id("a") }).unwrap();
    assert!(lab.line().is_empty() && lab.holder("pi-1").is_none());
}

#[test]
fn an_expired_holder_that_keeps_calling_is_told_who_came_after() {
    let mut lab = Lab::of(&["pi-1", "pi-2"]);
    lab.ask(request("a", "ann", &["any", "any"]));
    let token = lab.lease("a").unwrap().token;
    lab.ask(request("b", "bob", &["pi-2"]));
    lab.pass(HOUR);
    let lost = |present| Err(Refusal::LeaseLost(LeaseLost { present }));
    assert_eq!(lab.extend("ann", "a", MINUTE), lost(None), "nobody has them yet");
    lab.ready("pi-1");
    lab.ready("pi-2");
    let next = lab.lease("b").unwrap().token;
    assert!(next > token);
    let until_ms = lab.book.deadline(&lease_id("b")).unwrap().wall_ms();
    let (device, lease, holder) = (device_id("pi-2"), lease_id("b"), user("bob"));
    let bob = Present { device, lease, holder, token: next, until_ms };
    // So it is told by the next coordinator, which was not there when it ended.
    lab.restart();
    assert_eq!(lab.extend("ann", "a", MINUTE), lost(Some(bob.clone())));
    assert_eq!(lab.heartbeat("ann", "a"), lost(Some(bob.clone())));
    assert_eq!(lab.release("ann", "a"), lost(Some(bob.clone())));
    assert_eq!(lab.book.holds(&device_id("pi-2"), token), Err(LeaseLost { present: Some(bob) }));
    assert_eq!(lab.book.holds(&device_id("pi-1"), token), Err(LeaseLost { present: None }));
}

#[test]
fn an_extension_that_comes_twice_is_one_also_for_the_next_coordinator() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.ask(request("a", "ann", &["any"]));
    let extend = |lab: &mut Lab, once| {
        lab.must(Input::Extend { by: by("ann"), lease: lease_id("a"), longer: MINUTE, once });
        lab.left("a").unwrap()
    };
    assert_eq!(extend(&mut lab, 1), HOUR + MINUTE);
    lab.restart();
    assert_eq!(extend(&mut lab, 1), HOUR + MINUTE);
    assert_eq!(extend(&mut lab, 2), HOUR + 2 * MINUTE);
    assert_eq!(extend(&mut lab, 1), HOUR + 2 * MINUTE, "another one came in between");
    // A beat of the holder's process forgets none of them.
    lab.give_back("ann", "a");
    lab.ask(by_process(request("a", "ann", &["any"])));
    extend(&mut lab, 3);
    lab.pass(Duration::from_secs(10));
    assert_eq!(lab.heartbeat("ann", "a").unwrap().len(), 1);
    assert_eq!(extend(&mut lab, 3), HOUR + MINUTE - Duration::from_secs(10));
    for once in 10..20 {
        extend(&mut lab, once);
    }
    let Some(Record::Renewal(renewal)) = lab.bucket.get(&Key::Renewal(lease_id("a"))) else { panic!() };
    assert_eq!(renewal.extensions, (12..20).collect::<Vec<_>>(), "they do not pile up");
}

#[test]
fn a_holder_is_refused_from_the_deadline_on_also_before_the_lease_has_been_ended() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.ask(request("a", "ann", &["any"]));
    lab.now.moment.at.boot_ns += u64::try_from(HOUR.as_nanos()).unwrap();
    let extend = Input::Extend { by: by("ann"), lease: lease_id("a"), longer: MINUTE, once: 1 };
    let refused = decide(&lab.book, extend, &lab.now);
    assert!(matches!(refused, Err(Refusal::LeaseLost(_))), "{refused:?}");
}

fn by_process(request: LeaseRequest) -> LeaseRequest {
    LeaseRequest { hold_by_process: Some(Duration::from_secs(10)), ..request }
}

#[test]
fn a_lease_that_is_held_by_a_process_ends_with_it() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.ask(by_process(request("a", "ann", &["any"])));
    for _ in 0..6 {
        lab.pass(Duration::from_secs(20));
        lab.heartbeat("ann", "a").unwrap();
    }
    assert!(lab.lease("a").is_some(), "two beats may be missed");
    lab.pass(Duration::from_secs(29));
    assert!(lab.lease("a").is_some());
    lab.pass(Duration::from_secs(1));
    assert!(lab.lease("a").is_none(), "three may not");
    assert!(lab.lease("a").is_none() && lab.line().is_empty());
}

#[test]
fn a_beat_that_comes_early_costs_no_write() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.ask(by_process(request("a", "ann", &["any"])));
    lab.pass(Duration::from_secs(4));
    assert_eq!(lab.heartbeat("ann", "a"), Ok(Vec::new()));
    lab.pass(Duration::from_secs(1));
    assert_eq!(lab.heartbeat("ann", "a").unwrap().len(), 1);
}

#[test]
fn no_holder_is_dead_for_what_the_coordinator_could_not_hear() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.ask(by_process(request("a", "ann", &["any"])));
    // NATS was away for a minute.
    lab.now.moment.at.boot_ns += u64::try_from(MINUTE.as_nanos()).unwrap();
    lab.now.hearing_ns = lab.now.moment.at.boot_ns;
    lab.restart();
    lab.tick();
    assert!(lab.lease("a").is_some());
    assert_eq!(lab.book.wake(&lab.now), Some(Duration::from_secs(30)));
    lab.pass(Duration::from_secs(29));
    lab.heartbeat("ann", "a").unwrap();
    lab.pass(Duration::from_secs(29));
    assert!(lab.lease("a").is_some());
    lab.pass(Duration::from_secs(1));
    assert!(lab.lease("a").is_none());
}

#[test]
fn the_period_of_a_process_has_bounds_and_a_transfer_ends_it() {
    let mut lab = Lab::of(&["pi-1"]);
    for period in [Duration::ZERO, HOUR] {
        let asked = LeaseRequest { hold_by_process: Some(period), ..request("a", "ann", &["any"]) };
        assert_eq!(lab.reserve(asked), Err(Refusal::Heartbeat { max: 10 * MINUTE }));
    }
    lab.ask(by_process(request("a", "ann", &["any"])));
    lab.transfer("ann", "a", "bob").unwrap();
    lab.pass(10 * MINUTE);
    assert_eq!(lab.holder("pi-1"), Some("bob".to_owned()));
}
