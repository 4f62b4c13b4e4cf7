//! What a score says of its services, from the payload to what podman does, by the agent on real podman.

use crate::agent::lab::{Lab, service};
use crate::podman_host::{Podman, V1, kill, podman_or_return};
use crate::support::registry::Registry;
use pilab::agent::ports::{ContainerRuntime, RuntimeError};
use pilab::model::workload::{Phase, PullPolicy, Status};
use pilab::podman::images::PullTimes;
use serde_json::{Value, json};
use std::time::Duration;

/// A service of a shell script, with a directory of the host's at `/shared`.
fn shell(podman: &Podman, name: &str, script: &str) -> Value {
    let mut service = service(name, V1);
    service["args"] = json!(["sh", "-c", script]);
    service["volumes"] = json!([format!("{}:/shared", podman.shared().display())]);
    service
}

#[tokio::test]
async fn each_service_gets_the_time_to_end_that_it_asked_for_however_it_goes() {
    let podman = podman_or_return!();
    let Some(lab) = Lab::start().await else { return };
    let agent = lab.agent(podman.topology("lab-1"));
    // Both need four seconds to end in good order; one of them has but one.
    let score = |generation: u64| {
        ["patient", "hasty"].map(|name| {
            let end = format!("sleep 4; echo {name} {generation} >> /shared/ended; exit 0");
            let script =
                format!("trap '{end}' TERM; echo >> /shared/begun; while :; do sleep 1000 & wait; done");
            let mut service = shell(&podman, name, &script);
            service["stop_timeout"] = json!(if name == "patient" { 60 } else { 1 });
            service
        })
    };
    let begun = || std::fs::read_to_string(podman.shared().join("begun")).unwrap_or_default().lines().count();
    let ended = || std::fs::read_to_string(podman.shared().join("ended")).unwrap_or_default();
    lab.deploy("shop", 1, &score(1)).await;
    lab.phase("shop", Phase::Running).await;
    // Their traps are set.
    lab.until("both have begun", || begun() == 2).await;
    lab.deploy("shop", 2, &score(2)).await;
    lab.status("shop", |status| status.generation == 2 && status.phase == Phase::Running).await;
    assert_eq!(ended(), "patient 1\n", "replaced");
    lab.until("both have begun again", || begun() == 4).await;
    lab.delete("shop").await;
    lab.gone("shop").await;
    assert_eq!(ended(), "patient 1\npatient 2\n", "removed");
    agent.stop().await;
}

#[tokio::test]
async fn a_health_check_is_run_and_what_it_finds_is_told_and_acted_on() {
    let podman = podman_or_return!();
    let Some(lab) = Lab::start().await else { return };
    let agent = lab.agent(podman.topology("lab-1"));
    let checked = |word: &str| {
        let mut service =
            shell(&podman, "web", &format!("echo serving {word}; echo {word} > /word; exec sleep 1000"));
        let command = ["sh", "-c", "cat /word /shared/sick; [ ! -e /shared/sick ] && grep -q good /word"];
        service["stop_timeout"] = json!(0);
        service["health"] = json!({ "command": command, "interval": 1, "timeout": 20, "retries": 2 });
        service
    };
    let score = |word: &str, probation: u64| json!({ "services": [checked(word)], "probation": probation });
    lab.deploy_score("shop", 1, score("good", 1)).await;
    let first = lab.phase("shop", Phase::Running).await;
    lab.ledger("shop", |ledger| !ledger["good"].is_null()).await;

    // One that never passes is undone within its probation.
    lab.deploy_score("shop", 2, score("bad", 60)).await;
    let undone = lab.phase("shop", Phase::RolledBack).await;
    let rollback = undone.rollback.clone().unwrap();
    assert_eq!((rollback.from, rollback.to), (2, 1));
    assert!(rollback.cause.contains("web became unhealthy"), "{}", rollback.cause);
    let known = |status: &Status| status.services[0].end.clone().map(|end| (end.exit_code, end.log_tail));
    assert_eq!(known(&undone), Some((-1, "serving bad\n".to_owned())));

    // One that falls sick later is told with what its check printed, and made anew.
    let before = undone.services[0].id.clone();
    std::fs::write(podman.shared().join("sick"), "fever\n").unwrap();
    let sick = lab.status("shop", |status| status.reason == "Unhealthy").await;
    assert!(sick.message.contains("web is unhealthy") && sick.message.contains("fever"), "{}", sick.message);
    std::fs::remove_file(podman.shared().join("sick")).unwrap();
    let well = |status: &Status| {
        status.phase == Phase::RolledBack && status.services[0].id != before && status.reason.is_empty()
    };
    let last = lab.status("shop", well).await;
    assert_ne!(last.services[0].id, first.services[0].id);
    assert_eq!(known(&last), Some((-1, "serving good\n".to_owned())));
    agent.stop().await;
}

