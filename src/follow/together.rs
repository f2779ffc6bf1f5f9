//! Several tables that are followed by one stream, each by a follower of its own. What is asked of all is put to all
//! before the first answer is waited for.

use std::sync::Arc;

use futures_util::future::{join_all, select_all};
use tokio::sync::{mpsc, watch};

use super::applier::HANDED_OVER;
use super::{Command, Follower, Job, Positions, ReaderTask, Taking, reader};
use crate::error::Failure;
use crate::pg::Lsn;
use crate::stream::Key;

/// Starts to follow tables that share a slot and a publication; in the order of the jobs, of which there is at least one.
pub async fn start_all(jobs: Vec<Job>) -> Result<Vec<Follower>, Failure> {
    let positions = Arc::new(Positions::default());
    let (mut consumers, mut ends) = (Vec::new(), Vec::new());
    for job in &jobs {
        let (events, taken) = mpsc::channel(HANDED_OVER);
        let (told, safe) = watch::channel(Lsn::ZERO);
        consumers.push(reader::Consumer { plan: job.plan.clone(), events, safe });
        ends.push((taken, told));
    }
    let first = jobs.first().ok_or_else(|| Failure::failed("there is nothing to follow"))?;
    let source =
        reader::Source { connector: first.connector.clone(), slot: first.slot.clone(), names: first.names.clone() };
    let task = Arc::new(ReaderTask(tokio::spawn(reader::read(source, consumers, positions.clone()))));
    let mut followers = Vec::new();
    for (job, (events, safe)) in jobs.into_iter().zip(ends) {
        let taking = Taking { events, safe, reader: task.clone() };
        followers.push(Follower::begin(job, &positions, taking).await?);
    }
    Ok(followers)
}

/// Waits until following one of them has failed.
pub async fn failed_any(followers: Vec<&Follower>) -> Failure {
    select_all(followers.into_iter().map(|follower| Box::pin(follower.failed()))).await.0
}

/// See [`Follower::settle`].
pub async fn settle_all(followers: &[&Follower]) -> Result<(), Failure> {
    all(followers, Command::Settle).await.map(|_| ())
}

/// See [`Follower::hurry`].
pub async fn hurry_all(followers: &[&Follower]) -> Result<(), Failure> {
    for follower in followers {
        follower.hurry().await?;
    }
    Ok(())
}

/// See [`Follower::drain`]: the keys of each.
pub async fn drain_all(followers: &[&Follower]) -> Result<Vec<Option<Vec<Key>>>, Failure> {
    all(followers, Command::Drain).await
}

async fn all<T>(
    followers: &[&Follower],
    command: impl Fn(tokio::sync::oneshot::Sender<T>) -> Command,
) -> Result<Vec<T>, Failure> {
    let mut asked = Vec::new();
    for follower in followers {
        asked.push(follower.put(&command).await?);
    }
    let mut answers = Vec::new();
    for (follower, answer) in followers.iter().zip(asked) {
        answers.push(follower.answered(answer).await?);
    }
    Ok(answers)
}

/// See [`Follower::stop`]; the first failure of any.
pub async fn stop_all(followers: &[&Follower]) -> Result<(), Failure> {
    join_all(followers.iter().map(|follower| follower.stop())).await.into_iter().collect()
}
