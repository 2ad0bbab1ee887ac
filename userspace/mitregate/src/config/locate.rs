//! Where a field stands in the file, so that every error can name file, line and field.

use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A field by its path, such as `connections.home.children.net.remote_ts[1]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

impl FieldPath {
    /// The path of these keys.
    pub fn of(keys: &[&str]) -> Self {
        Self(
            keys.iter()
                .map(|key| Step::Key((*key).to_owned()))
                .collect(),
        )
    }

    /// The field `key` of this table.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        self.with(Step::Key(key.to_owned()))
    }

    /// Element `index` of this array.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    /// Whether the path begins with this key.
    pub fn is_in(&self, table: &str) -> bool {
        matches!(self.0.first(), Some(Step::Key(key)) if key == table)
    }

    /// Whether this is the document itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    fn with(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => {
                    let dot = if n > 0 { "." } else { "" };
                    let bare = key
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
                    if bare && !key.is_empty() {
                        write!(f, "{dot}{key}")?;
                    } else {
                        write!(f, "{dot}{key:?}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Line of a byte offset, from 1.
pub fn line_at(text: &str, offset: usize) -> usize {
    1 + text
        .bytes()
        .take(offset)
        .filter(|byte| *byte == b'\n')
        .count()
}

/// Line of a field, or of the nearest table around it that is in the file.
pub fn line_of(text: &str, path: &FieldPath) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut span = None;
    let mut at: Option<&DeValue<'_>> = None;
    for step in &path.0 {
        let found = match (step, at) {
            (Step::Key(key), None) => entry(document.get_ref(), key),
            (Step::Key(key), Some(DeValue::Table(table))) => entry(table, key),
            (Step::Index(index), Some(DeValue::Array(array))) => {
                array.get(*index).map(|value| (value.span(), value))
            }
            _ => None,
        };
        let Some((found_span, value)) = found else {
            break;
        };
        span = Some(found_span);
        at = Some(value.get_ref());
    }
    span.map(|span| line_at(text, span.start))
}

fn entry<'a, 'i>(
    table: &'a DeTable<'i>,
    key: &str,
) -> Option<(Range<usize>, &'a Spanned<DeValue<'i>>)> {
    table
        .iter()
        .find(|(name, _)| name.get_ref() == key)
        .map(|(name, value)| (name.span(), value))
}

/// The innermost field whose key or value covers a byte offset; the document if none does.
pub fn path_at(text: &str, offset: usize) -> FieldPath {
    let Ok(document) = DeTable::parse(text) else {
        return FieldPath::default();
    };
    let mut found = FieldPath::default();
    // A table's own span is its header only, so every entry is asked.
    deepest_in_table(
        document.get_ref(),
        offset,
        &FieldPath::default(),
        &mut found,
    );
    found
}

/// The field on the line of a byte offset in a file that is not TOML, as far as one can see.
pub fn guess_at(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    let line = text[line_start..].lines().next().unwrap_or_default();
    let table = |line: &str| {
        let name = line.trim().strip_prefix('[')?.split_once(']')?.0;
        Some(name.trim_matches('[').trim().to_owned())
    };
    if let Some(name) = table(line) {
        return name;
    }
    let Some((key, _)) = line.split_once('=') else {
        return String::new();
    };
    let header = before.lines().rev().find_map(table);
    match header {
        Some(header) => format!("{header}.{}", key.trim()),
        None => key.trim().to_owned(),
    }
}

fn deepest_in_table(table: &DeTable<'_>, offset: usize, at: &FieldPath, found: &mut FieldPath) {
    for (key, value) in table {
        let path = at.key(key.get_ref());
        if covers(&key.span(), offset) || covers(&value.span(), offset) {
            found.clone_from(&path);
        }
        deepest(value.get_ref(), offset, &path, found);
    }
}

fn deepest(value: &DeValue<'_>, offset: usize, at: &FieldPath, found: &mut FieldPath) {
    match value {
        DeValue::Table(table) => deepest_in_table(table, offset, at, found),
        DeValue::Array(array) => {
            for (index, element) in array.iter().enumerate() {
                let path = at.index(index);
                if covers(&element.span(), offset) {
                    found.clone_from(&path);
                }
                deepest(element.get_ref(), offset, &path, found);
            }
        }
        _ => {}
    }
}

fn covers(span: &Range<usize>, offset: usize) -> bool {
    span.contains(&offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
[outer]
interface = \"wan\"

[connections.home]
local_addrs = [
  \"192.0.2.1\",
  \"192.0.2.2\",
]
local = { id = \"a\" }
[connections.home.children.\"a b\"]
remote_ts = []
";

    #[test]
    fn fields_have_lines() {
        let line = |path: &FieldPath| line_of(TEXT, path);
        assert_eq!(line(&FieldPath::of(&["outer", "interface"])), Some(2));
        let home = FieldPath::of(&["connections", "home"]);
        assert_eq!(line(&home), Some(4));
        assert_eq!(line(&home.key("local_addrs").index(1)), Some(7));
        assert_eq!(line(&home.key("local").key("id")), Some(9));
        assert_eq!(
            line(&home.key("children").key("a b").key("remote_ts")),
            Some(11)
        );
        // Not there: the table that should hold it.
        assert_eq!(line(&home.key("remote").key("id")), Some(4));
        assert_eq!(line(&FieldPath::of(&["inner"])), None);
    }

    #[test]
    fn offsets_have_fields() {
        let at = |needle: &str| path_at(TEXT, TEXT.find(needle).unwrap()).to_string();
        assert_eq!(at("wan"), "outer.interface");
        assert_eq!(at("interface"), "outer.interface");
        assert_eq!(at("192.0.2.2"), "connections.home.local_addrs[1]");
        assert_eq!(at("a\" }"), "connections.home.local.id");
        assert_eq!(
            at("remote_ts"),
            "connections.home.children.\"a b\".remote_ts"
        );
    }
}
