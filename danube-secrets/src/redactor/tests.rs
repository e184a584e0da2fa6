//! The redactor against an oracle that sees everything at once, and against the cases of others.

use danube_core::{SecretBytes, StreamFilter};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::{MAX_SECRET_BYTES, MIN_SECRET_BYTES, Needles};

fn needles_of<T: AsRef<[u8]>>(needles: &[T]) -> Needles {
    Needles::of(needles.iter().map(AsRef::as_ref).collect())
}

fn secrets(secrets: &[&str]) -> Needles {
    Needles::new(secrets.iter().map(|secret| SecretBytes::from(*secret))).unwrap()
}

/// One call of the filter.
#[derive(Debug, Clone)]
enum Call {
    Push(Vec<u8>),
    Idle,
}

fn run(needles: &Needles, calls: &[Call]) -> Vec<u8> {
    let (mut redactor, mut out) = (needles.redactor(), Vec::new());
    for call in calls {
        match call {
            Call::Push(bytes) => redactor.push(bytes, &mut out),
            Call::Idle => redactor.idle(&mut out),
        }
        assert!(redactor.held() <= needles.max_held());
    }
    redactor.finish(&mut out);
    assert_eq!(redactor.held(), 0);
    out
}

fn input_and_idles(calls: &[Call]) -> (Vec<u8>, Vec<usize>) {
    let (mut input, mut idles) = (Vec::new(), Vec::new());
    for call in calls {
        match call {
            Call::Push(bytes) => input.extend_from_slice(bytes),
            Call::Idle => idles.push(input.len()),
        }
    }
    (input, idles)
}

fn is_open<T: AsRef<[u8]>>(needles: &[T], suffix: &[u8]) -> bool {
    let may_become = |needle: &[u8]| needle.len() > suffix.len() && needle.starts_with(suffix);
    needles.iter().any(|needle| may_become(needle.as_ref()))
}

