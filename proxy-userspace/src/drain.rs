//! One drain for everything that serves: it says when to stop accepting and when to stop at once.

use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    /// The same as draining, but that another daemon serves.
    Replaced,
    /// No new connections; open ones go on to their end.
    Draining,
    /// Nothing is waited for any more.
    Stopped,
}

/// Held by the one who decides.
pub struct Drain(watch::Sender<Phase>);

/// Held by each who serves.
#[derive(Clone)]
pub struct Draining(watch::Receiver<Phase>);

impl Drain {
    pub fn new() -> (Self, Draining) {
        let (sender, receiver) = watch::channel(Phase::Serving);
        (Self(sender), Draining(receiver))
    }

    pub fn start(&self) {
        self.0
            .send_if_modified(|phase| advance(phase, Phase::Draining));
    }

    pub fn has_begun(&self) -> bool {
        *self.0.borrow() > Phase::Serving
    }

    /// Another daemon has come.
    pub fn leave(&self) {
        self.0
            .send_if_modified(|phase| advance(phase, Phase::Replaced));
    }

    pub fn stop_now(&self) {
        self.0
            .send_if_modified(|phase| advance(phase, Phase::Stopped));
    }
}

fn advance(phase: &mut Phase, to: Phase) -> bool {
    let later = *phase < to;
    if later {
        *phase = to;
    }
    later
}

impl Draining {
    /// Until no new connection shall be taken.
    pub async fn started(&mut self) {
        self.reached(Phase::Replaced).await;
    }

    /// Until all shall end at once.
    pub async fn stopped(&mut self) {
        self.reached(Phase::Stopped).await;
    }

    pub fn is_replaced(&self) -> bool {
        *self.0.borrow() == Phase::Replaced
    }

    pub fn is_stopped(&self) -> bool {
        *self.0.borrow() >= Phase::Stopped
    }

    async fn reached(&mut self, at_least: Phase) {
        // An error means that the decider is gone, which is a reason to stop as well.
        let _ = self.0.wait_for(|phase| *phase >= at_least).await;
    }
}
