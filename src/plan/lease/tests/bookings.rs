//! Requests for later: what is kept free for them, and what becomes of them at their start.

use super::*;

/// Two hours after the beginning, for an hour.
fn booking(id: &str, holder: &str, needs: &[&str]) -> LeaseRequest {
    starting(2 * HOUR, request(id, holder, needs))
}

#[test]
fn a_booking_has_its_devices_from_its_start_to_its_end() {
    let mut lab = Lab::of(&["pi-1"]);
    assert_eq!(lab.ask(booking("later", "ann", &["any"])), None);
    let row = lab.row("later");
    assert_eq!((row.position, row.estimate), (None, Some(2 * HOUR)));
    assert_eq!(row.blocker, Blocker::Start { wall_ms: WALL_MS + 7_200_000 });
    lab.pass(2 * HOUR - MINUTE);
    assert_eq!(lab.holder("pi-1"), None);
    lab.pass(MINUTE);
    assert_eq!(lab.holder("pi-1"), Some("ann".to_owned()));
    assert_eq!(lab.left("later"), Some(HOUR));
    lab.pass(HOUR);
    assert_eq!(lab.holder("pi-1"), None);
}

#[test]
fn what_would_run_into_a_booking_waits_until_it_is_over() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.ask(booking("later", "ann", &["any"]));
    let fits = lasting(115 * MINUTE, request("fits", "bob", &["any"]));
    let long = lasting(116 * MINUTE, request("long", "cid", &["any"]));
    assert_eq!(lab.ask(long), None);
    let row = lab.row("long");
    let blocker = Blocker::Booking { device: device_id("pi-1"), booking: lease_id("later") };
    assert_eq!((row.blocker.clone(), row.estimate), (blocker, Some(3 * HOUR + 5 * MINUTE)));
    assert_eq!(lab.ask(fits), names(&["pi-1"]));
    lab.pass(115 * MINUTE);
    lab.ready("pi-1");
    lab.pass(5 * MINUTE);
    assert_eq!(lab.holder("pi-1"), Some("ann".to_owned()));
    lab.pass(HOUR);
    lab.ready("pi-1");
    assert_eq!(lab.holder("pi-1"), Some("cid".to_owned()));
}

#[test]
fn nothing_is_booked_that_is_not_sure_to_be_free() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.ask(lasting(2 * HOUR, request("a", "ann", &["any"])));
    let refused = |role: &str| Err(Refusal::NotFreeThen { role: role.to_owned() });
    assert_eq!(lab.reserve(booking("b", "bob", &["any"])), refused("any"), "no time for a handover");
    lab.reserve(starting(125 * MINUTE, request("c", "cid", &["any"]))).unwrap();
    // Its hour is over at 185 minutes, its handover at 190.
    assert_eq!(lab.reserve(starting(189 * MINUTE, request("d", "dan", &["any"]))), refused("any"));
    lab.reserve(starting(190 * MINUTE, request("e", "eve", &["any"]))).unwrap();
    let ahead = Err(Refusal::TooFarAhead { ahead: 48 * HOUR });
    assert_eq!(lab.reserve(starting(49 * HOUR, request("f", "fay", &["any"]))), ahead);
}

#[test]
fn nothing_is_booked_that_somebody_waits_for() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.ask(request("a", "ann", &["any"]));
    lab.ask(request("b", "bob", &["any"]));
    let refused = lab.reserve(starting(10 * HOUR, request("c", "cid", &["any"])));
    assert_eq!(refused, Err(Refusal::NotFreeThen { role: "any".to_owned() }));
}

#[test]
fn a_start_that_has_passed_is_no_booking() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.pass(3 * HOUR);
    assert_eq!(lab.ask(booking("late", "ann", &["any"])), names(&["pi-1"]));
}

#[test]
fn a_booking_whose_devices_are_not_there_waits_like_others() {
    let mut lab = Lab::of(&["pi-1", "pi-2"]);
    lab.ask(booking("later", "ann", &["pi-1"]));
    lab.pass(HOUR);
    lab.health("pi-1", Health::Quarantined);
    lab.pass(HOUR);
    let row = lab.row("later");
    assert_eq!(row.position, Some(1));
    assert!(matches!(row.blocker, Blocker::Health { .. }), "{row:?}");
    lab.health("pi-1", Health::Good);
    assert_eq!(lab.holder("pi-1"), Some("ann".to_owned()));
    assert_eq!(lab.left("later"), Some(HOUR));
}

#[test]
fn only_a_device_that_is_named_is_lent_in_any_health_at_the_start_of_a_booking() {
    let mut lab = Lab::of(&["pi-1", "pi-2"]);
    let request = LeaseRequest { any_health: true, ..booking("later", "root", &["pi-1", "any"]) };
    lab.must(Input::Reserve { by: admin(), request });
    lab.health("pi-1", Health::Maintenance);
    lab.health("pi-2", Health::Quarantined);
    lab.pass(2 * HOUR);
    assert_eq!(lab.devices_of("later"), None);
    lab.health("pi-2", Health::Good);
    assert_eq!(lab.devices_of("later"), names(&["pi-1", "pi-2"]));
}

#[test]
fn a_booking_that_is_withdrawn_leaves_its_devices_to_others() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.ask(booking("later", "ann", &["any"]));
    assert_eq!(lab.ask(lasting(4 * HOUR, request("b", "bob", &["any"]))), None);
    assert_eq!(lab.book.usage(&user("ann")), Usage { devices: 1, requests: 1 });
    lab.release("ann", "later").unwrap();
    assert_eq!(lab.holder("pi-1"), Some("bob".to_owned()));
    assert_eq!(lab.book.usage(&user("ann")), Usage::default());
}

#[test]
fn bookings_need_a_clock_that_is_right() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.ask(booking("later", "ann", &["any"]));
    lab.now.moment.synchronised = false;
    assert_eq!(lab.reserve(booking("more", "bob", &["any"])), Err(Refusal::Frozen));
    lab.now.moment.at.wall_ms += 100 * 3_600_000;
    lab.tick();
    assert_eq!(lab.holder("pi-1"), None, "nobody knows whether it has started");
    assert_eq!(lab.ask(lasting(MINUTE, request("b", "cid", &["any"]))), None, "nor whether it is about to");
}
