//! The built-in templates: for files that carry none, and models that were taught a known form.

macro_rules! templates {
    ($($name:literal,)*) => {
        /// Name and source.
        const TEMPLATES: &[(&str, &str)] = &[
            $(($name, include_str!(concat!("named/", $name, ".jinja"))),)*
        ];
    };
}

templates! {
    "alpaca",
    "chatml",
    "command-r",
    "deepseek",
    "gemma",
    "granite",
    "hermes",
    "llama2",
    "llama3",
    "mistral",
    "phi3",
    "plain",
    "vicuna",
    "zephyr",
}

/// The names, in order.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    TEMPLATES.iter().map(|&(name, _)| name)
}

/// The source of the template of a name.
pub(super) fn source(name: &str) -> Option<&'static str> {
    TEMPLATES
        .iter()
        .find(|&&(known, _)| known == name)
        .map(|&(_, source)| source)
}
