//! Transfers step by step. Whole ones, over a bad network: the table's tests.

use super::*;
use crate::netboot::tftp::packet::Asked;

const SECOND: Duration = Duration::from_secs(1);

fn begin(length: u64, asked: Asked) -> (Transfer, Act, Instant) {
    let now = Instant::now();
    let terms = Terms::agree(&asked, length, 1468);
    let (transfer, act) = Transfer::new(length, terms, Patience::default(), now);
    (transfer, act, now)
}

fn data(first: u64, count: u16, offset: u64, bytes: usize) -> Act {
    Act::Data(Blocks { first, count, offset, bytes })
}

fn options(block_size: u16, window: Option<u16>) -> Asked {
    Asked { block_size: Some(block_size), length: true, timeout: None, window }
}

const DONE: Act = Act::End(Ending::Done { confirmed: true });

#[test]
fn a_client_without_options_gets_blocks_of_512_bytes_at_once() {
    let (mut transfer, act, now) = begin(1000, Asked::default());
    assert_eq!(act, data(1, 1, 0, 512));
    assert_eq!(transfer.terms().oack, None);
    assert_eq!(transfer.on_ack(1, now), data(2, 1, 512, 488));
    assert_eq!(transfer.acknowledged(), 512);
    assert_eq!(transfer.on_ack(2, now), DONE);
    assert_eq!(transfer.acknowledged(), 1000);
}

#[test]
fn an_exact_multiple_ends_in_an_empty_block_and_an_empty_file_is_one() {
    let (mut transfer, act, now) = begin(1024, Asked::default());
    assert_eq!(act, data(1, 1, 0, 512));
    assert_eq!(transfer.on_ack(1, now), data(2, 1, 512, 512));
    assert_eq!(transfer.on_ack(2, now), data(3, 1, 1024, 0));
    assert_eq!(transfer.on_ack(3, now), DONE);

    let (mut transfer, act, now) = begin(0, Asked::default());
    assert_eq!(act, data(1, 1, 0, 0));
    assert_eq!(transfer.on_ack(1, now), DONE);
}

#[test]
fn what_is_agreed_is_never_more_than_was_asked_nor_than_fits_a_frame() {
    let all = Asked { block_size: Some(65464), length: true, timeout: Some(3), window: Some(65535) };
    let terms = Terms::agree(&all, 7, 1468);
    assert_eq!((terms.block_size, terms.window, terms.timeout), (1468, 40, Some(3 * SECOND)));
    let oack = b"\0\x06tsize\x007\0blksize\x001468\0timeout\x003\0windowsize\x0040\0";
    assert_eq!(terms.oack.as_deref(), Some(&oack[..]));

    let terms = Terms::agree(&options(8, Some(2)), 0, 1468);
    assert_eq!((terms.block_size, terms.window), (8, 2));
    assert_eq!(Terms::agree(&options(8, Some(999)), 0, 1468).window, 64, "the kernel cuts into 64 at most");
    let large = Terms::agree(&options(65464, Some(4)), 0, 65464);
    assert_eq!((large.block_size, large.window), (65464, 1), "a window fits one send");
    let only = Terms::agree(&Asked { length: true, ..Asked::default() }, 9, 1468);
    assert_eq!(only.oack.as_deref(), Some(&b"\0\x06tsize\x009\0"[..]), "not a word of what nobody asked");
    assert_eq!(only.block_size, 512);
}

#[test]
fn an_ack_that_comes_twice_sends_nothing() {
    let (mut transfer, act, now) = begin(5000, options(1000, None));
    assert_eq!(act, Act::Oack);
    assert_eq!(transfer.on_ack(7, now), Act::Wait, "only 0 acknowledges an OACK");
    assert_eq!(transfer.on_ack(0, now), data(1, 1, 0, 1000));
    for block in [0, 2, 3, 65535, 0] {
        assert_eq!(transfer.on_ack(block, now), Act::Wait, "{block}");
    }
    assert_eq!(transfer.on_ack(1, now), data(2, 1, 1000, 1000));
    assert_eq!(transfer.on_ack(1, now), Act::Wait);
    assert_eq!(transfer.on_ack(1, now), Act::Wait);
}

