//! Cases of other projects' masking tests, from the `.txt` files beside this one.
//!
//! A file is lines `word: text`; lines that begin with `#` say where it is from. A case begins with its
//! `secret:` lines, goes on with `input:` (each `|` is a cut between two writes) and `add:` (a secret that
//! comes while the stream runs), and ends with `output:`. Texts have the escapes of Rust's strings, and
//! spaces that count are `\x20` at the ends.

use super::oracle::Call;

pub(crate) struct Case {
    pub(crate) secrets: Vec<Vec<u8>>,
    pub(crate) calls: Vec<Call>,
    pub(crate) output: Vec<u8>,
}

pub(crate) fn cases(file: &str) -> Vec<Case> {
    let (mut cases, mut secrets, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for line in file.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (word, text) = line.split_once(':').expect(line);
        let text = text.trim();
        match word {
            "secret" => secrets.push(unescaped(text)),
            "input" => calls.extend(text.split('|').map(|part| Call::Push(unescaped(part)))),
            "add" => calls.push(Call::Add(unescaped(text))),
            "output" => cases.push(Case {
                secrets: std::mem::take(&mut secrets),
                calls: std::mem::take(&mut calls),
                output: unescaped(text),
            }),
            _ => panic!("{line}"),
        }
    }
    assert!(!cases.is_empty() && secrets.is_empty() && calls.is_empty(), "the last case is open");
    cases
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        if char != '\\' {
            out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        out.push(match chars.next().expect(text) {
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            '\\' => b'\\',
            'x' => {
                let digits: String = chars.by_ref().take(2).collect();
                u8::from_str_radix(&digits, 16).expect(text)
            }
            other => panic!("\\{other} in {text}"),
        });
    }
    out
}
