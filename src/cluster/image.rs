//! Parses image references: the `imageID` of a container status into a digest, the image of a container spec into name, tag
//! and digest.

use std::{fmt, str::FromStr};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::api::cut_to_schema::{self, cut_to_schema};

/// The SHA-256 digest of an image, which identifies it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Reads 64 lower-case hex digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if text.len() != 64 {
            return None;
        }
        HEXLOWER.decode_mut(text.as_bytes(), &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        HEXLOWER.encode_display(&self.0).fmt(f)
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_hex(&text).ok_or_else(|| D::Error::custom(format!("{text} is no digest")))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the `imageID` of a container status identifies. The text is neither unique nor the same in all runtimes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageId {
    /// The digest in the registry, by which the image was pulled.
    Repo(Fingerprint),
    /// The digest of the image's configuration on the node; the registry has another one for the same image.
    Local(Fingerprint),
    /// Nothing that identifies an image.
    Unresolved,
}

impl ImageId {
    /// Parses an `imageID`. No trimming and no case folding: what is not exactly a digest identifies nothing.
    pub fn parse(text: &str) -> Self {
        let text = without_scheme(text);
        match text.rsplit_once('@') {
            Some((_, digest)) => prefixed(digest).map_or(Self::Unresolved, Self::Repo),
            None => prefixed(text)
                .or_else(|| Fingerprint::from_hex(text))
                .map_or(Self::Unresolved, Self::Local),
        }
    }

    /// The name under which the image was pulled, as the node reports it beside the digest of the registry.
    pub fn name(text: &str) -> Option<&str> {
        let (name, digest) = without_scheme(text).rsplit_once('@')?;
        prefixed(digest).map(|_| name)
    }

    /// The digest, whichever it is.
    pub fn fingerprint(self) -> Option<Fingerprint> {
        match self {
            Self::Repo(fingerprint) | Self::Local(fingerprint) => Some(fingerprint),
            Self::Unresolved => None,
        }
    }
}

fn without_scheme(image_id: &str) -> &str {
    ["docker-pullable://", "docker://"]
        .into_iter()
        .find_map(|scheme| image_id.strip_prefix(scheme))
        .unwrap_or(image_id)
}

fn prefixed(digest: &str) -> Option<Fingerprint> {
    Fingerprint::from_hex(digest.strip_prefix("sha256:")?)
}

/// The image of a container spec, normalised as the container tools do (distribution/reference).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Host and path: `docker.io/library/nginx`.
    pub repository: String,
    /// The tag; `latest` when neither tag nor digest is given.
    pub tag: Option<String>,
    /// The digest that the image is pinned to.
    pub pin: Option<Fingerprint>,
}

/// The text is no image reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAReference;

impl Reference {
    /// The name without the digest: `docker.io/library/nginx:1.27`.
    pub fn name(&self) -> String {
        match &self.tag {
            Some(tag) => format!("{}:{tag}", self.repository),
            None => self.repository.clone(),
        }
    }
}

impl FromStr for Reference {
    type Err = NotAReference;