#[test]
fn time_sends_again_with_doubled_pauses_and_gives_up() {
    let (mut transfer, _, start) = begin(5000, options(1000, None));
    assert_eq!(transfer.on_ack(0, start), data(1, 1, 0, 1000));
    let mut at = Vec::new();
    loop {
        let now = transfer.deadline();
        assert_eq!(transfer.on_time(now - Duration::from_millis(1)), Act::Wait);
        at.push((now - start).as_secs());
        match transfer.on_time(now) {
            Act::End(ending) => break assert_eq!(ending, Ending::Stalled),
            act => assert_eq!(act, data(1, 1, 0, 1000)),
        }
    }
    assert_eq!(at, [1, 3, 7, 15, 23, 31]);
}

#[test]
fn an_answer_gives_all_patience_back() {
    let (mut transfer, act, now) = begin(5000, options(1000, None));
    assert_eq!(act, Act::Oack);
    let later = transfer.deadline();
    assert_eq!(transfer.on_time(later), Act::Oack);
    assert_eq!(transfer.deadline(), later + 2 * SECOND);
    assert_eq!(transfer.on_ack(0, later), data(1, 1, 0, 1000));
    assert_eq!(transfer.deadline(), later + SECOND);
    assert!(!begin(1, options(8, None)).0.is_answered() && transfer.is_answered() && later > now);
}

#[test]
fn a_pause_that_the_client_asked_for_stands() {
    let asked = Asked { timeout: Some(20), ..Asked::default() };
    let (mut transfer, act, now) = begin(10, asked);
    assert_eq!(act, Act::Oack);
    assert_eq!(transfer.deadline(), now + 20 * SECOND);
    let due = transfer.deadline();
    assert_eq!(transfer.on_time(due), Act::Oack);
    assert_eq!(transfer.deadline(), due + 20 * SECOND);
}

#[test]
fn an_error_ends_it_at_once_and_after_the_last_block_it_may_be_done() {
    let (mut transfer, _, now) = begin(5000, options(1000, None));
    let ended = Act::End(Ending::Aborted { code: 0, message: "Early terminate".to_owned() });
    assert_eq!(transfer.on_error(0, "Early terminate".to_owned()), ended);

    let (mut transfer, _, _) = begin(10, Asked::default());
    assert_eq!(transfer.on_error(5, String::new()), Act::End(Ending::Done { confirmed: false }));
    let (mut transfer, _, _) = begin(10, Asked::default());
    assert!(matches!(transfer.on_error(0, String::new()), Act::End(Ending::Aborted { .. })));
    let (mut transfer, _, _) = begin(600, Asked::default());
    assert!(matches!(transfer.on_error(5, String::new()), Act::End(Ending::Aborted { .. })));
    assert!(now <= transfer.deadline());
}

#[test]
fn a_window_moves_on_with_its_last_block_and_begins_anew_at_a_lost_one() {
    let (mut transfer, _, now) = begin(10_000, options(1000, Some(4)));
    assert_eq!(transfer.on_ack(0, now), data(1, 4, 0, 4000));
    assert_eq!(transfer.on_ack(4, now), data(5, 4, 4000, 4000));
    assert_eq!(transfer.on_ack(5, now), data(6, 4, 5000, 4000), "6 is lost");
    assert_eq!(transfer.on_ack(5, now), Act::Wait, "told once is enough");
    assert_eq!(transfer.on_ack(9, now), data(10, 2, 9000, 1000), "the last blocks, one of them empty");
    assert_eq!(transfer.on_ack(9, now), data(10, 2, 9000, 1000), "10, the first of its window, is lost");
    assert_eq!(transfer.on_ack(9, now), Act::Wait, "once");
    assert_eq!(transfer.on_ack(4, now), Act::Wait, "late");
    assert_eq!(transfer.on_ack(11, now), DONE);
}

#[test]
fn zero_follows_65535() {
    let (mut transfer, _, now) = begin(8 * 70_000, options(8, None));
    let mut act = transfer.on_ack(0, now);
    for block in 1..=70_000_u64 {
        assert_eq!(act, data(block, 1, (block - 1) * 8, 8));
        act = transfer.on_ack(packet::wire_block(block), now);
    }
    assert_eq!(act, data(70_001, 1, 560_000, 0));
    assert_eq!(transfer.on_ack(packet::wire_block(70_001), now), DONE);
}
