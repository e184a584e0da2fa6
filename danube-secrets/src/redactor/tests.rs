//! The redactor against an oracle that sees everything at once, and against the cases of others.

use danube_core::{SecretBytes, StreamFilter};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::{MAX_SECRET_BYTES, MIN_SECRET_BYTES, Needles};
use oracle::{Call, Expected, oracle, symbols};

#[path = "../../tests/redaction/oracle.rs"]
mod oracle;
#[path = "../../tests/redaction/vectors.rs"]
mod vectors;

fn needles_of<T: AsRef<[u8]>>(needles: &[T]) -> Needles {
    Needles::of(&needles.iter().map(AsRef::as_ref).collect::<Vec<_>>())
}

fn secrets(secrets: &[&str]) -> Needles {
    Needles::new(secrets.iter().map(|secret| SecretBytes::from(*secret))).unwrap()
}

/// Runs calls through the first redactor of these needles.
fn run(needles: &Needles, calls: &[Call]) -> Expected {
    let (mut redactor, mut out) = (needles.redactor(), Vec::new());
    for call in calls {
        match call {
            Call::Push(bytes) => redactor.push(bytes, &mut out),
            Call::Idle => redactor.idle(&mut out),
            Call::Add(secret) => needles.add([SecretBytes::from(secret.clone())]).unwrap(),
        }
        assert!(redactor.held() <= needles.max_held());
    }
    redactor.finish(&mut out);
    assert_eq!(redactor.held(), 0);
    let masked = needles.masked();
    Expected { out, masks: masked.masks, masked_bytes: masked.bytes }
}

/// The same bytes one at a time, with the same pauses.
fn one_by_one(calls: &[Call]) -> Vec<Call> {
    let mut singles = Vec::new();
    for call in calls {
        match call {
            Call::Push(bytes) => singles.extend(bytes.iter().map(|byte| Call::Push(vec![*byte]))),
            other => singles.push(other.clone()),
        }
    }
    singles
}

fn whole_input(calls: &[Call]) -> Vec<u8> {
    let pushed =
        |call: &Call| if let Call::Push(bytes) = call { bytes.clone() } else { Vec::new() };
    calls.iter().flat_map(pushed).collect()
}

fn is_open<T: AsRef<[u8]>>(needles: &[T], suffix: &[u8]) -> bool {
    needles.iter().any(|needle| {
        let (needle, suffix) = (symbols(needle.as_ref()), symbols(suffix));
        needle.len() > suffix.len() && needle.starts_with(&suffix)
    })
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Few letters: needles overlap each other and themselves all the time.
fn any_needles() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let letters = || prop::sample::select(b"ab".to_vec());
    prop_oneof![
        vec(vec(letters(), 1..5), 1..5),
        vec(vec(letters(), 6..12), 1..5),
        vec(vec(prop::sample::select(b"abc".to_vec()), 1..14), 1..8),
        vec(vec(prop::sample::select(b"ab \n".to_vec()), 1..14), 1..6),
        // A word and its beginnings, ends and repetitions.
        (vec(letters(), 6..12), 1_usize..12, 1_usize..12).prop_map(|(word, a, b)| {
            let (a, b) = (a.min(word.len()), b.min(word.len()));
            vec![word[..a].to_vec(), word[word.len() - b..].to_vec(), word.repeat(2), word]
        }),
    ]
}

/// Calls whose input is made of noise and of parts of the needles.
fn any_calls(needles: &[Vec<u8>]) -> impl Strategy<Value = Vec<Call>> + use<> {
    let needles = needles.to_vec();
    let part = (0..needles.len(), any::<prop::sample::Index>(), any::<prop::sample::Index>())
        .prop_map(move |(which, a, b)| {
            let needle = &needles[which];
            let (a, b) = (a.index(needle.len() + 1), b.index(needle.len() + 1));
            Call::Push(needle[a.min(b)..a.max(b)].to_vec())
        });
    let noise = vec(prop::sample::select(b"abcx \r".to_vec()), 0..6).prop_map(Call::Push);
    vec(prop_oneof![3 => part, 2 => noise, 1 => Just(Call::Idle)], 0..16)
}

