//! Threads for blocking work of one disk, so that a slow or hung disk stops neither the async runtime nor other disks.
//!
//! Invariant: at most [`JOBS_MAX`] jobs are queued or running; more make their callers wait.

use std::sync::{Arc, mpsc};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

use super::error::DiskError;

/// Jobs of one pool queued or running.
const JOBS_MAX: usize = 512;

type Job = Box<dyn FnOnce() + Send>;

/// A small pool of threads. They end, after what is queued, when the pool is dropped.
#[derive(Debug)]
pub(crate) struct Threads {
    queue: mpsc::SyncSender<Job>,
    room: Arc<Semaphore>,
}

impl Threads {
    pub(crate) fn start(name: &str, count: usize) -> std::io::Result<Self> {
        let (queue, jobs) = mpsc::sync_channel::<Job>(JOBS_MAX);
        let jobs = Arc::new(Mutex::new(jobs));
        for number in 0..count {
            let jobs = Arc::clone(&jobs);
            std::thread::Builder::new()
                .name(format!("{name}-{number}"))
                .spawn(move || {
                    loop {
                        // The guard is dropped before the job runs: one thread waits for work, the others do it.
                        let job = jobs.lock().recv();
                        match job {
                            Ok(job) => job(),
                            Err(mpsc::RecvError) => return,
                        }
                    }
                })?;
        }
        Ok(Self {
            queue,
            room: Arc::new(Semaphore::new(JOBS_MAX)),
        })
    }

    /// Runs `job` on a thread. Once begun it runs to its end, also if the caller stops waiting.
    pub(crate) async fn run<T, F>(&self, job: F) -> Result<T, DiskError>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, DiskError> + Send + 'static,
    {
        let permit = Arc::clone(&self.room)
            .acquire_owned()
            .await
            .map_err(|_| DiskError::Stopping)?;
        let (done, answer) = oneshot::channel();
        let job: Job = Box::new(move || {
            let result = job();
            drop(permit);
            drop(done.send(result));
        });
        // Permits are fewer than places in the queue, so this never waits.
        self.queue.try_send(job).map_err(|_| DiskError::Stopping)?;
        answer.await.map_err(|_| DiskError::Stopping)?
    }
}
