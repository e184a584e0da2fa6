//! The search against a loop over lines, in every way of feeding it.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use proptest::prelude::*;

use super::*;
use crate::views::strip_ansi;
use crate::{LogState, MemoryLogs, parse_line};

type Compiled = (Pattern, regex::bytes::Regex);

/// A pattern, and the same for the loop. Compiled once: that takes longer than a search here.
fn compiled(pattern: &'static str, how: &PatternOptions) -> Compiled {
    type Key = (&'static str, [bool; 4]);
    static ALL: LazyLock<Mutex<HashMap<Key, Compiled>>> = LazyLock::new(Mutex::default);
    let within = how.within == Within::Line;
    let key = (pattern, [how.literal, how.ignore_case, how.ignore_ansi, within]);
    let mut all = ALL.lock().unwrap();
    let make = || {
        let text = if how.literal { regex::escape(pattern) } else { pattern.to_owned() };
        let naive =
            regex::bytes::RegexBuilder::new(&text).case_insensitive(how.ignore_case).build();
        (Pattern::new(pattern, how.clone()).unwrap(), naive.unwrap())
    };
    all.entry(key).or_insert_with(make).clone()
}

/// Whether a line matches, told in the simplest way.
fn naive_match(
    line: &[u8],
    regex: &regex::bytes::Regex,
    options: &PatternOptions,
    step: Option<&StepName>,
) -> bool {
    let parsed = parse_line(line);
    if step.is_some_and(|step| parsed.as_ref().is_none_or(|line| line.step != step.as_str())) {
        return false;
    }
    let part = match (options.within, parsed) {
        (Within::Content, Some(parsed)) => parsed.content,
        _ => line,
    };
    let part = part.strip_suffix(b"\r").unwrap_or(part);
    let stripped = strip_ansi(part).text;
    regex.is_match(if options.ignore_ansi { &stripped } else { part })
}

/// The numbers of the lines that are returned, and whether each matches; how many match; where the
/// first that is not returned is.
fn naive(
    log: &[u8],
    regex: &regex::bytes::Regex,
    how: &PatternOptions,
    options: &SearchOptions,
) -> (Vec<(u64, bool)>, u64, Option<u64>) {
    let step = options.step.as_ref();
    let lines: Vec<&[u8]> = match log {
        [] => Vec::new(),
        log => log.strip_suffix(b"\n").unwrap_or(log).split(|&b| b == b'\n').collect(),
    };
    let is_match: Vec<bool> =
        lines.iter().map(|line| naive_match(line, regex, how, step)).collect();
    let is_shown = |line: &[u8]| {
        step.is_none_or(|step| parse_line(line).is_some_and(|line| line.step == step.as_str()))
    };
    let shown: Vec<usize> = (0..lines.len()).filter(|&at| is_shown(lines[at])).collect();
    let mut matched = shown.iter().enumerate().filter(|(_, line)| is_match[**line]);
    let returned: Vec<usize> =
        matched.by_ref().take(options.max_matches).map(|(nth, _)| nth).collect();
    let more = matched.next().map(|(nth, _)| nth);
    let end = more.unwrap_or(shown.len());
    let mut told = Vec::new();
    for nth in 0..end {
        let near =
            |&at: &usize| at.saturating_sub(options.before) <= nth && nth <= at + options.after;
        if returned.iter().any(near) {
            told.push((shown[nth] as u64 + 1, is_match[shown[nth]]));
        }
    }
    let count = is_match.iter().filter(|yes| **yes).count() as u64;
    (told, count, more.map(|nth| shown[nth] as u64 + 1))
}

fn scanned(log: &[u8], piece: usize, pattern: &Pattern, options: &SearchOptions) -> Scanner {
    let mut scanner = Scanner::new(pattern.clone(), options.clone());
    for piece in log.chunks(piece) {
        scanner.push(piece);
    }
    scanner.finish();
    scanner
}

/// What is returned holds together: offsets, bytes and numbers are those of the log.
fn check_lines(log: &[u8], lines: &[FoundLine]) {
    let mut last = 0;
    for line in lines {
        assert!(line.number > last, "in order, none twice");
        last = line.number;
        let stored = &log[line.range.start as usize..line.range.end as usize];
        assert_eq!(stored.strip_suffix(b"\n").unwrap_or(stored), line.bytes);
        let before = &log[..line.range.start as usize];
        assert!(before.is_empty() || before.ends_with(b"\n"));
        assert_eq!(line.number, before.iter().filter(|b| **b == b'\n').count() as u64 + 1);
        assert!(line.spans.iter().all(|span| {
            line.range.start <= span.start && span.start < span.end && span.end <= line.range.end
        }));
        assert!(line.is_match || line.spans.is_empty());
    }
}

fn told(lines: &[FoundLine]) -> Vec<(u64, bool)> {
    lines.iter().map(|line| (line.number, line.is_match)).collect()
}

fn a_line() -> impl Strategy<Value = Vec<u8>> {
    let content = prop::collection::vec(
        prop::sample::select(vec![
            "foo", "Foo", "bar", " ", "1", "st", "dout", "\u{e9}", "\u{c9}", "\x1b[31m", "\x1b[0m",
            "\r", "[", "]",
        ]),
        0..6,
    );
    let prefix = prop::sample::select(vec![
        "[t1] [a] [stdout] ",
        "[t2] [b] [stderr] ",
        "[t3] [a] [danube] ",
        "",
    ]);
    (prefix, content, prop::option::weighted(0.1, any::<u8>())).prop_map(
        |(prefix, content, odd)| {
            let mut line = format!("{prefix}{}", content.concat()).into_bytes();
            line.extend(odd);
            line
        },
    )
}

fn a_log() -> impl Strategy<Value = Vec<u8>> {
    (prop::collection::vec(a_line(), 0..40), any::<bool>()).prop_map(|(lines, open)| {
        let mut log = lines.join(&b'\n');
        if !open {
            log.push(b'\n');
        }
        log
    })
}

fn a_pattern() -> impl Strategy<Value = (&'static str, PatternOptions)> {
    let patterns = prop::sample::select(vec![
        "foo",
        "^foo",
        "foo$",
        "^$",
        "o*",
        r"\bbar\b",
        "stdout",
        "^.",
        "[^a-z ]+",
        "(?i)foo|BAR",
        "é",
        "^(foo|bar)+$",
        r"\A1",
        "fo{2}",
        r"\w+ \w+",
        "t1|danube",
        "(?-u:\\xe9)",
        r"foo\z",
        r"\S{4,}",
        "(^| )1",
    ]);
    (patterns, any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(pattern, literal, case, line, ansi)| {
            let within = if line { Within::Line } else { Within::Content };
            let options = PatternOptions::default()
                .with_literal(literal)
                .with_ignore_case(case)
                .with_within(within)
                .with_ignore_ansi(ansi);
            (pattern, options)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn it_finds_what_a_loop_over_the_lines_finds(
        log in a_log(),
        (pattern, how) in a_pattern(),
        before in 0_usize..4,
        after in 0_usize..4,
        limit in prop_oneof![Just(usize::MAX), 0_usize..5],
        step in prop::option::of(Just("a".parse().unwrap())),
        piece in 1_usize..80,
    ) {
        let options = SearchOptions::default().with_context(before, after).with_max_matches(limit).with_step(step);
        let (pattern, regex) = compiled(pattern, &how);
        let (lines, count, more) = naive(&log, &regex, &how, &options);
        for piece in [1, piece, usize::MAX] {
            let mut scanner = scanned(&log, piece, &pattern, &options);
            let found = scanner.take_lines();
            check_lines(&log, &found);
            prop_assert_eq!(told(&found), lines.clone());
            prop_assert_eq!(scanner.matching_lines(), count);
            prop_assert_eq!(scanner.more().map(|more| more.line), more);
            prop_assert_eq!(scanner.position().offset, log.len() as u64);
        }
    }

    #[test]
    fn a_growing_log_is_searched_on_from_where_it_was_left(
        log in a_log(),
        cuts in prop::collection::vec(0_usize..400, 0..4),
        (pattern, how) in a_pattern(),
    ) {
        let (pattern, _) = compiled(pattern, &how);
        let mut whole = scanned(&log, usize::MAX, &pattern, &SearchOptions::default());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (lines, count) = runtime.block_on(async {
            let (store, id) = (MemoryLogs::new(), "job".parse().unwrap());
            store.open(&id).await.unwrap();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(log.len())).collect();
            cuts.sort_unstable();
            // The last search is of the sealed log, which has all lines.
            cuts.extend([log.len(), log.len()]);
            let (mut from, mut lines, mut count, mut at) = (Position::default(), Vec::new(), 0, 0);
            for (nth, cut) in cuts.iter().copied().enumerate() {
                if nth + 1 == cuts.len() {
                    store.seal(&id, &LogState::default()).await.unwrap();
                }
                let more = Bytes::copy_from_slice(&log[at..cut]);
                if !more.is_empty() {
                    store.append(&id, at as u64, more).await.unwrap();
                }
                at = cut;
                let options = SearchOptions::default().with_from(from);
                let found = search(&store, &id, &pattern, &options).await.unwrap();
                lines.extend(found.lines);
                count += found.matching_lines;
                from = found.end;
            }
            (lines, count)
        });
        prop_assert_eq!(lines, whole.take_lines());
        prop_assert_eq!(count, whole.matching_lines());
    }

    #[test]
    fn pages_are_the_whole(log in a_log(), (pattern, how) in a_pattern(), page in 1_usize..4) {
        let (pattern, _) = compiled(pattern, &how);
        let mut whole = scanned(&log, usize::MAX, &pattern, &SearchOptions::default());
        let (mut lines, mut from) = (Vec::new(), Some(Position::default()));
        while let Some(at) = from {
            let options = SearchOptions::default().with_from(at).with_max_matches(page);
            let mut scanner = scanned(&log[at.offset as usize..], 7, &pattern, &options);
            lines.extend(scanner.take_lines());
            from = scanner.more();
        }
        prop_assert_eq!(lines, whole.take_lines());
    }

    #[test]
    fn a_line_without_end_is_searched_in_pieces_however_it_comes(
        line in prop::collection::vec(prop::sample::select(b"abc\n".to_vec()), 0..200),
        piece in 1_usize..40,
        max in 2_usize..20,
    ) {
        let (pattern, _) = compiled("b|^$", &PatternOptions::default());
        let run = |piece: usize| {
            let mut scanner = Scanner::new(pattern.clone(), SearchOptions::default()).with_max_piece(max);
            line.chunks(piece).for_each(|piece| scanner.push(piece));
            scanner.finish();
            (scanner.take_lines(), scanner.matching_lines(), scanner.position())
        };
        let whole = run(usize::MAX);
        prop_assert_eq!(&run(1), &whole);
        prop_assert_eq!(&run(piece), &whole);
        prop_assert!(whole.0.iter().all(|line| line.bytes.len() <= max));
        let feeds = line.iter().filter(|b| **b == b'\n').count() as u64;
        prop_assert_eq!(whole.2, Position { offset: line.len() as u64, line: feeds + 1 });
    }
}

#[test]
fn spans_lie_where_the_pattern_matches_in_the_stored_line() {
    let log = b"[t] [foo] [stdout] a foo, \x1b[31mfo\x1b[1mo\x1b[0m!\n";
    let spans = |options: PatternOptions| -> Vec<&[u8]> {
        let pattern = Pattern::new("foo", options).unwrap();
        let mut scanner = scanned(log, 5, &pattern, &SearchOptions::default());
        let lines = scanner.take_lines();
        let spans = lines.into_iter().flat_map(|line| line.spans);
        spans.map(|span| &log[span.start as usize..span.end as usize]).collect()
    };
    let options = PatternOptions::default;
    assert_eq!(spans(options()), [b"foo"]);
    assert_eq!(spans(options().with_ignore_ansi(true)), [&b"foo"[..], b"fo\x1b[1mo"]);
    assert_eq!(spans(options().with_within(Within::Line)), [b"foo", b"foo"]);
}

#[test]
fn a_pattern_is_refused_with_a_reason() {
    for (pattern, reason) in [
        ("", "a pattern has"),
        ("(", "no regular expression"),
        ("a\nb", "cannot be searched for"),
        (r"a\nb", "cannot be searched for"),
        (r"\w{1000}{1000}", "cannot be searched for"),
        (&"(".repeat(200), "no regular expression"),
        (&"x".repeat(MAX_PATTERN_BYTES + 1), "a pattern has"),
    ] {
        let error = Pattern::new(pattern, PatternOptions::default()).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
        assert!(error.to_string().contains(reason), "{pattern:.20?}: {error}");
    }
    let literal = PatternOptions::default().with_literal(true);
    assert!(Pattern::new("(", literal.clone()).is_ok());
    assert!(Pattern::new(&"x".repeat(MAX_PATTERN_BYTES), literal).is_ok());
}

#[test]
fn returned_bytes_are_bounded_and_the_count_goes_on() {
    let line = format!("{}\n", "x".repeat(999));
    let log = line.repeat(100);
    let pattern = Pattern::new("x", PatternOptions::default()).unwrap();
    let options = SearchOptions::default().with_max_bytes(5000).with_context(2, 2);
    let mut scanner = scanned(log.as_bytes(), 333, &pattern, &options);
    let found = scanner.take_lines();
    assert_eq!((found.len(), scanner.matching_lines()), (6, 100));
    assert_eq!(scanner.more(), Some(Position { offset: 6000, line: 7 }));
}

#[tokio::test]
async fn a_search_that_begins_later_looks_back_for_its_context() {
    let (store, id): (Arc<dyn LogStore>, JobId) =
        (Arc::new(MemoryLogs::new()), "job".parse().unwrap());
    store.open(&id).await.unwrap();
    let log = Bytes::from_static(b"1 x\n2\n3\n4 x\n5\n");
    store.append(&id, 0, log.clone()).await.unwrap();
    let pattern = Pattern::new("x", PatternOptions::default()).unwrap();
    let options = SearchOptions::default().with_context(2, 1).with_max_matches(1);
    let first = search(&store, &id, &pattern, &options).await.unwrap();
    assert_eq!(told(&first.lines), [(1, true), (2, false)]);
    assert_eq!((first.matching_lines, first.phase), (2, LogPhase::Open));
    let more = first.more.unwrap();
    let second = search(&store, &id, &pattern, &options.with_from(more)).await.unwrap();
    check_lines(&log, &second.lines);
    assert_eq!(told(&second.lines), [(2, false), (3, false), (4, true), (5, false)]);
    let beyond = SearchOptions::default().with_from(Position { offset: 99, line: 1 });
    let error = search(&store, &id, &pattern, &beyond).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
}

/// What makes a backtracking engine take exponential time.
#[test]
fn time_is_linear_whatever_the_pattern() {
    let log = [b"a".repeat(60_000), b"!\n".to_vec()].concat().repeat(20);
    for pattern in ["(a+)+$", "(a|aa)+b", "(.*)(.*)(.*)(.*)x", "^(([a-z])+.)+[A-Z]$"] {
        let pattern = Pattern::new(pattern, PatternOptions::default().with_ignore_ansi(true));
        let mut scanner = scanned(&log, 1000, &pattern.unwrap(), &SearchOptions::default());
        assert_eq!((scanner.take_lines(), scanner.matching_lines()), (Vec::new(), 0));
    }
}

/// A store that counts what is read of it.
#[derive(Debug)]
struct Counted(MemoryLogs, std::sync::atomic::AtomicU64);

impl std::fmt::Display for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "counted {}", self.0)
    }
}

