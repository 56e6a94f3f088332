//! Rewrites that cannot do what they say where they stand: every request would be answered with `500`.

use std::ops::Range;

use portcullis_config::{Document, Faults, Match, PathMatch, Route};
use portcullis_middleware::new_path::NewPath;

use super::Link;

/// In a listener's chain, where nothing has matched yet.
pub(super) fn before_routes(link: &Link, span: &Range<usize>, document: &Document, faults: &mut Faults) {
    let Some(rewriter) = link.layer.rewriter() else { return };
    let needs = match (rewriter.captures().next(), rewriter.path()) {
        (Some(name), _) => format!("takes `{{{name}}}` out of the path"),
        (None, Some(NewPath::Prefix(_))) => "replaces the prefix that matched".to_owned(),
        (None, _) => return,
    };
    faults
        .error(document, span.clone(), format!("middleware `{}` {needs}, and no route has matched yet", link.name))
        .label("in the chain of a listener")
        .help("list it in the chains of routes, or give it a `path` without captures");
}

/// In the chain of a route.
pub(super) fn of_route(link: &Link, route: &Route, span: &Range<usize>, document: &Document, faults: &mut Faults) {
    let Some(rewriter) = link.layer.rewriter() else { return };
    let label = route.label();
    for name in rewriter.captures() {
        let captures = |wanted: &Match| wanted.path.as_ref().is_some_and(|path| path.captures().contains(&name));
        let without = route.matches.iter().find(|wanted| !captures(wanted));
        if without.is_none() && !route.matches.is_empty() {
            continue;
        }
        let said = format!(
            "middleware `{}` needs `{{{name}}}`, which the path of route `{label}` does not capture",
            link.name
        );
        let fault = faults.error(document, span.clone(), said);
        if let Some(wanted) = without {
            let place = wanted.path.as_ref().map_or(&wanted.span, |path| &path.span);
            fault.also(place.clone(), format!("no `{{{name}}}` here"));
        }
    }
    let has_prefix = |wanted: &Match| matches!(wanted.path.as_deref(), Some(PathMatch::Prefix(_)));
    if matches!(rewriter.path(), Some(NewPath::Prefix(_))) && !route.matches.iter().any(has_prefix) {
        faults
            .warning(
                document,
                span.clone(),
                format!("middleware `{}` replaces a prefix, and route `{label}` matches by none", link.name),
            )
            .label("put before the whole path instead")
            .help("match by `path = { prefix = \"…\" }`, or rewrite the `path`");
    }
}
