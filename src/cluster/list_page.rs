//! Reads a page of a list as it arrives, object by object: a page is never in memory as a whole, nor is what it holds of an
//! object that is not kept. An object that can't be read stops nothing else.

use std::mem;

use serde::{Deserialize, Deserializer, de::DeserializeOwned, de::IgnoredAny};

use crate::cluster::pod_view::{Decoded, Meta, SlimView};

/// How much is collected before objects are read from it: what is cut off at its end is read again with what follows.
const BATCH: usize = 64 << 10;
/// The most that one object may take as JSON. The API server stores 1.5 MiB, and JSON takes six times that at most.
pub(crate) const MAX_OBJECT: usize = 16 << 20;

/// How many bytes a page should have.
const PAGE_BYTES: usize = 4 << 20;
/// How many objects are asked for before it is known how large they are, and at most.
const PAGE_OBJECTS: (u32, u32) = (20, 500);
/// How many times as many objects a page may have as the one before.
const GROWTH: u32 = 4;

/// What a list says of itself.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListMeta {
    #[serde(default)]
    pub(crate) resource_version: String,
    #[serde(default, rename = "continue")]
    pub(crate) next: Option<String>,
    #[serde(default)]
    pub(crate) remaining_item_count: Option<i64>,
}

/// Any object, of which nothing is kept.
#[derive(Debug, Default)]
pub(crate) struct AnyObject(Meta);

impl<'de> Deserialize<'de> for AnyObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self::default())
    }
}

impl SlimView for AnyObject {
    fn meta(&self) -> &Meta {
        &self.0
    }
}

/// How many objects the next page should have, so that pages of large objects are small.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageSize(u32);

impl Default for PageSize {
    fn default() -> Self {
        Self(PAGE_OBJECTS.0)
    }
}

impl PageSize {
    pub(crate) fn objects(self) -> u32 {
        self.0
    }

    /// After a page of so many objects and bytes.
    pub(crate) fn after(self, objects: usize, bytes: usize) -> Self {
        if objects == 0 {
            return self;
        }
        let fit = PAGE_BYTES.saturating_mul(objects) / bytes.max(1);
        let fit = u32::try_from(fit).unwrap_or(u32::MAX);
        let most = self.0.saturating_mul(GROWTH).min(PAGE_OBJECTS.1);
        Self(fit.clamp(1, most))
    }
}

/// A page of a list that is being received. Only the envelope is read here; each object is read by its own type.
#[derive(Debug)]
pub(crate) struct PageReader {
    /// What was received and is not read yet.
    buffer: Vec<u8>,
    /// How much of the buffer has been read.
    read: usize,
    /// How much the buffer must hold before it is worth to try again.
    due: usize,
    place: Place,
    metadata: Option<ListMeta>,
    has_items: bool,
    /// How many bytes were received in all.
    received: usize,
}

/// Where in a page reading goes on.
#[derive(Debug)]
enum Place {
    Start,
    /// Before the first field, or the end.
    FirstKey,
    Key,
    Colon(Field),
    Value(Field),
    AfterValue,
    /// Before the first object, or the end of the objects.
    FirstItem,
    Item,
    AfterItem,
    /// In an object that is too large to be read.
    TooLarge(Skipped),
    End,
}

/// The fields of a page that matter.
#[derive(Clone, Copy, Debug)]
enum Field {
    Metadata,
    Items,
    Other,
}

impl Default for PageReader {
    fn default() -> Self {
        Self {
            buffer: vec![],
            read: 0,
            due: BATCH,
            place: Place::Start,
            metadata: None,
            has_items: false,
            received: 0,
        }
    }
}

impl PageReader {
    /// Takes what was received next. Whether it is time to call [`Self::take`].
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> bool {
        self.buffer.extend_from_slice(bytes);
        self.received += bytes.len();
        self.buffer.len() >= self.due
    }

    /// How many bytes were received.
    pub(crate) fn received(&self) -> usize {
        self.received
    }

    /// Reads the objects that are complete.
    pub(crate) fn take<T: SlimView>(&mut self) -> Result<Vec<Decoded<T>>, String> {
        let mut objects = vec![];
        while self.advance(&mut objects)? {}
        self.buffer.drain(..self.read);
        self.read = 0;
        // Each attempt at a large object starts at its beginning: twice as much is waited for each time.
        let held = self.buffer.len();
        self.due = (2 * held).min(MAX_OBJECT + BATCH).max(held + BATCH);
        if held <= BATCH {
            self.buffer.shrink_to(4 * BATCH);
        }
        Ok(objects)
    }