/// Decides for each byte by itself, from the whole input: slow, and the contract word by word.
///
/// At the first pause after it (or the end) a byte must have been spoken of. It is masked if an
/// occurrence covers it that was complete by then, or if it lies in the longest open beginning of a
/// secret and that has at least the minimum length.
fn oracle<T: AsRef<[u8]>>(needles: &[T], input: &[u8], idles: &[usize]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut in_mask = false;
    for at in 0..input.len() {
        let pause = idles.iter().copied().filter(|idle| *idle > at).min().unwrap_or(input.len());
        let covered = (0..=at).any(|start| {
            needles
                .iter()
                .map(AsRef::as_ref)
                .any(|needle| input[start..pause].starts_with(needle) && start + needle.len() > at)
        });
        let longest_open = (0..pause).find(|start| is_open(needles, &input[*start..pause]));
        let masked_as_open =
            longest_open.is_some_and(|start| start <= at && pause - start >= MIN_SECRET_BYTES);
        if !(covered || masked_as_open) {
            out.push(input[at]);
        } else if !in_mask {
            out.extend_from_slice(b"***");
        }
        in_mask = covered || masked_as_open;
    }
    out
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
    let noise = vec(prop::sample::select(b"abcx".to_vec()), 0..6).prop_map(Call::Push);
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
        let (input, idles) = input_and_idles(&calls);
        let expected = oracle(&needles, &input, &idles);
        let filter = needles_of(&needles);
        prop_assert_eq!(run(&filter, &calls).escape_ascii().to_string(),
            expected.escape_ascii().to_string());

        // The same bytes one at a time, with the same pauses.
        let mut one_by_one = Vec::new();
        for call in &calls {
            match call {
                Call::Push(bytes) => {
                    one_by_one.extend(bytes.iter().map(|byte| Call::Push(vec![*byte])));
                }
                Call::Idle => one_by_one.push(Call::Idle),
            }
        }
        prop_assert_eq!(run(&filter, &one_by_one), expected);
        // And in one write, without pauses.
        prop_assert_eq!(filter.redact(&input), oracle(&needles, &input, &[]));
    }

    #[test]
    fn no_secret_is_ever_shown_whole((needles, calls) in any_case()) {
        let out = run(&needles_of(&needles), &calls);
        for needle in &needles {
            prop_assert!(!contains(&out, needle), "{} shows {}",
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

/// Cases of GitLab Runner's and Buildkite agent's masking tests for plain values; `|` is where the
/// input was cut into writes. Their minimum length is 1; where they write one mask for each of two
/// secrets that touch, we write one for both.
const VECTORS: &[(&[&str], &str, &str)] = &[
    (&["secret", "secrets"], "secret|s", "***"),
    (&["secret", "secrets"], "s|ecrets", "***"),
    (&["secret", "secrets"], "secretssecrets", "***"),
    (&["secret", "secrets"], "ssecrets", "s***"),
    (&["secret", "secrets"], "s|secrets", "s***"),
    (&["foo", "bar"], "xfoox ybary ffoo barr ffooo bbarr", "x***x y***y f*** ***r f***o b***r"),
    (&["mask", "prefix_mask"], "prefix_ma|sk mas|k", "*** ***"),
    (&["this is the end", "en foobar", "en"], "this is the en| foobar", "this is the ***"),
    (&[], "Lorem ipsum dolor sit amet", "Lorem ipsum dolor sit amet"),
    (&["ipsum"], "Lorem ipsum dolor sit amet", "Lorem *** dolor sit amet"),
    (&["ipsum", "amet"], "Lorem ipsum dolor sit amet", "Lorem *** dolor sit ***"),
    (&["ipsum dolor", "dolor"], "Lorem ipsum dolor sit amet", "Lorem *** sit amet"),
    (&["ipsum", "ipsum dolor"], "Lorem ipsum dolor sit amet", "Lorem *** sit amet"),
    (&["ipsum dolor", "dolor sit"], "Lorem ipsum dolor sit amet", "Lorem *** amet"),
    (&["ipsum dolor", "dolor sEt", "sit amet"], "Lorem ipsum dolor sit amet", "Lorem *** ***"),
    (
        &["Lorem ipsum dolor sEt", "ipsum", "dolor"],
        "Lorem ipsum dolor sit amet",
        "Lorem *** *** sit amet",
    ),
    (
        &["a", "e", "i", "o", "u", "Lorem ipsum dolor sit am3t"],
        "Lorem ipsum dolor sit amet",
        "L***r***m ***ps***m d***l***r s***t ***m***t",
    ),
    (
        &["do", " dol", "m dolo", "um dolor", "sum dolor ", "psum dolor s", "ipsum dolor si"],
        "Lorem ipsum dolor sit amet",
        "Lorem ***t amet",
    ),
    (&["ipsum"], "Lorem ip|sum dolor sit amet", "Lorem *** dolor sit amet"),
    (&["ipsum dolor", "um do"], "Lorem ipsum dol|or sit amet", "Lorem *** sit amet"),
    (&["ipsum dolor", "sum", "do", "dolor"], "Lorem ipsum dol|or sit amet", "Lorem *** sit amet"),
    (&["ÿ"], "fooÿbar", "foo***bar"),
];

#[test]
fn the_cases_of_others_hold_as_cut_in_one_write_and_byte_by_byte() {
    for (needles, input, expected) in VECTORS {
        let filter = needles_of(needles);
        let as_cut = input.split('|').map(|part| Call::Push(part.into())).collect::<Vec<_>>();
        let whole = input.replace('|', "");
        let one_by_one = whole.bytes().map(|byte| Call::Push(vec![byte])).collect::<Vec<_>>();
        for calls in [as_cut, vec![Call::Push(whole.clone().into())], one_by_one] {
            let out = String::from_utf8(run(&filter, &calls)).unwrap();
            assert_eq!(out, *expected, "{needles:?} in {calls:?}");
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
        assert_eq!(run(&needles, &calls), b"<***>");
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
    let needles = secrets(&needles);
    let input = format!("{}c{}", "ab".repeat(50_000), "ab".repeat(2));
    assert_eq!(needles.redact_str(&input), "***cabab");
}
