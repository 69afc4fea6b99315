//! One GTP-U path by TS 29.281 §7.2.1 and §7.2.2: when it is asked, and what answers and silence make of it. Time
//! comes from outside.

use crate::nad::fast_path::PathCheck;
use netplane_common::wire::gtpu::{Gtpu, GtpuOptional, message};
use std::time::{Duration, Instant};

/// From one new request to the next on a path (§7.2.1).
const SHORTEST: Duration = Duration::from_secs(60);

/// What is known of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathState {
    /// Asked for the first time, and neither answered nor given up yet.
    #[default]
    Unknown,
    Up,
    Down,
}

/// A request with this sequence number is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ask(pub(super) u16);

/// One path.
#[derive(Clone, Debug)]
pub(super) struct Path {
    state: PathState,
    sequence: u16,
    /// When the last new request was sent, whether or not it has its answer.
    asked: Option<Instant>,
    /// How often a request that has no answer was sent; 0: it has its answer.
    sent: u32,
    /// Until a request is sent once more while the path is down.
    pause: Duration,
    due: Instant,
    /// What its interval is longer than the configured one: paths that came into being together do not stay together.
    spread: Duration,
}

impl Path {
    /// A path that is asked for the first time at `due`. Of `seed` come the first sequence number and the spread.
    pub(super) fn new(due: Instant, seed: u64, check: &PathCheck) -> Self {
        let [a, b, c, ..] = seed.to_be_bytes();
        // Up to a tenth.
        let spread = check.interval / 10 * u32::from(c) / 256;
        let sequence = u16::from_be_bytes([a, b]);
        Self { state: PathState::Unknown, sequence, asked: None, sent: 0, pause: check.timeout, due, spread }
    }

    pub(super) fn state(&self) -> PathState {
        self.state
    }

    /// When there is something to do.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Does what is due. Silence is known by then: what has come in was given to [`Self::answered`] before.
    pub(super) fn turn(&mut self, now: Instant, check: &PathCheck) -> Option<Ask> {
        if now < self.due {
            return None;
        }
        let is_silent = self.sent > 0;
        if is_silent && self.state != PathState::Down && self.sent >= check.requests {
            self.state = PathState::Down;
            self.pause = check.timeout;
            self.due = now + self.pause;
            return None;
        }
        let may_be_new = self.asked.is_none_or(|it| now.duration_since(it) >= check.interval);
        if may_be_new {
            self.asked = Some(now);
            self.sequence = self.sequence.wrapping_add(1);
        }
        // Else the same request again, which has no limit of its own (§7.2.1).
        self.sent = self.sent.saturating_add(1);
        if self.state == PathState::Down {
            self.pause = (self.pause * 2).min(check.interval + self.spread);
            self.due = now + self.pause;
        } else {
            self.due = now + check.timeout;
        }
        Some(Ask(self.sequence))
    }

    /// An answer has come. One to another request than the last one, or a second one, says nothing.
    pub(super) fn answered(&mut self, sequence: u16, now: Instant, check: &PathCheck) {
        if self.sent == 0 || sequence != self.sequence {
            return;
        }
        self.state = PathState::Up;
        self.sent = 0;
        self.due = self.asked.unwrap_or(now) + check.interval + self.spread;
    }

    /// Whether nothing of it matters any more: a path that comes back may be asked at once.
    pub(super) fn is_forgotten(&self, now: Instant) -> bool {
        self.asked.is_none_or(|it| now.duration_since(it) >= SHORTEST)
    }

    /// A session uses it again. What was not answered is asked again, and is no verdict on the peer of now.
    pub(super) fn comes_back(&mut self, now: Instant) {
        if self.sent > 0 || self.asked.is_none() {
            self.state = PathState::Unknown;
            self.sent = 0;
            self.due = now;
        }
    }
}

/// The message: sequence number, no TEID, no elements that must be there.
pub(super) fn request(ask: Ask) -> [u8; Gtpu::LEN + GtpuOptional::LEN] {
    let [a, b] = ask.0.to_be_bytes();
    let length = GtpuOptional::LEN as u8;
    [Gtpu::VERSION_1 | Gtpu::S, message::ECHO_REQUEST, 0, length, 0, 0, 0, 0, a, b, 0, 0]
}

