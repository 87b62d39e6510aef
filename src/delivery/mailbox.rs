//! What a worker receives from outside: only the newest state of each thing, so its size is bounded however late it is read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

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
    /// Environments came, went or were edited.
    environments: Option<Arc<BTreeMap<String, EnvironmentInfo>>>,
    /// The names of those whose logs have grown.
    grown: BTreeSet<String>,
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

    pub fn log_grew(&self, name: &str) {
        self.unread.lock().grown.insert(name.to_owned());
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
            grown,
        } = std::mem::take(&mut *self.unread.lock());
        let environments = match environments {
            // The heads of all are looked at then.
            Some(environments) => Some(Input::Environments(environments)),
            None => (!grown.is_empty()).then_some(Input::LogsGrew(grown)),
        };
        let setting = setting.map(Input::Setting);
        setting.into_iter().chain(environments).collect()
    }
}
