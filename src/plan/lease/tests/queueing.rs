//! Who is taken, who is next, and what those who wait are told.

use super::*;

#[test]
fn all_devices_or_none() {
    let mut lab = Lab::of(&["pi-1", "pi-2", "usb-1"]);
    assert_eq!(lab.ask(request("a", "ann", &["usb", "any"])), names(&["usb-1", "pi-1"]));
    assert_eq!(lab.ask(request("b", "bob", &["any", "any"])), None);
    assert_eq!(lab.holder("pi-2"), None, "one of two is not lent");
    lab.give_back("ann", "a");
    assert_eq!(lab.devices_of("b").map(|devices| devices.len()), Some(2));
}

#[test]
fn a_gang_gathers_while_small_requests_pass_by_what_it_cannot_use() {
    let mut lab = Lab::of(&["pi-1", "usb-1", "usb-2"]);
    lab.ask(request("a", "ann", &["usb-1"]));
    assert_eq!(lab.ask(request("gang", "bob", &["usb", "usb"])), None);
    assert_eq!(lab.ask(request("c", "cid", &["usb"])), None, "usb-2 is gathered");
    assert_eq!(lab.ask(request("d", "dan", &["any"])), names(&["pi-1"]), "pi-1 is of no use to the gang");
    lab.give_back("ann", "a");
    assert_eq!(lab.devices_of("gang"), names(&["usb-1", "usb-2"]));
    assert_eq!(lab.line(), ["c"]);
}

#[test]
fn a_gang_that_can_not_be_met_as_things_are_gathers_nothing() {
    let mut lab = Lab::of(&["usb-1", "usb-2"]);
    lab.health("usb-1", Health::Quarantined);
    assert_eq!(lab.ask(request("gang", "ann", &["usb", "usb"])), None);
    assert_eq!(lab.ask(request("b", "bob", &["usb"])), names(&["usb-2"]));
    let Blocker::Health { device, health, .. } = lab.row("gang").blocker else { panic!() };
    assert_eq!((device, health), (device_id("usb-1"), Health::Quarantined));
    lab.health("usb-1", Health::Good);
    lab.give_back("bob", "b");
    assert_eq!(lab.devices_of("gang").map(|devices| devices.len()), Some(2));
}

#[test]
fn the_higher_class_goes_first_until_the_lower_has_waited_an_aging_step() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.ask(request("first", "ann", &["any"]));
    lab.ask(with_priority(Priority::Low, request("low", "bob", &["any"])));
    lab.pass(MINUTE);
    lab.ask(request("normal", "cid", &["any"]));
    lab.ask(with_priority(Priority::High, request("high", "dan", &["any"])));
    assert_eq!(lab.line(), ["high", "normal", "low"]);
    // An aging step after `low` came a normal request comes too late, two steps after a high one.
    lab.pass(9 * MINUTE);
    lab.ask(request("later", "eve", &["any"]));
    lab.pass(9 * MINUTE);
    lab.ask(with_priority(Priority::High, request("urgent", "fay", &["any"])));
    assert_eq!(lab.line(), ["high", "normal", "urgent", "low", "later"]);
}

#[test]
fn among_equals_the_first_that_came_is_served_also_at_one_time() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.ask(request("first", "ann", &["any"]));
    for id in ["z", "m", "a"] {
        lab.ask(request(id, "bob", &["any"]));
    }
    assert_eq!(lab.line(), ["z", "m", "a"]);
    lab.restart();
    assert_eq!(lab.line(), ["z", "m", "a"]);
    lab.give_back("ann", "first");
    assert_eq!((lab.devices_of("z"), lab.line()), (names(&["pi-1"]), vec!["m".to_owned(), "a".to_owned()]));
}

#[test]
fn each_user_has_a_quota_of_devices_and_of_places_in_the_queue() {
    let quota = Quota { devices: 3, requests: 1 };
    let quotas = BTreeMap::from([(user("nightly"), Quota { devices: 1, requests: 1 })]);
    let mut lab = Lab::with(Policy { quota, quotas, ..policy() }, &["pi-1", "pi-2"]);
    lab.ask(request("a", "ann", &["any", "any"]));
    assert_eq!(
        lab.reserve(request("b", "ann", &["any", "any"])),
        Err(Refusal::DeviceQuota { user: user("ann"), used: 2, asked: 2, quota: 3 })
    );
    assert_eq!(lab.ask(request("c", "ann", &["any"])), None);
    assert_eq!(lab.book.usage(&user("ann")), Usage { devices: 3, requests: 1 });
    assert_eq!(lab.ask(request("d", "bob", &["any"])), None);
    assert_eq!(
        lab.reserve(request("e", "bob", &["any"])),
        Err(Refusal::RequestQuota { user: user("bob"), quota: 1 })
    );
    let refused = lab.reserve(request("f", "nightly", &["any", "any"]));
    assert!(matches!(refused, Err(Refusal::DeviceQuota { quota: 1, .. })), "{refused:?}");
    lab.give_back("ann", "a");
    lab.release("ann", "c").unwrap();
    assert_eq!(lab.book.usage(&user("ann")), Usage::default());
}

