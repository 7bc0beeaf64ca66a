//! Copies of rows under other names: what rows say of one instance is said of another one, and its chain of hashes is whole.
//!
//! Rows come and go in PostgreSQL's binary form, so that bytes are bytes. A name has as many bytes in a copy as it had, which
//! keeps the lengths right that stand before the names in stored messages.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use phasegate_id::{ApprovalId, InstanceId};
use sha2::{Digest as _, Sha256};

/// What a binary copy begins with: the signature, no flags, no extension.
pub(super) const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What a binary copy ends with, in place of a row.
pub(super) const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();
/// Names that begin with these go on with 26 characters of Crockford's base 32.
const PREFIXES: [&[u8]; 5] = [b"apr-", b"bnd-", b"ntf-", b"lnk-", b"cmt-"];
const PREFIXED: usize = 30;
const UUID: usize = 36;
/// Names of one source that can be told apart in a copy.
const NAMES_MAX: usize = 4_096;

/// A row: its columns, none where there is no value.
pub(super) type Row = Vec<Option<Vec<u8>>>;
/// The hash of an entry of the history.
pub(super) type Hash = [u8; 32];

/// The id of a parked instance.
pub(super) fn instance_id(number: u32) -> String {
    format!("parked-{number:08}")
}

/// The names that stand in the rows of one instance.
#[derive(Debug)]
pub(super) struct Names {
    instance: Vec<u8>,
    /// In the order in which they were found.
    found: Vec<Vec<u8>>,
    places: BTreeMap<Vec<u8>, usize>,
    /// Requests whose ids follow from what they are about: kind, subject and round.
    requests: BTreeMap<Vec<u8>, (String, String, u32)>,
}

/// A row to be copied.
#[derive(Debug)]
pub(super) struct Template(Vec<Field>);

/// What a column is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    /// Names in it are changed.
    Plain,
    /// Stays as it is.
    Kept,
    /// The bytes that are hashed.
    Hashed,
    /// The hash of the entry before.
    PreviousHash,
    /// The hash over that and the bytes.
    OwnHash,
    /// The hash of the last entry.
    LastHash,
}

#[derive(Debug)]
struct Field {
    column: Column,
    /// None where there is no value.
    parts: Option<Vec<Part>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Same(Vec<u8>),
    Name(usize),
}

/// Takes a binary copy apart.
pub(super) fn rows(copy: &[u8]) -> anyhow::Result<Vec<Row>> {
    let mut rest = copy.strip_prefix(HEADER).context("a copy begins otherwise")?;
    let mut rows = Vec::new();
    loop {
        let columns = i16::from_be_bytes(*take(&mut rest)?);
        // What is negative is the end.
        let Ok(columns) = usize::try_from(columns) else { return Ok(rows) };
        let mut row = Vec::with_capacity(columns);
        for _ in 0..columns {
            let length = i32::from_be_bytes(*take(&mut rest)?);
            row.push(match usize::try_from(length) {
                Ok(length) => {
                    let (field, after) = rest.split_at_checked(length).context("a copy ends within a row")?;
                    rest = after;
                    Some(field.to_vec())
                }
                Err(_) => None,
            });
        }
        rows.push(row);
    }
}

fn take<'a, const LENGTH: usize>(rest: &mut &'a [u8]) -> anyhow::Result<&'a [u8; LENGTH]> {
    let (taken, after) = rest.split_first_chunk().context("a copy ends within a row")?;
    *rest = after;
    Ok(taken)
}

impl Names {
    /// None but that of the instance itself.
    pub(super) fn of(instance: &str) -> Self {
        let instance = instance.as_bytes().to_vec();
        let mut names = Self {
            instance: instance.clone(),
            found: Vec::new(),
            places: BTreeMap::new(),
            requests: BTreeMap::new(),
        };
        names.place(&instance);
        names
    }

    /// A request of the instance. Where its id follows from what it is about, that of a copy does, too.
    pub(super) fn request(
        &mut self,
        id: &str,
        (kind, subject, round): (&str, &str, u32),
    ) -> anyhow::Result<()> {
        let instance = InstanceId::parse(std::str::from_utf8(&self.instance)?)?;
        if ApprovalId::derive(&instance, kind, subject, round).as_str() == id {
            let about = (kind.to_owned(), subject.to_owned(), round);
            self.requests.insert(id.as_bytes().to_vec(), about);
        }
        Ok(())
    }

