//! Nights of 500 drawn runs on 50 drawn devices: planned, then run with other times than were thought.

use super::document::yes;
use super::random::Random;
use pilab::model::device::{Capability, Device, Model};
use pilab::model::id::DeviceId;
use pilab::model::run::Verdict;
use pilab::model::scenario::Need;
use pilab::plan::night::{Action, Job, Night, forecast};
use pilab::plan::retry::Policy;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

const RUNS: usize = 500;
const DEVICES: usize = 50;
/// How many nights are drawn.
const NIGHTS: u64 = 50;
const MODELS: [Model; 3] = [Model::Pi4B, Model::Pi5, Model::VmAarch64];
const POLICY: Policy =
    Policy { device: 1, lab: 1, attempt: Duration::from_secs(1800), cap: Duration::from_secs(5400) };
const LONG: Duration = Duration::from_secs(24 * 3600);

/// What a night came to.
struct Ended {
    /// From its begin to the end of its last run.
    length: Duration,
    /// The part of the time of all devices, while runs waited, in which they ran.
    busy: f64,
}

pub(crate) fn table(seed: u64) -> String {
    let (mut plans, mut busy, mut against_order, mut against_bound) = (vec![], vec![], vec![], vec![]);
    for night in 0..NIGHTS {
        let mut random = Random::new(seed.wrapping_add(night));
        let (jobs, devices, real) = drawn(&mut random);
        let begun = Instant::now();
        let (planned, left_out) = forecast(&mut Night::new(jobs.clone(), devices.clone(), POLICY, LONG));
        plans.push(begun.elapsed());
        assert_eq!((planned.len(), left_out.len()), (RUNS, 0), "seed {seed}, night {night}");
        let longest_first = run(&jobs, &devices, &real);
        // Equal expectations leave the order as it is.
        let same = Duration::from_secs(1);
        let in_order: Vec<Job> = jobs.iter().map(|job| Job { expected: same, ..job.clone() }).collect();
        let in_order = run(&in_order, &devices, &real);
        let all: Duration = real.iter().sum();
        let bound = (all / u32::try_from(DEVICES).unwrap()).max(*real.iter().max().unwrap());
        busy.push(longest_first.busy);
        against_order.push(longest_first.length.as_secs_f64() / in_order.length.as_secs_f64());
        against_bound.push(longest_first.length.as_secs_f64() / bound.as_secs_f64());
    }
    plans.sort_unstable();
    let slowest = plans.last().unwrap().as_secs_f64();
    let least = busy.iter().copied().fold(1.0, f64::min);
    let mean = |all: &[f64]| all.iter().sum::<f64>() / all.len() as f64;
    format!(
        "| nights of {RUNS} runs on {DEVICES} devices of 3 models, {NIGHTS} drawn | measured | bound | met |\n|---|---|---|---|\n\
         | a plan of the whole night | p50 {:.1} ms, slowest {:.1} ms | < 1 s | {} |\n\
         | devices busy while runs wait | mean {:.1} % | > 95 % | {} |\n\
         | nights in which it is so | {} of {NIGHTS}, least {:.1} % |  |  |\n\
         | length beside that of the same runs in the order of the plan | {:.3} |  |  |\n\
         | length beside what no order can beat | {:.3} |  |  |\n\n",
        plans[plans.len() / 2].as_secs_f64() * 1e3,
        slowest * 1e3,
        yes(slowest < 1.0),
        mean(&busy) * 100.0,
        yes(mean(&busy) > 0.95),
        busy.iter().filter(|busy| **busy > 0.95).count(),
        least * 100.0,
        mean(&against_order),
        mean(&against_bound),
    )
}

/// Runs, devices, and what each run really takes: half to one and a half times what is thought. One run in ten takes
/// ten times as long as the others.
fn drawn(random: &mut Random) -> (Vec<Job>, Vec<Device>, Vec<Duration>) {
    let device = |number: usize| {
        let model = MODELS[number % MODELS.len()];
        let capabilities = [Capability::Boot].into();
        let id = DeviceId::new(format!("lab-d-{number}")).unwrap();
        Device { id, backend: model.backend(), model, labels: BTreeMap::new(), capabilities }
    };
    let mut job = |number: usize| {
        let seconds = if random.percent(10) { 600 + random.below(600) } else { 30 + random.below(90) };
        let model = (!number.is_multiple_of(4)).then(|| MODELS[number % MODELS.len()]);
        let role = "dut".to_owned();
        let need = Need { role, model, capabilities: [Capability::Boot].into(), ..Need::default() };
        let real = Duration::from_secs(seconds).mul_f64(0.5 + random.below(1000) as f64 / 1000.0);
        (Job { needs: vec![need], expected: Duration::from_secs(seconds) }, real)
    };
    let (jobs, real) = (0..RUNS).map(&mut job).unzip();
    (jobs, (0..DEVICES).map(device).collect(), real)
}

fn run(jobs: &[Job], devices: &[Device], real: &[Duration]) -> Ended {
    let mut night = Night::new(jobs.to_vec(), devices.to_vec(), POLICY, LONG);
    let (mut now, mut running, mut begun) = (Duration::ZERO, Vec::new(), 0);
    let (mut could, mut did) = (Duration::ZERO, Duration::ZERO);
    while !night.is_over() {
        for action in night.next(now) {
            let Action::Start { job, .. } = action else { panic!("{action:?}") };
            running.push((now + real[job], job));
            begun += 1;
        }
        let first = (0..running.len()).min_by_key(|&at| running[at].0).unwrap();
        let busy = u32::try_from(running.len()).unwrap();
        let (at, job) = running.swap_remove(first);
        if begun < jobs.len() {
            could += (at - now) * u32::try_from(DEVICES).unwrap();
            did += (at - now) * busy;
        }
        now = at;
        night.ended(job, Verdict::Passed, now);
    }
    Ended { length: now, busy: did.as_secs_f64() / could.as_secs_f64() }
}
