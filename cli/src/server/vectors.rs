//! Vectors of texts, in no dialect: of models whose files say how one is made.

use std::sync::Arc;

use gannet_engine::requests::Pooling;
use gannet_engine::tokenizer::EncodeOptions;
use tokio::sync::oneshot;

use super::error::{ApiError, ENGINE_LOST};
use super::loaded::Loaded;

/// Texts that a request may have.
const MOST: usize = 2048;

/// The vectors of some texts, as the model makes them, and the tokens of all.
pub(crate) struct Vectors {
    pub(crate) vectors: Vec<Vec<f32>>,
    pub(crate) tokens: usize,
}

impl Vectors {
    /// The same directions, each of length 1.
    pub(crate) fn units(self) -> Vec<Vec<f32>> {
        self.vectors.into_iter().map(unit).collect()
    }
}

/// The tokens of a text, with those that the model's file wants around it.
pub(crate) fn tokens_of(model: &Loaded, text: &str) -> Vec<u32> {
    let options = EncodeOptions {
        add_special: true,
        parse_special: true,
    };
    model.model().tokenizer().encode(text, options)
}

/// How the model makes a vector, if it does.
fn pooling(model: &Loaded) -> Result<Pooling, ApiError> {
    let hparams = model.model().hparams();
    let key = format!("{}.pooling_type", hparams.arch);
    let why = match hparams.pooling {
        pooling @ (Pooling::Mean | Pooling::Last) => return Ok(pooling),
        Pooling::None => "its file names no pooling".to_owned(),
        other => format!("the pooling of its file, {other}, is not supported"),
    };
    let message = format!(
        "{} has no vectors of texts: {why}; {key} would be 1 (mean) or 3 (last token)",
        model.id()
    );
    Err(ApiError::param("model", message).code("no_embeddings"))
}

/// Computes vectors; `param` is what the texts are called.
pub(crate) async fn vectors(
    model: &Arc<Loaded>,
    texts: Vec<Vec<u32>>,
    param: &str,
) -> Result<Vectors, ApiError> {
    let pooling = pooling(model)?;
    check(model, &texts, param)?;
    let active = model.admit(1)?;
    let tokens = texts.iter().map(Vec::len).sum();
    let mut vectors = Vec::with_capacity(texts.len());
    // One after the other, so that whoever goes away leaves little behind.
    for text in texts {
        let (sender, heard) = oneshot::channel();
        model.engine().embed_with(text, pooling, move |vector| {
            // Whoever asked may be gone.
            let _ = sender.send(vector);
        });
        let lost = |_| ApiError::unavailable(ENGINE_LOST, "the engine has ended");
        let vector = heard.await.map_err(lost)?.map_err(ApiError::from);
        vectors.push(vector.inspect_err(|error| active.choices().note(error))?);
    }
    active.choices().done();
    Ok(Vectors { vectors, tokens })
}

fn check(model: &Loaded, texts: &[Vec<u32>], param: &str) -> Result<(), ApiError> {
    if texts.is_empty() || texts.len() > MOST {
        let why = format!("{param} has {} texts; expected 1 to {MOST}", texts.len());
        return Err(ApiError::param(param, why).code("out_of_range"));
    }
    let context = model.engine().context();
    for (i, text) in texts.iter().enumerate() {
        let place = || match texts.len() {
            1 => param.to_owned(),
            _ => format!("{param}[{i}]"),
        };
        if text.is_empty() {
            return Err(ApiError::param(
                place(),
                format!("{}: the text has no tokens", place()),
            ));
        }
        if text.len() > context {
            return Err(ApiError::too_long(text.len(), context).about(place()));
        }
        let checked = model.model().check_tokens(text);
        checked.map_err(|e| ApiError::param(place(), e.to_string()))?;
    }
    Ok(())
}

/// The same direction, of length 1; what has no length stays as it is.
fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let squares: f64 = vector.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
    if squares > 0.0 {
        let scale = 1.0 / squares.sqrt();
        vector
            .iter_mut()
            .for_each(|v| *v = (f64::from(*v) * scale) as f32);
    }
    vector
}

/// Bytes as base64 (RFC 4648, section 4).
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut word = [0; 4];
        word[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(word);
        for digit in 0..4 {
            match digit <= group.len() {
                true => text.push(char::from(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63])),
                false => text.push('='),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 4648, section 10.
    #[test]
    fn base64_is_that_of_its_standard() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }

    #[test]
    fn vectors_have_a_length_of_1() {
        assert_eq!(unit(vec![3.0, -4.0]), [0.6, -0.8]);
        assert_eq!(unit(vec![0.0, 0.0]), [0.0, 0.0]);
    }
}
