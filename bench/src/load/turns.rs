//! Whose turn it is: the list of sessions and flows that the generator goes round.

use super::scenario::{Order, Scenario};

/// Length of the list: long enough that a million sessions all have a turn.
const TURNS: usize = 1 << 20;

/// Session and flow of each turn.
pub(crate) fn turns(scenario: &Scenario) -> Vec<[u32; 2]> {
    let sessions = scenario.sessions.max(1);
    let flows = scenario.flows.max(1);
    let round = sessions as usize * flows as usize;
    // A whole number of rounds, so that sequential and uniform give each the same.
    let length = if round > TURNS { TURNS } else { round * (TURNS / round).clamp(1, 64) };
    let mut random = Random(0x6e65_7470_6c61_6e65);
    let mut order: Vec<u32> = match scenario.order {
        Order::Sequential | Order::Uniform => (0..length).map(|it| (it % sessions as usize) as u32).collect(),
        Order::Zipf(exponent) => zipf(sessions, exponent, length.max(1 << 16), &mut random),
    };
    if scenario.order == Order::Uniform {
        // Round by round: then each has had the same share after any of them.
        order.chunks_mut(sessions as usize).for_each(|round| shuffle(round, &mut random));
    }
    let flow = |index: usize| (index / sessions as usize) as u32 % flows;
    order.into_iter().enumerate().map(|(index, session)| [session, flow(index)]).collect()
}

/// Draws by the inverse of the distribution; which session is the most frequent is drawn too.
fn zipf(sessions: u32, exponent: f64, length: usize, random: &mut Random) -> Vec<u32> {
    let mut sum = 0.0;
    let cumulated: Vec<f64> = (1..=sessions)
        .map(|rank| {
            sum += f64::from(rank).powf(-exponent);
            sum
        })
        .collect();
    let mut ranks: Vec<u32> = (0..sessions).collect();
    shuffle(&mut ranks, random);
    let draw = |_| {
        let at = random.fraction() * sum;
        ranks[cumulated.partition_point(|it| *it < at).min(ranks.len() - 1)]
    };
    (0..length).map(draw).collect()
}

/// Fisher and Yates.
fn shuffle(list: &mut [u32], random: &mut Random) {
    for last in (1..list.len()).rev() {
        list.swap(last, (random.fraction() * (last + 1) as f64) as usize);
    }
}

/// SplitMix64: the same numbers in each run, so that runs can be compared.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to less than 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(sessions: u32, order: &str) -> Scenario {
        let text = format!(
            "name: x\nuser: {{ source: 10.60.0.1, destination: 10.50.0.1 }}\nsizes: 64\n\
             sessions: {sessions}\nflows: 2\norder: {order}\n"
        );
        Scenario::parse(&text).unwrap()
    }

    fn counts(turns: &[[u32; 2]], sessions: u32) -> Vec<usize> {
        let mut counts = vec![0; sessions as usize];
        turns.iter().for_each(|it| counts[it[0] as usize] += 1);
        counts
    }

    #[test]
    fn all_sessions_have_the_same_share_but_not_the_same_order() {
        let (sequential, uniform) = (turns(&scenario(1000, "sequential")), turns(&scenario(1000, "uniform")));
        for list in [&sequential, &uniform] {
            let counts = counts(list, 1000);
            assert!(counts.iter().all(|it| *it == counts[0]), "{counts:?}");
            assert!(list.iter().any(|it| it[1] == 1) && list.iter().all(|it| it[1] < 2));
        }
        assert_eq!(sequential[..3], [[0, 0], [1, 0], [2, 0]]);
        assert_ne!(sequential, uniform);
        assert_eq!(uniform, turns(&scenario(1000, "uniform")), "runs can be compared");
    }

    #[test]
    fn a_million_sessions_all_have_a_turn() {
        let mut scenario = scenario(1 << 20, "uniform");
        scenario.flows = 1;
        let list = turns(&scenario);
        assert!(counts(&list, 1 << 20).iter().all(|it| *it == 1));
    }

    #[test]
    fn few_sessions_have_most_turns_of_zipf() {
        let list = turns(&scenario(1000, "{ zipf: 1.0 }"));
        let mut counts = counts(&list, 1000);
        counts.sort_unstable_by(|a, b| b.cmp(a));
        // The first of a thousand has 1 / H(1000) = 13 %, the second half of that.
        let share = |index: usize| counts[index] as f64 / list.len() as f64;
        assert!((0.12..0.15).contains(&share(0)), "{}", share(0));
        assert!((0.055..0.08).contains(&share(1)), "{}", share(1));
    }
}