fn any_case() -> impl Strategy<Value = (Vec<Vec<u8>>, Vec<Call>)> {
    any_needles().prop_flat_map(|needles| {
        let calls = any_calls(&needles);
        (Just(needles), calls)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6_000))]

    #[test]
    fn the_output_is_the_oracles_whatever_the_cuts_and_pauses((needles, calls) in any_case()) {
        let expected = oracle(&needles, &calls);
        let got = run(&needles_of(&needles), &calls);
        prop_assert_eq!(got.out.escape_ascii().to_string(), expected.out.escape_ascii().to_string());
        prop_assert_eq!(&got, &expected);
        prop_assert_eq!(run(&needles_of(&needles), &one_by_one(&calls)), expected);
        // And in one write, without pauses.
        let whole = [Call::Push(whole_input(&calls))];
        prop_assert_eq!(run(&needles_of(&needles), &whole), oracle(&needles, &whole));
    }

    #[test]
    fn no_secret_is_ever_shown_whole((needles, calls) in any_case()) {
        let out = run(&needles_of(&needles), &calls).out;
        for needle in needles.iter().map(|needle| symbols(needle)).filter(|n| !n.is_empty()) {
            prop_assert!(!contains(&out, &needle), "{} shows {}",
                out.escape_ascii(), needle.escape_ascii());
        }
    }

    #[test]
    fn what_is_held_may_still_become_part_of_a_secret((needles, calls) in any_case()) {
        let filter = needles_of(&needles);
        let (mut redactor, mut out, mut seen) = (filter.redactor(), Vec::new(), Vec::new());
        for call in &calls {
            match call {
                Call::Push(bytes) => {
                    seen.extend_from_slice(bytes);
                    redactor.push(bytes, &mut out);
                    let open = (0..seen.len()).find(|start| is_open(&needles, &seen[*start..]));
                    prop_assert!(redactor.held() <= open.map_or(0, |start| seen.len() - start));
                }
                Call::Idle => {
                    redactor.idle(&mut out);
                    prop_assert_eq!(redactor.held(), 0);
                }
                Call::Add(_) => unreachable!("none is made"),
            }
        }
    }

    #[test]
    fn after_finish_a_filter_is_as_new((needles, calls) in any_case(), again in any::<bool>()) {
        let filter = needles_of(&needles);
        let (mut redactor, mut first, mut second) = (filter.redactor(), Vec::new(), Vec::new());
        for out in [&mut first, &mut second] {
            for call in &calls {
                match call {
                    Call::Push(bytes) => redactor.push(bytes, out),
                    Call::Idle => redactor.idle(out),
                    Call::Add(_) => unreachable!("none is made"),
                }
            }
            redactor.finish(out);
            if again {
                redactor.finish(out);
            }
        }
        prop_assert_eq!(first, second);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_rest_of_a_secret_begun_before_a_pause_is_not_shown(
        secret in "[a-z0-9]{6,40}",
        pauses in vec(0_usize..40, 1..4),
    ) {
        prop_assume!(Needles::check(&SecretBytes::from(secret.as_str())).is_ok());
        let needles = secrets(&[&secret]);
        let (mut redactor, mut out) = (needles.redactor(), Vec::new());
        redactor.push(b"<", &mut out);
        for (at, byte) in secret.bytes().enumerate() {
            if pauses.contains(&at) {
                redactor.idle(&mut out);
            }
            redactor.push(&[byte], &mut out);
        }
        redactor.push(b">", &mut out);
        redactor.finish(&mut out);
        let out = String::from_utf8(out).unwrap();
        let shown = out.strip_prefix('<').and_then(|o| o.strip_suffix("***>")).expect(&out);
        prop_assert!(secret.starts_with(shown) && shown.len() < MIN_SECRET_BYTES, "{}", out);
    }
}

