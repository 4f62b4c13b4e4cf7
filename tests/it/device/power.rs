//! A switch that is cut short, slow, or cannot tell; turns and times off.

use super::*;

/// What the journal holds of power, without the tokens.
async fn power(journal: &JournalHandle) -> Vec<Event> {
    let all = events(journal).await.into_iter().map(|(_, event)| event);
    all.filter(|event| {
        matches!(
            event,
            Event::PowerIntent { .. }
                | Event::PowerDone { .. }
                | Event::PowerFailed { .. }
                | Event::PowerUnsettled { .. }
        )
    })
    .collect()
}

/// Each way in which a coordinator that dies between intent and outcome can leave a switch.
#[tokio::test]
async fn a_switch_cut_short_is_settled_after_the_restart_by_reading_back() {
    let (on, off) = (PowerState::On, PowerState::Off);
    let failed = "the coordinator ended before it was done: power reads back as on";
    let table = [
        (Some(off), Event::PowerDone { state: off, reading: PowerReading::Off }),
        (Some(on), Event::PowerFailed { state: off, cause: failed.to_owned() }),
        (None, Event::PowerUnsettled { state: off }),
    ];
    for (found, expected) in table {
        let dir = tempfile::tempdir().unwrap();
        let (layer, journal) = (layer(dir.path()), dir.path().join("journal"));
        let world = Arc::new(World::default());
        world.lock().fault = Fault::SwitchHangs;
        let lab = Lab::new(&journal, world.clone(), Duration::ZERO).await;
        let device = lab.device.clone();
        let cut = TaskTracker::new().spawn(async move { device.off(NEW).await });
        world.acted.notified().await;
        // The state is read while the switch hangs; and shutting down does not wait for it.
        assert_eq!(lab.device.state().borrow().power, PowerReading::Unknown);
        timeout(Duration::from_secs(20), lab.stop()).await.expect("the actor ends promptly");
        assert!(matches!(cut.await.unwrap(), Err(DeviceError::Gone)));

        world.lock().fault = Fault::None;
        world.lock().power = found;
        world.take();
        let lab = Lab::new(&journal, world.clone(), Duration::ZERO).await;
        let intent = lab.device.unfinished_intent().expect("the intent is there");
        assert_eq!((intent.state, intent.token), (off, NEW));
        // Whatever is asked waits for that.
        let read = lab.device.read_power().await.unwrap();
        assert_eq!(read, found.map_or(PowerReading::Unknown, PowerReading::from));
        let intent = Event::PowerIntent { state: off, token: NEW };
        assert_eq!(power(&lab.journal.handle).await, [intent, expected]);
        assert_eq!(world.take(), [""; 0], "settling switches nothing");
        lab.device.boot(NEW, request(&layer)).await.unwrap();
        lab.stop().await;
        let lab = Lab::new(&journal, world, Duration::ZERO).await;
        assert_eq!(lab.device.unfinished_intent(), None);
        lab.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn on_and_cycle_are_boot_attempts_of_what_boots_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let world = Arc::new(World::default());
    world.lock().power = Some(PowerState::Off);
    let lab = Lab::new(&dir.path().join("journal"), world.clone(), MIN_OFF).await;
    assert_eq!(lab.device.on(NEW).await.unwrap(), BootAttempt(1));
    assert_eq!(world.take(), ["power On"]);
    assert!(lab.device.state().borrow().powered_on_at.is_some());
    assert_eq!(lab.device.on(NEW).await.unwrap(), BootAttempt(1), "it is on");
    assert_eq!(world.take(), [""; 0]);
    let begun = Instant::now();
    assert_eq!(lab.device.cycle(NEW).await.unwrap(), BootAttempt(2));
    assert!(begun.elapsed() >= MIN_OFF, "{:?}", begun.elapsed());
    assert_eq!(world.take(), ["power Off", "withdraw", "revoke lab-vm-1", "power On"]);
    lab.device.off(NEW).await.unwrap();
    assert_eq!(lab.device.read_power().await.unwrap(), PowerReading::Off);
    world.take();
    for fenced in [lab.device.on(OLD).await, lab.device.cycle(OLD).await] {
        assert!(matches!(fenced, Err(DeviceError::Fenced(_))), "{fenced:?}");
    }
    assert_eq!(world.take(), [""; 0]);
    let attempts: Vec<_> = events(&lab.journal.handle)
        .await
        .into_iter()
        .filter_map(|(attempt, event)| match event {
            Event::PowerIntent { state: PowerState::On, .. } => Some(attempt),
            _ => None,
        })
        .collect();
    assert_eq!(attempts, [1, 2]);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_switch_that_cannot_be_read_back_keeps_the_least_time_off_too() {
    let dir = tempfile::tempdir().unwrap();
    let world = Arc::new(World::default());
    world.lock().fault = Fault::Blind;
    let lab = Lab::new(&dir.path().join("journal"), world.clone(), MIN_OFF).await;
    lab.device.off(NEW).await.unwrap();
    assert_eq!(lab.device.state().borrow().power, PowerReading::Unknown, "never said to be off");
    tokio::time::advance(Duration::from_secs(1)).await;
    let begun = Instant::now();
    lab.device.on(NEW).await.unwrap();
    let waited = begun.elapsed();
    assert!(waited >= MIN_OFF - Duration::from_secs(1) && waited < MIN_OFF, "{waited:?}");
    lab.device.off(NEW).await.unwrap();
    lab.stop().await;
    // Nor does a process that has just begun know for how long it has been off.
    let lab = Lab::new(&dir.path().join("journal"), world, MIN_OFF).await;
    let begun = Instant::now();
    lab.device.on(NEW).await.unwrap();
    assert!(begun.elapsed() >= MIN_OFF, "{:?}", begun.elapsed());
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_switch_may_take_a_moment_to_show_what_it_did() {
    let dir = tempfile::tempdir().unwrap();
    let world = Arc::new(World::default());
    world.lock().power = Some(PowerState::Off);
    let lab = Lab::new(&dir.path().join("journal"), world.clone(), Duration::ZERO).await;
    world.lock().fault = Fault::SwitchLags;
    lab.device.on(NEW).await.unwrap();
    assert_eq!(lab.device.state().borrow().power, PowerReading::On);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_devices_of_a_lab_switch_on_one_after_another() {
    let dir = tempfile::tempdir().unwrap();
    let interval = Duration::from_secs(2);
    let stagger = Arc::new(Stagger::new(interval));
    let mut labs = Vec::new();
    for number in 0..4 {
        let world = Arc::new(World::default());
        world.lock().power = Some(PowerState::Off);
        let journal = dir.path().join(number.to_string());
        labs.push(Lab::staggered(&journal, world, Duration::ZERO, stagger.clone()).await);
    }
    let begun = Instant::now();
    let mut on = tokio::task::JoinSet::new();
    for lab in &labs {
        let device = lab.device.clone();
        on.spawn(async move { device.on(NEW).await.map(|_| Instant::now()) });
    }
    // One that hangs keeps nobody waiting, and switching off waits for no turn.
    labs[0].device.off(NEW).await.unwrap();
    let mut times = Vec::new();
    while let Some(time) = on.join_next().await {
        times.push(time.unwrap().unwrap() - begun);
    }
    times.sort();
    for (time, number) in times.iter().zip(0..4_u32) {
        let late = time.checked_sub(interval * number).expect("not before its turn");
        assert!(late < Duration::from_millis(500), "{times:?}");
    }
    for lab in labs {
        lab.stop().await;
    }
}
