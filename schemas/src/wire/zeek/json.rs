//! Zeek's JSON lines: flat with dots (`"id.orig_h"`), with `id` as an object, or wrapped in the name of the log. Only known
//! columns are kept, as text; everything else is passed over without a copy.

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

use super::super::Fault;
use super::super::value::{Scratch, shown};
use super::fields::{Field, Fields};

/// A line read.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub(super) fields: Fields<'a>,
    /// Name of the log, where the line tells it.
    pub(super) path: Option<&'a str>,
}

/// Reads one JSON object.
pub(super) fn line<'a>(text: &'a str, scratch: &Scratch<'a>) -> Result<Line<'a>, Fault> {
    let mut fields = Fields::new(b',');
    let wrapped = object(text, "", &mut fields, scratch)?;
    // Wrapped: the object is one of several values, the others are text that a shipper added.
    if let Some((tag, inner)) = wrapped.filter(|_| !fields.has(Field::Ts)) {
        object(inner, "", &mut fields, scratch)?;
        return Ok(Line { fields, path: Some(tag) });
    }
    Ok(Line { path: fields.text(Field::Path), fields })
}

/// Fills `fields` from an object whose names stand under `prefix`; gives the last unknown name that holds an object.
fn object<'a>(
    text: &'a str,
    prefix: &'static str,
    fields: &mut Fields<'a>,
    scratch: &Scratch<'a>,
) -> Result<Option<(&'a str, &'a str)>, Fault> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let visitor = Object { prefix, fields, scratch, wrapped: None, fault: None };
    let not_json = |_| Fault::Format { expected: "a zeek json line", got: shown(text.as_bytes()) };
    let (wrapped, fault) = reader.deserialize_map(visitor).map_err(not_json)?;
    reader.end().map_err(not_json)?;
    match fault {
        Some(fault) => Err(fault),
        None => Ok(wrapped),
    }
}

struct Object<'f, 'a> {
    prefix: &'static str,
    fields: &'f mut Fields<'a>,
    scratch: &'f Scratch<'a>,
    wrapped: Option<(&'a str, &'a str)>,
    fault: Option<Fault>,
}

impl<'a> Visitor<'a> for Object<'_, 'a> {
    type Value = (Option<(&'a str, &'a str)>, Option<Fault>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
        while let Some(key) = map.next_key_seed(Key(self.prefix))? {
            let raw = map.next_value::<&'a RawValue>()?.get();
            let outcome = match key {
                Name::Known(field) => value(raw, self.scratch).map(|text| self.fields.set(field, text)),
                Name::Other("id") if raw.starts_with('{') && self.prefix.is_empty() => {
                    object(raw, "id.", self.fields, self.scratch).map(drop)
                }
                Name::Other(name) => {
                    if raw.starts_with('{') {
                        self.wrapped = Some((name, raw));
                    }
                    Ok(())
                }
                Name::Escaped => Ok(()),
            };
            if let Err(fault) = outcome {
                self.fault.get_or_insert(fault);
            }
        }
        Ok((self.wrapped, self.fault))
    }
}

enum Name<'a> {
    Known(Field),
    Other(&'a str),
    /// Written with escapes: no name of ours needs them.
    Escaped,
}

struct Key(&'static str);

impl<'a> DeserializeSeed<'a> for Key {
    type Value = Name<'a>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Name<'a>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a> Visitor<'a> for Key {
    type Value = Name<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, name: &'a str) -> Result<Name<'a>, E> {
        let field = match (self.0, name) {
            ("", _) => Field::by_name(name),
            (_, "orig_h") => Some(Field::OrigH),
            (_, "orig_p") => Some(Field::OrigP),
            (_, "resp_h") => Some(Field::RespH),
            (_, "resp_p") => Some(Field::RespP),
            _ => None,
        };
        Ok(field.map_or(Name::Other(name), Name::Known))
    }

    fn visit_str<E>(self, _: &str) -> Result<Name<'a>, E> {
        Ok(Name::Escaped)
    }
}

/// A value as text: strings unescaped, numbers and truth values as written, members of an array joined by commas.
fn value<'a>(raw: &'a str, scratch: &Scratch<'a>) -> Result<Option<&'a str>, Fault> {
    match raw.as_bytes() {
        [b'"', inside @ .., b'"'] if memchr::memchr(b'\\', inside).is_none() => Ok(Some(&raw[1..raw.len() - 1])),
        [b'"', ..] => scratch.keep(&unquote(raw)).map(Some),
        [b'[', ..] => {
            let mut joined = String::new();
            // It was read as a value already, so it is an array.
            match serde_json::Deserializer::from_str(raw).deserialize_seq(Join(&mut joined)) {
                Ok(()) => scratch.keep(&joined).map(Some),
                Err(_) => Err(Fault::Format { expected: "an array", got: shown(raw.as_bytes()) }),
            }
        }
        // An object where a value should be, or null.
        [b'{' | b'n', ..] => Ok(None),
        _ => Ok(Some(raw)),
    }
}

/// A string with escapes; it was read as a value already, so only a lone surrogate can be wrong.
fn unquote(raw: &str) -> String {
    serde_json::from_str(raw).unwrap_or_else(|_| raw.trim_matches('"').to_owned())
}

struct Join<'s>(&'s mut String);

impl<'a> Visitor<'a> for Join<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(raw) = seq.next_element::<&'a RawValue>()? {
            if !self.0.is_empty() {
                self.0.push(',');
            }
            match raw.get() {
                // As the text log writes it.
                text if text.starts_with('"') => self.0.push_str(&unquote(text).replace(',', "\\x2c")),
                text => self.0.push_str(text),
            }
        }
        Ok(())
    }
}
