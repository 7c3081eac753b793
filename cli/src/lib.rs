//! The guide to Gannet, as documentation: the pages of `docs/`, and nothing else. The command itself is the
//! binary `gannet` of this package; programs take the crate `gannet-engine`.
//!
#![doc = "[install]: crate::install\n[models]: crate::models\n[gpu]: crate::gpu\n[talk]: crate::talk\n[server]: crate::server"]
#![doc = "[clients]: crate::clients\n[embedding]: crate::embedding\n[tuning]: crate::tuning"]
#![doc = "[troubleshooting]: crate::troubleshooting\n[kernels]: crate::kernels\n[families]: crate::families\n"]
#![doc = include_str!("../docs/README.md")]

/// A page is a module, whose links to other pages lead to their modules: of two definitions of a link the first
/// counts, and the second, in the file, is for those who read files.
macro_rules! pages {
    ($($name:ident: $file:literal,)*) => {$(
        #[doc = "[install]: crate::install\n[models]: crate::models\n[gpu]: crate::gpu"]
        #[doc = "[talk]: crate::talk\n[server]: crate::server\n[clients]: crate::clients\n[embedding]: crate::embedding"]
        #[doc = "[tuning]: crate::tuning\n[troubleshooting]: crate::troubleshooting"]
        #[doc = "[kernels]: crate::kernels\n[families]: crate::families\n"]
        #[doc = include_str!($file)]
        pub mod $name {}
    )*};
}

pages! {
    install: "../docs/install.md",
    models: "../docs/models.md",
    gpu: "../docs/gpu.md",
    talk: "../docs/talk.md",
    server: "../docs/server.md",
    clients: "../docs/clients.md",
    embedding: "../docs/embedding.md",
    tuning: "../docs/tuning.md",
    troubleshooting: "../docs/troubleshooting.md",
    kernels: "../docs/kernels.md",
    families: "../docs/families.md",
}
