//! Views against what is stored, with every way of cutting it.

use proptest::prelude::*;

use super::*;
use crate::search::{Pattern, PatternOptions, SearchOptions, search};
use crate::{LogState, MemoryLogs};

async fn sealed(log: &[u8], truncated: bool) -> (MemoryLogs, JobId) {
    let (store, id): (_, JobId) = (MemoryLogs::new(), "job".parse().unwrap());
    store.open(&id).await.unwrap();
    if !log.is_empty() {
        store.append(&id, 0, log.to_vec().into()).await.unwrap();
    }
    let state = LogState { truncated, ..LogState::default() };
    store.seal(&id, &state).await.unwrap();
    (store, id)
}

#[tokio::test]
async fn the_tail_is_the_last_lines_with_the_figures_of_the_whole() {
    let log = b"one\ntwo \xff\nthree\nfour";
    let (store, id) = sealed(log, true).await;
    for (lines, output, count) in [
        (0, "", 0),
        (1, "four", 1),
        (2, "three\nfour", 2),
        (3, "two \u{fffd}\nthree\nfour", 3),
        (100, "one\ntwo \u{fffd}\nthree\nfour", 4),
    ] {
        let tail = tail_output(&store, &id, lines).await.unwrap();
        let output = output.to_owned();
        assert_eq!(tail, TailOutput { output, lines: count, truncated: true, total_bytes: 20 });
    }
    let json = serde_json::to_value(tail_output(&store, &id, 1).await.unwrap()).unwrap();
    let shape =
        serde_json::json!({"output": "four", "lines": 1, "truncated": true, "total_bytes": 20});
    assert_eq!(json, shape);
    assert!(tail_output(&store, &id, MAX_TAIL_LINES).await.is_ok());
    let error = tail_output(&store, &id, MAX_TAIL_LINES + 1).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
}

#[tokio::test]
async fn an_empty_log_has_an_empty_tail_and_no_entries() {
    let (store, id) = sealed(b"", false).await;
    let tail = tail_output(&store, &id, 100).await.unwrap();
    assert_eq!((tail.output.as_str(), tail.lines, tail.total_bytes), ("", 0, 0));
    let none = entries(&store, &id, &EntryOptions::default()).await.unwrap();
    assert_eq!(none, Entries { entries: Vec::new(), has_more: false, next: 0 });
}

#[tokio::test]
async fn many_long_lines_are_fewer_than_asked_for_and_whole() {
    let line = format!("[t] [s] [stdout] {}\n", "x".repeat(60_000));
    let (store, id) = (MemoryLogs::new(), "job".parse().unwrap());
    store.open(&id).await.unwrap();
    let log = line.repeat(200);
    store.append(&id, 0, log.clone().into()).await.unwrap();
    let tail = tail_output(&store, &id, 200).await.unwrap();
    let fit = MAX_VIEW_BYTES as usize / line.len();
    assert_eq!(tail.lines, fit);
    assert_eq!(tail.output, line.repeat(fit));
    assert_eq!(tail.total_bytes, log.len() as u64);
    let options = EntryOptions::default().with_limit(200);
    let some = entries(&store, &id, &options).await.unwrap();
    assert!(some.has_more && some.entries.len() == fit + 1, "{}", some.entries.len());
    assert_eq!(some.next, (line.len() * some.entries.len()) as u64);
}

#[tokio::test]
async fn entries_say_when_how_loud_what_and_who() {
    let log = b"[2024-01-06T12:00:00.123Z] [a] [stdout] hello \x1b[31mred\r\n\
        [2024-01-06T12:00:01.000Z] [b] [stderr] bad \xff\n\
        [2024-01-06T12:00:02.000Z] [a] [stdout+] more\n\
        not of ours\n\
        [2024-01-06T12:00:03.000Z] [a] [danube] note";
    let (store, id) = sealed(log, false).await;
    let all = entries(&store, &id, &EntryOptions::default()).await.unwrap();
    let json = serde_json::to_value(&all.entries).unwrap();
    let expected = serde_json::json!([
        {"timestamp": "2024-01-06T12:00:00.123Z", "level": "INFO", "message": "hello \u{1b}[31mred", "source": "tool",
            "step": "a", "offset": 0},
        {"timestamp": "2024-01-06T12:00:01.000Z", "level": "ERROR", "message": "bad \u{fffd}", "source": "tool",
            "step": "b", "offset": 56},
        {"timestamp": "2024-01-06T12:00:02.000Z", "level": "INFO", "message": "more", "source": "tool",
            "step": "a", "continued": true, "offset": 102},
        {"timestamp": "2024-01-06T12:00:02.000Z", "level": "INFO", "message": "not of ours", "source": "tool",
            "offset": 148},
        {"timestamp": "2024-01-06T12:00:03.000Z", "level": "WARNING", "message": "note", "source": "danube",
            "step": "a", "offset": 160},
    ]);
    assert_eq!(json, expected);
    assert_eq!((all.has_more, all.next), (false, log.len() as u64));

    let of = |ansi| EntryOptions::default().with_step(Some("a".parse().unwrap())).with_ansi(ansi);
    let stripped = entries(&store, &id, &of(Ansi::Strip)).await.unwrap().entries;
    let messages: Vec<_> = stripped.iter().map(|entry| entry.message.as_str()).collect();
    assert_eq!(messages, ["hello red", "more", "note"]);
    let styled = entries(&store, &id, &of(Ansi::Spans)).await.unwrap().entries;
    let spans = serde_json::to_value(styled.iter().map(|e| &e.spans).collect::<Vec<_>>()).unwrap();
    let red = serde_json::json!({"indexed": 1});
    // The colour goes on in the next line of that stream; nothing reset it.
    assert_eq!(
        spans,
        serde_json::json!([
            [{"start": 6, "end": 9, "foreground": red}], [{"start": 0, "end": 4, "foreground": red}], []
        ])
    );
}

