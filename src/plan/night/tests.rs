//! Nights of drawn runs on drawn devices.

use super::*;
use crate::model::device::{Backend, Capability, Model};
use crate::model::scenario::Fallback;
use proptest::prelude::*;
use std::collections::BTreeMap;

const POLICY: Policy =
    Policy { device: 1, lab: 1, attempt: Duration::from_secs(600), cap: Duration::from_secs(3600) };
const LONG: Duration = Duration::from_secs(24 * 3600);

fn device(number: usize, model: Model) -> Device {
    Device {
        id: DeviceId::new(format!("lab-d-{number}")).unwrap(),
        backend: model.backend(),
        model,
        labels: BTreeMap::new(),
        capabilities: [Capability::Boot].into(),
    }
}

fn need(role: &str, model: Option<Model>) -> Need {
    Need { role: role.to_owned(), model, capabilities: [Capability::Boot].into(), ..Need::default() }
}

fn job(seconds: u64, model: Option<Model>) -> Job {
    Job { needs: vec![need("dut", model)], expected: Duration::from_secs(seconds) }
}

fn starts(actions: &[Action]) -> Vec<usize> {
    actions.iter().filter_map(|a| if let Action::Start { job, .. } = a { Some(*job) } else { None }).collect()
}

#[test]
fn the_longest_goes_first_and_no_device_waits_for_another_model() {
    let devices = vec![device(1, Model::Pi4B), device(2, Model::VmAarch64)];
    let jobs = vec![
        job(10, None),
        job(50, Some(Model::Pi4B)),
        job(40, Some(Model::Pi4B)),
        job(5, Some(Model::VmAarch64)),
    ];
    let mut night = Night::new(jobs, devices, POLICY, LONG);
    assert_eq!(starts(&night.next(Duration::ZERO)), [1, 0]);
    assert!(night.next(Duration::from_secs(1)).is_empty());
    assert_eq!(
        night.ended(0, Verdict::Passed, Duration::from_secs(10)),
        Some(Action::End { job: 0, verdict: Verdict::Passed, cause: None })
    );
    assert_eq!(starts(&night.next(Duration::from_secs(10))), [3]);
}

