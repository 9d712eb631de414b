//! Following one collection of objects: a list, then a watch from where the list stands, again and again.
//!
//! Not `kube`'s own watcher, for three reasons: it does not say when a watch that failed works again, it asks for ever
//! for a resource version that the server answers with HTTP 410, and it asks again at once when a watch ends at once.

use std::convert::Infallible;
use std::fmt::Debug;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Error, Resource};
use serde::de::DeserializeOwned;
use weft_runtime::backoff::Backoff;

/// Objects asked for at a time.
const PAGE: u32 = 500;
/// How long one page may take.
const LIST: Duration = Duration::from_secs(60);
/// How long the server keeps a watch open. It is also how soon a server that is silently gone is noticed.
const WATCH_SECONDS: u32 = 120;
/// What is waited beyond that for the end of a watch.
const GRACE: Duration = Duration::from_secs(10);
/// A watch that ends sooner than this has not worked.
const WORKED: Duration = Duration::from_secs(1);
/// Waits after failures: the first and the longest.
const WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// What there is to know of a collection.
#[derive(Debug)]
pub(crate) enum Event<K> {
    /// A list begins: what was found so far is nothing.
    ListBegins,
    /// An object of the list.
    Found(K),
    /// Everything has been found; what is not among it is gone.
    ListEnds,
    /// From here on changes come.
    Watching,
    /// An object was added or has changed.
    Applied(K),
    /// An object is gone.
    Deleted(K),
    /// Something does not work; it is tried again. What is known stays true as far as anybody knows.
    Failed(Error),
}

/// Which objects of a collection are followed: those that both selectors choose.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Selector<'a> {
    /// A field selector.
    pub(crate) fields: Option<&'a str>,
    /// A label selector.
    pub(crate) labels: Option<&'a str>,
}

impl<'a> Selector<'a> {
    /// All of them.
    pub(crate) const ALL: Self = Self { fields: None, labels: None };

    /// Those that a field selector chooses.
    pub(crate) const fn fields(fields: &'a str) -> Self {
        Self { fields: Some(fields), labels: None }
    }

    /// Those that a label selector chooses.
    pub(crate) const fn labels(labels: &'a str) -> Self {
        Self { fields: None, labels: Some(labels) }
    }
}

/// Tells all that happens to the objects of `api`, for ever. May be dropped at any time.
pub(crate) async fn follow<K>(
    api: &Api<K>,
    select: Selector<'_>,
    mut tell: impl FnMut(Event<K>),
) -> Infallible
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let mut backoff = Backoff::new(WAITS.0, WAITS.1);
    loop {
        match list(api, select, &mut tell).await {
            Ok(version) => watch_on(api, select, version, &mut backoff, &mut tell).await,
            Err(error) => tell(Event::Failed(error)),
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Lists everything; the resource version that the list is of.
pub(crate) async fn list<K>(
    api: &Api<K>,
    select: Selector<'_>,
    tell: &mut impl FnMut(Event<K>),
) -> Result<String, Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    tell(Event::ListBegins);
    let mut params = ListParams::default().limit(PAGE);
    params.field_selector = select.fields.map(str::to_owned);
    params.label_selector = select.labels.map(str::to_owned);
    loop {
        let page = within(LIST, api.list(&params)).await?;
        page.items.into_iter().for_each(|object| tell(Event::Found(object)));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => {
                tell(Event::ListEnds);
                return Ok(page.metadata.resource_version.unwrap_or_default());
            }
        }
    }
}

/// Watches from a resource version on, until a list is needed again.
async fn watch_on<K>(
    api: &Api<K>,
    select: Selector<'_>,
    mut version: String,
    backoff: &mut Backoff,
    tell: &mut impl FnMut(Event<K>),
) where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    loop {
        let began = Instant::now();
        let ended = watch(api, select, &mut version, tell).await;
        if began.elapsed() >= WORKED {
            backoff.reset();
        }
        match ended {
            Ok(()) if began.elapsed() >= WORKED => continue,
            Ok(()) => {}
            Err(error) => {
                // 0: a line that cannot be read and that the library took for an answer.
                let unreadable = is(&error, 0) || matches!(error, Error::SerdeError(_));
                let again = is(&error, 410) || is(&error, 404) || unreadable;
                // That the server has forgotten a version is how it is, not a failure.
                if !is(&error, 410) {
                    tell(Event::Failed(error));
                }
                if again {
                    return;
                }
            }
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// One watch, to its end.
async fn watch<K>(
    api: &Api<K>,
    select: Selector<'_>,
    version: &mut String,
    tell: &mut impl FnMut(Event<K>),
) -> Result<(), Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let mut params = WatchParams::default().timeout(WATCH_SECONDS);
    params.field_selector = select.fields.map(str::to_owned);
    params.label_selector = select.labels.map(str::to_owned);
    let stream = within(LIST, api.watch(&params, version)).await?;
    let mut stream = pin!(stream);
    tell(Event::Watching);
    let longest = Duration::from_secs(WATCH_SECONDS.into()) + GRACE;
    while let Ok(Some(event)) = tokio::time::timeout(longest, stream.next()).await {
        let newer = match event? {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let newer = object.meta().resource_version.clone();
                tell(Event::Applied(object));
                newer
            }
            WatchEvent::Deleted(object) => {
                let newer = object.meta().resource_version.clone();
                tell(Event::Deleted(object));
                newer
            }
            WatchEvent::Bookmark(bookmark) => Some(bookmark.metadata.resource_version),
            WatchEvent::Error(status) => return Err(Error::Api(status)),
        };
        // An object without one is odd, but no reason to end: the next will have one.
        if let Some(newer) = newer.filter(|newer| !newer.is_empty()) {
            *version = newer;
        }
    }
    Ok(())
}

/// Bounds a call.
pub(crate) async fn within<T>(
    most: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let silent = |_| Error::Service(format!("no answer within {most:?}").into());
    tokio::time::timeout(most, call).await.map_err(silent)?
}

/// Whether an API server answered with an HTTP status.
pub(crate) fn is(error: &Error, code: u16) -> bool {
    matches!(error, Error::Api(status) if status.code == code)
}

/// An error in words for a person: the library's own hold the whole answer.
pub(crate) fn explain(error: &Error) -> String {
    use std::error::Error as _;
    match error {
        Error::Api(status) if status.code == 0 => "an answer that cannot be read".to_owned(),
        Error::Api(status) => format!("{} ({} {})", status.message, status.code, status.reason),
        error => {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(error) = source {
                let more = error.to_string();
                if !text.contains(&more) {
                    text = format!("{text}: {more}");
                }
                source = error.source();
            }
            text
        }
    }
}
