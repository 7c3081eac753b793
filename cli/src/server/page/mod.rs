//! The page on which people talk with a model: files that the program carries, as they were written.
//!
//! Nothing is built and nothing comes from elsewhere: the policy that goes with every file
//! ([`POLICY`]) lets the page load what this server has and nothing else, runs no script that stands
//! in a document, and lets no other page show it in a frame. The page asks the same routes as any
//! other program.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::LazyLock;

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// What the page may do: <https://www.w3.org/TR/CSP3/>.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

/// A file of the page.
struct File {
    path: &'static str,
    content_type: &'static str,
    text: &'static str,
}

macro_rules! files {
    ($($path:literal: $content_type:ident $file:literal,)*) => {
        &[$(File { path: $path, content_type: $content_type, text: include_str!($file) },)*]
    };
}

/// All of them. The document names the others relative to itself.
const FILES: &[File] = files! {
    "/": HTML "index.html",
    "/page/app.js": SCRIPT "app.js",
    "/page/composer.js": SCRIPT "composer.js",
    "/page/markdown.js": SCRIPT "markdown.js",
    "/page/inline.js": SCRIPT "inline.js",
    "/page/messages.js": SCRIPT "messages.js",
    "/page/settings.js": SCRIPT "settings.js",
    "/page/sidebar.js": SCRIPT "sidebar.js",
    "/page/store.js": SCRIPT "store.js",
    "/page/stream.js": SCRIPT "stream.js",
    "/page/theme.js": SCRIPT "theme.js",
    "/page/style.css": STYLE "style.css",
    "/page/icon.svg": IMAGE "icon.svg",
};

/// Changes whenever a file does, by which browsers know what they have.
static TAG: LazyLock<HeaderValue> = LazyLock::new(|| {
    let mut hasher = DefaultHasher::new();
    for file in FILES {
        file.text.hash(&mut hasher);
    }
    let tag = format!("\"{:016x}\"", hasher.finish());
    HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("\"0\""))
});

/// The routes of the page; none where it is not served.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>(served: bool) -> Router<S> {
    let files = FILES.iter().filter(|_| served);
    files.fold(Router::new(), |routes, file| {
        routes.route(
            file.path,
            get(move |headers: HeaderMap| async move { answer(file, &headers) }),
        )
    })
}

/// A file, or that the reader has it already.
fn answer(file: &File, asked: &HeaderMap) -> Response {
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static(file.content_type),
        ),
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(POLICY),
        ),
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
        (
            header::REFERRER_POLICY,
            HeaderValue::from_static("no-referrer"),
        ),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            HeaderValue::from_static("same-origin"),
        ),
        // Kept, and asked for again each time: a new program has new files.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::ETAG, TAG.clone()),
    ];
    match is_known(asked) {
        true => (StatusCode::NOT_MODIFIED, headers).into_response(),
        false => (headers, file.text).into_response(),
    }
}

/// Whether the reader has what there is.
fn is_known(asked: &HeaderMap) -> bool {
    let tags = asked
        .get(header::IF_NONE_MATCH)
        .and_then(|tags| tags.to_str().ok());
    let tag = TAG.to_str().unwrap_or_default();
    let is_it = |known: &str| {
        let known = known.trim();
        known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag
    };
    tags.is_some_and(|tags| tags.split(',').any(is_it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_names_files_that_there_are_and_has_no_script_of_its_own() {
        let document = FILES[0].text;
        let named = |attribute: &str| -> Vec<String> {
            let parts = document.split(attribute).skip(1);
            parts
                .map(|rest| rest.split('"').next().unwrap().to_owned())
                .collect()
        };
        for path in [named("src=\""), named("href=\"")].concat() {
            let is_there = FILES
                .iter()
                .any(|f| f.path.strip_prefix('/') == Some(&path));
            assert!(is_there || path.starts_with('#'), "{path}");
        }
        assert_eq!(named("<script").len(), named("src=\"").len());
        for inline in ["<style", " style=", " onclick=", " onload=", "javascript:"] {
            assert!(!document.contains(inline), "{inline}");
        }
    }

    /// The only way from text to the document is as text.
    #[test]
    fn no_script_makes_markup_of_text() {
        for file in FILES.iter().filter(|f| f.content_type == SCRIPT) {
            for way in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                "DOMParser",
                "setHTMLUnsafe",
                "createContextualFragment",
                "srcdoc",
            ] {
                assert!(!file.text.contains(way), "{}: {way}", file.path);
            }
            assert!(file.text.lines().count() <= 500, "{}", file.path);
        }
    }

    #[test]
    fn imported_modules_are_served() {
        for file in FILES.iter().filter(|f| f.content_type == SCRIPT) {
            let imports = file.text.lines().filter(|line| line.starts_with("import "));
            for line in imports {
                let from = line.split('"').nth(1).unwrap();
                let path = format!("/page/{}", from.trim_start_matches("./"));
                assert!(
                    FILES.iter().any(|f| f.path == path),
                    "{}: {line}",
                    file.path
                );
            }
        }
    }
}
