//! How far the settings have delivered each log, for pruning.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::api::notification_setting::Cursor;

/// How far the settings have delivered, as in their status.
#[derive(Debug, Default)]
pub struct DeliveryProgress {
    /// By the UID of the setting.
    cursors: Mutex<BTreeMap<String, Vec<Cursor>>>,
    complete: Mutex<bool>,
}

impl DeliveryProgress {
    pub(crate) fn put(&self, setting: &str, cursors: Vec<Cursor>) {
        self.cursors.lock().insert(setting.to_owned(), cursors);
    }

    pub(crate) fn remove(&self, setting: &str) {
        self.cursors.lock().remove(setting);
    }

    pub(crate) fn set_complete(&self, complete: bool) {
        *self.complete.lock() = complete;
    }

    /// Whether all settings are known by now.
    pub fn is_complete(&self) -> bool {
        *self.complete.lock()
    }

    /// The index up to which all settings have delivered an environment's log, if any follows it.
    pub fn least(&self, environment_uid: &str) -> Option<i64> {
        let all = self.cursors.lock();
        let of = all
            .values()
            .flatten()
            .filter(|cursor| cursor.environment_uid == environment_uid);
        of.map(|cursor| cursor.index).min()
    }
}
