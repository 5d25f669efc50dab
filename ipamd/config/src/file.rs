//! The file of the configuration.

use std::{fs, io, path::Path};

use crate::{defaults::DEFAULT_CONFIG, error::ConfigError, options::Options};

/// The file that is named, or the default one if it exists.
pub(super) fn read_or_default(path: Option<&Path>) -> Result<Options, ConfigError> {
    match path {
        Some(path) => read(path),
        None => match read(Path::new(DEFAULT_CONFIG)) {
            Err(ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Options::default())
            }
            result => result,
        },
    }
}

fn read(path: &Path) -> Result<Options, ConfigError> {
    let text =
        fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(path, &text)
}

pub(super) fn parse(path: &Path, text: &str) -> Result<Options, ConfigError> {
    toml::from_str(text).map_err(|error| ConfigError::File {
        path: path.to_owned(),
        detail: error.to_string().trim_end().to_owned(),
    })
}
