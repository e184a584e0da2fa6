//! Marks as runners write them, in one write and byte by byte.

use super::*;
use crate::MemoryLogs;

/// (name, kind, depth, first line, last line, ended)
type Told = (String, GroupKind, usize, u64, u64, bool);

fn scanned(log: &str, piece: usize) -> Groups {
    let mut scan = GroupScan::new(None, LineFormat::default());
    for piece in log.as_bytes().chunks(piece) {
        scan.push(piece);
    }
    scan.finish(true)
}

/// The groups of a log, and that their ranges are those of their lines.
fn told(log: &str) -> Vec<Told> {
    let groups = scanned(log, log.len());
    assert_eq!(groups, scanned(log, 1));
    for group in &groups.groups {
        let line = |number: u64| {
            let mut lines = log.split_inclusive('\n').map(str::len);
            let start: usize = lines.by_ref().take(number as usize - 1).sum();
            (start as u64, start as u64 + lines.next().unwrap() as u64)
        };
        let range = ByteRange::new(line(group.first_line).0, line(group.last_line).1);
        assert_eq!(group.range, range, "{group:?}");
    }
    let told = |group: Group| {
        (group.name, group.kind, group.depth, group.first_line, group.last_line, group.ended)
    };
    groups.groups.into_iter().map(told).collect()
}

fn group(name: &str, kind: GroupKind, depth: usize, lines: (u64, u64), ended: bool) -> Told {
    (name.to_owned(), kind, depth, lines.0, lines.1, ended)
}

#[test]
fn groups_of_github_nest_and_end() {
    let log = "::group::Install\nx\n::group::\x1b[1mInner\x1b[0m\ny\n::endgroup::\nz\n::endgroup::\n\
               ::endgroup::\n::group::Open\nlast";
    assert_eq!(
        told(log),
        [
            group("Install", GroupKind::Github, 0, (1, 7), true),
            group("Inner", GroupKind::Github, 1, (3, 5), true),
            group("Open", GroupKind::Github, 0, (9, 10), false),
        ]
    );
}

#[test]
fn groups_of_buildkite_end_where_the_next_begins() {
    let log =
        "before\n--- :hammer: Build\na\nb\n+++ Test\nc\n^^^ +++\n~~~ Muted\n---\n--- \n-- x\n";
    assert_eq!(
        told(log),
        [
            group(":hammer: Build", GroupKind::Buildkite, 0, (2, 4), true),
            group("Test", GroupKind::Buildkite, 0, (5, 7), true),
            group("Muted", GroupKind::Buildkite, 0, (8, 11), false),
        ]
    );
    let expanded: Vec<_> =
        scanned("--- a\n--- b\n^^^ +++\n+++ c\n", 3).groups.iter().map(|g| g.expanded).collect();
    assert_eq!(expanded, [false, true, true]);
}

#[test]
fn sections_of_gitlab_are_told_by_their_name() {
    let log = "\x1b[0Ksection_start:1560896352:outer\r\x1b[0KHeader of it\nx\n\
               section_start:1560896353:inner[collapsed=true]\r\x1b[0K\x1b[36;1mInner\x1b[0;m\ny\n\
               section_end:1560896354:inner\r\x1b[0Ksection_start:1560896355:next\r\x1b[0KNext\n\
               section_end:1560896356:outer\r\x1b[0K\nsection_end:1:unknown\nsection_start:x:bad\n";
    assert_eq!(
        told(log),
        [
            group("Header of it", GroupKind::Gitlab, 0, (1, 6), true),
            group("Inner", GroupKind::Gitlab, 1, (3, 5), true),
            group("Next", GroupKind::Gitlab, 1, (5, 6), true),
        ]
    );
    let expanded: Vec<_> = scanned(log, 9).groups.iter().map(|group| group.expanded).collect();
    assert_eq!(expanded, [true, false, true]);
}

#[test]
fn each_step_has_groups_of_its_own_and_danube_has_none() {
    let log = "[t] [a] [stdout] ::group::A\n[t] [b] [stderr] ::group::B\n[t] [a] [danube] ::endgroup::\n\
               [t] [a] [stdout+] ::endgroup::\n[t] [a] [stdout] ::endgroup::\n[t] [b] [stdout] x\n\
               [t] [a] [stdout] y\n";
    assert_eq!(
        told(log),
        [
            group("A", GroupKind::Github, 0, (1, 5), true),
            group("B", GroupKind::Github, 0, (2, 6), false),
        ]
    );
}

#[test]
fn what_is_too_much_is_counted_and_ends_nothing_else() {
    let deep = "::group::g\n".repeat(MAX_GROUP_DEPTH + 3);
    let log = format!("{deep}::endgroup::\n::endgroup::\n::endgroup::\n::endgroup::\n");
    let groups = scanned(&log, log.len());
    assert_eq!((groups.groups.len(), groups.omitted), (MAX_GROUP_DEPTH, 3));
    let ended: Vec<_> = groups.groups.iter().filter(|group| group.ended).collect();
    assert_eq!(ended.len(), 1, "the fourth ends the innermost that is told");
    assert_eq!(ended[0].depth, MAX_GROUP_DEPTH - 1);

    let many = "--- x\n".repeat(MAX_GROUPS + 5);
    let groups = scanned(&many, many.len());
    assert_eq!((groups.groups.len(), groups.omitted), (MAX_GROUPS, 5));

    let name = "\u{e9}".repeat(500);
    let groups = scanned(&format!("::group::{name}\n"), 100);
    let cut = &groups.groups[0].name;
    assert!(cut.len() <= MAX_NAME_BYTES + 2 && cut.starts_with("\u{e9}\u{e9}"), "{cut}");
}

#[tokio::test]
async fn a_growing_log_is_looked_at_up_to_its_last_whole_line() {
    let (store, id) = (MemoryLogs::new(), "job".parse().unwrap());
    store.open(&id).await.unwrap();
    let log = "[t] [a] [stdout] ::group::A\n[t] [b] [stdout] --- B\n[t] [a] [stdout] ::endgro";
    store.append(&id, 0, log.into()).await.unwrap();
    let all = groups(&store, &id, None).await.unwrap();
    assert_eq!(all.groups.len(), 2);
    assert!(!all.groups[0].ended && all.groups[0].range == ByteRange::new(0, 28));
    let only = groups(&store, &id, Some(&"b".parse().unwrap())).await.unwrap();
    assert_eq!(only.groups.len(), 1);
    assert_eq!((only.groups[0].name.as_str(), only.groups[0].first_line), ("B", 2));
}