    /// Whether no more names fit.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        ensure!(self.found.len() <= NAMES_MAX, "an instance with more than {NAMES_MAX} names");
        Ok(())
    }

    fn place(&mut self, name: &[u8]) -> usize {
        if let Some(place) = self.places.get(name) {
            return *place;
        }
        self.found.push(name.to_vec());
        self.places.insert(name.to_vec(), self.found.len() - 1);
        self.found.len() - 1
    }

    /// Length of the name that begins here, if one does.
    fn at(&self, bytes: &[u8]) -> Option<usize> {
        let is_whole = |length: usize| !bytes.get(length).is_some_and(u8::is_ascii_alphanumeric);
        if bytes.starts_with(&self.instance) && is_whole(self.instance.len()) {
            return Some(self.instance.len());
        }
        if PREFIXES.iter().any(|prefix| bytes.starts_with(prefix)) {
            let rest = bytes.get(4..PREFIXED)?;
            return rest
                .iter()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
                .then_some(PREFIXED);
        }
        let uuid = bytes.get(..UUID)?;
        let fits = |(at, byte): (usize, &u8)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        };
        uuid.iter().enumerate().all(fits).then_some(UUID)
    }

    fn parts(&mut self, bytes: &[u8]) -> Vec<Part> {
        let (mut parts, mut same, mut at) = (Vec::new(), 0, 0);
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let Some(length) = self.at(rest) else {
                at += 1;
                continue;
            };
            if same < at {
                parts.push(Part::Same(bytes[same..at].to_vec()));
            }
            parts.push(Part::Name(self.place(&bytes[at..at + length])));
            at += length;
            same = at;
        }
        if same < at {
            parts.push(Part::Same(bytes[same..at].to_vec()));
        }
        parts
    }

    /// A name in the copy of that number: as long as it was, in the same order in time, and nobody else's.
    fn renamed(&self, place: usize, number: u32, out: &mut Vec<u8>) {
        let name = self.found[place].as_slice();
        let own = u64::from(number) * NAMES_MAX as u64 + place as u64;
        if name == self.instance {
            out.extend(instance_id(number).bytes());
        } else if let Some((kind, subject, round)) = self.requests.get(name) {
            let instance = InstanceId::trusted(instance_id(number));
            out.extend(ApprovalId::derive(&instance, kind, subject, *round).as_str().bytes());
        } else if name.len() == PREFIXED {
            out.extend(&name[..PREFIXED - 10]);
            out.extend(base32(own));
        } else {
            out.extend(&name[..UUID - 12]);
            out.extend(format!("{own:012x}").bytes());
        }
    }
}

/// Crockford's base 32 of 50 bits.
fn base32(number: u64) -> impl Iterator<Item = u8> {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    (0..10)
        .rev()
        .map(move |position| ALPHABET[usize::try_from((number >> (5 * position)) & 31).unwrap_or_default()])
}

impl Template {
    /// A row whose columns are these.
    pub(super) fn of(row: &Row, columns: &[Column], names: &mut Names) -> Self {
        let field = |(value, column): (&Option<Vec<u8>>, &Column)| Field {
            column: *column,
            parts: value.as_deref().map(|bytes| match column {
                Column::Kept => vec![Part::Same(bytes.to_vec())],
                Column::Plain
                | Column::Hashed
                | Column::PreviousHash
                | Column::OwnHash
                | Column::LastHash => names.parts(bytes),
            }),
        };
        Self(row.iter().zip(columns).map(field).collect())
    }