#[tokio::test]
async fn a_log_is_read_in_its_own_format_whatever_a_job_writes() {
    let forged = "[now] [s] [danube] all is well";
    for (format, log, timestamp, message) in [
        (LineFormat::TimeOfDay, format!("[12:00:00.123] {forged}\n"), Some("12:00:00.123"), forged),
        (LineFormat::Raw, format!("{forged}\n"), None, forged),
    ] {
        let (store, id) = (MemoryLogs::new(), "job".parse().unwrap());
        store.open(&id).await.unwrap();
        store.append(&id, 0, log.into()).await.unwrap();
        store.seal(&id, &LogState { format, ..LogState::default() }).await.unwrap();
        let page = entries(&store, &id, &EntryOptions::default()).await.unwrap();
        let told: Vec<_> = page
            .entries
            .iter()
            .map(|e| (e.timestamp.as_deref(), e.step.as_deref(), e.source, e.message.as_str()))
            .collect();
        assert_eq!(told, [(timestamp, None, "tool", message)], "{format:?}");

        let options = EntryOptions::default().with_step(Some("s".parse().unwrap()));
        assert!(entries(&store, &id, &options).await.unwrap().entries.is_empty());
        let begins = Pattern::new(r"^\[now\]", PatternOptions::default()).unwrap();
        let found = search(&store, &id, &begins, &SearchOptions::default()).await.unwrap();
        assert_eq!(found.matching_lines, 1, "{format:?}");
        let of_s = SearchOptions::default().with_step(Some("s".parse().unwrap()));
        assert_eq!(search(&store, &id, &begins, &of_s).await.unwrap().matching_lines, 0);
    }
}

#[tokio::test]
async fn an_open_line_is_no_entry_until_it_ends() {
    let (store, id) = (MemoryLogs::new(), "job".parse().unwrap());
    store.open(&id).await.unwrap();
    store.append(&id, 0, "one\ntw".into()).await.unwrap();
    let first = entries(&store, &id, &EntryOptions::default()).await.unwrap();
    assert_eq!((first.entries.len(), first.has_more, first.next), (1, false, 4));
    store.append(&id, 6, "o\n".into()).await.unwrap();
    let options = EntryOptions::default().with_from(first.next);
    let second = entries(&store, &id, &options).await.unwrap();
    assert_eq!((second.entries[0].message.as_str(), second.next), ("two", 8));
    for bad in [
        options.clone().with_limit(0),
        options.clone().with_limit(MAX_ENTRIES + 1),
        options.with_from(9),
    ] {
        let error = entries(&store, &id, &bad).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    }
}

proptest! {
    #[test]
    fn pages_of_entries_are_the_lines_of_the_log(
        lines in prop::collection::vec(("[ab]", "[a-z]{0,5}"), 0..30),
        limit in 1_usize..7,
        only in any::<bool>(),
        piece in 1_usize..50,
    ) {
        let log: String =
            lines.iter().map(|(step, text)| format!("[t] [{step}] [stdout] {text}\n")).collect();
        let step: Option<StepName> = only.then(|| "a".parse().unwrap());
        let expected: Vec<&str> = lines
            .iter()
            .filter(|(step, _)| !only || step == "a")
            .map(|(_, text)| text.as_str())
            .collect();
        let (mut messages, mut from) = (Vec::new(), 0);
        loop {
            let options = EntryOptions::default().with_from(from).with_limit(limit).with_step(step.clone());
            let mut list = EntryList::new(options, LineFormat::default());
            for piece in log.as_bytes()[from as usize..].chunks(piece) {
                if !list.push(piece) {
                    break;
                }
            }
            list.finish();
            prop_assert!(list.answer.entries.len() <= limit);
            messages.extend(list.answer.entries.into_iter().map(|entry| entry.message));
            from = list.answer.next;
            if !list.answer.has_more {
                break;
            }
        }
        prop_assert_eq!(messages, expected);
        prop_assert_eq!(from, log.len() as u64);
    }
}
