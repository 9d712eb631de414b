//! Filters. The generated types repeat one shape per position; HTTPRoute's rule filter holds all that the others hold,
//! so the others are read as that one and there is one conversion.

use serde::Serialize;
use serde::de::DeserializeOwned;
use weft_gateway_api::httproutes::{
    HttpRouteRulesFilters as RouteFilter, HttpRouteRulesFiltersCors as RouteCors,
    HttpRouteRulesFiltersRequestMirror as RouteMirror, HttpRouteRulesFiltersRequestRedirect as RouteRedirect,
    HttpRouteRulesFiltersRequestRedirectPathType as RedirectPath,
    HttpRouteRulesFiltersRequestRedirectScheme as Scheme, HttpRouteRulesFiltersType as FilterType,
    HttpRouteRulesFiltersUrlRewrite as RouteRewrite, HttpRouteRulesFiltersUrlRewritePathType as RewritePath,
};
use weft_model::Text;
use weft_model::route::{
    BackendTarget, Cors, Filter, HeaderModifier, Mirror, PathModifier, Redirect, UrlRewrite,
};

use super::auth;
use super::backend::{Backends, reference};
use super::fault::{Fault, FaultReason, References};

/// Request and response modifier are two generated types of one shape.
macro_rules! header_modifier {
    ($of:expr) => {
        HeaderModifier {
            set: $of
                .set
                .iter()
                .flatten()
                .map(|h| (h.name.as_str().into(), h.value.as_str().into()))
                .collect(),
            add: $of
                .add
                .iter()
                .flatten()
                .map(|h| (h.name.as_str().into(), h.value.as_str().into()))
                .collect(),
            remove: texts($of.remove.as_deref()),
        }
    };
}

/// Where a filter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Rule,
    Backend,
}

/// Reads a list of one generated type as another that has all its fields: filters of any position as HTTPRoute's rule
/// filters, GRPCRoute's backendRefs as HTTPRoute's.
pub(crate) fn read<T: Serialize, U: DeserializeOwned>(list: &[T]) -> Result<Vec<U>, Fault> {
    let read = |item| serde_json::from_value(serde_json::to_value(item)?);
    list.iter()
        .map(read)
        .collect::<Result<_, serde_json::Error>>()
        .map_err(|error| Fault::unsupported(format!("a part of the rule could not be read: {error}")))
}

/// Converts the filters of one rule or one backend, in order.
pub(crate) fn convert(
    filters: &[RouteFilter],
    level: Level,
    backends: &Backends<'_>,
    references: &mut References,
) -> Result<Vec<Filter>, Fault> {
    let has = |wanted: &FilterType| filters.iter().any(|filter| filter.r#type == *wanted);
    if has(&FilterType::RequestRedirect) && has(&FilterType::UrlRewrite) {
        return Err(Fault {
            reason: FaultReason::IncompatibleFilters,
            message: "RequestRedirect and URLRewrite cannot be in one rule; remove one of them".to_owned(),
        });
    }
    filters.iter().map(|filter| convert_filter(filter, level, backends, references)).collect()
}

fn convert_filter(
    filter: &RouteFilter,
    level: Level,
    backends: &Backends<'_>,
    references: &mut References,
) -> Result<Filter, Fault> {
    let missing =
        |field: &str| Fault::unsupported(format!("a filter's field {field} is missing; fill it in"));
    Ok(match (&filter.r#type, level) {
        (FilterType::RequestHeaderModifier, _) => {
            let of =
                filter.request_header_modifier.as_ref().ok_or_else(|| missing("requestHeaderModifier"))?;
            Filter::RequestHeaders(header_modifier!(of))
        }
        (FilterType::ResponseHeaderModifier, _) => {
            let of =
                filter.response_header_modifier.as_ref().ok_or_else(|| missing("responseHeaderModifier"))?;
            Filter::ResponseHeaders(header_modifier!(of))
        }
        (FilterType::RequestMirror, _) => {
            let of = filter.request_mirror.as_ref().ok_or_else(|| missing("requestMirror"))?;
            Filter::Mirror(convert_mirror(of, backends.target(reference!(of.backend_ref), references))?)
        }
        (FilterType::UrlRewrite, _) => {
            let of = filter.url_rewrite.as_ref().ok_or_else(|| missing("urlRewrite"))?;
            Filter::UrlRewrite(convert_rewrite(of)?)
        }
        (FilterType::RequestRedirect, Level::Rule) => {
            let of = filter.request_redirect.as_ref().ok_or_else(|| missing("requestRedirect"))?;
            Filter::Redirect(convert_redirect(of)?)
        }
        (FilterType::Cors, Level::Rule) => {
            let of = filter.cors.as_ref().ok_or_else(|| missing("cors"))?;
            Filter::Cors(convert_cors(of)?)
        }
        // Both answer the caller, so a choice of backend cannot come before them.
        (FilterType::RequestRedirect | FilterType::Cors, Level::Backend) => {
            return Err(Fault::unsupported(
                "RequestRedirect and CORS are not supported in a backendRef's filters; move them to the rule",
            ));
        }
        (FilterType::ExtensionRef, _) => return Err(extension(filter)),
        (FilterType::ExternalAuth, _) => {
            let of = filter.external_auth.as_ref().ok_or_else(|| missing("externalAuth"))?;
            Filter::ExternalAuth(auth::convert(of, backends, references)?)
        }
    })
}

fn extension(filter: &RouteFilter) -> Fault {
    let what = filter
        .extension_ref
        .as_ref()
        .map_or_else(String::new, |of| format!(" {}.{} {}", of.kind, of.group, of.name));
    Fault::unsupported(format!("the filter ExtensionRef{what} is not supported; remove it"))
}

fn texts(list: Option<&[String]>) -> Vec<Text> {
    list.unwrap_or_default().iter().map(|text| Text::from(text.as_str())).collect()
}

fn text(text: Option<&String>) -> Option<Text> {
    text.map(|text| Text::from(text.as_str()))
}

/// All requests unless `percent` or `fraction` says less.
fn convert_mirror(mirror: &RouteMirror, target: BackendTarget) -> Result<Mirror, Fault> {
    let (numerator, denominator) = match (&mirror.percent, &mirror.fraction) {
        (None, None) => (100, 100),
        (Some(percent), None) => (*percent, 100),
        (None, Some(fraction)) => (fraction.numerator, fraction.denominator.unwrap_or(100)),
        (Some(_), Some(_)) => {
            return Err(Fault::unsupported("requestMirror has percent and fraction; remove one of them"));
        }
    };
    match (u32::try_from(numerator), u32::try_from(denominator)) {
        (Ok(numerator), Ok(denominator)) if numerator <= denominator && denominator > 0 => {
            Ok(Mirror { target, numerator, denominator })
        }
        _ => Err(Fault::unsupported(format!(
            "requestMirror: {numerator} of {denominator} is no share; it must lie between 0 and 1"
        ))),
    }
}

fn convert_rewrite(rewrite: &RouteRewrite) -> Result<UrlRewrite, Fault> {
    let path = rewrite.path.as_ref().map(|path| match path.r#type {
        RewritePath::ReplaceFullPath => full_path(path.replace_full_path.as_ref()),
        RewritePath::ReplacePrefixMatch => prefix_match(path.replace_prefix_match.as_ref()),
    });
    Ok(UrlRewrite { hostname: text(rewrite.hostname.as_ref()), path: path.transpose()? })
}

