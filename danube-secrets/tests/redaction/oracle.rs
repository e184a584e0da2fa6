//! The contract of the redactor word by word: slow, sees everything at once, decides for each byte by
//! itself.

/// The longest run of white space that one symbol may stand for.
const MAX_WHITE_RUN: usize = 64;
/// With so much of a secret open, a pause masks it.
const MIN_OPEN: usize = 6;

/// One call of the filter, or an addition to its needles.
#[derive(Debug, Clone)]
pub(crate) enum Call {
    Push(Vec<u8>),
    Idle,
    Add(Vec<u8>),
}

/// What a redactor must have written at the end, and what it must have counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Expected {
    pub(crate) out: Vec<u8>,
    pub(crate) masks: u64,
    pub(crate) masked_bytes: u64,
}

/// A needle, and what is known of when it came.
struct Needle {
    symbols: Vec<u8>,
    /// Occurrences that begin before are not seen: the bytes were spoken of when it came.
    sees_from: usize,
    /// After which pause it came.
    pauses_before: usize,
}

/// A text with each run of white space as one space, and none at its ends.
pub(crate) fn symbols(text: &[u8]) -> Vec<u8> {
    let mut symbols = Vec::new();
    for byte in text.trim_ascii_start() {
        match (is_white(*byte), symbols.last()) {
            (true, Some(b' ')) => {}
            (true, _) => symbols.push(b' '),
            (false, _) => symbols.push(*byte),
        }
    }
    symbols.pop_if(|last| *last == b' ');
    symbols
}

fn is_white(byte: u8) -> bool {
    b"\t\n\x0b\x0c\r ".contains(&byte)
}

/// Reads `input` as `symbols`. The number of bytes read and of symbols met when the input, the symbols,
/// or their agreement ends.
fn read(symbols: &[u8], input: &[u8]) -> (usize, usize) {
    let (mut bytes, mut met) = (0, 0);
    for symbol in symbols {
        let rest = &input[bytes..];
        let len = if *symbol == b' ' {
            rest.iter().take_while(|byte| is_white(**byte)).count()
        } else {
            usize::from(rest.first() == Some(symbol))
        };
        if len == 0 || len > MAX_WHITE_RUN {
            break;
        }
        bytes += len;
        met += 1;
    }
    (bytes, met)
}

/// Where the longest beginning of a needle begins that is open at `end`, and how many symbols it has.
fn open(needles: &[Needle], input: &[u8], end: usize) -> Option<(usize, usize)> {
    (0..end).find_map(|start| {
        let here = needles.iter().filter(|needle| needle.sees_from <= start);
        here.filter_map(|needle| {
            let (bytes, met) = read(&needle.symbols, &input[start..end]);
            (bytes == end - start && met < needle.symbols.len()).then_some((start, met))
        })
        .max()
    })
}

/// The output for needles (as they are, without forms) and calls, whose additions are needles too.
pub(crate) fn oracle<T: AsRef<[u8]>>(needles: &[T], calls: &[Call]) -> Expected {
    let new = |text: &[u8], sees_from, pauses_before| Needle {
        symbols: symbols(text),
        sees_from,
        pauses_before,
    };
    let mut needles: Vec<_> = needles.iter().map(|text| new(text.as_ref(), 0, 0)).collect();
    needles.retain(|needle| !needle.symbols.is_empty());
    let (mut input, mut pauses) = (Vec::new(), Vec::new());
    for call in calls {
        match call {
            Call::Push(bytes) => input.extend_from_slice(bytes),
            Call::Idle => pauses.push(input.len()),
            Call::Add(text) => {
                let held_from = open(&needles, &input, input.len());
                let sees_from = held_from.map_or(input.len(), |(start, _)| start);
                needles.push(new(text, sees_from, pauses.len()));
            }
        }
    }
    pauses.push(input.len());

    let mut masked = vec![false; input.len()];
    let mut from = 0;
    // At the first pause after it (or the end) a byte must have been spoken of.
    for (number, pause) in pauses.iter().enumerate() {
        let known = |needle: &Needle| needle.pauses_before <= number;
        for start in 0..*pause {
            for needle in needles.iter().filter(|n| known(n) && n.sees_from <= start) {
                let (bytes, met) = read(&needle.symbols, &input[start..*pause]);
                if met == needle.symbols.len() && start + bytes > from {
                    masked[start.max(from)..start + bytes].fill(true);
                }
            }
        }
        let count = needles.iter().take_while(|needle| known(needle)).count();
        if let Some((start, met)) = open(&needles[..count], &input, *pause)
            && met >= MIN_OPEN
            && *pause > from
        {
            masked[start.max(from)..*pause].fill(true);
        }
        from = *pause;
    }

    let mut expected = Expected::default();
    for (at, byte) in input.iter().enumerate() {
        if !masked[at] {
            expected.out.push(*byte);
            continue;
        }
        expected.masked_bytes += 1;
        if at == 0 || !masked[at - 1] {
            expected.masks += 1;
            expected.out.extend_from_slice(b"***");
        }
    }
    expected
}
