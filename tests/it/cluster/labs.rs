//! One person, two labs on one cluster: what there is in both, and which of them is away.

use super::{Site, lab};
use crate::support::program::{Program, end, finish, signal};
use rustix::process::Signal;
use serde_json::Value;
use std::path::Path;
use std::process::Stdio;

async fn call(logins: &Path, args: &[&str]) -> crate::support::program::Ended {
    let nowhere = logins.join("nowhere");
    let command = Program::new("").command(args);
    let command = command.env("PILAB_LOGINS", logins.to_str().unwrap());
    let command = command.env("PILAB_STATE_DIR", nowhere.to_str().unwrap());
    end(command.build().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()).await
}

fn of<'a>(rows: &'a [Value], lab: &str) -> Vec<&'a Value> {
    rows.iter().filter(|row| row["lab"] == lab).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_labs_are_seen_and_one_that_is_away_is_named() {
    let Some(site) = Site::start().await else { return };
    let logins = tempfile::tempdir().unwrap();
    call(logins.path(), &["devices", "--all-labs"]).await.refused("no login of any lab");
    let (east, west) = tokio::join!(lab(&site, "east", 2), lab(&site, "west", 1));
    let (one, mut two) = tokio::join!(east.coordinator(), west.coordinator());
    for (name, lab) in [("east", &east), ("west", &west)] {
        let login = lab.login("ann", "user").await;
        std::fs::rename(login, logins.path().join(format!("{name}.json"))).unwrap();
    }
    let rows = call(logins.path(), &["devices", "--all-labs", "--json"]).await.done().json();
    assert_eq!((of(&rows, "east").len(), of(&rows, "west").len()), (2, 1), "{rows:?}");
    assert_eq!(of(&rows, "west")[0]["id"], "west-pi-1");
    // Neither lab's login is worth anything in the other.
    let east_login = logins.path().join("east.json");
    let text = std::fs::read_to_string(&east_login).unwrap().replace("\"east\"", "\"west\"");
    let forged = logins.path().join("forged");
    std::fs::write(&forged, text).unwrap();
    std::fs::set_permissions(&forged, std::fs::metadata(&east_login).unwrap().permissions()).unwrap();
    west.as_user(&forged, &["devices"]).await.refused("may not publish");

    // Whoever asks for any lab gets what is free, where it is; what no lab has is refused with each one's reason.
    let any = async |args: &[&str]| {
        call(logins.path(), &[&["reserve", "--any-lab", "--json"], args].concat()).await
    };
    let pair = any(&["--count", "2"]).await.done();
    assert_eq!(pair.json()[0]["devices"], serde_json::json!(["east-pi-1", "east-pi-2"]), "{}", pair.stderr);
    let one_left = any(&[]).await.done();
    assert_eq!(one_left.json()[0]["devices"], serde_json::json!(["west-pi-1"]));
    assert!(one_left.stderr.contains("lab west: --login "), "{}", one_left.stderr);
    any(&["--count", "3"]).await.refused("can never be met");
    any(&["--no-wait", "--for", "1h"]).await.refused("not now");
    let queue = call(logins.path(), &["queue", "--all-labs", "--json"]).await.done().json();
    assert_eq!(
        (of(&queue, "east").len(), of(&queue, "west").len()),
        (1, 1),
        "asking leaves nothing: {queue:?}"
    );

    signal(&two, Signal::KILL);
    two.wait().await.unwrap();
    let both = call(logins.path(), &["devices", "--all-labs"]).await.done();
    assert!(both.stdout.contains("east-pi-2"), "{}", both.stdout);
    assert!(both.stdout.contains("lab west is away: its coordinator does not answer"), "{}", both.stdout);
    let rows = call(logins.path(), &["queue", "--all-labs", "--json"]).await.done().json();
    assert_eq!(of(&rows, "west")[0]["away"], "its coordinator does not answer");
    finish(one).await;
    assert_eq!(call(logins.path(), &["devices", "--all-labs"]).await.code, Some(4));
}