fn convert_redirect(redirect: &RouteRedirect) -> Result<Redirect, Fault> {
    let path = redirect.path.as_ref().map(|path| match path.r#type {
        RedirectPath::ReplaceFullPath => full_path(path.replace_full_path.as_ref()),
        RedirectPath::ReplacePrefixMatch => prefix_match(path.replace_prefix_match.as_ref()),
    });
    let status = redirect.status_code.unwrap_or(302);
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        return Err(Fault::unsupported(format!(
            "requestRedirect.statusCode: {status} is not supported; use 301, 302, 303, 307 or 308"
        )));
    }
    let port = redirect.port.map(|port| {
        u16::try_from(port)
            .map_err(|_| Fault::unsupported(format!("requestRedirect.port: {port} is no port")))
    });
    Ok(Redirect {
        scheme: redirect.scheme.as_ref().map(|scheme| match scheme {
            Scheme::Http => "http".into(),
            Scheme::Https => "https".into(),
        }),
        hostname: text(redirect.hostname.as_ref()),
        path: path.transpose()?,
        port: port.transpose()?,
        status: u16::try_from(status).unwrap_or(302),
    })
}

fn full_path(value: Option<&String>) -> Result<PathModifier, Fault> {
    text(value)
        .map(PathModifier::Full)
        .ok_or_else(|| Fault::unsupported("path type ReplaceFullPath needs replaceFullPath; fill it in"))
}

fn prefix_match(value: Option<&String>) -> Result<PathModifier, Fault> {
    text(value).map(PathModifier::Prefix).ok_or_else(|| {
        Fault::unsupported("path type ReplacePrefixMatch needs replacePrefixMatch; fill it in")
    })
}

fn convert_cors(cors: &RouteCors) -> Result<Cors, Fault> {
    let max_age = cors.max_age.unwrap_or(5);
    Ok(Cors {
        allow_origins: texts(cors.allow_origins.as_deref()),
        allow_credentials: cors.allow_credentials.unwrap_or(false),
        allow_methods: texts(cors.allow_methods.as_deref()),
        allow_headers: texts(cors.allow_headers.as_deref()),
        expose_headers: texts(cors.expose_headers.as_deref()),
        max_age: u32::try_from(max_age)
            .map_err(|_| Fault::unsupported(format!("cors.maxAge: {max_age} is not a number of seconds")))?,
    })
}