#[async_trait::async_trait]
impl LogStore for Counted {
    async fn open(&self, log: &JobId) -> Result<crate::LogStat, Error> {
        self.0.open(log).await
    }
    async fn append(&self, log: &JobId, at: u64, bytes: Bytes) -> Result<u64, Error> {
        self.0.append(log, at, bytes).await
    }
    async fn read(&self, log: &JobId, range: ByteRange) -> Result<Bytes, Error> {
        assert!(range.len() <= crate::MAX_READ_BYTES);
        self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.0.read(log, range).await
    }
    async fn stat(&self, log: &JobId) -> Result<crate::LogStat, Error> {
        self.0.stat(log).await
    }
    async fn changed(&self, log: &JobId, beyond: u64) -> Result<crate::LogStat, Error> {
        self.0.changed(log, beyond).await
    }
    async fn sync(&self, log: &JobId, state: &LogState) -> Result<(), Error> {
        self.0.sync(log, state).await
    }
    async fn seal(&self, log: &JobId, state: &LogState) -> Result<(), Error> {
        self.0.seal(log, state).await
    }
    fn release(&self, log: &JobId) {
        self.0.release(log);
    }
    async fn delete(&self, log: &JobId) -> Result<u64, Error> {
        self.0.delete(log).await
    }
    async fn list(
        &self,
        after: Option<&JobId>,
        limit: usize,
    ) -> Result<Vec<(JobId, crate::LogStat)>, Error> {
        self.0.list(after, limit).await
    }
}

