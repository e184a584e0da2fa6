//! Bytes of a fuzzer as needles and calls, and the redactor compared with the oracle over all cuts.

use danube_core::{SecretBytes, StreamFilter};
use danube_secrets::Needles;

use super::oracle::{Call, Expected, oracle, symbols};

/// Up to here every cut into two is tried; the work is quadratic.
const MAX_CUT_INPUT: usize = 96;
const MAX_INPUT: usize = 2_000;
const LETTERS: &[u8] = b"aabbc \n-";

/// The bytes as a tape of choices; after its end all choices are 0.
struct Tape<'a>(&'a [u8]);

impl Tape<'_> {
    fn next(&mut self) -> usize {
        let Some((byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*byte)
    }

    fn letters(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| LETTERS[self.next() % LETTERS.len()]).collect()
    }
}

/// A text that is taken as a secret, or nothing. Now and then it is made of one that was before, so
/// that they overlap, contain and repeat each other.
fn secret(tape: &mut Tape<'_>, before: &[Vec<u8>]) -> Option<Vec<u8>> {
    let kind = tape.next();
    let mut text = match before.get(kind % 8) {
        None => {
            let len = 6 + tape.next() % 20;
            tape.letters(len)
        }
        Some(other) => {
            let mut text = other.repeat(1 + tape.next() % 3);
            text.drain(..tape.next() % text.len());
            text.truncate(1 + tape.next() % text.len());
            let more = tape.next() % 8;
            [text, tape.letters(more)].concat()
        }
    };
    if kind >= 128 {
        // Long enough that the filter can go in strides.
        text.extend_from_slice(b"QWERTYUIOPAS");
    }
    Needles::check(&SecretBytes::from(text.clone())).is_ok().then_some(text)
}

fn calls(tape: &mut Tape<'_>, secrets: &mut Vec<Vec<u8>>) -> Vec<Call> {
    let (mut calls, mut len) = (Vec::new(), 0);
    while !tape.0.is_empty() && len < MAX_INPUT {
        let kind = tape.next();
        let bytes = match kind % 8 {
            0 => {
                let len = tape.next() % 8;
                tape.letters(len)
            }
            // Parts of secrets, now and then with more white space than they have.
            1..=4 if !secrets.is_empty() => {
                let secret = &secrets[tape.next() % secrets.len()];
                let (from, to) =
                    (tape.next() % (secret.len() + 1), tape.next() % (secret.len() + 1));
                // One after the other by size, or the whole.
                let part = if from < to { &secret[from..to] } else { secret };
                let run = if kind & 0x80 == 0 { 1 } else { tape.next() % 80 };
                part.iter()
                    .flat_map(|byte| {
                        std::iter::repeat_n(*byte, if *byte == b' ' { run } else { 1 })
                    })
                    .collect()
            }
            5 => vec![b'x'; tape.next()],
            6 => {
                calls.push(Call::Idle);
                continue;
            }
            7 if kind & 0x40 != 0 => {
                if secrets.len() < 8
                    && let Some(text) = secret(tape, secrets)
                {
                    calls.push(Call::Add(text.clone()));
                    secrets.push(text);
                }
                continue;
            }
            _ => vec![b"\r\t\x0b\x0c"[tape.next() % 4]],
        };
        len += bytes.len();
        calls.push(Call::Push(bytes));
    }
    calls
}

/// What the redactor takes for needles of a secret without forms.
fn needles_of(secret: &[u8]) -> Vec<Vec<u8>> {
    let line = |line: &&[u8]| {
        let symbols = symbols(line);
        symbols.len() >= 6
            && symbols.iter().any(u8::is_ascii_alphanumeric)
            && symbols.iter().any(|byte| *byte != symbols[0])
    };
    let lines = secret.split(|byte| *byte == b'\n').filter(line);
    [secret].into_iter().chain(lines).map(<[u8]>::to_vec).collect()
}

