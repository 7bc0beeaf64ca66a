//! The file of settings: its values take the place of the defaults, so that flags and the environment count for more, and
//! what is wrong is found by the same rules.

use std::path::Path;

use anyhow::{Context as _, bail};
use clap::{Args as _, Command};
use toml::Value;

use super::Options;

/// Options that make no sense in a file.
const NOT_IN_A_FILE: [&str; 1] = ["config"];

/// Puts what a file says into the place of the defaults of the command below `path`.
pub fn with_file(command: Command, path: &[&str], file: &Path) -> anyhow::Result<Command> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let table: toml::Table = text.parse().with_context(|| format!("{} is not TOML", file.display()))?;
    let known = Options::augment_args(Command::new("settings"));
    let mut defaults = Vec::new();
    for (key, value) in table {
        let argument = known.get_arguments().find(|argument| argument.get_long() == Some(key.as_str()));
        let Some(argument) = argument.filter(|_| !NOT_IN_A_FILE.contains(&key.as_str())) else {
            bail!("{}: there is no setting {key:?}", file.display());
        };
        let values = plain(&value).with_context(|| {
            format!("{}: {key} must be a text, a number, a truth value or a list of these", file.display())
        })?;
        defaults.push((argument.get_id().to_string(), values));
    }
    Ok(below(command, path, &defaults))
}

fn below(command: Command, path: &[&str], defaults: &[(String, Vec<String>)]) -> Command {
    match path.split_first() {
        Some((first, rest)) => command.mut_subcommand(*first, |command| below(command, rest, defaults)),
        None => defaults.iter().fold(command, |command, (id, values)| {
            command.mut_arg(id, |argument| argument.default_values(values.clone()))
        }),
    }
}

fn plain(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Integer(number) => Some(vec![number.to_string()]),
        Value::Boolean(truth) => Some(vec![truth.to_string()]),
        Value::Array(values) => {
            let lists: Option<Vec<Vec<String>>> = values.iter().map(plain).collect();
            lists.map(|lists| lists.into_iter().flatten().collect())
        }
        Value::Float(_) | Value::Datetime(_) | Value::Table(_) => None,
    }
}