#[tokio::test]
async fn a_search_leaves_the_runtime_free_and_stops_when_it_is_dropped() {
    const BLOCKS: usize = 16;
    let (store, id): (_, JobId) = (Counted(MemoryLogs::new(), 0.into()), "job".parse().unwrap());
    let reads = || store.1.load(std::sync::atomic::Ordering::Relaxed);
    store.open(&id).await.unwrap();
    let line = b"some words of a line that does not match at all\n";
    let log = line.repeat(BLOCKS * crate::MAX_READ_BYTES as usize / line.len() + 1);
    store.append(&id, 0, log.into()).await.unwrap();
    let pattern = Pattern::new("[a-z]+ [0-9]", PatternOptions::default()).unwrap();
    let options = SearchOptions::default();

    // On the one thread of this runtime both go on.
    let mut turns = 0;
    let turns_until_done = async {
        loop {
            tokio::task::yield_now().await;
            turns += 1;
        }
    };
    tokio::select! {
        found = search(&store, &id, &pattern, &options) => assert_eq!(found.unwrap().matching_lines, 0),
        () = turns_until_done => {}
    }
    assert!(turns >= BLOCKS, "{turns} turns beside a search of {BLOCKS} blocks");
    let all = reads();
    assert_eq!(all, BLOCKS as u64 + 1);

    let until_it_has_begun = async {
        while reads() < all + 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = search(&store, &id, &pattern, &options) => panic!("it was to be dropped"),
        () = until_it_has_begun => {}
    }
    let when_dropped = reads();
    assert!(when_dropped < all + 5, "{when_dropped}");
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(reads(), when_dropped);
}
