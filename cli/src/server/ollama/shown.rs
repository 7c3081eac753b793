//! What routes that generate share: the model that is asked, and how it is kept.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::answer::{Head, Route};
use super::keep::KeepAlive;
use crate::server::app::App;
use crate::server::controls::{MOST_TOP, out_of_range};
use crate::server::error::ApiError;

/// A model that is asked.
pub(super) struct Asked<'a> {
    pub(super) name: &'a str,
    pub(super) keep_alive: Option<&'a KeepAlive>,
    pub(super) route: Route,
}

impl Asked<'_> {
    /// Loads it where it is not there.
    pub(super) async fn head(&self, app: &App) -> Result<Head, ApiError> {
        let keep = self.keep_alive.map(KeepAlive::read).transpose()?;
        let begun = Instant::now();
        let model = app.models.get(Some(self.name)).await?;
        if let Some(keep) = keep {
            model.keep_for(keep);
        }
        Ok(Head {
            route: self.route,
            name: self.name.to_owned(),
            model,
            load: begun.elapsed(),
            begun,
        })
    }

    /// The answer to who wants no text: the model is loaded, or unloaded where it is to be kept for no time.
    pub(super) async fn nothing(&self, app: &App) -> Result<Value, ApiError> {
        let head = self.head(app).await?;
        let keep = self.keep_alive.map(KeepAlive::read).transpose()?;
        if keep == Some(Duration::ZERO) {
            let answer = head.nothing("unload");
            drop(head);
            app.models.unload(self.name).await?;
            return Ok(answer);
        }
        Ok(head.nothing("load"))
    }
}

/// How many of the most likely tokens to report.
pub(super) fn log_probs(wanted: Option<bool>, top: Option<u64>) -> Result<Option<usize>, ApiError> {
    match (wanted.unwrap_or(false), top.unwrap_or(0)) {
        (_, top) if top > MOST_TOP => Err(out_of_range("top_logprobs", top, "0 to 20")),
        (false, 0) => Ok(None),
        (false, _) => Err(ApiError::param(
            "top_logprobs",
            "top_logprobs needs logprobs: true",
        )),
        (true, top) => Ok(Some(top as usize)),
    }
}
