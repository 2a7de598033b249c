//! Runs independent pieces of work on named threads.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Applies `work` to `0..count` on `threads` threads and returns the answers in order. A panic of one piece is passed on.
#[expect(clippy::expect_used, reason = "a thread that cannot start or panicked leaves nothing to go on with")]
pub(crate) fn map<T: Send>(threads: usize, count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let run = || {
        let mut answers = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return answers;
            }
            answers.push((index, work(index)));
        }
    };
    let mut answers: Vec<(usize, T)> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads.clamp(1, count.max(1)))
            .map(|thread| {
                let name = format!("train-{thread}");
                std::thread::Builder::new().name(name).spawn_scoped(scope, run).expect("a thread starts")
            })
            .collect();
        handles.into_iter().flat_map(|handle| handle.join().expect("no piece of work panics")).collect()
    });
    answers.sort_unstable_by_key(|(index, _)| *index);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn answers_come_in_order() {
        assert_eq!(super::map(3, 100, |index| index * 2), (0..100).map(|index| index * 2).collect::<Vec<_>>());
        assert!(super::map(2, 0, |index| index).is_empty());
    }
}
