//! The trace header: `X-Amzn-Trace-Id: Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1`.
//!
//! It comes from AWS's load balancers, from API Gateway, from SDKs in many languages and from anybody with `curl`.
//! Reading is generous about form (order, case, blanks, fields it does not know) and strict about ids: a header
//! without a valid `Root` counts as none. Writing is strict throughout: what leaves us is built from parsed ids and
//! from bytes that were checked one by one.

use bytes::Bytes;
use http::header::{GetAll, HeaderValue};

use super::ids::{SpanId, TraceId};

/// The header's name, as the `http` crate wants it.
pub const NAME: http::HeaderName = http::HeaderName::from_static("x-amzn-trace-id");

/// A longer header is not read at all.
const MAX_LENGTH: usize = 1024;

/// How many bytes of unknown fields travel on, each counted as `;key=value`.
const MAX_EXTRAS: usize = 256;

/// What the caller's header says about recording the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sampled {
    /// `Sampled=1`: record it.
    Yes,
    /// `Sampled=0`: do not.
    No,
    /// `Sampled=?`: decide, and tell the caller.
    Asked,
    /// Nothing, or nothing that can be understood: decide.
    #[default]
    Unsaid,
}

impl Sampled {
    /// The caller's decision, if it made one.
    pub fn decision(self) -> Option<bool> {
        match self {
            Sampled::Yes => Some(true),
            Sampled::No => Some(false),
            Sampled::Asked | Sampled::Unsaid => None,
        }
    }
}

/// A trace header that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceHeader<'a> {
    /// The trace.
    pub root: TraceId,
    /// The caller's subsegment. A load balancer sends a root without one.
    pub parent: Option<SpanId>,
    /// Whether to record.
    pub sampled: Sampled,
    /// Fields that travel on.
    pub extras: Extras,
    /// What a load balancer put on a trace that somebody else began. It ends here: the balancer's own record has it.
    pub balancer: Option<&'a str>,
}

/// `Lineage` and the caller's own fields, checked and ready to be appended: `;Lineage=…;CalledFrom=app`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extras(String);

impl Extras {
    /// The fields as they are written, each with its leading semicolon.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What was wrong with a header; the reasons of `xray_bad_header_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BadHeader {
    /// Over 1 KiB: not read.
    TooLong,
    /// There is no `Root`.
    NoRoot,
    /// `Root` is no trace id.
    Root,
    /// `Parent` is no segment id; the trace is continued without it.
    Parent,
    /// There was more than one header; the first valid one counted.
    Several,
}

impl BadHeader {
    /// Every reason there is.
    pub const ALL: [BadHeader; 5] =
        [BadHeader::TooLong, BadHeader::NoRoot, BadHeader::Root, BadHeader::Parent, BadHeader::Several];

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            BadHeader::TooLong => "too_long",
            BadHeader::NoRoot => "no_root",
            BadHeader::Root => "root",
            BadHeader::Parent => "parent",
            BadHeader::Several => "several",
        }
    }
}

/// Reads the first valid header of a request. Whatever is wrong on the way is told to `bad`.
pub fn read<'a>(
    values: impl IntoIterator<Item = &'a HeaderValue>,
    mut bad: impl FnMut(BadHeader),
) -> Option<TraceHeader<'a>> {
    let mut found = None;
    for (index, value) in values.into_iter().enumerate() {
        if index == 1 {
            bad(BadHeader::Several);
        }
        if found.is_some() {
            break;
        }
        match parse(value.as_bytes(), &mut bad) {
            Ok(header) => found = Some(header),
            Err(reason) => bad(reason),
        }
    }
    found
}

