//! Rewritten paths and Location headers, one row per sentence.

use weft_model::route::{PathModifier, Redirect};

use super::{exact, prefix};
use crate::path::modify_path;
use crate::redirect::{Requested, redirect_location};

#[test]
fn replace_prefix_match_follows_the_table_in_the_api() {
    for (path, matched, replacement, expected) in [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/foo/bar", "/foo", "/", "/bar"),
        ("/a/b", "/", "/x", "/x/a/b"),
        ("/", "/", "/x", "/x/"),
        // The query stays.
        ("/foo/bar?a=/foo&b", "/foo", "/x", "/x/bar?a=/foo&b"),
    ] {
        let modified = modify_path(&PathModifier::Prefix(replacement.into()), &prefix(matched), path);
        assert_eq!(modified.as_deref(), Some(expected), "{path} {matched} {replacement}");
    }
}

#[test]
fn replace_full_path_keeps_only_the_query() {
    for (path, replacement, expected) in [
        ("/a/b", "/x", "/x"),
        ("/a/b?q=1", "/x", "/x?q=1"),
        ("/a", "", "/"),
        ("/a", "x", "/x"),
        ("/a", "/with space?", "/with%20space%3F"),
    ] {
        let modified = modify_path(&PathModifier::Full(replacement.into()), &exact("/a"), path);
        assert_eq!(modified.as_deref(), Some(expected));
    }
}

#[test]
fn replace_prefix_match_without_a_prefix_is_not_guessed_at() {
    assert_eq!(modify_path(&PathModifier::Prefix("/x".into()), &exact("/a"), "/a"), None);
}

#[test]
fn location_follows_the_rules_for_scheme_host_and_port() {
    let location = |redirect: &Redirect, scheme, host, port| {
        let requested = Requested { scheme, host, port, path_and_query: "/p?q=1" };
        redirect_location(redirect, &prefix("/"), &requested).unwrap()
    };
    let none = Redirect::default();
    let scheme = |scheme: &str| Redirect { scheme: Some(scheme.into()), ..Redirect::default() };
    let port = |port| Redirect { port: Some(port), ..Redirect::default() };
    // Nothing given: the request's scheme and host, the port called.
    assert_eq!(location(&none, "http", "cart", 80), "http://cart/p?q=1");
    assert_eq!(location(&none, "http", "cart", 8080), "http://cart:8080/p?q=1");
    // A port in the Host header does not count.
    assert_eq!(location(&none, "http", "cart:9999", 80), "http://cart/p?q=1");
    assert_eq!(location(&none, "http", "[fd00::1]:80", 80), "http://[fd00::1]/p?q=1");
    assert_eq!(location(&none, "http", "[fd00::1]", 81), "http://[fd00::1]:81/p?q=1");
    // A scheme brings its well-known port, which is not shown.
    assert_eq!(location(&scheme("https"), "http", "cart", 8080), "https://cart/p?q=1");
    assert_eq!(location(&scheme("http"), "http", "cart", 8080), "http://cart/p?q=1");
    // A port given wins, and shows unless it is the scheme's.
    assert_eq!(location(&port(8443), "http", "cart", 80), "http://cart:8443/p?q=1");
    assert_eq!(location(&port(80), "http", "cart", 8080), "http://cart/p?q=1");
    assert_eq!(location(&port(443), "http", "cart", 8080), "http://cart:443/p?q=1");
    let both = Redirect { scheme: Some("https".into()), port: Some(443), ..Redirect::default() };
    assert_eq!(location(&both, "http", "cart", 8080), "https://cart/p?q=1");
    let other = Redirect {
        hostname: Some("example.org".into()),
        path: Some(PathModifier::Prefix("/new".into())),
        ..Redirect::default()
    };
    assert_eq!(location(&other, "http", "cart", 80), "http://example.org/new/p?q=1");
}
