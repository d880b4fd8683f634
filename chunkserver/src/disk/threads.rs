//! Threads for blocking work of one disk, so that a slow or hung disk stops neither the async runtime nor other disks.
//!
//! Invariant: at most [`JOBS_MAX`] jobs are queued or running; more make their callers wait.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Semaphore, oneshot};

use super::error::DiskError;
use crate::foreground::Foreground;

/// Jobs of one pool queued or running.
const JOBS_MAX: usize = 512;

type Job = Box<dyn FnOnce() + Send>;

/// A small pool of threads. They end, after what is queued, when the pool is dropped.
#[derive(Debug)]
pub(crate) struct Threads {
    queue: Arc<Queue>,
    room: Arc<Semaphore>,
    /// Whose foreground work the jobs are, if they are.
    foreground: Option<Arc<Foreground>>,
}

/// Jobs for whichever thread is idle: one is woken for each job, and none while all are busy.
#[derive(Default)]
struct Queue {
    state: Mutex<Jobs>,
    more: Condvar,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    idle: usize,
    closed: bool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

impl Queue {
    fn push(&self, job: Job) {
        let mut jobs = self.state.lock();
        jobs.waiting.push_back(job);
        let idle = jobs.idle > 0;
        drop(jobs);
        if idle {
            self.more.notify_one();
        }
    }

    /// The next job; `None` once the queue is closed and empty.
    fn pop(&self) -> Option<Job> {
        let mut jobs = self.state.lock();
        loop {
            if let Some(job) = jobs.waiting.pop_front() {
                return Some(job);
            }
            if jobs.closed {
                return None;
            }
            jobs.idle += 1;
            self.more.wait(&mut jobs);
            jobs.idle -= 1;
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.queue.state.lock().closed = true;
        self.queue.more.notify_all();
    }
}

impl Threads {
    pub(crate) fn start(name: &str, count: usize) -> std::io::Result<Self> {
        let threads = Self {
            queue: Arc::default(),
            room: Arc::new(Semaphore::new(JOBS_MAX)),
            foreground: None,
        };
        for number in 0..count {
            let queue = Arc::clone(&threads.queue);
            std::thread::Builder::new()
                .name(format!("{name}-{number}"))
                .spawn(move || {
                    while let Some(job) = queue.pop() {
                        job();
                    }
                })?;
        }
        Ok(threads)
    }

    /// Background work gives way to these threads' jobs.
    pub(crate) fn before_background(mut self, foreground: &Arc<Foreground>) -> Self {
        self.foreground = Some(Arc::clone(foreground));
        self
    }

    /// Runs `job` on a thread. Once begun it runs to its end, also if the caller stops waiting.
    pub(crate) async fn run<T, F>(&self, job: F) -> Result<T, DiskError>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, DiskError> + Send + 'static,
    {
        let working = self.foreground.as_ref().map(Foreground::begin);
        let permit = Arc::clone(&self.room)
            .acquire_owned()
            .await
            .map_err(|_| DiskError::Stopping)?;
        let (done, answer) = oneshot::channel();
        let job: Job = Box::new(move || {
            let result = job();
            drop(permit);
            drop(working);
            drop(done.send(result));
        });
        self.queue.push(job);
        answer.await.map_err(|_| DiskError::Stopping)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_threads_work_at_once_and_what_is_queued_is_done_before_the_end() {
        let threads = Threads::start("test", 3).unwrap();
        // Each waits for the others: fewer than three at once would never end.
        let meeting = Arc::new(std::sync::Barrier::new(3));
        let meet = || {
            let meeting = Arc::clone(&meeting);
            threads.run(move || {
                meeting.wait();
                Ok(())
            })
        };
        for _ in 0..200 {
            let (a, b, c) = tokio::join!(meet(), meet(), meet());
            assert!(a.is_ok() && b.is_ok() && c.is_ok());
        }
        let (begin, began) = std::sync::mpsc::channel::<()>();
        let began = Mutex::new(began);
        let held = tokio::spawn(async move {
            let slow = threads.run(move || {
                let _ = began.lock().recv();
                Ok(())
            });
            let queued = threads.run(|| Ok(7));
            let (slow, queued) = tokio::join!(slow, queued);
            drop(threads);
            slow.and(queued)
        });
        begin.send(()).unwrap();
        assert!(matches!(held.await.unwrap(), Ok(7)));
    }
}