#[test]
fn what_does_not_fit_is_told_and_the_rest_runs() {
    let mut night = Night::new(
        vec![job(100, None), job(50, None), job(20, None)],
        vec![device(1, Model::Pi5)],
        POLICY,
        Duration::from_secs(75),
    );
    let (planned, left_out) = forecast(&mut night);
    assert_eq!(planned.iter().map(|run| run.job).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(
        left_out,
        [(0, "it does not fit into the night: it is thought to take 100 s, and 75 s are left".to_owned())]
    );
    let mut night = Night::new(vec![job(1, Some(Model::Pi4B))], vec![device(1, Model::Pi5)], POLICY, LONG);
    let (planned, left_out) = forecast(&mut night);
    assert!(planned.is_empty() && left_out[0].1.contains("model pi4b"), "{left_out:?}");
}

#[test]
fn a_night_without_a_device_says_of_each_run_why_it_is_not_begun() {
    let mut turns = job(10, Some(Model::Pi4B));
    turns.needs[0].fallback = Some(Fallback { backend: Backend::Vm, after: Duration::ZERO });
    let night = || Night::new(vec![job(20, Some(Model::Pi4B)), turns.clone()], vec![], POLICY, LONG);
    let mut begun = night();
    let actions = begun.next(Duration::ZERO);
    assert_eq!(actions.len(), 2);
    for action in actions {
        let Action::End { verdict, cause, .. } = action else { panic!("{action:?}") };
        assert_eq!(verdict, Verdict::Skipped);
        assert!(cause.unwrap().contains("cannot be met by this lab"));
    }
    assert!(begun.is_over());
    let (planned, left_out) = forecast(&mut night());
    assert_eq!((planned.len(), left_out.len()), (0, 2));
}

#[test]
fn a_night_waits_for_the_boards_that_it_has_and_turns_for_those_that_it_has_not() {
    let mut wanted = job(10, Some(Model::Pi4B));
    wanted.needs[0].fallback = Some(Fallback { backend: Backend::Vm, after: Duration::ZERO });
    let jobs = || vec![wanted.clone(), wanted.clone()];
    let machine = device(2, Model::VmAarch64);
    let mut night = Night::new(jobs(), vec![device(1, Model::Pi4B), machine.clone()], POLICY, LONG);
    let begun = night.next(Duration::ZERO);
    let [Action::Start { devices, because: None, .. }] = begun.as_slice() else { panic!("{begun:?}") };
    assert_eq!(*devices, [device(1, Model::Pi4B).id], "the other waits for it");
    // What failed on the only board is not passed on another kind of device.
    assert_eq!(night.ended(0, Verdict::Device, Duration::from_secs(1)), None);
    let end = Action::End { job: 0, verdict: Verdict::Device, cause: None };
    assert_eq!(night.next(Duration::from_secs(1))[0], end);
    let mut night = Night::new(jobs(), vec![machine], POLICY, LONG);
    let begun = night.next(Duration::ZERO);
    let [Action::Start { because: Some(because), .. }] = begun.as_slice() else { panic!("{begun:?}") };
    assert_eq!(because, "no device is a fit for it: model pi4b");
}

#[test]
fn a_device_at_fault_is_not_asked_again_and_a_product_fault_is_final() {
    let devices = vec![device(1, Model::Pi5), device(2, Model::Pi5)];
    let mut night = Night::new(vec![job(10, None)], devices, POLICY, LONG);
    let first = night.next(Duration::ZERO);
    let Action::Start { devices, .. } = &first[0] else { panic!("{first:?}") };
    let first = devices.clone();
    assert_eq!(night.ended(0, Verdict::Device, Duration::from_secs(9)), None);
    let again = night.next(Duration::from_secs(9));
    let Action::Start { devices, budget, .. } = &again[0] else { panic!("{again:?}") };
    assert!(*devices != first && *budget == POLICY.attempt, "{again:?}");
    let end = Action::End { job: 0, verdict: Verdict::Failed, cause: None };
    assert_eq!(night.ended(0, Verdict::Failed, Duration::from_secs(20)), Some(end));
    assert!(night.is_over() && night.next(Duration::from_secs(20)).is_empty());
}

#[test]
fn without_another_device_a_fault_of_the_only_one_stands() {
    let mut night = Night::new(vec![job(10, None)], vec![device(1, Model::Pi5)], POLICY, LONG);
    night.next(Duration::ZERO);
    assert_eq!(night.ended(0, Verdict::Device, Duration::from_secs(9)), None);
    let end = Action::End { job: 0, verdict: Verdict::Device, cause: None };
    assert_eq!(night.next(Duration::from_secs(9)), [end]);
    // The lab's fault may be gone on the same device.
    let mut night = Night::new(vec![job(10, None)], vec![device(1, Model::Pi5)], POLICY, LONG);
    night.next(Duration::ZERO);
    assert_eq!(night.ended(0, Verdict::Lab, Duration::from_secs(9)), None);
    assert_eq!(starts(&night.next(Duration::from_secs(9))), [0]);
}

/// 500 runs on 50 devices of three models, each run taking up to half more or less than was thought.
#[test]
fn a_large_night_is_planned_and_keeps_its_devices_busy() {
    let models = [Model::Pi4B, Model::Pi5, Model::VmAarch64];
    let devices: Vec<Device> = (0..50).map(|n| device(n, models[n % 3])).collect();
    let mut draw = 88_172_645_463_325_252_u64;
    let mut random = |bound: u64| {
        draw ^= draw << 13;
        draw ^= draw >> 7;
        draw ^= draw << 17;
        draw % bound
    };
    let jobs: Vec<Job> =
        (0..500).map(|n| job(20 + random(280), (n % 4 != 0).then(|| models[n % 3]))).collect();
    let real: Vec<Duration> =
        jobs.iter().map(|job| job.expected.mul_f64(0.5 + random(1000) as f64 / 1000.0)).collect();
    let (planned, left_out) = forecast(&mut Night::new(jobs.clone(), devices.clone(), POLICY, LONG));
    assert_eq!((planned.len(), left_out.len()), (500, 0));
    let mut night = Night::new(jobs, devices, POLICY, LONG);
    let (mut now, mut running) = (Duration::ZERO, Vec::new());
    // What devices could have done while runs were waiting, and what they did.
    let (mut could, mut did) = (Duration::ZERO, Duration::ZERO);
    while !night.is_over() {
        for action in night.next(now) {
            let Action::Start { job, .. } = action else { panic!("{action:?}") };
            running.push((now + real[job], job));
        }
        let first = (0..running.len()).min_by_key(|&at| running[at].0).unwrap();
        let busy = u32::try_from(running.len()).unwrap();
        let (at, job) = running.swap_remove(first);
        if !night.waiting.is_empty() {
            could += (at - now) * 50;
            did += (at - now) * busy;
        }
        now = at;
        night.ended(job, Verdict::Passed, now);
    }
    assert!(did * 100 > could * 95, "busy for {did:?} of {could:?}");
}

proptest! {
    #[test]
    fn every_job_ends_once_and_no_device_has_two_runs(
        jobs in prop::collection::vec((1_u64..300, 0_usize..3, 0_u32..10), 1..60),
        devices in prop::collection::vec(0_usize..3, 0..8),
        deadline in 50_u64..3000,
    ) {
        let models = [Model::Pi4B, Model::Pi5, Model::VmAarch64];
        let devices: Vec<Device> = devices.iter().enumerate().map(|(n, m)| device(n, models[*m])).collect();
        let list = jobs.iter().map(|(seconds, model, _)| job(*seconds, Some(models[*model]))).collect();
        let mut night = Night::new(list, devices, POLICY, Duration::from_secs(deadline));
        let (mut now, mut ends) = (Duration::ZERO, vec![0; jobs.len()]);
        let mut running: Vec<(Duration, usize, Vec<DeviceId>)> = Vec::new();
        while !night.is_over() {
            for action in night.next(now) {
                match action {
                    Action::Start { job, devices, budget, .. } => {
                        prop_assert!(running.iter().all(|(_, _, used)| used.iter().all(|d| !devices.contains(d))));
                        prop_assert!(now + night.jobs[job].expected <= night.deadline);
                        prop_assert_eq!(budget, POLICY.attempt);
                        running.push((now + Duration::from_secs(jobs[job].0), job, devices));
                    }
                    Action::End { job, .. } => ends[job] += 1,
                }
            }
            let Some(first) = running.iter().enumerate().min_by_key(|(_, r)| r.0).map(|(at, _)| at) else {
                prop_assert!(night.is_over(), "nothing runs, and jobs wait");
                break;
            };
            let (at, job, _) = running.swap_remove(first);
            now = at;
            let verdict = match jobs[job].2 { 0 => Verdict::Device, 1 => Verdict::Lab, 2 => Verdict::Failed, _ => Verdict::Passed };
            ends[job] += usize::from(night.ended(job, verdict, now).is_some());
        }
        prop_assert!(ends.iter().all(|count| *count == 1), "{:?}", ends);
    }
}
