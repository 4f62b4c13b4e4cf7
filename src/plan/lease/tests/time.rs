//! Deadlines over reboots and steps of the wall clock, and tokens that only grow.

use super::*;

#[test]
fn the_boot_clock_rules_within_a_boot() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.ask(request("a", "ann", &["any"]));
    for step_ms in [36_000_000_i64, -72_000_000] {
        lab.now.moment.at.wall_ms = lab.now.moment.at.wall_ms.saturating_add_signed(step_ms);
        lab.tick();
        assert_eq!(lab.left("a"), Some(HOUR), "a stepped wall clock is nothing to a lease");
    }
    lab.pass(HOUR);
    assert!(lab.lease("a").is_none());
}

#[test]
fn after_a_reboot_leases_are_frozen_until_the_clock_is_right() {
    let mut lab = Lab::of(&["pi-1", "pi-2"]);
    lab.ask(request("a", "ann", &["pi-1"]));
    lab.ask(lasting(2 * HOUR, request("b", "bob", &["pi-2"])));
    lab.pass(30 * MINUTE);
    lab.reboot();
    lab.pass(10 * HOUR);
    assert_eq!((lab.left("a"), lab.left("b")), (None, None));
    assert_eq!(lab.extend("ann", "a", MINUTE), Err(Refusal::Frozen));
    assert!(lab.lease("a").is_some(), "it is held all the same");
    assert_eq!(lab.ask(request("c", "cid", &["pi-1"])), None);
    assert_eq!(lab.row("c").estimate, None, "nobody knows");
    // The clock is right again: 90 minutes have passed since the grants.
    lab.now.moment.at.wall_ms = WALL_MS + 90 * 60_000;
    lab.now.moment.synchronised = true;
    lab.tick();
    assert!(lab.lease("a").is_none());
    assert_eq!(lab.left("b"), Some(30 * MINUTE));
    lab.pass(30 * MINUTE);
    assert!(lab.lease("b").is_none(), "its deadline is told on the new boot clock");
}

#[test]
fn a_grant_of_a_boot_whose_clock_was_never_right_has_its_whole_time_after_the_next() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.now.moment.synchronised = false;
    lab.ask(request("a", "ann", &["any"]));
    lab.pass(59 * MINUTE);
    lab.reboot();
    lab.now.moment.synchronised = true;
    lab.tick();
    assert_eq!(lab.left("a"), Some(HOUR));
}

#[test]
fn a_deadline_is_written_anew_once_the_clock_becomes_right_and_survives_the_next_reboot() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.now.moment.synchronised = false;
    lab.now.moment.at.wall_ms = 5;
    lab.ask(request("a", "ann", &["any"]));
    lab.pass(10 * MINUTE);
    lab.now.moment.synchronised = true;
    lab.now.moment.at.wall_ms = WALL_MS;
    assert_eq!(lab.tick().len(), 1);
    assert_eq!(lab.left("a"), Some(50 * MINUTE));
    lab.reboot();
    lab.now.moment.synchronised = true;
    lab.now.moment.at.wall_ms = WALL_MS + 20 * 60_000;
    lab.tick();
    assert_eq!(lab.left("a"), Some(30 * MINUTE));
}

#[test]
fn the_order_of_the_queue_is_kept_over_a_reboot_and_later_requests_come_after() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.ask(lasting(4 * HOUR, request("a", "ann", &["any"])));
    lab.ask(request("b", "bob", &["any"]));
    lab.pass(MINUTE);
    lab.ask(request("c", "cid", &["any"]));
    lab.reboot();
    lab.ask(request("d", "dan", &["any"]));
    assert_eq!(lab.line(), ["b", "c", "d"]);
    lab.restart();
    lab.ask(request("e", "eve", &["any"]));
    assert_eq!(lab.line(), ["b", "c", "d", "e"]);
}

#[test]
fn nobody_gets_ahead_of_those_who_waited_before_a_reboot_of_unknown_length() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.ask(lasting(4 * HOUR, request("a", "ann", &["any"])));
    lab.ask(with_priority(Priority::Low, request("low", "bob", &["any"])));
    lab.pass(HOUR);
    lab.reboot();
    lab.ask(with_priority(Priority::High, request("high", "cid", &["any"])));
    assert_eq!(lab.line(), ["low", "high"], "it has waited for more than two aging steps");
}

#[test]
fn the_process_of_a_holder_is_heard_anew_after_a_reboot() {
    let mut lab = Lab::of(&["pi-1"]);
    let asked = LeaseRequest { hold_by_process: Some(10 * MINUTE), ..request("a", "ann", &["any"]) };
    lab.ask(asked);
    lab.reboot();
    lab.pass(29 * MINUTE);
    assert!(lab.lease("a").is_some(), "it is given the time to be heard");
    lab.pass(MINUTE);
    assert!(lab.lease("a").is_none(), "a dead process needs no wall clock");
}

#[test]
fn no_token_is_granted_that_is_not_greater_than_all_before() {
    let mut lab = Lab::of(&["pi-1", "pi-2"]);
    lab.ask(request("a", "ann", &["any"]));
    let floor = lab.lease("a").unwrap().token;
    lab.now.next = floor;
    let went_back = Err(Refusal::LedgerWentBack { next: floor, floor });
    assert_eq!(lab.reserve(request("b", "bob", &["any"])), went_back);
    assert_eq!(lab.transfer("ann", "a", "cid"), went_back);
    // A later epoch outranks every sequence of an earlier one.
    lab.now.next = FencingToken { epoch: EPOCH + 1, sequence: 1 };
    lab.ask(request("b", "bob", &["any"]));
    assert!(lab.lease("b").unwrap().token > floor);
}
