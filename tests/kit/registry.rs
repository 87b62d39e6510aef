//! What images do when the fake kubelet runs them: which digest they have, whether they can be pulled, whether
//! they crash. A test scripts images, never pods, so that controllers stay in charge of the pods.

use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::watch;

/// What containers of an image do. The default runs at once, gets ready, stays and stops at once.
///
/// A container keeps what its image was when it started, so changing an image is moving its tag. Those that
/// wait (for a pull, a slow start, a restart) follow the change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// 64 hex digits; else the SHA-256 of the image string. An image pinned by digest has that one.
    pub digest: Option<String>,
    /// The imageID as a whole, for every shape a runtime has: `""`, `sha256:…`, bare hex, rubbish.
    pub image_id: Option<String>,
    /// It can't be pulled: waits with `ErrImagePull`, then `ImagePullBackOff`, without an imageID.
    pub pull_fails: bool,
    /// It ends with an error soon after each start, then waits a second with `CrashLoopBackOff`.
    pub crash_loop: bool,
    /// How long `ContainerCreating` lasts, without an imageID.
    pub starts_after: Duration,
    /// Whether it gets ready.
    pub ready: bool,
    /// How long it goes on running once its pod is deleted, at most the pod's grace period.
    pub stops_after: Duration,
    /// It ends by itself after this time, as the container of a Job does.
    pub exits_after: Option<Duration>,
    /// The exit code it then has.
    pub exit_code: i32,
}

impl Default for Image {
    fn default() -> Self {
        Image {
            digest: None,
            image_id: None,
            pull_fails: false,
            crash_loop: false,
            starts_after: Duration::ZERO,
            ready: true,
            stops_after: Duration::ZERO,
            exits_after: None,
            exit_code: 0,
        }
    }
}

impl Image {
    /// How long a crash-looping container runs.
    const CRASHES_AFTER: Duration = Duration::from_millis(300);

    /// When and with which code it ends by itself.
    pub(crate) fn exit(&self) -> Option<(Duration, i32)> {
        if self.crash_loop {
            return Some((Self::CRASHES_AFTER, 1));
        }
        self.exits_after.map(|after| (after, self.exit_code))
    }

    /// The digest it has under this name, 64 hex digits.
    pub fn digest_as(&self, name: &str) -> String {
        match (name.split_once("@sha256:"), &self.digest) {
            (Some((_, pinned)), _) => pinned.to_owned(),
            (None, Some(digest)) => digest.clone(),
            (None, None) => sha256_hex(name),
        }
    }

    /// The imageID that containerd reports for an image pulled under this name.
    pub fn image_id_as(&self, name: &str) -> String {
        self.image_id
            .clone()
            .unwrap_or_else(|| format!("{}@sha256:{}", repository(name), self.digest_as(name)))
    }
}

/// The images of a test, shared by all its nodes. Clones share.
#[derive(Clone, Debug)]
pub struct Registry {
    images: Arc<Mutex<BTreeMap<String, Image>>>,
    changed: watch::Sender<()>,
}

impl Default for Registry {
    fn default() -> Self {
        Registry {
            images: Arc::default(),
            changed: watch::Sender::new(()),
        }
    }
}

impl Registry {
    /// Scripts an image, named exactly as in a pod's spec.
    pub fn set(&self, name: &str, image: Image) {
        let mut images = self
            .images
            .lock()
            .expect("nobody panics while holding the images");
        images.insert(name.to_owned(), image);
        drop(images);
        self.changed.send_replace(());
    }

    /// What an image does now.
    pub fn get(&self, name: &str) -> Image {
        let images = self
            .images
            .lock()
            .expect("nobody panics while holding the images");
        images.get(name).cloned().unwrap_or_default()
    }

    /// The digest containers that start now get, 64 hex digits.
    pub fn digest_of(&self, name: &str) -> String {
        self.get(name).digest_as(name)
    }

    /// Tells when any image was changed.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

/// The lower-case hex SHA-256 of a text.
pub(crate) fn sha256_hex(text: &str) -> String {
    Sha256::digest(text)
        .iter()
        .fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

/// `host:5000/app` of `host:5000/app:v1@sha256:…`.
fn repository(name: &str) -> &str {
    let name = name.split('@').next().unwrap_or(name);
    let path = name.rfind('/').map_or(0, |slash| slash + 1);
    name[path..]
        .find(':')
        .map_or(name, |colon| &name[..path + colon])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_has_neither_tag_nor_digest() {
        for (name, expected) in [
            ("app", "app"),
            ("app:v1", "app"),
            ("host:5000/app", "host:5000/app"),
            ("host:5000/a/app:v1@sha256:00", "host:5000/a/app"),
        ] {
            assert_eq!(repository(name), expected);
        }
    }

    #[test]
    fn a_pin_wins_over_a_script() {
        let image = Image {
            digest: Some("aa".into()),
            ..Image::default()
        };
        assert_eq!(image.image_id_as("r/app:v1"), "r/app@sha256:aa");
        assert_eq!(image.image_id_as("r/app:v1@sha256:bb"), "r/app@sha256:bb");
    }
}