#[test]
fn the_cases_of_others_hold_as_cut_in_one_write_and_byte_by_byte() {
    let files = [
        (include_str!("../../tests/redaction/buildkite.txt"), false),
        (include_str!("../../tests/redaction/gitlab.txt"), false),
        (include_str!("../../tests/redaction/github.txt"), true),
    ];
    for (file, as_configured) in files {
        for case in vectors::cases(file) {
            let needles = || {
                if as_configured {
                    let values = case.secrets.iter().map(|s| SecretBytes::from(s.clone()));
                    Needles::new(values).unwrap()
                } else {
                    needles_of(&case.secrets)
                }
            };
            let adds = case.calls.iter().any(|call| matches!(call, Call::Add(_)));
            let whole = vec![Call::Push(whole_input(&case.calls))];
            let mut ways = vec![one_by_one(&case.calls), case.calls.clone()];
            if !adds {
                let input = whole_input(&case.calls);
                ways.extend((0..input.len()).map(|cut| {
                    let (left, right) = input.split_at(cut);
                    vec![Call::Push(left.to_vec()), Call::Push(right.to_vec())]
                }));
                ways.push(whole);
            }
            for calls in ways {
                let got = run(&needles(), &calls);
                let (out, expected) = (got.out.escape_ascii(), case.output.escape_ascii());
                assert_eq!(out.to_string(), expected.to_string(), "{calls:?}");
                let shown = got.out.len() as u64 - 3 * got.masks;
                assert_eq!(shown + got.masked_bytes, whole_input(&calls).len() as u64);
            }
        }
    }
}

#[test]
fn a_long_secret_is_masked_wherever_it_is_cut() {
    let secret: String = (0..16_000_u32).map(|i| char::from(b'a' + (i * i % 23) as u8)).collect();
    let needles = secrets(&[&secret]);
    for cut in [1, 5, 6, 4_095, 4_096, 8_000, 15_999] {
        let calls = [
            Call::Push(format!("<{}", &secret[..cut]).into()),
            Call::Push(format!("{}>", &secret[cut..]).into()),
        ];
        assert_eq!(run(&needles, &calls).out, b"<***>");
    }
}

#[test]
fn secrets_across_the_inner_pieces_of_one_large_write_are_masked() {
    let needles = secrets(&["hunter2-hunter2", "correct horse"]);
    for before in super::PIECE - 16..super::PIECE + 2 {
        let input = format!("{}hunter2-hunter2{}correct horse.", "x".repeat(before), "y".repeat(9));
        let expected = format!("{}***{}***.", "x".repeat(before), "y".repeat(9));
        assert!(needles.redact(input.as_bytes()) == expected.as_bytes(), "at {before}");
    }
}

