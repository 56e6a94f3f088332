//! `docs/causes.md` has a section for every cause, with its status and its meaning, in order, and for nothing else.

use portcullis_middleware::Cause;

const PAGE: &str = include_str!("../../docs/causes.md");

/// A section's heading, and the text below it up to the next.
fn sections() -> Vec<(&'static str, &'static str)> {
    PAGE.split("\n## ").skip(1).map(|section| section.split_once('\n').expect("a section has text")).collect()
}

#[test]
fn every_cause_has_its_section_in_order_and_there_is_no_other() {
    let headings: Vec<_> = sections().into_iter().map(|(heading, _)| heading).collect();
    let causes: Vec<_> = Cause::ALL.iter().map(|cause| cause.name()).collect();
    assert_eq!(headings, causes);
}

#[test]
fn a_section_opens_with_the_status_and_the_meaning_that_the_code_gives() {
    for (cause, (_, text)) in Cause::ALL.iter().zip(sections()) {
        let opening = format!("**{}.** {}", cause.status().as_u16(), cause.meaning().trim());
        let opening = opening.split_whitespace().collect::<Vec<_>>().join(" ");
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.starts_with(&opening), "`{cause}` should open with {opening:?}, and opens with {text:.100?}");
    }
}

#[test]
fn a_section_tells_what_is_likely_and_where_to_look() {
    for (heading, text) in sections() {
        assert!(text.contains("*Likely:*"), "`{heading}` has no likely reasons");
        assert!(text.contains("*Look:*"), "`{heading}` does not say where to look");
    }
}
