//! A decision that is broken off between any two of its changes is finished by the next coordinator.

use super::*;

type Prepare = fn() -> Lab;

/// The bucket after all that follows, tokens apart: those of later grants depend on how many writes there were.
fn settled(mut lab: Lab) -> BTreeMap<Key, Record> {
    lab.tick();
    let mut bucket = lab.bucket;
    for record in bucket.values_mut() {
        match record {
            Record::Lease(lease) => lease.token.sequence = 0,
            Record::Renewal(renewal) => renewal.token.sequence = 0,
            Record::Device(_) | Record::Queue(_) => {}
        }
    }
    bucket
}

/// What follows from `input` when the coordinator dies after `writes` of its changes, and is asked again.
fn broken_off(prepare: Prepare, input: &Input, writes: usize) -> BTreeMap<Key, Record> {
    let mut lab = prepare();
    for change in decide(&lab.book, input.clone(), &lab.now).unwrap().iter().take(writes) {
        lab.write(change);
    }
    lab.restart();
    // Whoever got no answer asks again; that the lease has gone meanwhile is an answer too.
    let _ = lab.put(input.clone());
    settled(lab)
}

#[test]
fn a_decision_that_is_broken_off_anywhere_comes_to_the_same() {
    let queued: Prepare = || {
        let mut lab = Lab::of(&["pi-1", "pi-2", "usb-1"]);
        lab.ask(request("a", "ann", &["pi-1", "usb-1"]));
        lab.extend("ann", "a", MINUTE).unwrap();
        lab.ask(request("b", "bob", &["pi-1"]));
        lab.ask(lasting(2 * HOUR, request("d", "dan", &["pi-2"])));
        lab
    };
    let due: Prepare = || {
        let mut lab = Lab::of(&["pi-1"]);
        lab.ask(starting(HOUR, request("later", "ann", &["any"])));
        lab.now.moment.at.wall_ms += 3_600_000;
        lab
    };
    let over: Prepare = || {
        let mut lab = Lab::of(&["pi-1", "pi-2"]);
        lab.ask(request("a", "ann", &["any"]));
        lab.ask(request("b", "bob", &["any"]));
        lab.extend("bob", "b", MINUTE).unwrap();
        lab.now.moment.at.boot_ns += u64::try_from((2 * HOUR).as_nanos()).unwrap();
        lab
    };
    let returned: Prepare = || {
        let mut lab = Lab::of(&["pi-1", "pi-2"]);
        lab.ask(request("a", "ann", &["pi-1"]));
        lab.ask(request("b", "bob", &["pi-1"]));
        lab.release("ann", "a").unwrap();
        let ready = Input::DeviceReady { device: device_id("pi-1") };
        // Broken off by the first coordinator already: the grant is written, its place in the queue still is.
        for change in decide(&lab.book, ready, &lab.now).unwrap() {
            lab.write(&change);
        }
        lab
    };
    let inventory = Input::Inventory {
        devices: vec![device("pi-1"), device("pi-3"), device("usb-2")],
        newcomers: Health::Suspect,
    };
    let to_bob = Input::Transfer { by: by("ann"), lease: lease_id("a"), to: user("bob") };
    let cases: [(Prepare, Input, usize); 7] = [
        (queued, Input::Release { by: by("ann"), lease: lease_id("a") }, 4),
        (queued, Input::Reserve { by: by("cid"), request: request("c", "cid", &["any"]) }, 1),
        (queued, inventory, 4),
        (queued, to_bob, 2),
        (due, Input::Tick, 2),
        (over, Input::Tick, 5),
        (returned, Input::Tick, 2),
    ];
    for (prepare, input, changes) in cases {
        let lab = prepare();
        assert_eq!(decide(&lab.book, input.clone(), &lab.now).unwrap().len(), changes, "{input:?}");
        let whole = broken_off(prepare, &input, changes);
        for writes in 0..changes {
            assert_eq!(broken_off(prepare, &input, writes), whole, "{input:?} after {writes} writes");
        }
    }
}

#[test]
fn what_a_dead_coordinator_left_is_removed() {
    let mut lab = Lab::of(&["pi-1"]);
    lab.ask(request("a", "ann", &["any"]));
    let lease = lab.bucket[&Key::Lease(lease_id("a"))].clone();
    lab.ask(request("b", "bob", &["any"]));
    let queued = lab.bucket[&Key::Queue(lease_id("b"))].clone();
    lab.extend("ann", "a", MINUTE).unwrap_err();
    lab.release("bob", "b").unwrap();
    lab.extend("ann", "a", MINUTE).unwrap();
    let renewal = lab.bucket[&Key::Renewal(lease_id("a"))].clone();
    lab.release("ann", "a").unwrap();
    lab.ready("pi-1");
    // A renewal without its lease; a place in the queue beside the lease that came of it.
    lab.bucket.insert(renewal.key(), renewal);
    let (Record::Lease(mut lease), Record::Queue(queued)) = (lease, queued) else { panic!() };
    lease.request = queued.request.clone();
    for record in [Record::Lease(lease), Record::Queue(queued)] {
        lab.bucket.insert(record.key(), record);
    }
    lab.restart();
    assert_eq!(lab.book.wake(&lab.now), Some(Duration::ZERO));
    lab.tick();
    let kinds: Vec<String> = lab.bucket.keys().map(ToString::to_string).collect();
    assert_eq!(kinds, ["device.pi-1", "lease.b"]);
    assert_eq!(lab.book.usage(&user("bob")), Usage { devices: 1, requests: 0 });
}