    /// Writes the row of the copy of that number. `head` is the hash of its last entry so far.
    pub(super) fn write(
        &self,
        names: &Names,
        number: u32,
        head: &mut Hash,
        out: &mut Vec<u8>,
    ) -> anyhow::Result<()> {
        out.extend(i16::try_from(self.0.len())?.to_be_bytes());
        let mut hasher = Sha256::new();
        for field in &self.0 {
            let Some(parts) = &field.parts else {
                out.extend((-1_i32).to_be_bytes());
                continue;
            };
            let length_at = out.len();
            out.extend([0; 4]);
            match field.column {
                Column::PreviousHash | Column::LastHash => out.extend(*head),
                Column::OwnHash => {
                    *head = std::mem::take(&mut hasher).finalize().into();
                    out.extend(*head);
                }
                Column::Plain | Column::Kept | Column::Hashed => {
                    for part in parts {
                        match part {
                            Part::Same(bytes) => out.extend(bytes),
                            Part::Name(place) => names.renamed(*place, number, out),
                        }
                    }
                }
            }
            if field.column == Column::Hashed {
                hasher.update(*head);
                hasher.update(&out[length_at + 4..]);
            }
            let length = i32::try_from(out.len() - length_at - 4)?;
            out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = "019a0000-1111-7222-8333-444455556666";
    const REQUEST: &str = "apr-0123456789abcdefghjkmnpqrs";

    fn written(templates: &[Template], names: &Names, number: u32) -> anyhow::Result<Vec<Row>> {
        let (mut out, mut head) = (HEADER.to_vec(), [0; 32]);
        for template in templates {
            template.write(names, number, &mut head, &mut out)?;
        }
        out.extend(TRAILER);
        rows(&out)
    }

    #[test]
    fn a_copy_says_the_same_of_another_instance() -> anyhow::Result<()> {
        let mut names = Names::of("parked-00000003");
        let row = vec![
            Some(b"parked-00000003".to_vec()),
            None,
            Some(format!("\x0a\x24{EVENT} of parked-00000003, {REQUEST}, parked-000000031").into_bytes()),
        ];
        let template = Template::of(&row, &[Column::Plain; 3], &mut names);
        let copy = written(&[template], &names, 77)?.remove(0);
        assert_eq!(copy[0].as_deref(), Some(b"parked-00000077".as_slice()));
        assert_eq!(copy[1], None);
        let text = String::from_utf8(copy[2].clone().context("a value")?)?;
        assert_eq!(text.len(), row[2].as_ref().context("a value")?.len());
        assert!(text.starts_with("\x0a\x24019a0000-1111-7222-8333-0000000"), "{text}");
        assert!(text.contains(" of parked-00000077, apr-0123456789abcdef0"), "{text}");
        assert!(
            text.ends_with(", parked-000000031") && !text.contains(REQUEST) && !text.contains(EVENT),
            "{text}"
        );
        Ok(())
    }

    #[test]
    fn an_id_that_follows_from_what_it_names_follows_in_the_copy() -> anyhow::Result<()> {
        let id = |number: u32| {
            let instance = InstanceId::trusted(instance_id(number));
            ApprovalId::derive(&instance, "task", "assemble", 2).into_string()
        };
        let mut names = Names::of(&instance_id(3));
        names.request(&id(3), ("task", "assemble", 2))?;
        names.request(REQUEST, ("ad_hoc", "", 1))?;
        let row = vec![Some(id(3).into_bytes()), Some(id(3).into_bytes())];
        let template = Template::of(&row, &[Column::Plain, Column::Kept], &mut names);
        let copy = written(&[template], &names, 4)?.remove(0);
        assert_eq!(copy, [Some(id(4).into_bytes()), Some(id(3).into_bytes())]);
        Ok(())
    }

    #[test]
    fn the_chain_of_a_copy_is_whole() -> anyhow::Result<()> {
        let mut names = Names::of(&instance_id(3));
        let columns = [Column::Hashed, Column::PreviousHash, Column::OwnHash];
        let entry = |text: &str| vec![Some(text.as_bytes().to_vec()), Some(vec![1; 32]), Some(vec![2; 32])];
        let mut templates: Vec<Template> = [entry("parked-00000003 began"), entry("then this")]
            .iter()
            .map(|row| Template::of(row, &columns, &mut names))
            .collect();
        templates.push(Template::of(&vec![Some(vec![3; 32])], &[Column::LastHash], &mut names));
        let copy = written(&templates, &names, 9)?;
        let hash =
            |previous: &[u8], body: &str| Sha256::digest([previous, body.as_bytes()].concat()).to_vec();
        let first = hash(&[0; 32], "parked-00000009 began");
        let second = hash(&first, "then this");
        assert_eq!(copy[0][1..], [Some(vec![0; 32]), Some(first.clone())]);
        assert_eq!(copy[1][1..], [Some(first), Some(second.clone())]);
        assert_eq!(copy[2], [Some(second)]);
        Ok(())
    }

    #[test]
    fn what_is_no_copy_is_refused() {
        assert!(rows(b"id,name\n").is_err());
        assert!(rows(&[HEADER, &[0, 1, 0, 0, 0, 9, 1]].concat()).is_err());
    }
}
