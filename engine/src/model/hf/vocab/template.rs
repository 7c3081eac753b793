//! The chat template of a folder: a file of its own, or a part of `tokenizer_config.json`.

use std::path::{Path, PathBuf};

use super::json::{TemplateFile, Templates};
use super::{MAX_OTHER_BYTES, bad_file, bytes_of, parse};
use crate::Error;
use crate::model::hf::head::Head;

/// The key of the template that is used where none is named; others have a dot and their name behind it.
const KEY: &str = "tokenizer.chat_template";
/// What lists call that template.
const DEFAULT: &str = "default";

/// Writes the template, and those with names.
pub(super) fn write(
    folder: &Path,
    of_config: Option<Templates>,
    head: &mut Head,
    files: &mut Vec<PathBuf>,
) -> Result<(), Error> {
    let (text, json) = (
        folder.join("chat_template.jinja"),
        folder.join("chat_template.json"),
    );
    let found = if text.exists() {
        let bytes = bytes_of(&text, MAX_OTHER_BYTES)?;
        let template = String::from_utf8(bytes).map_err(|e| {
            let at = e.utf8_error().valid_up_to();
            bad_file(
                &text,
                format!("not UTF-8 text at byte {at}; expected a template"),
            )
        })?;
        files.push(text);
        Some(Templates::One(template))
    } else if json.exists() {
        let file: TemplateFile = parse(&json, &bytes_of(&json, MAX_OTHER_BYTES)?)?;
        files.push(json);
        Some(file.chat_template)
    } else {
        of_config
    };
    match found {
        None => Ok(()),
        Some(Templates::One(template)) => Ok(head.writer.set(KEY, &template)?),
        Some(Templates::Several(all)) => {
            let mut names = Vec::new();
            for one in &all {
                if one.name == DEFAULT {
                    head.writer.set(KEY, &one.template)?;
                    continue;
                }
                head.writer
                    .set(&format!("{KEY}.{}", one.name), &one.template)?;
                names.push(one.name.as_str());
            }
            if !names.is_empty() {
                head.writer.set_array("tokenizer.chat_templates", &names)?;
            }
            Ok(())
        }
    }
}
