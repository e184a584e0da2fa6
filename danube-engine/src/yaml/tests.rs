//! The bounds and the strictness of the YAML reader.

use std::collections::BTreeMap;

use super::*;

fn refused(text: &str) -> String {
    parse::<BTreeMap<String, DistinctKeys>>(text).map(drop).unwrap_err()
}

#[test]
fn a_document_is_bounded_before_it_is_parsed() {
    assert_eq!(refused(&"a".repeat(MAX_BYTES + 1)), "it is longer than 1048576 bytes");
    for open in ["[", "{", "[{", "a: [", "- {"] {
        let reason = refused(&open.repeat(MAX_BYTES / open.len()));
        assert!(reason.starts_with("brackets nest deeper than 32 at line 1"), "{open}: {reason}");
    }
    let lines = "- [\n".repeat(40);
    assert_eq!(refused(&lines), "brackets nest deeper than 32 at line 33");
}

#[test]
fn nesting_up_to_the_bound_is_read() {
    let deep = format!("a: {}{}", "[".repeat(MAX_FLOW_NESTING), "]".repeat(MAX_FLOW_NESTING));
    assert!(parse::<BTreeMap<String, DistinctKeys>>(&deep).is_ok());
    let many = format!("a: [{}[]]", "[], {}, ".repeat(10_000));
    assert!(parse::<BTreeMap<String, DistinctKeys>>(&many).is_ok());
}

#[test]
fn brackets_that_are_text_do_not_count() {
    let brackets = "[ { ".repeat(100);
    let cases = [
        format!("run: |\n  {brackets}\n  {brackets}\nother: 1"),
        format!("run: >-\n  {brackets}\n\n  {brackets}\nother: 1"),
        format!("run: |2 # comment\n    {brackets}\n  x\nother: 1"),
        format!("- run: |\n    {brackets}\n  env: x\n- |\n    {brackets}"),
        format!("run: \"{brackets} \\\" {brackets}\n  {brackets}\"\nother: 1"),
        format!("run: '{brackets} '' {brackets}\n  {brackets}'\nother: 1"),
        format!("run: echo {brackets}\nother: 1 # {brackets}"),
        format!("# {brackets}\nrun: !!str |\n  {brackets}"),
        format!("run: don't {brackets}\nother: it's {brackets}"),
    ];
    for text in cases {
        assert_eq!(too_deep(&text), None, "{}", &text[..30]);
        // The parser takes them too, so that the cases are what they seem.
        assert!(serde_yaml::from_str::<DistinctKeys>(&text).is_ok(), "{}", &text[..30]);
    }
}

#[test]
fn brackets_after_a_block_scalar_count_again() {
    let deep = "[".repeat(40);
    for text in [
        format!("run: |\n  text\nother: {deep}"),
        format!("- run: |\n    text\n  other: {deep}"),
        format!("a: b |\nc: {deep}"),
        format!("a: \"x\"\nc: {deep}"),
        format!("a: &x {deep}"),
        format!("? {deep}"),
        format!("a: {{b:{deep}"),
    ] {
        assert!(too_deep(&text).is_some(), "{text}");
    }
}

#[test]
fn a_key_that_stands_twice_is_refused_where_it_stands_again() {
    let twice = "the key \"b\" stands twice in this mapping at line 4 column 3";
    assert_eq!(refused("a:\n  b: 1\n  c: 2\n  b: 3\n"), format!("a: {twice}"));
    assert_eq!(
        refused("a: 1\na: 1"),
        "the key \"a\" stands twice in this mapping at line 2 column 1"
    );
    let nested = refused("a:\n- b: 1\n- {x: 1, x: 2}");
    assert!(nested.starts_with("a[1]: ") && nested.ends_with("line 3 column 10"), "{nested}");
}

#[test]
fn a_bomb_of_aliases_does_not_go_off() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..10 {
        let aliases = format!("*a{}, ", i - 1).repeat(10);
        text.push_str(&format!("a{i}: &a{i} [{aliases}]\n"));
    }
    assert_eq!(refused(&text), "repetition limit exceeded");
}

#[test]
fn nothing_at_all_is_called_empty() {
    for text in ["", "\n\n", "# only\n  # comments\n"] {
        assert_eq!(refused(text), "it is empty");
    }
}

#[test]
fn errors_of_the_syntax_name_the_line() {
    for (text, expected) in [
        ("a: [", "line 2 column 1"),
        ("a:\n\t- b", "line 2 column 1"),
        ("a: *nowhere", "line 1 column 4"),
        ("a: 1\n---\nb: 2", "more than one document"),
        ("a: !tag x", "tags are not understood here"),
    ] {
        let reason = refused(text);
        assert!(reason.contains(expected), "{text:?}: {reason}");
    }
}

proptest::proptest! {
    /// What the scan is for: documents that pass it are parsed quickly, and sane ones pass it.
    #[test]
    fn whatever_is_read_ends_in_a_value_or_a_sentence(text in "[\\[\\]{}:,&*!|>'\"# \n\tab-]{0,200}") {
        match parse::<DistinctKeys>(&text) {
            Ok(_) => {}
            Err(reason) => proptest::prop_assert!(!reason.is_empty()),
        }
    }
}