/// Reads one header. A bad `Parent` does not spoil it, and is told to `bad`.
fn parse<'a>(text: &'a [u8], bad: &mut impl FnMut(BadHeader)) -> Result<TraceHeader<'a>, BadHeader> {
    if text.len() > MAX_LENGTH {
        return Err(BadHeader::TooLong);
    }
    let (mut root, mut parent, mut sampled, mut balancer, mut lineage) = (None, None, None, None, None);
    let mut others = false;
    for (key, value) in fields(text) {
        let slot = match Key::of(key) {
            Some(Key::Root) => &mut root,
            Some(Key::Parent) => &mut parent,
            Some(Key::Sampled) => &mut sampled,
            Some(Key::Balancer) => &mut balancer,
            Some(Key::Lineage) => &mut lineage,
            None => {
                others = true;
                continue;
            }
        };
        slot.get_or_insert((key, value));
    }

    let (_, root) = root.ok_or(BadHeader::NoRoot)?;
    let root = TraceId::parse(root).ok_or(BadHeader::Root)?;
    let parent = parent.and_then(|(_, text)| {
        let id = SpanId::parse(text);
        // All zero is how some write "none"; that is no fault.
        if id.is_none() && text != b"0000000000000000" {
            bad(BadHeader::Parent);
        }
        id
    });
    let sampled = match sampled {
        Some((_, b"1")) => Sampled::Yes,
        Some((_, b"0")) => Sampled::No,
        Some((_, b"?")) => Sampled::Asked,
        _ => Sampled::Unsaid,
    };
    let balancer = balancer.and_then(|(_, value)| printable(value));
    let extras = if others || lineage.is_some() { extras(text, lineage) } else { Extras::default() };
    Ok(TraceHeader { root, parent, sampled, extras, balancer })
}

/// The keys that mean something to us. Their case does not matter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    Root,
    Parent,
    Sampled,
    Balancer,
    Lineage,
}

impl Key {
    fn of(key: &[u8]) -> Option<Self> {
        let is = |name: &[u8]| key.eq_ignore_ascii_case(name);
        match key.len() {
            4 if is(b"root") => Some(Key::Root),
            4 if is(b"self") => Some(Key::Balancer),
            6 if is(b"parent") => Some(Key::Parent),
            7 if is(b"sampled") => Some(Key::Sampled),
            7 if is(b"lineage") => Some(Key::Lineage),
            _ => None,
        }
    }
}

/// The `key=value` pairs, trimmed. What is no pair is passed over.
fn fields(text: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    text.split(|byte| *byte == b';').filter_map(|pair| {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (key, value) = (pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii());
        (!key.is_empty() && !value.is_empty()).then_some((key, value))
    })
}

/// Collects the fields that travel on. `Lineage` is Lambda's protection against loops: it always does, and is not
/// counted.
fn extras(text: &[u8], lineage: Option<(&[u8], &[u8])>) -> Extras {
    let mut extras = String::new();
    if let Some((key, value)) = lineage.and_then(|(key, value)| Some((printable(key)?, printable(value)?))) {
        push_field(&mut extras, key, value);
    }
    let counted_from = extras.len();
    for (index, (key, value)) in fields(text).enumerate() {
        if Key::of(key).is_some() {
            continue;
        }
        if fields(text).take(index).any(|(earlier, _)| earlier.eq_ignore_ascii_case(key)) {
            continue;
        }
        let (Some(key), Some(value)) = (printable(key), printable(value)) else { continue };
        if extras.len() - counted_from + key.len() + value.len() + 2 <= MAX_EXTRAS {
            push_field(&mut extras, key, value);
        }
    }
    Extras(extras)
}

fn push_field(extras: &mut String, key: &str, value: &str) {
    extras.push(';');
    extras.push_str(key);
    extras.push('=');
    extras.push_str(value);
}

/// The text, if all of it may be sent on: printable ASCII that neither ends a field nor starts another header value.
fn printable(text: &[u8]) -> Option<&str> {
    if !text.iter().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b';' | b',')) {
        return None;
    }
    std::str::from_utf8(text).ok()
}

/// The header, if exactly one came.
pub fn only<'a>(values: &GetAll<'a, HeaderValue>) -> Option<&'a HeaderValue> {
    let mut values = values.iter();
    values.next().filter(|_| values.next().is_none())
}

