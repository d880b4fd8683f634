//! Bars on standard error: only on a terminal, only for what takes longer than a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::text;

/// What ends sooner shows no bar.
const PATIENCE: Duration = Duration::from_secs(1);
/// Redraws per second: smooth to the eye, nothing to the CPU.
const REDRAWS_PER_SECOND: u8 = 8;

/// Progress of one command.
#[derive(Debug, Clone)]
pub struct Progress {
    bars: MultiProgress,
    total: ProgressBar,
    began: Instant,
    showing: Option<Arc<tokio::task::AbortHandle>>,
}

impl Progress {
    /// Progress over so many files and bytes; bytes are 0 if nobody knows them. Silent if `quiet` or not on a
    /// terminal.
    #[must_use]
    pub fn new(quiet: bool, files: u64, bytes: u64) -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        let total = if bytes == 0 {
            ProgressBar::no_length()
        } else {
            ProgressBar::new(bytes)
        };
        let total = bars.add(
            total
                .with_style(style(bytes, true))
                .with_prefix(text::count(files, "file")),
        );
        let showing =
            (!quiet && rustix::termios::isatty(std::io::stderr())).then(|| show_later(bars.clone(), total.clone()));
        Self {
            bars,
            total,
            began: Instant::now(),
            showing,
        }
    }

    /// A bar for one file; it goes away when dropped.
    #[must_use]
    pub fn file(&self, name: &str, bytes: u64) -> FileProgress {
        let bar = if bytes == 0 {
            ProgressBar::no_length()
        } else {
            ProgressBar::new(bytes)
        };
        let bar = bar
            .with_style(style(bytes, false))
            .with_prefix(clip(&text::printable(name)));
        FileProgress {
            bar: self.bars.insert_before(&self.total, bar),
            total: self.total.clone(),
            done: AtomicU64::new(0),
        }
    }

    /// Takes the bars away and tells how long it took.
    pub fn finish(&self) -> Duration {
        if let Some(showing) = &self.showing {
            showing.abort();
        }
        self.total.finish_and_clear();
        self.began.elapsed()
    }
}

fn show_later(bars: MultiProgress, total: ProgressBar) -> Arc<tokio::task::AbortHandle> {
    let task = tokio::spawn(async move {
        tokio::time::sleep(PATIENCE).await;
        bars.set_draw_target(ProgressDrawTarget::stderr_with_hz(REDRAWS_PER_SECOND));
        total.enable_steady_tick(PATIENCE / 4);
    });
    Arc::new(task.abort_handle())
}

fn style(bytes: u64, total: bool) -> ProgressStyle {
    ProgressStyle::with_template(template(bytes, total))
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸ ")
}

/// Only the total tells the time left: a file's own says little while others run beside it.
fn template(bytes: u64, total: bool) -> &'static str {
    // Fits a terminal of 80 columns.
    match (bytes, total) {
        (0, _) => "{prefix:24!} {binary_bytes:>11} {binary_bytes_per_sec:>13} {elapsed:>9}",
        (_, true) => {
            "{prefix:24!} {wide_bar} {percent:>3}% {binary_bytes:>11} {binary_bytes_per_sec:>13} {eta:>4} left"
        }
        (_, false) => "{prefix:24!} {wide_bar} {percent:>3}% {binary_bytes:>11} {binary_bytes_per_sec:>13}          ",
    }
}

/// The end of a long name says more than its beginning.
fn clip(name: &str) -> String {
    const WIDTH: usize = 24;
    let length = name.chars().count();
    if length <= WIDTH {
        return name.to_owned();
    }
    let tail: String = name.chars().skip(length - (WIDTH - 1)).collect();
    format!("…{tail}")
}

/// Progress of one file of the command.
#[derive(Debug)]
pub struct FileProgress {
    bar: ProgressBar,
    total: ProgressBar,
    done: AtomicU64,
}

impl FileProgress {
    /// A bar of the same file that nobody sees: for what is only looked at before.
    #[must_use]
    pub fn silent(&self) -> Self {
        Self {
            bar: ProgressBar::hidden(),
            total: ProgressBar::hidden(),
            done: AtomicU64::new(0),
        }
    }

    /// So many more bytes are done.
    pub fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        self.bar.inc(bytes);
        self.total.inc(bytes);
    }

    /// So many bytes are done in all. Never goes back: bytes that are sent again were done once already.
    pub fn reach(&self, bytes: u64) {
        let before = self.done.fetch_max(bytes, Ordering::Relaxed);
        let more = bytes.saturating_sub(before);
        self.bar.inc(more);
        self.total.inc(more);
    }
}

impl Drop for FileProgress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_keep_their_end() {
        assert_eq!(clip("short"), "short");
        let clipped = clip(&format!("{}/end.bin", "x".repeat(100)));
        assert_eq!(clipped.chars().count(), 24);
        assert!(clipped.starts_with('…') && clipped.ends_with("/end.bin"));
    }

    #[test]
    fn bytes_count_once() {
        let progress = Progress::new(true, 2, 300);
        let (a, b) = (progress.file("a", 100), progress.file("b", 200));
        a.reach(60);
        a.reach(40);
        a.reach(100);
        b.advance(50);
        b.advance(150);
        assert_eq!(progress.total.position(), 300);
    }

    #[test]
    fn every_template_is_valid() {
        for (bytes, total) in [(0, true), (0, false), (1, true), (1, false)] {
            assert!(ProgressStyle::with_template(template(bytes, total)).is_ok());
        }
    }
}
