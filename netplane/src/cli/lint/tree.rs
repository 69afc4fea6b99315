//! YAML and JSON documents of any shape, each value with its place in the file.

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{Location, Spanned};
use std::fmt;

/// A value, and where it begins.
pub(super) type Placed = Spanned<Tree>;

/// What is there. Keys stay in their order.
#[derive(Clone, Debug)]
pub(super) enum Tree {
    Map(Vec<(String, Placed)>),
    List(Vec<Placed>),
    Scalar(Value),
}

/// The documents of a file.
///
/// # Errors
/// It is not YAML; with the place and the lines around it.
pub(super) fn documents(text: &str) -> Result<Vec<Placed>, serde_saphyr::Error> {
    serde_saphyr::from_multiple(text)
}

impl Tree {
    /// A key's value, unless that is null.
    pub(super) fn get(&self, key: &str) -> Option<&Placed> {
        let Self::Map(entries) = self else { return None };
        entries.iter().find(|(it, _)| it == key).map(|(_, it)| it).filter(|it| !it.value.is_null())
    }

    /// A value inside, key by key.
    pub(super) fn at(&self, path: &[&str]) -> Option<&Placed> {
        let (first, rest) = path.split_first()?;
        let found = self.get(first)?;
        if rest.is_empty() { Some(found) } else { found.value.at(rest) }
    }

    pub(super) fn text(&self, path: &[&str]) -> Option<&str> {
        match &self.at(path)?.value {
            Self::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// Without places.
    pub(super) fn json(&self) -> Value {
        match self {
            Self::Map(entries) => Value::Object(
                entries.iter().map(|(key, it)| (key.clone(), it.value.json())).collect::<Map<_, _>>(),
            ),
            Self::List(items) => Value::Array(items.iter().map(|it| it.value.json()).collect()),
            Self::Scalar(value) => value.clone(),
        }
    }

    fn is_null(&self) -> bool {
        matches!(self, Self::Scalar(Value::Null))
    }
}

/// `LINE:COLUMN`, both from 1; nothing where the reader does not know.
pub(super) fn place(location: Location) -> Option<(u64, u64)> {
    (location != Location::UNKNOWN).then(|| (location.line(), location.column()))
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a mapping, a list or a single value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Tree::Map(entries))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Scalar(Number::from_f64(value).map_or(Value::Null, Value::Number)))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }

    fn visit_none<E: de::Error>(self) -> Result<Tree, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_any_shape_have_their_places() {
        let documents =
            documents("a: 1\nb:\n  - c: \"x\"\n    d: null\n---\n{\"e\": [true, 2.5]}\n").expect("YAML");
        let [first, second] = documents.as_slice() else { panic!("two: {documents:?}") };
        assert_eq!(first.value.json(), serde_json::json!({ "a": 1, "b": [{ "c": "x", "d": null }] }));
        assert_eq!(second.value.json(), serde_json::json!({ "e": [true, 2.5] }));
        let Some(Spanned { value: Tree::List(items), .. }) = first.value.get("b") else { panic!("a list") };
        let c = items.first().and_then(|it| it.value.get("c")).expect("c");
        assert_eq!(place(c.referenced), Some((3, 8)));
        assert!(items[0].value.get("d").is_none(), "null is as not there");
    }
}
