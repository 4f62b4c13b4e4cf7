//! The figures as Markdown.

use super::Figures;
use std::fmt::Write;
use std::time::Duration;

/// Bounds that the design sets.
const MAX_PSS_MIB: f64 = 6.0;
const MAX_IDLE_CPU: f64 = 0.1;
const MAX_START_RATIO: f64 = 1.2;
const MAX_EXIT_MS: f64 = 250.0;
const MAX_LOST_MS: f64 = 1000.0;

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn mib(bytes: u64) -> f64 {
    Duration::from_micros(bytes).as_secs_f64() * 1e6 / (1024.0 * 1024.0)
}

/// The value below which `share` of the samples lie: the nearest rank.
fn quantile(samples: &[Duration], share: f64) -> f64 {
    let mut sorted: Vec<f64> = samples.iter().map(|sample| ms(*sample)).collect();
    sorted.sort_by(f64::total_cmp);
    let below = sorted.iter().enumerate().take_while(|(n, _)| rank(*n, sorted.len()) < share).count();
    sorted[below.min(sorted.len() - 1)]
}

/// Which share of `count` samples the first `n` and one more are.
fn rank(n: usize, count: usize) -> f64 {
    f64::from(u32::try_from(n + 1).unwrap()) / f64::from(u32::try_from(count).unwrap())
}

fn spread(samples: &[Duration]) -> String {
    let at = |share| quantile(samples, share);
    format!("{:.0} ms (p5 {:.0}, p95 {:.0}, n {})", at(0.5), at(0.05), at(0.95), samples.len())
}

fn verdict(met: bool) -> &'static str {
    if met { "yes" } else { "**no**" }
}

/// Both tables.
pub(crate) fn markdown(figures: &Figures) -> String {
    let Figures { program_bytes, agent_start, bare_start, bare_return, exit, lost, idle, woken, steps } =
        figures;
    let mut text = String::from("| what | measured | bound | met |\n|---|---|---|---|\n");
    let mut row = |what: &str, measured: String, bound: String, met: Option<bool>| {
        let met = met.map_or("", verdict);
        writeln!(text, "| {what} | {measured} | {bound} | {met} |").unwrap();
    };
    let bound = |value: f64, unit: &str| format!("≤ {value} {unit}");
    let pss = mib(idle.pss);
    let measured = format!("{pss:.2} MiB, {} threads", idle.threads);
    row("memory (PSS), one deployment", measured, bound(MAX_PSS_MIB, "MiB"), Some(pss <= MAX_PSS_MIB));
    let seconds = idle.time.as_secs();
    let forked = if idle.forked { "some" } else { "none" };
    row(
        &format!("processes started in {seconds} idle seconds"),
        forked.into(),
        "none".into(),
        Some(!idle.forked),
    );
    let cpu = idle.cpu_percent();
    let wakeups = u32::try_from(idle.wakeups).unwrap();
    let measured = format!("{cpu:.3} %, {:.1} wake-ups/s", f64::from(wakeups) / idle.time.as_secs_f64());
    row("processor time meanwhile", measured, bound(MAX_IDLE_CPU, "%"), Some(cpu <= MAX_IDLE_CPU));
    let bare = 100.0 * woken.as_secs_f64() / idle.time.as_secs_f64();
    let what = "a thread that is woken as often and does nothing, meanwhile";
    row(what, format!("{bare:.3} %"), String::new(), None);
    row("KV put → container started", spread(agent_start), String::new(), None);
    row("bare `podman run -d` → container started", spread(bare_start), String::new(), None);
    row("bare `podman run -d` → it returned", spread(bare_return), String::new(), None);
    let ratio = quantile(agent_start, 0.5) / quantile(bare_start, 0.5);
    row(
        "ratio of the two starts",
        format!("{ratio:.2}"),
        bound(MAX_START_RATIO, ""),
        Some(ratio <= MAX_START_RATIO),
    );
    let met = quantile(exit, 0.95) <= MAX_EXIT_MS;
    row(
        "process of a service dies → status changed",
        spread(exit),
        bound(MAX_EXIT_MS, "ms (p95)"),
        Some(met),
    );
    let met = quantile(lost, 0.95) <= MAX_LOST_MS;
    row(
        "conmon killed → `RuntimeLost` in the status",
        spread(lost),
        bound(MAX_LOST_MS, "ms (p95)"),
        Some(met),
    );
    row("size of the program", format!("{:.2} MiB", mib(*program_bytes)), String::new(), None);

    text += "\n| deployments | added → all running | PSS | PSS per deployment more | CPU | podman's service: CPU |\n";
    text += "|---|---|---|---|---|---|\n";
    let mut before: Option<(usize, u64)> = None;
    for step in steps {
        let per = before.map_or_else(String::new, |(count, pss)| {
            let more = u32::try_from(step.deployments - count).unwrap();
            format!("{:.1} KiB", (mib(step.usage.pss) - mib(pss)) * 1024.0 / f64::from(more))
        });
        writeln!(
            text,
            "| {} | {} in {:.1} s | {:.2} MiB | {per} | {:.3} % | {:.2} % |",
            step.deployments,
            step.added,
            step.converged.as_secs_f64(),
            mib(step.usage.pss),
            step.usage.cpu_percent(),
            step.podman.cpu_percent(),
        )
        .unwrap();
        before = Some((step.deployments, step.usage.pss));
    }
    text
}
