//! `gtpu.echoInterval` and what belongs to it: GTP-U peers are asked whether they are there.

use super::reader::{Problems, Reader, report};
use std::time::Duration;

/// Path management of TS 29.281 §7.2.1: Echo Requests to the peers that sessions send to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathCheck {
    /// From one request to the next.
    pub interval: Duration,
    /// T3-RESPONSE: how long an answer may take.
    pub timeout: Duration,
    /// N3-REQUESTS: a path is down when so many requests in a row have no answer.
    pub requests: u32,
}

/// Seconds; the clause allows a path no more than one request a minute.
const INTERVAL: std::ops::RangeInclusive<u64> = 60..=3600;
const TIMEOUT: std::ops::RangeInclusive<u64> = 1..=20;
const REQUESTS: std::ops::RangeInclusive<u64> = 1..=15;
/// Both are what other UPFs have.
const DEFAULT_TIMEOUT: u64 = 5;
const DEFAULT_REQUESTS: u32 = 5;

/// Reads the keys; without an interval nobody is asked, and the others would be without effect.
pub(super) fn read(gtpu: &Reader<'_>, problems: &mut Problems) -> Option<PathCheck> {
    let Some(interval) = gtpu.get("echoInterval") else {
        for key in ["echoTimeout", "echoRequests"] {
            if gtpu.get(key).is_some() {
                report(problems, &gtpu.at(key), "has no effect without echoInterval");
            }
        }
        return None;
    };
    let is_short = interval.as_u64().is_some_and(|it| it < *INTERVAL.start());
    let interval = if is_short {
        let message = format!(
            "is {interval}, should be 60 to 3600 seconds: TS 29.281 §7.2.1 allows a path one Echo Request a minute"
        );
        report(problems, &gtpu.at("echoInterval"), message);
        None
    } else {
        gtpu.number("echoInterval", INTERVAL, problems)
    };
    let timeout = gtpu.number("echoTimeout", TIMEOUT, problems).unwrap_or(DEFAULT_TIMEOUT);
    let requests = gtpu.number("echoRequests", REQUESTS, problems).and_then(|it| u32::try_from(it).ok());
    Some(PathCheck {
        interval: Duration::from_secs(interval?),
        timeout: Duration::from_secs(timeout),
        requests: requests.unwrap_or(DEFAULT_REQUESTS),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nad::fast_path::FastPath;

    fn parse(gtpu: &str) -> Result<Option<PathCheck>, Vec<String>> {
        let parsed = FastPath::parse(&format!(r#"{{"role":"access","gtpu":{gtpu}}}"#));
        parsed
            .map(|it| it.gtpu.path_check)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn nobody_is_asked_unless_that_is_wanted() {
        assert_eq!(parse(r#"{"echo":true}"#), Ok(None));
        let defaults =
            PathCheck { interval: Duration::from_secs(60), timeout: Duration::from_secs(5), requests: 5 };
        assert_eq!(parse(r#"{"echoInterval":60}"#), Ok(Some(defaults)));
        let all = r#"{"echoInterval":3600,"echoTimeout":1,"echoRequests":2}"#;
        let wanted =
            PathCheck { interval: Duration::from_secs(3600), timeout: Duration::from_secs(1), requests: 2 };
        assert_eq!(parse(all), Ok(Some(wanted)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (gtpu, wanted) in [
            (
                r#"{"echoInterval":59}"#,
                "gtpu.echoInterval: is 59, should be 60 to 3600 seconds: TS 29.281 §7.2.1",
            ),
            (r#"{"echoInterval":0}"#, "gtpu.echoInterval: is 0, should be 60"),
            (r#"{"echoInterval":"60"}"#, "gtpu.echoInterval: is \"60\", should be a number from 60 to 3600"),
            (r#"{"echoInterval":3601}"#, "gtpu.echoInterval: is 3601, should be a number from 60 to 3600"),
            (
                r#"{"echoInterval":60,"echoTimeout":0}"#,
                "gtpu.echoTimeout: is 0, should be a number from 1 to 20",
            ),
            (
                r#"{"echoInterval":60,"echoRequests":16}"#,
                "gtpu.echoRequests: is 16, should be a number from 1 to 15",
            ),
            (r#"{"echoTimeout":5}"#, "gtpu.echoTimeout: has no effect without echoInterval"),
            (r#"{"echoRequests":5}"#, "gtpu.echoRequests: has no effect without echoInterval"),
        ] {
            let problems = parse(gtpu).expect_err(gtpu);
            assert!(problems.len() == 1 && problems[0].contains(wanted), "{gtpu}: {problems:?}");
        }
    }
}