/// What has to be written in place of the [`only`] header that came; `None` if that says the same already, as it does for
/// most callers that decided.
pub fn renewed(
    came: Option<&HeaderValue>,
    root: TraceId,
    parent: Option<SpanId>,
    sampled: bool,
    extras: &Extras,
) -> Option<HeaderValue> {
    let line = Line::upstream(root, parent, sampled);
    let stays = came.is_some_and(|value| line.is(value, extras));
    (!stays).then(|| line.with(extras))
}

/// The headers of a sampled request with these two parents, which share one piece of memory.
pub fn pair(root: TraceId, parents: [SpanId; 2], extras: &Extras) -> [HeaderValue; 2] {
    let lines = parents.map(|parent| Line::upstream(root, Some(parent), true));
    if !extras.0.is_empty() {
        return lines.map(|line| line.with(extras));
    }
    let mut both = [0; 2 * LONGEST];
    let (first, second) = both.split_at_mut(LONGEST);
    first.copy_from_slice(lines[0].fixed());
    second.copy_from_slice(lines[1].fixed());
    let mut second = Bytes::from_owner(both);
    let first = second.split_to(LONGEST);
    [first, second].map(|line| HeaderValue::from_maybe_shared(line).expect("hex digits make a header"))
}

/// The header that goes upstream: `Root=…;Parent=…;Sampled=1` and the fields that travel on. `Sampled` is never `?`.
pub fn upstream(root: TraceId, parent: Option<SpanId>, sampled: bool, extras: &Extras) -> HeaderValue {
    Line::upstream(root, parent, sampled).with(extras)
}

/// The header that answers a client: the trace, and the decision if it asked for one.
pub fn answer(root: TraceId, decision: Option<bool>) -> HeaderValue {
    Line::answer(root, decision).with(&Extras::default())
}

/// `Root=…;Parent=…;Sampled=1`.
const LONGEST: usize = 5 + TraceId::LENGTH + 8 + SpanId::LENGTH + 10;

/// Room for everything but the extras, on the stack: the header costs one allocation, the value itself.
struct Line {
    bytes: [u8; LONGEST],
    length: usize,
}

impl Line {
    fn upstream(root: TraceId, parent: Option<SpanId>, sampled: bool) -> Self {
        let mut line = Self::root(root);
        if let Some(parent) = parent {
            line.push(b";Parent=");
            line.push(&parent.text());
        }
        line.push_decision(sampled);
        line
    }

    fn answer(root: TraceId, decision: Option<bool>) -> Self {
        let mut line = Self::root(root);
        if let Some(sampled) = decision {
            line.push_decision(sampled);
        }
        line
    }

    fn root(root: TraceId) -> Self {
        let mut line = Self { bytes: [0; LONGEST], length: 0 };
        line.push(b"Root=");
        line.push(&root.text());
        line
    }

    fn push_decision(&mut self, sampled: bool) {
        self.push(if sampled { b";Sampled=1" } else { b";Sampled=0" });
    }

    fn push(&mut self, text: &[u8]) {
        self.bytes[self.length..self.length + text.len()].copy_from_slice(text);
        self.length += text.len();
    }