#[tokio::test]
async fn an_image_that_is_loaded_onto_the_device_is_used_and_never_fetched() {
    let podman = podman_or_return!();
    let Some(lab) = Lab::start().await else { return };
    let agent = lab.agent(podman.topology("lab-1"));
    // A registry that nobody can reach; the image is on the device only as an archive.
    let image = "127.0.0.1:1/loaded:1";
    let archive = podman.dir.path().join("loaded.tar");
    podman.run(&["tag", V1, image]).await;
    podman.run(&["save", "-q", "-o", archive.to_str().unwrap(), image]).await;
    podman.run(&["untag", V1, image]).await;
    let mut loaded = service("web", image);
    loaded["args"] = json!(["sleep", "1000"]);
    loaded["pull"] = json!("never");
    lab.deploy("shop", 1, &[loaded]).await;
    let missing = lab.status("shop", |status| status.reason == "ImageMissing").await;
    assert!(missing.message.contains("must not be fetched"), "{}", missing.message);
    assert_eq!(missing.phase, Phase::Pending, "it may yet be loaded");
    podman.run(&["load", "-q", "-i", archive.to_str().unwrap()]).await;
    let status = lab.phase("shop", Phase::Running).await;
    assert_eq!(status.services[0].image, image);
    agent.stop().await;
}

#[tokio::test]
async fn an_image_comes_from_its_registry_as_its_policy_says() {
    let mut podman = podman_or_return!();
    let registry = Registry::start().await;
    podman.set_registries(&registry.config()).await;
    let ((old, old_id), (new, new_id)) = (podman.layout("old").await, podman.layout("new").await);
    assert_ne!(old_id, new_id);
    let (topology, image) = (podman.topology("lab-1"), registry.image());
    let told = std::sync::Mutex::new(Vec::new());
    let progress = |line: &str| told.lock().unwrap().push(line.to_owned());
    let id = async || podman.run(&["image", "inspect", "--format", "{{.Id}}", &image]).await;

    registry.offer(&old);
    let never = topology.ensure_image(&image, PullPolicy::Never, &progress).await.unwrap_err();
    assert!(matches!(never, RuntimeError::ImageMissing { .. }), "{never}");
    assert_eq!((registry.asked(), told.lock().unwrap().len()), (0, 0));
    topology.ensure_image(&image, PullPolicy::IfMissing, &progress).await.unwrap();
    assert_eq!(id().await, old_id);
    let lines = std::mem::take(&mut *told.lock().unwrap());
    assert!(lines.iter().any(|line| line.contains("Copying blob")), "{lines:?}");

    let asked = registry.asked();
    registry.offer(&new);
    topology.ensure_image(&image, PullPolicy::IfMissing, &progress).await.unwrap();
    topology.ensure_image(&image, PullPolicy::Never, &progress).await.unwrap();
    assert_eq!((id().await, registry.asked()), (old_id, asked), "what is there is enough");
    topology.ensure_image(&image, PullPolicy::Always, &progress).await.unwrap();
    assert_eq!(id().await, new_id);

    registry.offer(std::path::Path::new("/none"));
    topology.ensure_image(&image, PullPolicy::Always, &progress).await.unwrap();
    let last = told.into_inner().unwrap().pop().unwrap();
    assert!(last.contains("what is on the device is used"), "{last}");
    assert_eq!(id().await, new_id);
}

/// One that accepts and says nothing: podman itself tries it for more than a minute.
#[tokio::test]
async fn a_silent_registry_holds_up_a_pull_only_for_its_time() {
    let podman = podman_or_return!();
    let silent = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).unwrap();
    let image = format!("{}/silent:1", silent.local_addr().unwrap());
    let whole = Duration::from_secs(1);
    let topology = podman.topology("lab-1").with_pull_times(PullTimes { whole, ..PullTimes::default() });
    let error = topology.ensure_image(&image, PullPolicy::IfMissing, &|_| {}).await.unwrap_err();
    assert!(matches!(error, RuntimeError::TimedOut { timeout, .. } if timeout == whole), "{error:?}");
    assert!(error.to_string().contains(&image), "{error}");
    // podman goes on answering.
    assert!(topology.list_managed_services().await.unwrap().is_empty());
}

/// podman writes no event at all: what was removed behind the agent's back is missed all the same.
#[tokio::test]
async fn a_container_that_is_removed_without_any_event_is_made_anew() {
    let mut podman = podman_or_return!();
    podman.set_events_logger("none").await;
    let Some(lab) = Lab::start().await else { return };
    let agent = podman.agent(&lab);
    let mut web = service("web", V1);
    web["args"] = json!(["sleep", "1000"]);
    lab.deploy("shop", 1, &[web]).await;
    let first = lab.phase("shop", Phase::Running).await.services[0].id.clone();
    podman.run(&["rm", "-f", "-t", "0", &first]).await;
    let runs_anew = |status: &Status| status.phase == Phase::Running && status.services[0].id != first;
    lab.status("shop", runs_anew).await;
    kill(agent).await;
}

