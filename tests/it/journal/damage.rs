//! What a crash or a bad disk leaves of a journal.

use super::*;

#[tokio::test]
async fn a_tail_torn_at_any_byte_is_cut_and_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let open = Open::at(dir.path()).await;
    let mut ends = Vec::new();
    for (index, text) in ["one", "two", "three"].into_iter().enumerate() {
        open.handle.console(BootAttempt(1), 10 * index as u64, Bytes::from(text)).await.unwrap();
        ends.push(fs::metadata(&segments(dir.path())[0]).unwrap().len());
    }
    open.close().await;
    let path = segments(dir.path()).remove(0);
    let whole = fs::read(&path).unwrap();
    for length in 0..=whole.len() {
        let torn = tempfile::tempdir().unwrap();
        fs::write(torn.path().join(path.file_name().unwrap()), &whole[..length]).unwrap();
        let open = Open::at(torn.path()).await;
        open.handle.event(BootAttempt(1), run("after")).await.unwrap();
        let all = entries(read_all(&open.handle, Since::Start).await);
        let kept = ends.iter().filter(|end| **end <= length as u64).count();
        let consoles = all.iter().filter(|entry| matches!(entry, Entry::Console { .. })).count();
        assert_eq!(consoles, kept, "{length} bytes left: {all:?}");
        let cut: Vec<_> = all.iter().filter(|entry| matches!(entry, Entry::Cut { .. })).collect();
        let clean = length == whole.len() || length == 0 || ends.contains(&(length as u64));
        assert!(cut.len() <= 1 && (!clean || cut.is_empty()), "{length} bytes left: {all:?}");
        if kept > 0 && !clean {
            let bytes = length as u64 - ends[kept - 1];
            assert_eq!(cut, [&Entry::Cut { bytes }], "{length} bytes left");
        }
        assert_eq!(all.last(), Some(&Entry::Event(run("after"))));
        open.close().await;
    }
}

#[tokio::test]
async fn damage_in_an_old_segment_is_told_and_read_over() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 600, total_bytes: 1 << 20, ..Options::default() };
    let open = Open::with(dir.path(), options.clone()).await;
    for index in 0..12 {
        open.handle.console(BootAttempt(1), 100 * index, Bytes::from(vec![b'x'; 100])).await.unwrap();
    }
    open.close().await;
    let second = segments(dir.path()).remove(1);
    let mut bytes = fs::read(&second).unwrap();
    let length = bytes.len();
    bytes[length - 10] ^= 1;
    fs::write(&second, bytes).unwrap();
    let open = Open::with(dir.path(), options).await;
    let all = read_all(&open.handle, Since::Start).await;
    let missing: Vec<_> = all.iter().filter(|item| matches!(item, Item::Missing { .. })).collect();
    let [Item::Missing { from, to, cause: Missing::Damaged }] = missing[..] else { panic!("{missing:?}") };
    assert_eq!(to - from, 1, "one record was damaged");
    let there = all.iter().filter(|item| matches!(item, Item::Record(_))).count();
    assert_eq!(there, 11);
    open.close().await;
}

#[tokio::test]
async fn a_segment_that_was_only_begun_takes_nothing_of_what_was_known() {
    let dir = tempfile::tempdir().unwrap();
    let open = Open::at(dir.path()).await;
    open.handle.console(BootAttempt(1), 0, Bytes::from_static(b"hello")).await.unwrap();
    let intent = Event::PowerIntent { state: PowerState::On, token: TOKEN };
    let last = open.handle.event_synced(BootAttempt(2), intent).await.unwrap();
    open.close().await;
    let open = Open::at(dir.path()).await;
    open.handle.event(BootAttempt(2), run("after")).await.unwrap();
    open.close().await;
    let [_, second] = &segments(dir.path())[..] else { panic!("a segment for each process") };
    let whole = fs::read(second).unwrap();
    // Its header, which names the host's boot, and its first record, the summary.
    for length in (0..whole.len()).step_by(7) {
        fs::write(second, &whole[..length]).unwrap();
        let open = Open::at(dir.path()).await;
        let recovered = open.handle.recovered();
        assert_eq!((recovered.attempt, recovered.console_offset), (BootAttempt(2), 5), "cut at {length}");
        assert!(recovered.intent.is_some(), "cut at {length}");
        let next = open.handle.event(BootAttempt(2), run("after")).await.unwrap();
        assert!(next.sequence > last.sequence, "cut at {length}");
        open.close().await;
        segments(dir.path())[1..].iter().for_each(|path| fs::remove_file(path).unwrap());
    }
}

#[tokio::test]
async fn damage_in_the_last_segment_is_set_aside_with_what_is_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let open = Open::at(dir.path()).await;
    let mut ends = Vec::new();
    for index in 0..5 {
        open.handle.console(BootAttempt(1), 100 * index, Bytes::from(vec![b'x'; 100])).await.unwrap();
        ends.push(usize::try_from(fs::metadata(&segments(dir.path())[0]).unwrap().len()).unwrap());
    }
    let last = open.handle.event(BootAttempt(1), run("last")).await.unwrap();
    open.close().await;
    let path = segments(dir.path()).remove(0);
    let whole = fs::read(&path).unwrap();
    let mut bytes = whole.clone();
    bytes[ends[1] - 10] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let open = Open::at(dir.path()).await;
    assert_eq!(fs::read(path.with_extension("damaged")).unwrap(), bytes);
    assert_eq!(fs::read(&path).unwrap(), whole[..ends[0]]);
    let next = open.handle.event(BootAttempt(1), run("after")).await.unwrap();
    assert!(next.sequence > last.sequence, "no number is given twice: {next:?}");
    let all = read_all(&open.handle, Since::Start).await;
    let (there, missing): (Vec<Item>, Vec<Item>) =
        all.into_iter().partition(|item| matches!(item, Item::Record(_)));
    assert!(matches!(missing[..], [Item::Missing { cause: Missing::Damaged, .. }]), "{missing:?}");
    let cut = Entry::Cut { bytes: (whole.len() - ends[0]) as u64 };
    assert_eq!(entries(there)[1..], [cut, Entry::Event(run("after"))]);
    open.close().await;
}