#[test]
fn a_pause_shows_less_than_the_minimum_and_masks_the_minimum() {
    let needles = secrets(&["hunter2-hunter2"]);
    for (shown, expected) in [(5, "pw: hunte|***!"), (6, "pw: ***|!"), (14, "pw: ***|!")] {
        let (mut redactor, mut out) = (needles.redactor(), Vec::new());
        let (beginning, rest) = "hunter2-hunter2".split_at(shown);
        redactor.push(format!("pw: {beginning}").as_bytes(), &mut out);
        assert_eq!((out.as_slice(), redactor.held()), (&b"pw: "[..], shown));
        redactor.idle(&mut out);
        assert_eq!(redactor.held(), 0);
        out.push(b'|');
        redactor.push(format!("{rest}!").as_bytes(), &mut out);
        redactor.finish(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

#[test]
fn what_only_looked_like_a_secret_is_shown_once_that_is_known() {
    let needles = secrets(&["hunter2-hunter2"]);
    let (mut redactor, mut out) = (needles.redactor(), Vec::new());
    redactor.push(b"a hunter2-hunter", &mut out);
    assert_eq!(out, b"a ");
    redactor.push(b"3", &mut out);
    assert_eq!((out.as_slice(), redactor.held()), (&b"a hunter2-hunter3"[..], 0));
    // A pause in the middle masks what may be a secret; what comes after shows that it was none.
    redactor.push(b" hunter2-", &mut out);
    redactor.idle(&mut out);
    redactor.push(b"x", &mut out);
    redactor.finish(&mut out);
    assert_eq!(out, b"a hunter2-hunter3 ***x");
}

#[test]
fn an_end_in_the_middle_of_a_secret_is_treated_like_a_pause() {
    let needles = secrets(&["hunter2-hunter2"]);
    assert_eq!(needles.redact_str("hunte"), "hunte");
    assert_eq!(needles.redact_str("hunter"), "***");
    assert_eq!(needles.redact_str("hunter2-hunter2 hunter2-hunter"), "*** ***");
}

#[test]
fn a_complete_secret_is_not_held_although_its_end_may_begin_another() {
    let needles = secrets(&["abcabcabc"]);
    let (mut redactor, mut out) = (needles.redactor(), Vec::new());
    redactor.push(b"abcabcabc", &mut out);
    assert_eq!((out.as_slice(), redactor.held()), (&b"***"[..], 0));
    redactor.push(b"abca", &mut out);
    assert_eq!((out.as_slice(), redactor.held()), (&b"***"[..], 1));
    redactor.push(b"x", &mut out);
    assert_eq!(out, b"***ax");
}

#[test]
fn two_streams_of_one_job_do_not_join() {
    let needles = secrets(&["hunter2-trustno1"]);
    let (mut stdout, mut stderr) = (needles.redactor(), needles.redactor());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    stdout.push(b"hunter2", &mut out);
    stderr.push(b"-trustno1", &mut err);
    stdout.finish(&mut out);
    stderr.finish(&mut err);
    assert_eq!((out.as_slice(), err.as_slice()), (&b"***"[..], &b"-trustno1"[..]));
}

/// Quadratic work, in the automaton or in moving what is held, would take minutes here.
#[test]
fn needles_that_nearly_match_everywhere_cost_linear_time() {
    let mut needle = vec![b'a'; MAX_SECRET_BYTES - 1];
    needle.push(b'b');
    let needles = Needles::new([SecretBytes::new(needle)]).unwrap();
    let (mut redactor, mut out) = (needles.redactor(), Vec::new());
    let log = vec![b'a'; 4 * 1024 * 1024];
    for byte in log.chunks(1) {
        redactor.push(byte, &mut out);
        assert!(redactor.held() < MAX_SECRET_BYTES);
    }
    redactor.push(b"c", &mut out);
    redactor.finish(&mut out);
    assert_eq!(out.len(), log.len() + 1);
    assert!(out[..log.len()] == log);
}

/// Beginnings of a long secret that are full of short ones: many covered ranges are held at once.
#[test]
fn many_short_secrets_within_a_held_one_cost_linear_time() {
    let mut long = b"secret.".repeat(MAX_SECRET_BYTES / 7);
    long.push(b'!');
    let needles = needles_of(&[&long[..], b"secret"]);
    let log = b"x".iter().chain(b"secret.".repeat(60_000).iter()).copied().collect::<Vec<_>>();
    let (mut redactor, mut out) = (needles.redactor(), Vec::new());
    for byte in log.chunks(1) {
        redactor.push(byte, &mut out);
    }
    redactor.push(b"x", &mut out);
    redactor.finish(&mut out);
    assert!(out == [&b"x"[..], &b"***.".repeat(60_000), b"x"].concat());
}

#[test]
fn needles_that_are_nested_a_thousandfold_are_one_mask() {
    let word = "ab".repeat(600);
    let needles: Vec<&str> = (6..1_006).map(|len| &word[..len]).collect();
    let needles = needles_of(&needles);
    let input = format!("{}c{}", "ab".repeat(50_000), "ab".repeat(2));
    assert_eq!(needles.redact_str(&input), "***cabab");
}