fn taken(secret: &[u8]) -> SecretBytes {
    SecretBytes::new(secret.to_vec())
}

fn as_they_are(secrets: &[Vec<u8>]) -> Needles {
    Needles::with_forms(secrets.iter().map(|secret| taken(secret)), &[]).expect("they were checked")
}

fn run(needles: &Needles, calls: &[Call]) -> Expected {
    let before = needles.masked();
    let (mut redactor, mut out) = (needles.redactor(), Vec::new());
    for call in calls {
        match call {
            Call::Push(bytes) => redactor.push(bytes, &mut out),
            Call::Idle => redactor.idle(&mut out),
            Call::Add(secret) => needles.add([taken(secret)]).expect("it was checked"),
        }
        assert!(redactor.held() <= needles.max_held(), "holds more than it says");
    }
    redactor.finish(&mut out);
    assert_eq!(redactor.held(), 0);
    let masked = needles.masked();
    let (masks, masked_bytes) = (masked.masks - before.masks, masked.bytes - before.bytes);
    Expected { out, masks, masked_bytes }
}

/// Each push in two, at a place of the whole input.
fn cut_at(calls: &[Call], place: usize) -> Vec<Call> {
    let (mut cut, mut at) = (Vec::new(), 0);
    for call in calls {
        match call {
            Call::Push(bytes) => {
                let (left, right) = bytes.split_at(place.saturating_sub(at).min(bytes.len()));
                cut.extend([Call::Push(left.to_vec()), Call::Push(right.to_vec())]);
                at += bytes.len();
            }
            other => cut.push(other.clone()),
        }
    }
    cut
}

/// All that lies between pauses and additions in one push.
fn joined(calls: &[Call]) -> Vec<Call> {
    let mut joined = Vec::new();
    for call in calls {
        match (joined.last_mut(), call) {
            (Some(Call::Push(before)), Call::Push(bytes)) => before.extend_from_slice(bytes),
            (_, call) => joined.push(call.clone()),
        }
    }
    joined
}

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

/// What a fuzzer made, run and compared. Panics when redactor and oracle differ.
pub(crate) fn differential(data: &[u8]) {
    let mut tape = Tape(data);
    let mut secrets = Vec::new();
    for _ in 0..1 + tape.next() % 4 {
        secrets.extend(secret(&mut tape, &secrets));
    }
    let first = secrets.clone();
    let calls = calls(&mut tape, &mut secrets);

    let needles: Vec<_> = first.iter().flat_map(|secret| needles_of(secret)).collect();
    let with_lines: Vec<_> = calls
        .iter()
        .flat_map(|call| match call {
            Call::Add(secret) => needles_of(secret).into_iter().map(Call::Add).collect(),
            other => vec![other.clone()],
        })
        .collect();
    let expected = oracle(&needles, &with_lines);
    let needles = as_they_are(&first);
    let adds = calls.iter().any(|call| matches!(call, Call::Add(_)));
    let check = |how: &str, calls: &[Call]| {
        let got = if adds { run(&as_they_are(&first), calls) } else { run(&needles, calls) };
        assert!(
            got == expected,
            "{how}: secrets {:?}, calls {calls:?}\n got {}\nwant {}\n{} masks of {} bytes, want {} of {}",
            first.iter().map(|secret| secret.escape_ascii().to_string()).collect::<Vec<_>>(),
            got.out.escape_ascii(),
            expected.out.escape_ascii(),
            got.masks,
            got.masked_bytes,
            expected.masks,
            expected.masked_bytes,
        );
    };
    let whole = joined(&calls);
    check("as written", &calls);
    check("in one write", &whole);
    check("byte by byte", &one_by_one(&calls));
    let len = calls.iter().map(|call| if let Call::Push(b) = call { b.len() } else { 0 }).sum();
    if len <= MAX_CUT_INPUT {
        (1..len).for_each(|place| check("cut in two", &cut_at(&whole, place)));
    }
}
