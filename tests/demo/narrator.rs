//! Says what the demo does while it does it.

use kit::{Heard, Receiver};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Instant,
};
use tokio::sync::watch;

/// Tells the story, with the seconds since it began.
pub struct Narrator {
    began: Instant,
    /// How many messages have been told, in all.
    told: watch::Sender<usize>,
    listening: Mutex<Vec<watch::Receiver<Vec<Heard>>>>,
}

impl Narrator {
    pub fn new() -> Arc<Self> {
        Arc::new(Narrator {
            began: Instant::now(),
            told: watch::Sender::new(0),
            listening: Mutex::default(),
        })
    }

    /// The next step, after all messages that have arrived are told.
    pub async fn step(&self, text: &str) {
        let arrived: usize = {
            let listening = self.listening.lock().expect("nobody panics with it");
            listening.iter().map(|heard| heard.borrow().len()).sum()
        };
        let _ = self
            .told
            .subscribe()
            .wait_for(|told| *told >= arrived)
            .await;
        println!("\n[{:>4.1} s] {text}", self.began.elapsed().as_secs_f32());
    }

    /// Prints each message that a receiver hears, as it arrives.
    pub fn listen(self: &Arc<Self>, name: &'static str, receiver: &Receiver) {
        let this = self.clone();
        let mut heard = receiver.follow();
        self.listening
            .lock()
            .expect("nobody panics with it")
            .push(heard.clone());
        tokio::spawn(async move {
            let mut told = 0;
            while let Ok(all) = heard
                .wait_for(|heard| heard.len() > told)
                .await
                .map(|heard| heard.clone())
            {
                for message in &all[told..] {
                    note(&format!("<- {name}: {}", line(message)));
                }
                this.told.send_modify(|count| *count += all.len() - told);
                told = all.len();
            }
        });
    }
}

/// A line that stands alone.
pub fn title(text: &str) {
    println!("\n{text}");
}

/// A line below a step.
pub fn note(text: &str) {
    println!("         {text}");
}

/// What a command printed.
pub fn show(text: &str) {
    text.trim_end().lines().for_each(note);
}

/// One message in a line.
fn line(heard: &Heard) -> String {
    let body: serde_json::Value = serde_json::from_slice(&heard.body).unwrap_or_default();
    if let Some(text) = body["text"].as_str() {
        return text.to_owned();
    }
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let name = text(&body["artifact"]["name"]);
    let name = name.rsplit('/').next().unwrap_or_default();
    let id = heard.header("webhook-id").unwrap_or_default();
    format!(
        "{}: {} (snapshot {}, id {}…{})",
        [text(&body["event_type"]).as_str(), name]
            .join(" ")
            .trim_end(),
        text(&body["description"]),
        text(&body["snapshot"]["index"]),
        id.get(..8).unwrap_or_default(),
        if accepted(heard) {
            ""
        } else {
            ", answered 503"
        },
    )
}

/// The ids of the messages that were taken, each with the number of times.
pub fn delivered(heard: &[Heard]) -> BTreeMap<String, usize> {
    let mut ids = BTreeMap::new();
    for id in heard
        .iter()
        .filter(|heard| accepted(heard))
        .filter_map(|heard| heard.header("webhook-id"))
    {
        *ids.entry(id.to_owned()).or_insert(0) += 1;
    }
    ids
}

fn accepted(heard: &Heard) -> bool {
    (200..300).contains(&heard.answered)
}