    fn from_str(text: &str) -> Result<Self, NotAReference> {
        if Fingerprint::from_hex(text).is_some() {
            return Err(NotAReference); // an image id, which no registry knows
        }
        let (named, digest) = split_off(text, '@');
        let (host, rest) = match named.split_once('/') {
            Some((first, rest)) if is_host(first) => (first, rest),
            _ => ("docker.io", named),
        };
        let host = match host {
            "index.docker.io" => "docker.io",
            host => host,
        };
        let (path, tag) = split_off(rest, ':');
        let valid_tag = |tag: &str| {
            tag.len() <= 128
                && tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
                && tag
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let valid_component = |component: &str| {
            component.starts_with(plain)
                && component.ends_with(plain)
                && component.chars().all(|c| plain(c) || "._-".contains(c))
        };
        if !path.split('/').all(valid_component) || !tag.is_none_or(valid_tag) || path.len() > 255 {
            return Err(NotAReference);
        }
        let official = host == "docker.io" && !path.contains('/');
        let library = if official { "library/" } else { "" };
        let implicit = digest.is_none().then_some("latest");
        Ok(Self {
            repository: format!("{host}/{library}{path}"),
            tag: tag.or(implicit).map(str::to_owned),
            pin: digest.and_then(prefixed),
        })
    }
}

/// The text before a character, and the text after it if there is one.
fn split_off(text: &str, at: char) -> (&str, Option<&str>) {
    let parts = text.split_once(at);
    parts.map_or((text, None), |(before, after)| (before, Some(after)))
}

/// Whether the image of a spec names its registry. Otherwise a node may look for it in a registry of its own choice, or
/// among the ids of the images that it has.
pub fn names_registry(image: &str) -> bool {
    image
        .split_once('/')
        .is_some_and(|(first, _)| is_host(first))
}

/// Whether the part before the first slash is a host rather than a part of the path.
fn is_host(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.bytes().any(|b| b.is_ascii_uppercase())
}

/// The name to show for the image of a container spec. A malformed one is shown as it is, up to 512 characters.
pub fn display_name(image: &str) -> String {
    match image.parse::<Reference>() {
        Ok(reference) => cut_to_schema(&reference.name(), cut_to_schema::IMAGE).into_owned(),
        Err(NotAReference) => image.chars().take(512).collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    const I: &str = "719defb995c86ad7c406ad74258fe98b9ebd71dfa80cd786870c967cb6c1f08d";

    fn hex(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    #[test]
    fn an_image_id_of_every_runtime_is_told_by_its_digest_alone() {
        use ImageId::{Local, Repo, Unresolved};
        let fp = |hex: &str| Fingerprint::from_hex(hex).unwrap();
        let (i, m, c) = (fp(I), fp(&hex('3')), fp(&hex('c')));
        for (number, text, want) in [
            ("P1", format!("docker.io/library/nginx@sha256:{I}"), Repo(i)),
            (
                "P2",
                format!("registry.example.com:5000/a/b@sha256:{}", hex('3')),
                Repo(m),
            ),
            ("P3", format!("quay.io/o/r:v1@sha256:{I}"), Repo(i)),
            (
                "P4",
                format!("docker-pullable://runner@sha256:{I}"),
                Repo(i),
            ),
            ("P5", format!("docker://sha256:{}", hex('c')), Local(c)),
            ("P6", format!("sha256:{}", hex('c')), Local(c)),
            ("P7", hex('c'), Local(c)),
            ("P8", String::new(), Unresolved),
            ("P9a", "docker-pullable://".to_owned(), Unresolved),
            ("P9b", "sha256:abc".to_owned(), Unresolved),
            ("P9c", "<none>@<none>".to_owned(), Unresolved),
            ("P10", "docker.io/library/nginx:1.27".to_owned(), Unresolved),
            ("P11", format!("r.example/a@sha512:{I}{I}"), Unresolved),
            (
                "P12",
                format!("r.example/a@sha256:{}", I.to_uppercase()),
                Unresolved,
            ),
            ("P13a", format!("containerd://{}", hex('c')), Unresolved),
            ("P13b", format!("cri-o://{}", hex('c')), Unresolved),
            ("no trimming", format!("sha256:{I}\n"), Unresolved),
            ("not ASCII", format!("é@sha256:{}é", &I[..62]), Unresolved),
        ] {
            assert_eq!(ImageId::parse(&text), want, "{number}: {text}");
        }
    }

    #[test]
    fn the_image_of_a_spec_is_read_as_the_container_tools_read_it() {
        let config = hex('c');
        for (number, text, want) in [
            (
                "N1",
                "nginx".to_owned(),
                Some(("docker.io/library/nginx", Some("latest"), false)),
            ),
            (
                "N2",
                "docker.io/nginx:1.27".to_owned(),
                Some(("docker.io/library/nginx", Some("1.27"), false)),
            ),
            (
                "N3",
                "index.docker.io/o/r:v1".to_owned(),
                Some(("docker.io/o/r", Some("v1"), false)),
            ),
            (
                "N4",
                "myhost/a".to_owned(),
                Some(("docker.io/myhost/a", Some("latest"), false)),
            ),
            (
                "N5",
                "MyHost/a:1".to_owned(),
                Some(("MyHost/a", Some("1"), false)),
            ),
            (
                "N6",
                "localhost/a".to_owned(),
                Some(("localhost/a", Some("latest"), false)),
            ),
            (
                "N7",
                format!("nginx@sha256:{I}"),
                Some(("docker.io/library/nginx", None, true)),
            ),
            (
                "N8",
                format!("ghcr.io/o/r:v1@sha256:{I}"),
                Some(("ghcr.io/o/r", Some("v1"), true)),
            ),
            ("N9", "Nginx".to_owned(), None),
            ("N10", config.clone(), None),
            (
                "N11",
                format!("sha256:{config}"),
                Some(("docker.io/library/sha256", Some(config.as_str()), false)),
            ),
            (
                "port",
                "r.example:5000/a/b:t".to_owned(),
                Some(("r.example:5000/a/b", Some("t"), false)),
            ),
            ("empty", String::new(), None),
            ("markup", "<!channel>".to_owned(), None),
        ] {
            let read = text.parse::<Reference>().ok();
            let read = read
                .as_ref()
                .map(|r| (r.repository.as_str(), r.tag.as_deref(), r.pin.is_some()));
            assert_eq!(read, want, "{number}: {text}");
        }
    }

    #[test]
    fn a_name_is_read_from_what_a_node_reports_only_beside_a_digest_of_the_registry() {
        for (text, want) in [
            (
                format!("docker.io/library/nginx@sha256:{I}"),
                Some("docker.io/library/nginx"),
            ),
            (format!("quay.io/o/r:v1@sha256:{I}"), Some("quay.io/o/r:v1")),
            (
                format!("docker-pullable://runner@sha256:{I}"),
                Some("runner"),
            ),
            (format!("docker://sha256:{I}"), None),
            (format!("sha256:{I}"), None),
            (I.to_owned(), None),
            (String::new(), None),
            ("<none>@<none>".to_owned(), None),
            ("docker.io/library/nginx:1.27".to_owned(), None),
        ] {
            assert_eq!(ImageId::name(&text), want, "{text}");
        }
    }

    #[test]
    fn an_image_names_its_registry_only_before_a_slash() {
        for (image, want) in [
            ("docker.io/nginx:1", true),
            ("localhost/a", true),
            ("r.example:5000/a/b@sha256:1", true),
            ("nginx", false),
            ("acme/web:1", false),
            ("cafe", false),
            (&format!("sha256:{I}"), false),
            ("", false),
        ] {
            assert_eq!(names_registry(image), want, "{image}");
        }
    }

    proptest! {
        #![proptest_config(crate::simulation::testing::reader_tries())]

        #[test]
        fn any_image_and_any_image_id_are_read(image in text(), id in text()) {
            ImageId::parse(&id);
            ImageId::name(&id);
            names_registry(&image);
            prop_assert!(display_name(&image).chars().count() <= cut_to_schema::IMAGE);
            if let Ok(reference) = image.parse::<Reference>() {
                let again: Result<Reference, _> = reference.name().parse();
                prop_assert_eq!(again.map(|it| it.repository), Ok(reference.repository));
            }
        }
    }

    /// Parts of images and of ids, and anything else.
    fn text() -> impl Strategy<Value = String> {
        let part = select(vec![
            "docker-pullable://",
            "docker://",
            "sha256:",
            "@sha256:",
            I,
            "@",
            ":",
            "/",
            "nginx",
            "docker.io",
            "localhost",
            "r.example:5000",
            "A",
            "a",
            "_",
            "-",
            ".",
            "\0",
            "\u{e9}",
            "1.27",
            " ",
        ]);
        let parts = vec(part, 0..8).prop_map(|parts| parts.concat());
        prop_oneof![4 => parts, 1 => ".{0,40}", 1 => "[a-z0-9.:/@-]{300,1500}"]
    }

    #[test]
    fn a_fingerprint_is_written_as_it_is_read() {
        assert_eq!(Fingerprint::from_hex(I).unwrap().to_string(), I);
        assert_eq!(Fingerprint::from_hex(&I[1..]), None);
    }
}
