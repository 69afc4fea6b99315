//! `resolvConf` of host-local: a file as resolv.conf(5) describes it, for the result's `dns`.

use crate::plugins::result::Dns;
use std::io;
use std::path::Path;

/// Reads a file.
///
/// # Errors
/// It cannot be read.
pub fn read(path: &Path) -> io::Result<Dns> {
    std::fs::read_to_string(path).map(|text| parse(&text))
}

fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines().map(str::trim).filter(|it| !it.starts_with(['#', ';'])) {
        let mut words = line.split_whitespace().map(str::to_owned);
        match (words.next().as_deref(), words) {
            (Some("nameserver"), mut words) => dns.nameservers.extend(words.next()),
            (Some("domain"), mut words) => dns.domain = words.next().or(dns.domain),
            (Some("search"), words) => dns.search.extend(words),
            (Some("options"), words) => dns.options.extend(words),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_lines_are_taken_and_others_passed_over() {
        let dns = parse(
            "# c\nnameserver 10.0.0.53\n nameserver 2001:db8::53 x\nsearch a.b c.d\nsortlist 1\noptions ndots:5 rotate\ndomain x.y\n\n;z\n",
        );
        assert_eq!(dns.nameservers, ["10.0.0.53", "2001:db8::53"]);
        assert_eq!(
            (dns.search, dns.options),
            (vec!["a.b".to_owned(), "c.d".to_owned()], vec!["ndots:5".to_owned(), "rotate".to_owned()])
        );
        assert_eq!(dns.domain.as_deref(), Some("x.y"));
    }
}