/// The tag moves between two generations, and a rollback comes before or after the registry has gone.
#[tokio::test]
async fn a_rollback_fetches_nothing_and_runs_the_image_that_was_good() {
    let mut podman = podman_or_return!();
    let registry = Registry::start().await;
    podman.set_registries(&registry.config()).await;
    let ((old, old_id), (new, new_id)) = (podman.layout("old").await, podman.layout("new").await);
    let [old_id, new_id] = [old_id, new_id].map(|id| id.trim().to_owned());
    let Some(lab) = Lab::start().await else { return };
    let agent = lab.agent(podman.topology("lab-1"));
    let image = registry.image();
    let score = |script: &str, generation: u64| {
        let script = format!("echo $GENERATION >> /shared/runs; {script}");
        let mut web = shell(&podman, "web", &script);
        let mut prepare = shell(&podman, "prepare", "exit 0");
        for container in [&mut web, &mut prepare] {
            container["image"] = json!(image);
        }
        web["env"] = json!({ "GENERATION": generation.to_string() });
        web["pull"] = json!("always");
        web["restart"] = json!("no");
        web["stop_timeout"] = json!(0);
        json!({ "init_containers": [prepare], "services": [web], "probation": 1 })
    };
    let ran = async |name: &str| {
        let name = format!("lab-1.{name}.web");
        podman.run(&["inspect", "--format", "{{.Image}}", &name]).await.trim().to_owned()
    };
    for (shop, registry_stays) in [("open", true), ("gone", false)] {
        registry.offer(&old);
        lab.deploy_score(shop, 1, score("exec sleep 1000", 1)).await;
        let first = lab.phase(shop, Phase::Running).await;
        lab.ledger(shop, |ledger| ledger["good"].is_object()).await;
        assert_eq!(ran(shop).await, old_id);

        // What is to be undone runs until it is told to end.
        registry.offer(&new);
        let bad = "while [ ! -e /shared/end ]; do sleep 0.1; done; exit 5";
        lab.deploy_score(shop, 2, score(&format!("echo broken; {bad}"), 2)).await;
        lab.until("the second generation runs", || {
            std::fs::read_to_string(podman.shared().join("runs")).unwrap_or_default().ends_with("2\n")
        })
        .await;
        assert_eq!(ran(shop).await, new_id, "it fetched the image that the tag had moved to");
        if !registry_stays {
            registry.offer(std::path::Path::new("/none"));
        }
        let asked = registry.asked();
        std::fs::write(podman.shared().join("end"), "").unwrap();
        let undone = lab.phase(shop, Phase::RolledBack).await;
        assert_eq!((ran(shop).await, registry.asked()), (old_id.clone(), asked), "{shop}");
        let rollback = undone.rollback.clone().unwrap();
        assert_eq!((rollback.from, rollback.to), (2, 1));
        assert_eq!(undone.services[0].image, old_id, "no name is left of it");
        let prepared = |status: &Status| status.init_containers[0].end.clone().unwrap().image_digest;
        assert_eq!(prepared(&undone), prepared(&first), "init containers go back too");

        // A look that sees it as it should be changes nothing: the hash is that of what was asked for.
        let id = podman.run(&["inspect", "--format", "{{.Id}}", &format!("lab-1.{shop}.web")]).await;
        lab.deploy_score(&format!("{shop}-other"), 1, json!({ "services": [] })).await;
        lab.phase(&format!("{shop}-other"), Phase::Running).await;
        assert_eq!(undone.services[0].id, id.trim());
        let still = podman.run(&["inspect", "--format", "{{.Id}}", &format!("lab-1.{shop}.web")]).await;
        assert_eq!(still, id);
        std::fs::remove_file(podman.shared().join("end")).unwrap();
        lab.delete(shop).await;
        lab.gone(shop).await;
    }

    // Without the image there is nothing to go back to, and that is told.
    registry.offer(&old);
    lab.deploy_score("shop", 1, score("exec sleep 1000", 1)).await;
    lab.phase("shop", Phase::Running).await;
    lab.ledger("shop", |ledger| ledger["good"].is_object()).await;
    registry.offer(&new);
    lab.deploy_score("shop", 2, score("while [ ! -e /shared/end ]; do sleep 0.1; done; exit 5", 2)).await;
    lab.status("shop", |status| status.generation == 2 && status.phase == Phase::Running).await;
    podman.run(&["rmi", &old_id]).await;
    let asked = registry.asked();
    std::fs::write(podman.shared().join("end"), "").unwrap();
    let missing = lab.status("shop", |status| status.reason == "ImageMissing").await;
    assert!(missing.message.contains("going back to generation 1"), "{}", missing.message);
    assert!(missing.message.contains(&old_id), "{}", missing.message);
    assert_eq!((missing.phase, registry.asked()), (Phase::Pending, asked));
    agent.stop().await;
}