/// The sequence number of an Echo Response; what its Recovery says is to be ignored (§7.2.2).
pub(super) fn response(datagram: &[u8]) -> Option<u16> {
    let [flags, message::ECHO_RESPONSE, _, _, 0, 0, 0, 0, a, b, _, _, ..] = *datagram else { return None };
    let is_version_1 = flags & 0xf0 == Gtpu::VERSION_1;
    (is_version_1 && flags & Gtpu::S != 0).then_some(u16::from_be_bytes([a, b]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECK: PathCheck =
        PathCheck { interval: Duration::from_secs(60), timeout: Duration::from_secs(5), requests: 3 };

    /// By second.
    type Requests = Vec<(u64, u16)>;
    type States = Vec<(u64, PathState)>;

    /// A path and its clock; the seed makes no spread.
    struct Clock {
        begun: Instant,
        path: Path,
    }

    impl Clock {
        fn new() -> Self {
            let begun = Instant::now();
            Self { begun, path: Path::new(begun, 0, &CHECK) }
        }

        fn at(&self, second: u64) -> Instant {
            self.begun + Duration::from_secs(second)
        }

        /// Seconds at which requests are sent, with their numbers, and the state after each second that changes it.
        fn run(&mut self, seconds: std::ops::Range<u64>) -> (Requests, States) {
            let (mut sent, mut states) = (Vec::new(), Vec::new());
            for second in seconds {
                let before = self.path.state();
                sent.extend(self.path.turn(self.at(second), &CHECK).map(|it| (second, it.0)));
                if self.path.state() != before {
                    states.push((second, self.path.state()));
                }
            }
            (sent, states)
        }

        fn answered(&mut self, second: u64, sequence: u16) {
            self.path.answered(sequence, self.at(second), &CHECK);
        }
    }

    #[test]
    fn who_answers_is_asked_once_in_an_interval() {
        let mut it = Clock::new();
        assert_eq!(it.run(0..1), (vec![(0, 1)], vec![]));
        assert_eq!(it.path.state(), PathState::Unknown);
        it.answered(1, 1);
        assert_eq!(it.path.state(), PathState::Up);
        assert_eq!(it.run(1..61), (vec![(60, 2)], vec![]));
        // A second answer to the same, and one to an older request, are none.
        it.answered(61, 1);
        assert_eq!(it.run(61..66), (vec![(65, 2)], vec![]), "asked again with the same number");
        it.answered(66, 2);
        it.answered(67, 2);
        assert_eq!(
            it.run(66..121),
            (vec![(120, 3)], vec![]),
            "an interval after the request, not the answer"
        );
    }

    #[test]
    fn who_is_silent_is_down_after_so_many_requests_and_not_before() {
        let mut it = Clock::new();
        it.run(0..1);
        it.answered(1, 1);
        let (sent, states) = it.run(1..76);
        assert_eq!(sent, [(60, 2), (65, 2), (70, 2)]);
        assert_eq!(states, [(75, PathState::Down)]);
        // It is asked less and less often, by new requests not more than once in an interval.
        let (sent, states) = it.run(76..400);
        assert_eq!(states, []);
        assert_eq!(sent, [(80, 2), (90, 2), (110, 2), (150, 3), (210, 4), (270, 5), (330, 6), (390, 7)]);
    }

    #[test]
    fn who_answers_again_is_up() {
        let mut it = Clock::new();
        let (_, states) = it.run(0..20);
        assert_eq!(states, [(15, PathState::Down)], "also who has never answered");
        assert_eq!(it.run(20..31), (vec![(20, 1), (30, 1)], vec![]));
        it.answered(31, 9);
        assert_eq!(it.path.state(), PathState::Down, "another number");
        it.answered(31, 1);
        assert_eq!(it.path.state(), PathState::Up);
        let (sent, states) = it.run(31..76);
        assert_eq!(
            (sent, states),
            (vec![(60, 2), (65, 2), (70, 2)], vec![(75, PathState::Down)]),
            "all anew"
        );
    }

    #[test]
    fn a_path_that_comes_back_is_asked_no_more_often() {
        let mut it = Clock::new();
        it.run(0..1);
        it.answered(1, 1);
        assert!(!it.path.is_forgotten(it.at(59)));
        it.path.comes_back(it.at(10));
        assert_eq!(it.run(10..61), (vec![(60, 2)], vec![]), "it has its answer");
        let (_, states) = it.run(61..80);
        assert_eq!(states, [(75, PathState::Down)]);
        it.path.comes_back(it.at(80));
        assert_eq!(it.path.state(), PathState::Unknown, "the sessions of before are not those of now");
        assert_eq!(it.run(80..96), (vec![(80, 2), (85, 2), (90, 2)], vec![(95, PathState::Down)]));
        assert!(it.path.is_forgotten(it.at(120)));
    }

    #[test]
    fn the_spread_is_at_most_a_tenth_and_never_makes_an_interval_shorter() {
        for seed in [0, u64::MAX, 0x1234_5678_9abc_def0] {
            let begun = Instant::now();
            let mut path = Path::new(begun, seed, &CHECK);
            let ask = path.turn(begun, &CHECK).expect("a request");
            path.answered(ask.0, begun, &CHECK);
            let interval = path.due() - begun;
            assert!(interval >= CHECK.interval && interval < CHECK.interval * 11 / 10, "{interval:?}");
        }
    }

    #[test]
    fn messages_are_those_of_the_clauses() {
        assert_eq!(request(Ask(0x0102)), [0x32, 1, 0, 4, 0, 0, 0, 0, 1, 2, 0, 0]);
        assert_eq!(response(&[0x32, 2, 0, 6, 0, 0, 0, 0, 1, 2, 0, 0, 14, 0]), Some(0x0102));
        for wrong in [
            &[0x32, 2, 0, 4, 0, 0, 0, 0, 1, 2, 0][..],
            &[0x32, 1, 0, 4, 0, 0, 0, 0, 1, 2, 0, 0],
            &[0x30, 2, 0, 4, 0, 0, 0, 0, 1, 2, 0, 0],
            &[0x22, 2, 0, 4, 0, 0, 0, 0, 1, 2, 0, 0],
            &[0x32, 2, 0, 4, 0, 0, 0, 1, 1, 2, 0, 0],
            &[],
        ] {
            assert_eq!(response(wrong), None, "{wrong:x?}");
        }
    }
}
