//! What a worker is told from outside: the newest state of each thing, however late it is read. Bounded by what there is.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    api::NotificationSetting, delivery::setting_state::Input,
    snapshot::environments::EnvironmentInfo,
};

/// What has not been read yet.
#[derive(Debug, Default)]
struct Unread {
    setting: Option<Arc<NotificationSetting>>,
    environments: Option<Arc<BTreeMap<String, EnvironmentInfo>>>,
    /// The name of the environment and the number of its newest snapshot, by its UID.
    heads: BTreeMap<String, (String, i64)>,
}

/// The mailbox of one worker.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    unread: Mutex<Unread>,
    news: Notify,
}

impl Mailbox {
    pub fn setting(&self, setting: Arc<NotificationSetting>) {
        self.unread.lock().setting = Some(setting);
        self.news.notify_one();
    }

    pub fn environments(&self, environments: Arc<BTreeMap<String, EnvironmentInfo>>) {
        self.unread.lock().environments = Some(environments);
        self.news.notify_one();
    }

    pub fn head(&self, environment: &str, uid: &str, head: i64) {
        let head = (environment.to_owned(), head);
        self.unread.lock().heads.insert(uid.to_owned(), head);
        self.news.notify_one();
    }

    /// Waits until there is something to read.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// Takes out what there is, in an order in which it can be taken in.
    pub fn take(&self) -> Vec<Input> {
        let Unread {
            setting,
            environments,
            heads,
        } = std::mem::take(&mut *self.unread.lock());
        let heads = heads.into_iter();
        let heads = heads.map(|(uid, (environment, head))| Input::Head(environment, uid, head));
        let setting = setting.map(Input::Setting);
        let environments = environments.map(Input::Environments);
        setting
            .into_iter()
            .chain(environments)
            .chain(heads)
            .collect()
    }
}
