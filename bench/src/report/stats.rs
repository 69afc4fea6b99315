//! Honest statistics: medians, and how sure one can be of the ratio of two.

use crate::load::turns::Random;

/// The median; of an even number the mean of the middle two.
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => sorted.get(middle).copied(),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// A value that samples were taken of in several runs.
pub type Runs = Vec<Vec<f64>>;

/// The ratio of two medians, B to A, with the interval in which it lies with 99 % confidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// Resamplings of the bootstrap.
const RESAMPLES: usize = 4000;
const CONFIDENCE: f64 = 0.99;

impl Ratio {
    /// By the percentile bootstrap: runs are drawn again with replacement, and of each its samples, so that
    /// what differs from run to run is in the interval. With one run a side there is nothing to know it by.
    /// `None` where a side has no samples, or a median of zero.
    pub fn of(a: &Runs, b: &Runs) -> Option<Self> {
        let flat = |runs: &Runs| median(&runs.concat()).filter(|it| *it != 0.0);
        let value = flat(b)? / flat(a)?;
        let mut random = Random(0x0062_656e_6368);
        let mut ratios: Vec<f64> = (0..RESAMPLES)
            .filter_map(|_| Some(resample(b, &mut random)? / resample(a, &mut random)?))
            .filter(|it| it.is_finite())
            .collect();
        ratios.sort_by(f64::total_cmp);
        let at = |part: f64| ratios.get(((ratios.len() as f64 - 1.0) * part).round() as usize).copied();
        let tail = (1.0 - CONFIDENCE) / 2.0;
        Some(Self { value, low: at(tail)?, high: at(1.0 - tail)? })
    }

    /// Whether the samples say that there is a difference at all.
    pub fn is_different(self) -> bool {
        self.low > 1.0 || self.high < 1.0
    }
}

fn resample(runs: &Runs, random: &mut Random) -> Option<f64> {
    let mut pick = |length: usize| (random.fraction() * length as f64) as usize;
    let mut samples = Vec::new();
    for _ in 0..runs.len() {
        let run = runs.get(pick(runs.len()))?;
        samples.extend((0..run.len()).map(|_| run[pick(run.len())]));
    }
    median(&samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noisy(centre: f64, seed: u64) -> Vec<f64> {
        let mut random = Random(seed);
        (0..31).map(|_| centre * (0.95 + 0.1 * random.fraction())).collect()
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn noise_is_no_difference_and_ten_per_cent_are() {
        let same = Ratio::of(&vec![noisy(100.0, 1)], &vec![noisy(100.0, 2)]).unwrap();
        assert!(!same.is_different(), "{same:?}");
        let slower = Ratio::of(&vec![noisy(100.0, 1)], &vec![noisy(110.0, 2)]).unwrap();
        assert!(slower.is_different() && slower.low > 1.05 && slower.high < 1.15, "{slower:?}");
    }

    #[test]
    fn runs_that_differ_among_themselves_widen_the_interval() {
        let steady = vec![noisy(100.0, 1), noisy(100.0, 2), noisy(100.0, 3)];
        let moving = vec![noisy(90.0, 4), noisy(100.0, 5), noisy(112.0, 6)];
        let ratio = Ratio::of(&steady, &moving).unwrap();
        assert!(!ratio.is_different(), "{ratio:?}");
        assert!(ratio.high - ratio.low > 0.1, "{ratio:?}");
    }

    #[test]
    fn nothing_is_said_of_nothing() {
        assert_eq!(Ratio::of(&vec![], &vec![vec![1.0]]), None);
        assert_eq!(Ratio::of(&vec![vec![0.0]], &vec![vec![1.0]]), None);
    }
}