#[test]
fn what_can_never_be_met_is_refused_with_the_need_and_the_reason() {
    let mut lab = Lab::of(&["pi-1"]);
    for (needs, role) in [(&["usb"][..], "usb"), (&["any", "any"], "any"), (&["pi-9"], "pi-9")] {
        let refused = lab.reserve(request("a", "ann", needs));
        assert!(matches!(&refused, Err(Refusal::Never { role: r, .. }) if r == role), "{refused:?}");
    }
    assert_eq!(lab.reserve(request("a", "ann", &[])), Err(Refusal::Nothing));
    for length in [Duration::ZERO, 5 * HOUR] {
        let refused = lab.reserve(lasting(length, request("a", "ann", &["any"])));
        assert_eq!(refused, Err(Refusal::Length { max: 4 * HOUR }));
    }
    assert!(lab.bucket.keys().all(|key| matches!(key, Key::Device(_))), "nothing was written");
}

#[test]
fn only_an_admin_asks_for_others_and_for_what_is_not_lent() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.health("pi-1", Health::Maintenance);
    let for_bob = || request("a", "bob", &["pi-1"]);
    let refused = lab.put(Input::Reserve { by: by("ann"), request: for_bob() });
    assert!(matches!(refused, Err(Refusal::NotAdmin { .. })), "{refused:?}");
    let any_health = LeaseRequest { any_health: true, ..for_bob() };
    let refused = lab.reserve(any_health.clone());
    assert!(matches!(refused, Err(Refusal::NotAdmin { .. })), "{refused:?}");
    assert_eq!(lab.ask(request("b", "bob", &["pi-1"])), None, "it is in maintenance");
    lab.must(Input::Reserve { by: admin(), request: any_health });
    assert_eq!(lab.holder("pi-1"), Some("bob".to_owned()));
}

#[test]
fn a_request_that_comes_twice_is_one_request() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.ask(request("a", "ann", &["any"]));
    lab.ask(request("b", "bob", &["any"]));
    for (id, holder) in [("a", "ann"), ("b", "bob")] {
        assert_eq!(lab.reserve(request(id, holder, &["any"])), Ok(Vec::new()));
        let other = lab.reserve(lasting(MINUTE, request(id, holder, &["any"])));
        assert_eq!(other, Err(Refusal::Duplicate { lease: lease_id(id) }));
    }
}

#[test]
fn who_waits_is_told_its_place_the_blocker_and_the_estimate() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.ask(request("a", "ann", &["any"]));
    lab.ask(lasting(2 * HOUR, request("b", "bob", &["any"])));
    lab.ask(request("c", "cid", &["any"]));
    lab.pass(10 * MINUTE);
    let (pi, row) = (device_id("pi-1"), lab.row("b"));
    let blocker = Blocker::Lease { device: pi.clone(), lease: lease_id("a"), holder: user("ann") };
    assert_eq!((row.position, row.estimate), (Some(1), Some(55 * MINUTE)), "50 minutes and the handover");
    assert_eq!(row.blocker, blocker);
    let row = lab.row("c");
    let blocker = Blocker::Request { device: pi.clone(), request: lease_id("b"), holder: user("bob") };
    assert_eq!((row.position, row.estimate), (Some(2), Some(55 * MINUTE + 2 * HOUR + 5 * MINUTE)));
    assert_eq!(row.blocker, blocker);
    lab.release("ann", "a").unwrap();
    lab.pass(MINUTE);
    let row = lab.row("b");
    assert_eq!((row.blocker.clone(), row.estimate), (Blocker::Handover { device: pi }, Some(4 * MINUTE)));
}

#[test]
fn the_device_that_keeps_a_request_from_being_met_is_named_also_when_it_fits_another_need() {
    let mut lab = Lab::of(&["pi-1", "usb-1"]);
    lab.health("pi-1", Health::Quarantined);
    lab.ask(request("a", "ann", &["any", "usb"]));
    let Blocker::Health { role, device, .. } = lab.row("a").blocker else { panic!() };
    assert_eq!((role.as_str(), device), ("any", device_id("pi-1")));
}

#[test]
fn a_device_that_is_suspect_is_lent_where_no_good_one_will_do() {
    let mut lab = Lab::of(&["pi-1", "pi-2"]);
    lab.health("pi-1", Health::Suspect);
    assert_eq!(lab.ask(request("a", "ann", &["any"])), names(&["pi-2"]));
    assert_eq!(lab.ask(request("b", "bob", &["any"])), names(&["pi-1"]));
}

#[test]
fn the_bound_of_waiting_is_the_sum_of_its_terms() {
    let policy = policy();
    assert_eq!(policy.longest_wait(Priority::High, 0, Duration::ZERO), 4 * HOUR + 5 * MINUTE);
    assert_eq!(policy.longest_wait(Priority::Low, 2, HOUR), 20 * MINUTE + HOUR + 3 * (4 * HOUR + 5 * MINUTE));
}
