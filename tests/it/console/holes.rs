//! What was not recorded of a console is told.

use super::*;

#[tokio::test]
async fn while_the_journal_fails_the_line_is_read_and_the_hole_is_a_gap() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, away) = (parent.path().join("journal"), parent.path().join("away"));
    let journal = Open::with(
        &dir,
        pilab::journal::Options { segment_bytes: 1, total_bytes: 1 << 20, ..Default::default() },
    )
    .await;
    let rig = Rig::new(&journal.handle);
    let mut line = rig.plug().await;
    rig.console.begin(ONE).await.unwrap();
    line.write_all(b"Linux version 6.1.0\n").await.unwrap();
    rig.console.wait_stage(ONE, BootStage::Kernel, soon()).await.unwrap();
    std::fs::rename(&dir, &away).unwrap();
    line.write_all(b"pilab: initramfs\n").await.unwrap();
    let mut status = rig.console.status();
    let fault = status.wait_for(|status| status.fault.is_some()).await.unwrap().fault.clone().unwrap();
    assert!(fault.contains("the journal could not be written"), "{fault}");
    std::fs::rename(&away, &dir).unwrap();
    line.write_all(b"pilab: network 10.0.0.7\n").await.unwrap();
    rig.console.wait_stage(ONE, BootStage::Network, soon()).await.unwrap();
    assert_eq!(rig.console.stages().borrow().get(BootStage::Initramfs), None, "nothing unrecorded is shown");
    status.wait_for(|status| status.open && status.fault.is_none()).await.unwrap();
    rig.stop().await;
    let all = records(read_all(&journal.handle, Since::Start).await);
    assert_eq!(gaps(&all), [20, 61], "the hole, and the end");
    let after = all.iter().find_map(|record| match &record.entry {
        Entry::Console { offset: 37, bytes } => Some(bytes.clone()),
        _ => None,
    });
    assert_eq!(after.unwrap(), "pilab: network 10.0.0.7\n");
    journal.close().await;
}

#[tokio::test]
async fn a_hole_is_told_when_writing_works_again_though_nothing_more_comes() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, away) = (parent.path().join("journal"), parent.path().join("away"));
    let small = pilab::journal::Options { segment_bytes: 1, total_bytes: 1 << 20, ..Default::default() };
    let journal = Open::with(&dir, small).await;
    let rig = Rig::new(&journal.handle);
    let mut status = rig.console.status();
    let mut line = rig.plug().await;
    rig.console.begin(ONE).await.unwrap();
    for unplugs in [false, true] {
        std::fs::rename(&dir, &away).unwrap();
        if unplugs {
            rig.unplug(line).await;
            line = rig.plug().await;
        } else {
            line.write_all(b"pilab: initramfs\n").await.unwrap();
        }
        status.wait_for(|status| status.untold.is_some()).await.unwrap();
        // Whoever waited for what is lost must not hear that it was not there.
        let late = rig.console.wait_stage(ONE, BootStage::Initramfs, Instant::now()).await;
        assert!(matches!(late, Err(WaitError::Unrecorded { .. })), "{late:?}");
        std::fs::rename(&away, &dir).unwrap();
        let told = tokio::time::timeout_at(soon(), status.wait_for(|status| status.untold.is_none())).await;
        told.expect("it is told in time").unwrap();
        let late = rig.console.wait_stage(ONE, BootStage::Initramfs, Instant::now()).await;
        assert!(matches!(late, Err(WaitError::Deadline { .. })), "the journal tells of the hole: {late:?}");
    }
    let all = records(read_all(&journal.handle, Since::Start).await);
    assert_eq!(gaps(&all), [0, 17], "a hole each time");
    let events = all.iter().filter(|record| matches!(record.entry, Entry::Event(Event::ConsoleOpened {})));
    assert_eq!(events.count(), 3, "and after each its end");
    rig.stop().await;
    journal.close().await;
}

/// The clock leaps to the deadline once all that is there has been read.
#[tokio::test(start_paused = true)]
async fn who_waits_is_told_that_a_part_of_the_journal_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let small = pilab::journal::Options { segment_bytes: 1, total_bytes: 1 << 20, ..Default::default() };
    let journal = Open::with(dir.path(), small.clone()).await;
    for (offset, bytes) in [(0, "one\n"), (4, "two\n"), (8, "three\n")] {
        journal.handle.console(ONE, offset, bytes.into()).await.unwrap();
    }
    journal.close().await;
    let segments = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let mut damaged = 0;
    for path in segments.filter(|path| path.is_file()) {
        let mut bytes = std::fs::read(&path).unwrap();
        if bytes.ends_with(b"two\n") {
            *bytes.last_mut().unwrap() ^= 1;
            std::fs::write(path, bytes).unwrap();
            damaged += 1;
        }
    }
    assert_eq!(damaged, 1);
    let journal = Open::with(dir.path(), small).await;
    let rig = Rig::new(&journal.handle);
    let wait = async |pattern: &str| {
        let pattern = Regex::new(pattern).unwrap();
        rig.console.wait_pattern(WaitFrom::Attempt(ONE), &pattern, soon()).await
    };
    let late = wait("^two$").await;
    assert!(
        matches!(&late, Err(WaitError::Unrecorded { cause, .. }) if cause.contains("damaged")),
        "{late:?}"
    );
    assert_eq!(wait("^three$").await.unwrap().line, "three", "what is there is found");
    rig.stop().await;
    journal.close().await;
}

#[tokio::test]
async fn after_a_crash_the_time_without_a_reader_is_a_gap() {
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let journal = Open::at(dir.path()).await;
    let rig = Rig::new(&journal.handle);
    let mut line = rig.plug().await;
    rig.console.begin(BootAttempt(4)).await.unwrap();
    line.write_all(b"Linux version 6.1.0\n").await.unwrap();
    rig.console.wait_stage(BootAttempt(4), BootStage::Kernel, soon()).await.unwrap();
    // What is in the files now is what a kill would leave.
    copy_files(dir.path(), copy.path());
    rig.stop().await;
    journal.close().await;

    let journal = Open::at(copy.path()).await;
    let rig = Rig::new(&journal.handle);
    let mut line = rig.plug().await;
    let before = rig.console.wait_stage(BootAttempt(4), BootStage::Kernel, soon()).await.unwrap();
    assert_eq!(before.offset, 20, "what was reached before is known");
    line.write_all(b"pilab: initramfs\n").await.unwrap();
    let stage = rig.console.wait_stage(BootAttempt(4), BootStage::Initramfs, soon()).await.unwrap();
    assert_eq!(stage.offset, 37, "offsets go on, and so does the attempt");
    rig.stop().await;
    let all = records(read_all(&journal.handle, Since::Start).await);
    assert_eq!(gaps(&all), [20, 37]);
    assert_eq!(bytes(&all), b"Linux version 6.1.0\npilab: initramfs\n");
    journal.close().await;
}

fn copy_files(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}
