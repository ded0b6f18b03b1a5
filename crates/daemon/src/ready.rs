//! What systemd is told (sd_notify); without systemd nothing happens.

use sd_notify::NotifyState;

fn notify(state: NotifyState<'_>) {
    if let Err(e) = sd_notify::notify(false, &[state]) {
        tracing::debug!("systemd is not notified: {e}");
    }
}

/// The server serves.
pub fn ready() {
    notify(NotifyState::Ready);
}

/// The server has begun to stop.
pub fn stopping() {
    notify(NotifyState::Stopping);
}

/// One line for `systemctl status`.
pub fn status(line: &str) {
    notify(NotifyState::Status(line));
}
