//! Which paths exist: the table of `API.md` and of spec 82 §3, and the search in it. Pure; knows nothing of tokens or bodies.

/// Where Muster's own paths begin.
pub const OWN_PREFIX: &str = "/muster/v1/";
/// Where the paths of Arvados' dispatcher begin.
pub const ARVADOS_PREFIX: &str = "/arvados/v1/dispatch/";

/// One operation of the API, without its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Version,
    Status,
    List,
    Submit,
    Show,
    Logs,
    Cancel,
    SetPriority,
    Rerun,
    Wait,
    CreateBatch,
    AppendBatch,
    CommitBatch,
    Instances,
    InstanceTypes,
    ResetInstanceType,
    Backup,
    ArvadosContainers,
    ArvadosContainer,
    ArvadosKillContainer,
    ArvadosInstances,
    ArvadosHold,
    ArvadosDrain,
    ArvadosRun,
    ArvadosKillInstance,
}

/// Method and path below [`OWN_PREFIX`]; `UUID` and `ID` stand for one segment each. As in `API.md`.
pub const OWN_ROUTES: &[(&str, &str, Route)] = &[
    ("GET", "version", Route::Version),
    ("GET", "status", Route::Status),
    ("GET", "containers", Route::List),
    ("POST", "containers", Route::Submit),
    ("GET", "containers/UUID", Route::Show),
    ("GET", "containers/UUID/logs", Route::Logs),
    ("POST", "containers/cancel", Route::Cancel),
    ("POST", "containers/priority", Route::SetPriority),
    ("POST", "containers/rerun", Route::Rerun),
    ("POST", "containers/wait", Route::Wait),
    ("POST", "batches", Route::CreateBatch),
    ("POST", "batches/ID/records", Route::AppendBatch),
    ("POST", "batches/ID/commit", Route::CommitBatch),
    ("GET", "instances", Route::Instances),
    ("GET", "instance-types", Route::InstanceTypes),
    ("POST", "instance-types/reset", Route::ResetInstanceType),
    ("POST", "backup", Route::Backup),
];

/// Method and path below [`ARVADOS_PREFIX`].
pub const ARVADOS_ROUTES: &[(&str, &str, Route)] = &[
    ("GET", "containers", Route::ArvadosContainers),
    ("GET", "container", Route::ArvadosContainer),
    ("POST", "containers/kill", Route::ArvadosKillContainer),
    ("GET", "instances", Route::ArvadosInstances),
    ("POST", "instances/hold", Route::ArvadosHold),
    ("POST", "instances/drain", Route::ArvadosDrain),
    ("POST", "instances/run", Route::ArvadosRun),
    ("POST", "instances/kill", Route::ArvadosKillInstance),
];

/// What a method and a path lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// With the segment that stands for `UUID` or `ID`, else empty.
    Route(Route, String),
    /// The path exists for these methods only.
    WrongMethod(String),
    /// It exists under this path, which has no doubled or trailing slashes.
    Moved(String),
    Nothing,
}

/// Looks a request up; HEAD is served like GET.
pub fn find(method: &str, path: &str) -> Found {
    let clean = clean_path(path);
    let (table, rest) = match (clean.strip_prefix(OWN_PREFIX), clean.strip_prefix(ARVADOS_PREFIX)) {
        (Some(rest), _) => (OWN_ROUTES, rest),
        (_, Some(rest)) => (ARVADOS_ROUTES, rest),
        _ => return Found::Nothing,
    };
    let matches: Vec<_> = table
        .iter()
        .filter_map(|(verb, pattern, route)| Some((*verb, *pattern, *route, segment(pattern, rest)?)))
        .collect();
    // A name like `cancel` is never a uuid.
    let literal = matches.iter().any(|(_, pattern, ..)| *pattern == rest);
    let candidates: Vec<_> = matches.into_iter().filter(|(_, pattern, ..)| !literal || *pattern == rest).collect();
    if candidates.is_empty() {
        return Found::Nothing;
    }
    if clean != path {
        return Found::Moved(clean);
    }
    let wanted = if method == "HEAD" { "GET" } else { method };
    match candidates.iter().find(|(verb, ..)| *verb == wanted) {
        Some((_, _, route, segment)) => Found::Route(*route, (*segment).to_owned()),
        None => Found::WrongMethod(candidates.iter().map(|(verb, ..)| *verb).collect::<Vec<_>>().join(", ")),
    }
}

/// Without doubled and trailing slashes.
fn clean_path(path: &str) -> String {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    format!("/{}", segments.join("/"))
}

/// If `path` has the form of `pattern`: what stands for its placeholder (empty if it has none).
fn segment<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
    let mut found = "";
    let mut segments = path.split('/');
    for wanted in pattern.split('/') {
        let given = segments.next()?;
        if wanted == "UUID" || wanted == "ID" {
            found = given;
        } else if wanted != given {
            return None;
        }
    }
    segments.next().is_none().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_lists_exactly_these_routes() {
        let table = include_str!("API.md").lines().filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            let method = cells.next().filter(|cell| *cell == "GET" || *cell == "POST")?;
            Some((method, cells.next()?.trim_matches('`')))
        });
        let routes = OWN_ROUTES.iter().map(|(method, path, _)| (*method, *path));
        assert_eq!(table.collect::<Vec<_>>(), routes.collect::<Vec<_>>());
    }

    #[test]
    fn found_or_not() {
        let route = |route, segment: &str| Found::Route(route, segment.to_owned());
        let rows = [
            ("GET", "/muster/v1/containers", route(Route::List, "")),
            ("HEAD", "/muster/v1/containers", route(Route::List, "")),
            ("POST", "/muster/v1/containers", route(Route::Submit, "")),
            ("PUT", "/muster/v1/containers", Found::WrongMethod("GET, POST".to_owned())),
            ("GET", "/muster/v1/containers/u", route(Route::Show, "u")),
            ("GET", "/muster/v1/containers/u/logs", route(Route::Logs, "u")),
            ("GET", "/muster/v1/containers/u/other", Found::Nothing),
            ("GET", "/muster/v1/containers/cancel", Found::WrongMethod("POST".to_owned())),
            ("POST", "/muster/v1/containers/cancel", route(Route::Cancel, "")),
            ("POST", "/muster/v1/batches/b1/commit", route(Route::CommitBatch, "b1")),
            ("GET", "//muster/v1/version", Found::Moved("/muster/v1/version".to_owned())),
            ("GET", "/muster/v1", Found::Nothing),
            ("GET", "/arvados/v1/dispatch/instances", route(Route::ArvadosInstances, "")),
            ("GET", "//arvados//v1/dispatch/instances/", Found::Moved("/arvados/v1/dispatch/instances".to_owned())),
            ("POST", "/arvados/v1/dispatch/instances", Found::WrongMethod("GET".to_owned())),
            ("GET", "/arvados/v1/dispatch/", Found::Nothing),
            ("GET", "//nothing", Found::Nothing),
        ];
        for (method, path, expected) in rows {
            assert_eq!(find(method, path), expected, "{method} {path}");
        }
    }
}
