//! Counters of static sessions, from one compilation to the next.

use super::*;

#[test]
fn a_session_that_was_out_of_force_counts_on() {
    let up = world(&[session(1), session(2)]);
    let mut down = up.clone();
    let pod = down.pods.get_mut("upf-0").expect("the pod");
    pod.links[0].up = false;
    pod.addresses.retain(|it| it.index != 11);
    let mut slots = Slots::default();
    let before = compile(&up, &mut slots).tables;
    let mut current = before.clone();
    for _ in 0..3 {
        let without = compile(&down, &mut slots).tables;
        assert_eq!((without.uplink.len(), without.downlink4.len()), (0, 0));
        let operations = diff(&current, &without);
        apply(&mut current, &operations);
    }
    let wanted = compile(&up, &mut slots).tables;
    assert_eq!((&wanted.uplink, &wanted.downlink4), (&before.uplink, &before.downlink4), "the same counters");
    let goes_on = |it: &Operation| match it {
        Operation::SetUplink { new_counter, .. } | Operation::SetDownlink4 { new_counter, .. } => {
            Some(!*new_counter)
        }
        _ => None,
    };
    let of_sessions: Vec<_> = diff(&current, &wanted).iter().filter_map(goes_on).collect();
    assert_eq!(of_sessions, [true; 4]);
    // One that is not in the NAD any more has no counter to keep.
    compile(&down, &mut slots);
    let mut fewer = down.clone();
    fewer.networks.insert(name(N3), access(&[session(2)]));
    (0..2).for_each(|_| drop(compile(&fewer, &mut slots)));
    fewer = up.clone();
    fewer.networks.insert(name(N3), access(&[session(2), session(3)]));
    let wanted = compile(&fewer, &mut slots).tables;
    let freed = before.uplink.first_key_value().map(|(_, it)| it.counter);
    assert_eq!(wanted.uplink.last_key_value().map(|(_, it)| it.counter), freed);
    assert!(freed.is_some_and(|it| !wanted.resumed.contains(&it)));
}