    fn fixed(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Whether a header says just this.
    fn is(&self, value: &HeaderValue, extras: &Extras) -> bool {
        value.as_bytes().strip_prefix(self.fixed()) == Some(extras.0.as_bytes())
    }

    fn with(&self, extras: &Extras) -> HeaderValue {
        let value = if extras.0.is_empty() {
            HeaderValue::from_bytes(self.fixed())
        } else {
            HeaderValue::from_maybe_shared(Bytes::from([self.fixed(), extras.0.as_bytes()].concat()))
        };
        value.expect("hex digits and printable ASCII make a header")
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use proptest::prelude::*;

    const ROOT: &str = "1-5759e988-bd862e3fe1be46a994272793";
    const PARENT: &str = "53995c3f42cd8ad8";

    fn one(text: &str) -> (Option<TraceHeader<'static>>, Vec<BadHeader>) {
        many(&[text])
    }

    fn many(texts: &[&str]) -> (Option<TraceHeader<'static>>, Vec<BadHeader>) {
        let values: Vec<HeaderValue> =
            texts.iter().map(|text| HeaderValue::from_bytes(text.as_bytes()).unwrap()).collect();
        let mut bad = Vec::new();
        let header = read(values.leak().iter(), |reason| bad.push(reason));
        (header, bad)
    }

    fn good(text: &str) -> TraceHeader<'static> {
        let (header, bad) = one(text);
        assert_eq!(bad, [], "{text}");
        header.unwrap_or_else(|| panic!("{text} is a header"))
    }

    /// Reads a header and writes it again, as a hop would that is not recorded.
    fn through(text: &str) -> String {
        let header = good(text);
        let value = upstream(header.root, header.parent, header.sampled == Sampled::Yes, &header.extras);
        value.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_pair_says_what_two_say() {
        let header = good(&format!("Root={ROOT};Parent={PARENT};Sampled=1"));
        let with_more = good(&format!("Root={ROOT};Parent={PARENT};Sampled=1;CalledFrom=app"));
        let parents = [header.parent.unwrap(), header.parent.unwrap().after(1)];
        for extras in [header.extras, with_more.extras] {
            let each = parents.map(|parent| upstream(header.root, Some(parent), true, &extras));
            assert_eq!(pair(header.root, parents, &extras), each);
        }
    }

    #[test]
    fn all_three_fields_are_read() {
        let header = good(&format!("Root={ROOT};Parent={PARENT};Sampled=1"));
        assert_eq!(header.root.to_string(), ROOT);
        assert_eq!(header.parent.unwrap().to_string(), PARENT);
        assert_eq!(header.sampled, Sampled::Yes);
        assert_eq!(header.extras.as_str(), "");
    }

    #[test]
    fn a_load_balancers_root_without_parent_is_a_whole_header() {
        let header = good(&format!("Root={ROOT}"));
        assert_eq!((header.parent, header.sampled), (None, Sampled::Unsaid));
    }

    #[test]
    fn form_does_not_matter() {
        let usual = good(&format!("Root={ROOT};Parent={PARENT};Sampled=1"));
        for text in [
            format!("RoOt={ROOT};PaREnT={PARENT};saMPlEd=1"),
            format!("Sampled=1;Parent={PARENT};Root={ROOT}"),
            format!("Root={ROOT}; Parent={PARENT}; Sampled=1"),
            format!("  Root = {ROOT} ;\tParent\t=\t{PARENT} ; Sampled =1  "),
            format!("Root={ROOT};Parent={PARENT};Sampled=1;"),
            format!(";;Root={ROOT};;;Parent={PARENT};Sampled=1;;"),
            format!("Root={ROOT};Parent={PARENT};Sampled=1;foo;=bar;baz=; = "),
            format!("Root={};Parent={};Sampled=1", ROOT.to_uppercase(), PARENT.to_uppercase()),
            format!("Root=;Root={ROOT};Root=1-2-3;Parent={PARENT};Parent=1111111111111111;Sampled=1;Sampled=0"),
        ] {
            assert_eq!(good(&text), usual, "{text}");
        }
    }

    #[test]
    fn a_header_without_a_valid_root_is_no_header() {
        for (text, reason) in [
            ("".to_owned(), BadHeader::NoRoot),
            ("garbage".to_owned(), BadHeader::NoRoot),
            (format!("Parent={PARENT};Sampled=1"), BadHeader::NoRoot),
            (format!("Root=;Parent={PARENT};Sampled=1"), BadHeader::NoRoot),
            (format!("Root=9-1-2;Parent={PARENT};Sampled=1"), BadHeader::Root),
            ("Root=1-00000000-000000000000000000000000".to_owned(), BadHeader::Root),
            (format!("Root={ROOT}0"), BadHeader::Root),
            (format!("Root={ROOT},Root={ROOT}"), BadHeader::Root),
            (format!("Root=\"{ROOT}\""), BadHeader::Root),
            (format!("Root=1-2-3;Root={ROOT}"), BadHeader::Root),
            (format!("Root={ROOT};a={}", "x".repeat(1024)), BadHeader::TooLong),
        ] {
            assert_eq!(one(&text), (None, vec![reason]), "{text}");
        }
    }

    #[test]
    fn exactly_one_kibibyte_is_read() {
        let mut text = format!("Root={ROOT};pad=");
        text.push_str(&"x".repeat(1024 - text.len()));
        assert!(one(&text).0.is_some());
        text.push('x');
        assert_eq!(one(&text), (None, vec![BadHeader::TooLong]));
    }

    #[test]
    fn a_bad_parent_leaves_the_root_standing() {
        for bad in ["x", "53995c3f42cd8ad", "53995c3f42cd8ad80", "g3995c3f42cd8ad8"] {
            let (header, reasons) = one(&format!("Root={ROOT};Parent={bad};Sampled=1"));
            assert_eq!(header.map(|header| (header.parent, header.sampled)), Some((None, Sampled::Yes)));
            assert_eq!(reasons, [BadHeader::Parent]);
        }
        assert_eq!(good(&format!("Root={ROOT};Parent=0000000000000000")).parent, None);
    }

    #[test]
    fn only_one_and_zero_decide() {
        for (text, sampled) in [
            ("1", Sampled::Yes),
            ("0", Sampled::No),
            ("?", Sampled::Asked),
            ("true", Sampled::Unsaid),
            ("01", Sampled::Unsaid),
            ("2", Sampled::Unsaid),
        ] {
            assert_eq!(good(&format!("Root={ROOT};Sampled={text}")).sampled, sampled);
        }
    }

    #[test]
    fn of_several_headers_the_first_valid_one_counts() {
        let (other, wanted) = (ROOT.replace("5759", "6859"), format!("Root={ROOT}"));
        let (header, bad) = many(&[&wanted, &format!("Root={other}")]);
        assert_eq!((header.unwrap().root.to_string(), bad), (ROOT.to_owned(), vec![BadHeader::Several]));
        let (header, bad) = many(&["Root=bad", &wanted]);
        assert_eq!(header.unwrap().root.to_string(), ROOT);
        assert_eq!(bad, [BadHeader::Root, BadHeader::Several]);
    }

    #[test]
    fn self_ends_here_and_everything_else_travels_on() {
        let text = format!(
            "Self=1-67891234-12456789abcdef012345678;Root={ROOT};CalledFrom=app;Parent={PARENT};Lineage=25:3a9fa73c:5|1:ffffffff:0;Sampled=0"
        );
        assert_eq!(good(&text).balancer, Some("1-67891234-12456789abcdef012345678"));
        assert_eq!(
            through(&text),
            format!("Root={ROOT};Parent={PARENT};Sampled=0;Lineage=25:3a9fa73c:5|1:ffffffff:0;CalledFrom=app")
        );
    }

    #[test]
    fn extras_keep_their_case_and_the_first_of_a_key() {
        assert_eq!(
            through(&format!("Root={ROOT};lineage=a;Foo=Bar=Baz;foo=2;x y=\"q\"")),
            format!("Root={ROOT};Sampled=0;lineage=a;Foo=Bar=Baz;x y=\"q\"")
        );
    }

    #[test]
    fn extras_are_bounded_field_by_field_and_lineage_is_not_counted() {
        let long = "v".repeat(250);
        let text = format!("Root={ROOT};Lineage={long};big={long};small=1;fits={}", "w".repeat(242));
        // `;big=` and 250 is 255; then nothing else fits.
        assert_eq!(through(&text), format!("Root={ROOT};Sampled=0;Lineage={long};big={long}"));
        let text = format!("Root={ROOT};big={}{long};small=1;fits={}", "v", "w".repeat(241));
        // 256 fit.
        assert_eq!(through(&text), format!("Root={ROOT};Sampled=0;big=v{long}"));
        let text = format!("Root={ROOT};big=vv{long};small=1;fits={}", "w".repeat(241));
        // 257 do not; what comes later may.
        assert_eq!(through(&text), format!("Root={ROOT};Sampled=0;small=1;fits={}", "w".repeat(241)));
    }

    #[test]
    fn bytes_that_could_start_something_else_do_not_leave() {
        assert_eq!(through(&format!("Root={ROOT};a=1,2;b=\u{e9};c=x\ty;d=ok")), format!("Root={ROOT};Sampled=0;d=ok"));
    }

    #[test]
    fn the_usual_header_is_74_bytes_long() {
        assert_eq!(through(&format!("Root={ROOT};Parent={PARENT};Sampled=1")).len(), 74);
    }

    #[test]
    fn an_answer_names_the_trace_and_a_decision_that_was_asked_for() {
        let root = TraceId::parse(ROOT.as_bytes()).unwrap();
        assert_eq!(answer(root, None), format!("Root={ROOT}"));
        assert_eq!(answer(root, Some(true)), format!("Root={ROOT};Sampled=1"));
        assert_eq!(answer(root, Some(false)), format!("Root={ROOT};Sampled=0"));
    }

    #[test]
    fn whatever_came_one_header_goes_on() {
        let root = TraceId::parse(ROOT.as_bytes()).unwrap();
        let extras = good(&format!("Root={ROOT};a=b")).extras;
        let wanted = format!("Root={ROOT};Sampled=0;a=b");
        let wanted = wanted.as_str();
        let (longer, shorter) = (format!("{wanted};c=d"), &wanted[..50]);
        for came in [&[][..], &[wanted], &[wanted, wanted], &["x", wanted], &[&longer], &[shorter]] {
            let mut headers = HeaderMap::new();
            for value in came {
                headers.append(NAME, value.parse().unwrap());
            }
            if let Some(value) = renewed(only(&headers.get_all(NAME)), root, None, false, &extras) {
                headers.insert(NAME, value);
            }
            let left: Vec<_> = headers.get_all(NAME).iter().collect();
            assert_eq!(left, [wanted], "{came:?}");
        }
    }

    fn near_misses() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(ROOT.as_bytes().to_vec()),
            Just(PARENT.as_bytes().to_vec()),
            "(Root|root|Parent|Sampled|Self|Lineage|Foo)(=|;| )".prop_map(String::into_bytes),
            "[;=,? \t01a-fA-F-]{0,9}".prop_map(String::into_bytes),
            proptest::collection::vec(any::<u8>(), 0..20),
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn no_header_panics_and_only_clean_bytes_leave(text in near_misses()) {
            let Ok(value) = HeaderValue::from_bytes(&text) else { return Ok(()) };
            let Some(header) = read([&value], |_| ()) else { return Ok(()) };
            let sent = upstream(header.root, header.parent, true, &header.extras);
            prop_assert!(sent.as_bytes().iter().all(|byte| matches!(byte, b' '..=b'~') && *byte != b','));
            prop_assert!(sent.len() <= 74 + MAX_LENGTH);
            // What we send is what anybody reads back.
            let mut bad = Vec::new();
            let again = read([&sent], |reason| bad.push(reason)).unwrap();
            prop_assert_eq!(bad, []);
            prop_assert_eq!((again.root, again.parent, again.sampled), (header.root, header.parent, Sampled::Yes));
            prop_assert_eq!(again.extras, header.extras);
            prop_assert_eq!(again.balancer, None);
        }

        #[test]
        fn ids_survive_the_round_trip(now: u32, sampled: bool, with_parent: bool) {
            let (root, parent) = (TraceId::mint(now), with_parent.then(SpanId::mint));
            let sent = upstream(root, parent, sampled, &Extras::default());
            let header = read([&sent], |_| ()).unwrap();
            prop_assert_eq!((header.root, header.parent, header.sampled.decision()), (root, parent, Some(sampled)));
        }
    }
}
