//! The rule's tables, and what holds of it whatever happens.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const SECOND: Duration = Duration::from_secs(1);

/// A device's trust, and the health that follows from it.
#[derive(Debug, Clone, PartialEq)]
struct Rated {
    trust: Trust,
    health: Health,
    told: u32,
}

fn now(seconds: u64) -> Moment {
    let at = Stamp { boot_ns: seconds * 1_000_000_000, wall_ms: seconds * 1000 };
    Moment { boot: HostBoot::default(), at, synchronised: true }
}

impl Rated {
    fn new() -> Self {
        Self { trust: Trust::default(), health: Health::Suspect, told: 0 }
    }

    fn takes(&mut self, verdict: Verdict) {
        self.told += 1;
        let of = self.told.to_string();
        self.health = step(&mut self.trust, self.health, &of, verdict, 0, &Rules::default());
    }

    fn finds(&mut self, origin: Origin, sign: Sign, boots: u32, seconds: u64) {
        self.told += 1;
        let verdict = match sign {
            Sign::Clean => Verdict::Passed,
            Sign::Fault => Verdict::Device,
            Sign::Nothing => Verdict::Lab,
        };
        let (of, at) = (self.told.to_string(), now(seconds));
        let finding = Finding { origin, of, verdict, sign, cause: String::new(), boots, at, past: false };
        let said = take(&mut self.trust, self.health, finding, &Rules::default());
        self.health = said.map_or(self.health, |(health, _)| health);
    }
}

fn verdict(letter: char) -> Verdict {
    match letter {
        '.' => Verdict::Passed,
        'F' => Verdict::Failed,
        'D' => Verdict::Device,
        'T' => Verdict::Timeout,
        _ => Verdict::Lab,
    }
}

fn after(verdicts: &str) -> Rated {
    let mut rated = Rated::new();
    verdicts.chars().for_each(|letter| rated.takes(verdict(letter)));
    rated
}

#[test]
fn a_device_earns_loses_and_regains_trust_by_rule() {
    use Health::{Good, Quarantined, Suspect};
    let clean = |count: usize| ".".repeat(count);
    for (verdicts, health) in [
        (String::new(), Suspect),
        (clean(4), Suspect),
        (clean(5), Good),
        (format!("{}D", clean(5)), Suspect),
        (format!("{}D{}", clean(5), clean(5)), Good),
        ("DD".to_owned(), Suspect),
        ("DTD".to_owned(), Quarantined),
        (format!("{}D{}D{}D", clean(6), clean(6), clean(6)), Suspect),
        ("FFFFF".to_owned(), Good),
        (format!("{}LLLLLLLL", clean(5)), Good),
        (format!("DDD{}", clean(9)), Quarantined),
        (format!("DDD{}", clean(10)), Suspect),
        (format!("DDD{}", clean(15)), Good),
        (format!("DDD{}D{}", clean(9), clean(9)), Quarantined),
        (format!("DDD{}DDD{}", clean(10), clean(19)), Quarantined),
        (format!("DDD{}DDD{}", clean(10), clean(20)), Suspect),
    ] {
        assert_eq!(after(&verdicts).health, health, "{verdicts}");
    }
}

#[test]
fn what_a_person_has_said_is_no_rule_s_to_undo() {
    for said in [Health::Quarantined, Health::Maintenance] {
        let mut rated = after("DD");
        rated.health = said;
        told(&mut rated.trust, said);
        (0..100).for_each(|_| rated.takes(Verdict::Passed));
        (0..100).for_each(|_| rated.takes(Verdict::Device));
        assert_eq!(rated.health, said);
        assert_eq!(check_of(&rated, 1 << 30), None, "nor is it checked");
        rated.finds(Origin::Training, Sign::Clean, 10, 0);
        assert_eq!(rated.health, Health::Good, "training is somebody's wish");
    }
    let mut rated = after("DD");
    told(&mut rated.trust, Health::Good);
    rated.health = Health::Good;
    rated.takes(Verdict::Device);
    assert_eq!(rated.health, Health::Suspect, "what came before a release counts no more");
}

#[test]
fn training_takes_as_many_boots_as_the_quarantine_asks_for() {
    let mut rated = after("DDD");
    rated.finds(Origin::Training, Sign::Clean, 9, 0);
    assert_eq!(rated.health, Health::Quarantined);
    rated.finds(Origin::Training, Sign::Clean, 10, 0);
    assert_eq!((rated.health, score(&rated.trust).seen), (Health::Good, 0));
    let mut rated = after(".....");
    rated.finds(Origin::Training, Sign::Fault, 3, 0);
    assert_eq!(rated.health, Health::Suspect);
}

#[test]
fn a_finding_that_is_told_twice_counts_once() {
    let mut rated = after(".....");
    let finding = Finding {
        origin: Origin::Run,
        of: "r".to_owned(),
        verdict: Verdict::Device,
        sign: Sign::Fault,
        cause: String::new(),
        boots: 1,
        at: now(0),
        past: false,
    };
    let rules = Rules::default();
    assert!(take(&mut rated.trust, rated.health, finding.clone(), &rules).is_some());
    let once = rated.trust.clone();
    assert_eq!(take(&mut rated.trust, Health::Suspect, finding, &rules), None);
    assert_eq!(rated.trust, once);
}

fn check_of(rated: &Rated, seconds: u64) -> Option<Duration> {
    let care = Care { recheck: Some(SECOND), recheck_max: 8 * SECOND, ..Care::default() };
    care.check_in(rated.health, &rated.trust, &now(seconds))
}