    /// Everything was received and taken: what the list says of itself.
    pub(crate) fn finish(self) -> Result<ListMeta, String> {
        match (self.place, self.metadata) {
            (Place::End, Some(metadata)) if self.has_items => Ok(metadata),
            (Place::End, _) => Err("it is not a list".to_owned()),
            _ => Err("it ends too early".to_owned()),
        }
    }

    /// Reads on by one step; false if there is not enough to do so.
    fn advance<T: SlimView>(&mut self, objects: &mut Vec<Decoded<T>>) -> Result<bool, String> {
        if let Place::TooLarge(skipped) = &mut self.place {
            let rest = &self.buffer[self.read..];
            let Some(length) = skipped.end(rest) else {
                self.read = self.buffer.len();
                return Ok(false);
            };
            self.read += length;
            self.place = Place::AfterItem;
            let why = format!("it has more than {} MiB", MAX_OBJECT >> 20);
            objects.push(Decoded::Bad(Meta::default(), why));
            return Ok(true);
        }
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        let rest = &self.buffer[self.read..];
        self.read += rest.iter().take_while(|byte| is_space(byte)).count();
        let rest = &self.buffer[self.read..];
        let Some(next) = rest.first() else {
            return Ok(false);
        };
        let (place, length) = match (&self.place, next) {
            (Place::Start, b'{') => (Place::FirstKey, 1),
            (Place::FirstKey | Place::AfterValue, b'}') => (Place::End, 1),
            (Place::AfterValue, b',') => (Place::Key, 1),
            (Place::FirstKey | Place::Key, b'"') => match first::<String>(rest)? {
                Some((name, length)) => (Place::Colon(Field::of(&name)), length),
                None => return self.wait(),
            },
            (Place::Colon(field), b':') => (Place::Value(*field), 1),
            (Place::Value(Field::Items), b'[') => {
                self.has_items = true;
                (Place::FirstItem, 1)
            }
            (Place::Value(Field::Metadata), _) => match first::<Option<ListMeta>>(rest)? {
                Some((metadata, length)) => {
                    self.metadata = Some(metadata.unwrap_or_default());
                    (Place::AfterValue, length)
                }
                None => return self.wait(),
            },
            (Place::Value(Field::Other), _) => match first::<IgnoredAny>(rest)? {
                Some((_, length)) => (Place::AfterValue, length),
                None => return self.wait(),
            },
            (Place::FirstItem | Place::AfterItem, b']') => (Place::AfterValue, 1),
            (Place::AfterItem, b',') => (Place::Item, 1),
            (Place::FirstItem | Place::Item, _) => match object::<T>(rest)? {
                Some((object, length)) => {
                    objects.push(object);
                    (Place::AfterItem, length)
                }
                None if rest.len() > MAX_OBJECT => (Place::TooLarge(Skipped::default()), 0),
                None => return Ok(false),
            },
            (place, byte) => {
                let byte = char::from(*byte);
                return Err(format!("{byte:?} is unexpected there ({place:?})"));
            }
        };
        self.read += length;
        self.place = place;
        Ok(true)
    }

    /// More is needed, unless it is too much already.
    fn wait(&self) -> Result<bool, String> {
        if self.buffer.len() - self.read > MAX_OBJECT {
            return Err("a field of the list is too large".to_owned());
        }
        Ok(false)
    }
}

impl Field {
    fn of(name: &str) -> Self {
        match name {
            "metadata" => Self::Metadata,
            "items" => Self::Items,
            _ => Self::Other,
        }
    }
}

/// Reads the value with which a text begins, and how long that is. `None`: it goes on behind the text, or may do so.
fn first<V: DeserializeOwned>(text: &[u8]) -> Result<Option<(V, usize)>, String> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<V>();
    match values.next() {
        Some(Ok(value)) => {
            let length = values.byte_offset();
            Ok((length < text.len()).then_some((value, length)))
        }
        Some(Err(error)) if !error.is_eof() && !is_at_end(&error, text) => Err(error.to_string()),
        Some(Err(_)) | None => Ok(None),
    }
}

/// Whether what follows may mend an error: a number that is cut off is reported as a wrong one.
fn is_at_end(error: &serde_json::Error, text: &[u8]) -> bool {
    let mut lines = text.rsplit(|byte| *byte == b'\n');
    let last = lines.next().map_or(0, <[u8]>::len);
    (error.line(), error.column()) >= (lines.count() + 1, last)
}

