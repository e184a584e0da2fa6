//! Calls in any order, beside a vector of bytes.

use bytes::Bytes;
use danube_core::ByteRange;

use super::{Owners, all, id, state};
use crate::{Error, LogPhase, LogState, LogStoreExt};

/// Whatever is called in whatever order, the log is a vector of bytes that only grows, until it is deleted.
pub async fn calls_in_any_order_are_those_on_a_vector(owners: Owners<'_>) {
    const CALLS: u64 = 400;
    // xorshift64: the same each time.
    let mut dice = 0x2545_f491_4f6c_dd1d_u64;
    let mut roll = |sides: u64| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        dice % sides
    };
    let (mut store, other, log) = (owners(), owners(), id("a"));
    store.open(&log).await.expect("opened");
    let (mut model, mut saved) = (Vec::<u8>::new(), LogState::default());
    for call in 0..CALLS {
        let len = model.len() as u64;
        match roll(10) {
            0..=2 => {
                let piece: Vec<u8> =
                    (0..roll(700)).map(|_| b"\nabcdefghi"[roll(10) as usize]).collect();
                model.extend_from_slice(&piece);
                let end = store.append(&log, len, piece.into()).await.expect("appended");
                assert_eq!(end, model.len() as u64, "call {call}");
            }
            3 => {
                let at = len + 1 + roll(9);
                let elsewhere = store.append(&log, at, Bytes::from_static(b"x\n")).await;
                assert!(matches!(elsewhere, Err(Error::OffsetConflict { .. })), "{elsewhere:?}");
            }
            4 => {
                let start = roll(len + 2);
                let range = ByteRange::with_len(start, roll(900));
                let index = |at: u64| at.min(len) as usize;
                let expected = &model[index(range.start)..index(range.end)];
                for store in [&store, &other] {
                    let read = store.read(&log, range).await.expect("readable");
                    assert!(read == expected, "call {call}: {range}");
                }
            }
            5 => {
                saved = LogState { omitted_lines: call, ..state(false) };
                store.sync(&log, &saved).await.expect("synced");
            }
            6 => {
                let lines: Vec<usize> = model
                    .split_inclusive(|&b| b == b'\n')
                    .scan(0, |at, line| Some(std::mem::replace(at, *at + line.len())))
                    .collect();
                let line = roll(lines.len() as u64 + 2);
                let expected = lines.get(line as usize).map(|&at| at as u64);
                for store in [&store, &other] {
                    let found = store.line_offset(&log, line).await.expect("looked");
                    assert_eq!(found, expected, "call {call}: line {line}");
                    let back = lines.len().saturating_sub(line as usize);
                    let begins = lines.get(back).map_or(len, |&at| at as u64);
                    let found = store.tail_offset(&log, line as usize).await.expect("looked");
                    assert_eq!(found, begins, "call {call}: the last {line} lines");
                }
            }
            7 => {
                let stat = other.stat(&log).await.expect("there");
                assert_eq!((stat.len, stat.phase, &*stat.state), (len, LogPhase::Open, &saved));
                if len > 0 {
                    let seen = other.changed(&log, roll(len)).await.expect("there already");
                    assert_eq!(seen.len, len, "call {call}");
                }
            }
            // Its owner is gone, or lets go; another one goes on.
            8 => {
                let next = owners();
                match roll(2) {
                    0 => store.release(&log),
                    _ => drop(std::mem::replace(&mut store, next.clone())),
                }
                store = next;
                let stat = store.open(&log).await.expect("taken over");
                assert_eq!((stat.len, &*stat.state), (len, &saved), "call {call}");
            }
            _ if roll(4) == 0 => {
                saved = state(true);
                store.seal(&log, &saved).await.expect("sealed");
                assert!(all(&*store, &log).await == model && all(&*other, &log).await == model);
                store.release(&log);
                let stat = other.stat(&log).await.expect("there");
                assert_eq!((stat.len, stat.phase, &*stat.state), (len, LogPhase::Sealed, &saved));
                other.delete(&log).await.expect("deleted");
                store.open(&log).await.expect("the id is free");
                (model, saved) = (Vec::new(), LogState::default());
            }
            _ => assert!(all(&*other, &log).await == model, "call {call}"),
        }
    }
}