#[test]
fn checks_come_at_growing_intervals() {
    let mut rated = after(".....");
    assert_eq!(check_of(&rated, 0), None, "nobody doubts it");
    rated.finds(Origin::Run, Sign::Nothing, 1, 0);
    assert_eq!(check_of(&rated, 0), Some(Duration::ZERO), "the lab's fault may have been its");
    rated.finds(Origin::Check, Sign::Clean, 1, 0);
    assert_eq!(check_of(&rated, 0), None);

    let mut rated = after("DDD");
    let (mut time, mut pauses) = (0, Vec::new());
    while rated.health == Health::Quarantined {
        let pause = check_of(&rated, time).unwrap().as_secs();
        pauses.push(pause);
        time += pause;
        rated.finds(Origin::Check, Sign::Clean, 1, time);
    }
    assert_eq!(pauses, [0, 1, 2, 4, 8, 8, 8, 8, 8, 8]);
    assert_eq!(rated.health, Health::Suspect);
    assert_eq!(check_of(&rated, time), Some(SECOND), "a suspect is checked until it is good");
    assert_eq!(Care::default().check_in(rated.health, &rated.trust, &now(0)), None);
}

#[test]
fn what_is_idle_goes_off_but_for_what_stays_on() {
    let (fan, pi) = (DeviceId::new("lab-fan").unwrap(), DeviceId::new("lab-pi").unwrap());
    let care = Care { idle_off: Some(SECOND), always_on: [fan.clone()].into(), ..Care::default() };
    for health in [Health::Good, Health::Suspect, Health::Quarantined] {
        assert!(care.switches_off(&pi, health, SECOND) && !care.switches_off(&fan, health, SECOND));
        assert!(!care.switches_off(&pi, health, SECOND / 2));
        assert!(!Care::default().switches_off(&pi, health, SECOND * 1000));
    }
    assert!(!care.switches_off(&pi, Health::Maintenance, SECOND));
}

#[test]
fn a_device_is_blamed_for_nothing_that_the_product_or_the_lab_may_have_done() {
    let (own, other) = (DeviceId::new("lab-1").unwrap(), DeviceId::new("lab-2").unwrap());
    let outcome = |verdict, suspects_device, device: Option<&DeviceId>| Outcome {
        verdict,
        reason: String::new(),
        decisive: None,
        suspect: (verdict == Verdict::Timeout).then(|| "somebody".to_owned()),
        suspects_device,
        device: device.cloned(),
        step: None,
    };
    let table = [
        (outcome(Verdict::Passed, false, None), Sign::Clean),
        (outcome(Verdict::Failed, false, Some(&own)), Sign::Clean),
        (outcome(Verdict::Device, false, Some(&own)), Sign::Fault),
        (outcome(Verdict::Device, false, Some(&other)), Sign::Nothing),
        (outcome(Verdict::Device, false, None), Sign::Nothing),
        (outcome(Verdict::Lab, false, Some(&own)), Sign::Nothing),
        (outcome(Verdict::Timeout, true, Some(&own)), Sign::Fault),
        (outcome(Verdict::Timeout, true, Some(&other)), Sign::Nothing),
        (outcome(Verdict::Timeout, false, Some(&own)), Sign::Nothing),
        (outcome(Verdict::Timeout, false, None), Sign::Nothing),
    ];
    for (outcome, expected) in table {
        assert_eq!(sign(&outcome, 2, &own), expected, "{outcome:?}");
    }
    assert_eq!(sign(&outcome(Verdict::Device, false, None), 1, &own), Sign::Fault, "there is no other");
}

/// How many of each verdict are in the window.
fn counted(rated: &Rated) -> BTreeMap<bool, usize> {
    let mut counted = BTreeMap::new();
    for finding in &rated.trust.findings {
        *counted.entry(counts(finding)).or_default() += 1;
    }
    counted
}

#[test]
fn no_more_is_kept_than_that_when_all_of_it_becomes_the_past() {
    let mut rated = Rated::new();
    for letter in format!("DTD{}{}", "F".repeat(OTHERS), ".".repeat(30)).chars() {
        rated.takes(verdict(letter));
        assert!(counted(&rated).get(&false) <= Some(&OTHERS), "{:?}", rated.health);
    }
    assert_eq!(rated.health, Health::Good, "it has been quarantined and is back");
}

proptest! {
    #[test]
    fn no_single_run_takes_a_device_out_and_no_clean_run_makes_it_worse(verdicts in "[.FDTL]{0,60}") {
        let before = after(&verdicts);
        let (mut worse, mut better) = (before.clone(), before.clone());
        better.takes(Verdict::Passed);
        worse.takes(Verdict::Device);
        if before.health == Health::Good {
            prop_assert_eq!(better.health, Health::Good);
        }
        prop_assert!(better.health <= before.health.max(Health::Suspect));
        prop_assert!(worse.health >= before.health);
        let counted = counted(&before);
        prop_assert!(counted.get(&true) <= Some(&20) && counted.get(&false) <= Some(&OTHERS));
    }

    #[test]
    fn faults_of_the_product_and_the_lab_never_harm(clean in 5_usize..20, verdicts in "[FL]{0,60}") {
        let rated = after(&format!("{}{verdicts}", ".".repeat(clean)));
        prop_assert_eq!(rated.health, Health::Good);
        prop_assert_eq!(score(&rated.trust).bad, 0);
    }
}
