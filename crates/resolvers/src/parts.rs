//! Sections whose keys several kinds of resolvers share: read into structs of which each knows its own keys. serde's
//! `flatten` would do, but for unknown keys: with it none is refused.

use serde::Deserialize as _;
use serde::de::{self, DeserializeOwned, Deserializer, Error as _};

/// A section, of which each part is taken out by the struct that has its keys.
pub(crate) struct Parts(toml::Table);

impl Parts {
    /// `known` has the [`keys`] of all parts, the kind's own first.
    pub(crate) fn read<'de, D: Deserializer<'de>>(
        deserializer: D,
        known: &[&'static [&'static str]],
    ) -> Result<Self, D::Error> {
        let table = toml::Table::deserialize(deserializer)?;
        if let Some(key) = table.keys().find(|key| !known.iter().any(|part| part.contains(&key.as_str()))) {
            let known: Vec<_> = known.iter().copied().flatten().map(|known| format!("`{known}`")).collect();
            // serde's own words, which whoever names the nearest key looks for.
            return Err(D::Error::custom(format!("unknown field `{key}`, expected one of {}", known.join(", "))));
        }
        Ok(Self(table))
    }

    /// Takes out what `T` reads.
    pub(crate) fn take<T: DeserializeOwned, E: de::Error>(&mut self) -> Result<T, E> {
        let known = keys::<T>();
        let (part, rest) = std::mem::take(&mut self.0).into_iter().partition(|(key, _)| known.contains(&key.as_str()));
        self.0 = rest;
        toml::Table::try_into(part).map_err(|error: toml::de::Error| E::custom(error.message()))
    }
}

/// The keys that a struct reads, from the list that its derived `Deserialize` hands over first.
pub(crate) fn keys<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut keys: &'static [&'static str] = &[];
    // Nothing is there to read: the list is all that this is for.
    let _ = T::deserialize(Keys(&mut keys));
    keys
}

struct Keys<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Keys<'_> {
    type Error = de::value::Error;

    fn deserialize_struct<V: de::Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        Err(Self::Error::custom("no values"))
    }

    fn deserialize_any<V: de::Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(Self::Error::custom("not a struct"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct One {
        a: u8,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Two {
        #[serde(default)]
        b: u8,
        #[serde(default)]
        c: u8,
    }

    fn read(text: &str) -> Result<(One, Two), String> {
        let both = |text| {
            let deserializer = toml::Deserializer::parse(text)?;
            let mut parts = Parts::read(deserializer, &[keys::<One>(), keys::<Two>()])?;
            Ok((parts.take()?, parts.take()?))
        };
        both(text).map_err(|error: toml::de::Error| error.message().to_owned())
    }

    #[test]
    fn each_part_has_its_keys_and_errors_are_as_of_one_struct() {
        assert_eq!(read("b = 2\na = 1"), Ok((One { a: 1 }, Two { b: 2, c: 0 })));
        assert_eq!(read("b = 2"), Err("missing field `a`".to_owned()));
        assert_eq!(read("a = 1\nd = 1"), Err("unknown field `d`, expected one of `a`, `b`, `c`".to_owned()));
        assert!(read("a = 1\nc = 'x'").expect_err("no number").starts_with("invalid type"));
    }
}
