//! Handover, health, and an inventory that changes under leases.

use super::*;

fn states(lab: &Lab) -> Vec<(String, bool, bool)> {
    let row = |(record, lease): (&crate::model::ledger::DeviceRecord, Option<&LeaseId>)| {
        (record.device.id.to_string(), lease.is_some(), record.handover.is_some())
    };
    lab.book.devices().map(row).collect()
}

#[test]
fn a_device_is_made_ready_between_two_holders() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.ask(request("a", "ann", &["any"]));
    lab.release("ann", "a").unwrap();
    assert_eq!(states(&lab), [("pi-1".to_owned(), false, true)]);
    assert_eq!(lab.ask(request("b", "bob", &["any"])), None);
    lab.ready("pi-1");
    assert_eq!(lab.holder("pi-1"), Some("bob".to_owned()));
    assert!(lab.ready("pi-1").is_empty(), "what is said late changes nothing");
    assert_eq!(lab.holder("pi-1"), Some("bob".to_owned()));
    let nobody = lab.put(Input::DeviceReady { device: device_id("pi-9") });
    assert_eq!(nobody, Err(Refusal::NoSuchDevice { device: device_id("pi-9") }));
}

#[test]
fn a_handover_names_the_lease_that_it_comes_after() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.ask(request("a", "ann", &["any"]));
    lab.pass(HOUR);
    let (record, _) = lab.book.devices().next().unwrap();
    assert_eq!(record.handover.as_ref().unwrap().after, Some(lease_id("a")));
}

#[test]
fn needs_that_differ_in_their_backend_alone_get_what_each_asks_for() {
    let mut lab = Lab::of(&[]);
    let board = Device { backend: Backend::Pi, model: Model::Pi4B, ..device("pi-1") };
    let devices = vec![device("vm-1"), device("vm-2"), board];
    lab.must(Input::Inventory { devices, newcomers: Health::Good });
    for name in ["vm-1", "vm-2", "pi-1"] {
        lab.ready(name);
    }
    // The first is what a need for a board has turned to.
    let needs = [Backend::Vm, Backend::Pi].map(|backend| Need { backend: Some(backend), ..need("any") });
    let asked = LeaseRequest { needs: needs.to_vec(), ..request("a", "ann", &[]) };
    assert_eq!(lab.ask(asked), Some(vec!["vm-1".to_owned(), "pi-1".to_owned()]));
}

#[test]
fn a_new_device_is_made_ready_before_its_first_holder() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.ask(request("a", "ann", &["any"]));
    lab.inventory(&["pi-1", "pi-2"]);
    assert_eq!(lab.ask(request("b", "bob", &["any"])), None);
    lab.ready("pi-2");
    assert_eq!(lab.devices_of("b"), names(&["pi-2"]));
}

#[test]
fn a_device_that_fits_a_waiting_request_may_be_of_a_new_kind() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.ask(request("a", "ann", &["any"]));
    lab.ask(request("b", "bob", &["any"]));
    lab.inventory(&["pi-1", "usb-1"]);
    lab.ready("usb-1");
    assert_eq!(lab.devices_of("b"), names(&["usb-1"]));
}

#[test]
fn health_decides_who_is_lent_and_disturbs_no_holder() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.ask(request("a", "ann", &["any"]));
    for health in [Health::Quarantined, Health::Maintenance] {
        lab.health("pi-1", health);
        assert_eq!(lab.holder("pi-1"), Some("ann".to_owned()));
        lab.extend("ann", "a", MINUTE).unwrap();
    }
    lab.give_back("ann", "a");
    assert_eq!(lab.ask(request("b", "bob", &["any"])), None);
    lab.health("pi-1", Health::Suspect);
    assert_eq!(lab.holder("pi-1"), Some("bob".to_owned()));
    let again = Input::DeviceHealth {
        device: device_id("pi-1"),
        health: Health::Suspect,
        reason: "said a test".to_owned(),
    };
    assert_eq!(lab.must(again), [], "the same again is no change");
}

#[test]
fn a_device_that_leaves_the_inventory_stays_with_its_holder_and_goes_when_it_comes_back() {
    let mut lab = Lab::of(&["pi-1", "pi-2"]);
    lab.ask(request("a", "ann", &["pi-1"]));
    lab.ask(request("b", "bob", &["pi-1"]));
    lab.inventory(&["pi-2"]);
    assert_eq!(lab.holder("pi-1"), Some("ann".to_owned()));
    assert!(matches!(lab.row("b").blocker, Blocker::Never { .. }));
    assert!(lab.reserve(request("c", "cid", &["pi-1"])).is_err());
    lab.extend("ann", "a", MINUTE).unwrap();
    lab.release("ann", "a").unwrap();
    assert_eq!(states(&lab).len(), 2, "it is still being made ready");
    lab.ready("pi-1");
    assert_eq!(states(&lab).len(), 1);
    lab.inventory(&["pi-1", "pi-2"]);
    lab.ready("pi-1");
    assert_eq!(lab.holder("pi-1"), Some("bob".to_owned()), "who waited has waited for it");
}

#[test]
fn a_device_that_comes_back_to_the_inventory_in_time_stays() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.ask(request("a", "ann", &["any"]));
    lab.inventory(&[]);
    lab.inventory(&["pi-1"]);
    lab.give_back("ann", "a");
    assert_eq!(states(&lab), [("pi-1".to_owned(), false, false)]);
}

#[test]
fn an_inventory_that_says_nothing_new_writes_nothing() {
    let mut lab = Lab::of(&["pi-1", "usb-1"]);
    let devices = vec![device("usb-1"), device("pi-1")];
    assert_eq!(lab.must(Input::Inventory { devices, newcomers: Health::Good }), []);
    let mut changed = device("pi-1");
    changed.labels.insert("site".to_owned(), "berlin".to_owned());
    let devices = vec![device("usb-1"), changed];
    assert_eq!(lab.must(Input::Inventory { devices, newcomers: Health::Good }).len(), 1);
    assert_eq!(lab.ask(request("a", "ann", &["pi-1"])), names(&["pi-1"]), "it is as free as before");
}