/// Reads the object with which a text begins, in one pass if it is sound.
fn object<T: SlimView>(text: &[u8]) -> Result<Option<(Decoded<T>, usize)>, String> {
    if let Ok(read) = first::<T>(text) {
        return Ok(read.map(|(view, length)| (Decoded::Good(view), length)));
    }
    let ended = first::<IgnoredAny>(text)?;
    Ok(ended.map(|(_, length)| (tolerantly(&text[..length]), length)))
}

/// Reads what could not be read in one pass.
pub(crate) fn tolerantly<T: SlimView>(text: &[u8]) -> Decoded<T> {
    // Only what is no text at all can't be read even so.
    serde_json::from_slice(text)
        .unwrap_or_else(|error| Decoded::Bad(Meta::default(), error.to_string()))
}

/// Finds the end of a value without keeping it.
#[derive(Debug, Default)]
struct Skipped {
    depth: usize,
    in_text: bool,
    escaped: bool,
}

impl Skipped {
    /// How long the rest of the value is, if it ends in these bytes. It ends where the objects of the list go on.
    fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        for (at, byte) in bytes.iter().enumerate() {
            match byte {
                _ if mem::take(&mut self.escaped) => {}
                b'\\' if self.in_text => self.escaped = true,
                b'"' => self.in_text = !self.in_text,
                _ if self.in_text => {}
                b'{' | b'[' => self.depth += 1,
                b',' | b']' if self.depth == 0 => return Some(at),
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{collection::vec, prelude::*};
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::pod_view::PodView;

    /// An object of which everything is kept.
    #[derive(Debug, Default, PartialEq)]
    struct Whole(Value, Meta);

    impl<'de> Deserialize<'de> for Whole {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            Value::deserialize(deserializer).map(|value| Self(value, Meta::default()))
        }
    }

    impl SlimView for Whole {
        fn meta(&self) -> &Meta {
            &self.1
        }
    }

    /// Reads a page that comes in pieces which end at these places, taking what is complete after each.
    fn read<T: SlimView>(
        page: &[u8],
        cuts: &BTreeSet<usize>,
    ) -> Result<(ListMeta, Vec<Decoded<T>>), String> {
        let mut reader = PageReader::default();
        let mut objects = vec![];
        let mut from = 0;
        for to in cuts
            .iter()
            .copied()
            .filter(|cut| *cut < page.len())
            .chain([page.len()])
        {
            reader.receive(&page[from..to]);
            objects.extend(reader.take()?);
            from = to;
        }
        Ok((reader.finish()?, objects))
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
            "[\\\\\"{}\\[\\],: \n\u{7}\u{1f514}]{0,9}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 5, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..5).prop_map(Value::from),
                vec((".{0,4}", inner), 0..5)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(crate::simulation::testing::reader_tries())]

        #[test]
        fn a_page_is_read_alike_however_it_is_cut(
            items in vec(any_json(), 0..6),
            (before, other) in ("[a-z]{0,3}", any_json()),
            (metadata_first, pretty) in any::<(bool, bool)>(),
            cuts in vec(any::<prop::sample::Index>(), 0..9),
        ) {
            let text = |value: &Value| match pretty {
                true => serde_json::to_string_pretty(value),
                false => serde_json::to_string(value),
            };
            let metadata = r#""metadata":{"resourceVersion":"7","continue":"c","other":{"a":[1]}}"#;
            let list = format!("\"items\" :\t{}", text(&Value::from(items)).unwrap());
            let (first, last) = match metadata_first {
                true => (metadata, list.as_str()),
                false => (list.as_str(), metadata),
            };
            let page = format!("{{ \"x{before}\": {},{first}\n,{last}}}\n", text(&other).unwrap());
            let cuts = cuts.iter().map(|cut| cut.index(page.len())).collect();
            let (metadata, objects) = read::<Whole>(page.as_bytes(), &cuts).unwrap();
            let whole: Value = serde_json::from_str(&page).unwrap();
            let objects: Vec<Value> = objects.into_iter().map(|object| match object {
                Decoded::Good(Whole(value, _)) => value,
                Decoded::Bad(_, why) | Decoded::Part(_, why) => panic!("{why}"),
            }).collect();
            prop_assert_eq!(&Value::from(objects), &whole["items"]);
            prop_assert_eq!((metadata.resource_version.as_str(), metadata.next.as_deref()), ("7", Some("c")));
            let part = cuts.iter().next_back().copied().unwrap_or(1).min(page.trim_end().len() - 1);
            prop_assert!(read::<Whole>(&page.as_bytes()[..part], &cuts).is_err(), "a part of a page");
        }

        #[test]
        fn what_is_no_page_is_refused(bytes in vec(any::<u8>(), 0..64), cuts in vec(0..64_usize, 0..4)) {
            let cuts = cuts.into_iter().collect();
            prop_assert!(read::<Whole>(&bytes, &cuts).is_err());
            let page = [br#"{"metadata":{},"items":["#, bytes.as_slice(), b"]}"].concat();
            let whole = serde_json::from_slice::<Value>(&page);
            let read = read::<Whole>(&page, &cuts);
            prop_assert!(whole.is_err() || read.is_ok());
        }
    }

    #[test]
    fn an_answer_that_is_no_list_is_never_taken_for_an_empty_one() {
        for (page, why) in [
            ("", "it ends too early"),
            ("{}", "it is not a list"),
            (r#"{"items":[]}"#, "it is not a list"),
            (r#"{"metadata":{}}"#, "it is not a list"),
            (r#"{"metadata":{},"items":[{}"#, "it ends too early"),
            (r#"{"metadata":{},"items":null}"#, "unexpected"),
            (r#"{"metadata":{},"items":[],}"#, "unexpected"),
            (r#"{"metadata":{},"items":[{},]}"#, "expected value"),
            (r#"{"metadata":{},"items":[]}}"#, "unexpected"),
            ("<html>", "unexpected"),
        ] {
            let error = read::<Whole>(page.as_bytes(), &BTreeSet::new()).unwrap_err();
            assert!(error.contains(why), "{page}: {error}");
        }
    }

    #[test]
    fn a_page_of_large_pods_is_never_in_memory_as_a_whole() {
        let pod = |number: usize| {
            json!({
                "metadata": {
                    "name": format!("p{number}"), "namespace": "shop", "uid": format!("u{number}"), "resourceVersion": "1",
                    "annotations": {"big": "x".repeat(700 << 10)},
                },
                "spec": {"containers": [{"name": "web", "image": "a"}]},
            })
            .to_string()
        };
        let pods: Vec<_> = (0..12).map(pod).collect();
        let page = format!(
            r#"{{"metadata":{{"resourceVersion":"1"}},"items":[{}]}}"#,
            pods.join(",")
        );
        let mut reader = PageReader::default();
        let (mut most, mut names) = (0, vec![]);
        for piece in page.as_bytes().chunks(16 << 10) {
            let due = reader.receive(piece);
            most = most.max(reader.buffer.capacity());
            if due {
                let pods = reader.take::<PodView>().unwrap();
                names.extend(pods.iter().map(|pod| pod.meta().name.clone()));
            }
        }
        names.extend(
            reader
                .take::<PodView>()
                .unwrap()
                .iter()
                .map(|pod| pod.meta().name.clone()),
        );
        reader.finish().unwrap();
        assert_eq!(
            names,
            (0..12)
                .map(|number| format!("p{number}"))
                .collect::<Vec<_>>()
        );
        assert!(most <= 3 << 20, "{most} bytes of {}", page.len());
    }

    #[test]
    fn an_object_above_the_limit_is_left_out_and_reported_and_what_follows_is_read() {
        let huge = format!(
            r#"{{"a":["{}","\"],{{"]}}"#,
            "x".repeat(MAX_OBJECT + (2 << 20))
        );
        let page = format!(r#"{{"metadata":{{}},"items":[1,{huge},{{"b":2}}]}}"#);
        let mut reader = PageReader::default();
        let (mut most, mut objects) = (0, vec![]);
        for piece in page.as_bytes().chunks(1 << 20) {
            if reader.receive(piece) {
                objects.extend(reader.take::<AnyObject>().unwrap());
            }
            most = most.max(reader.buffer.len());
        }
        objects.extend(reader.take::<AnyObject>().unwrap());
        reader.finish().unwrap();
        let told: Vec<_> = objects
            .iter()
            .map(|it| matches!(it, Decoded::Good(_)))
            .collect();
        assert_eq!(told, [true, false, true]);
        assert!(most <= MAX_OBJECT + (2 << 20), "{most}");
    }

    #[test]
    fn pages_have_as_many_objects_as_fit_and_grow_step_by_step() {
        let mut size = PageSize::default();
        let mut sizes = vec![];
        for (objects, bytes) in [
            (20, 20 << 10),
            (80, 80 << 10),
            (320, 320 << 10),
            (9, 9 * (700 << 10)),
            (0, 100),
            (5, 60 << 20),
        ] {
            size = size.after(objects, bytes);
            sizes.push(size.objects());
        }
        assert_eq!(sizes, [80, 320, 500, 5, 5, 1]);
        assert_eq!(size.after(1, 100).objects(), 4);
    }
}
