//! Tests of the sessions of the API, on worlds made in memory.

use super::super::diff::diff_around;
use super::super::tables::{Operation, Tables};
use super::super::tests::{Variant, attach, build, name, variant, world};
use super::super::{Compiled, Kind, Slots, World, compile_beside};
use super::{Editor, Kept, Limits, Programmed, edit};
use netplane_client::Plain;
use netplane_client::v1::{ApplyAction, FTeid, Gate, Qer, SdfFilter, Session, Urr, VolumeLimit};
use netplane_common::map::{
    DownlinkEntry, NextHop, SessionAction, UplinkEntry, downlink_flags, uplink_flags,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const POD: &str = "core/upf-0";

/// An agent without a kernel: what it would have is in `kernel`.
#[derive(Default)]
struct Node {
    world: World,
    slots: Slots,
    compiled: Compiled,
    programmed: Programmed,
    current: Tables,
    kernel: Tables,
}

impl Node {
    fn new(world: World) -> Self {
        let mut node = Self { world, ..Self::default() };
        node.programmed.limits = Limits { counters: 400, per_pod: 100 };
        node.reconcile();
        node
    }

    fn alive(&self) -> BTreeMap<String, String> {
        let pods = self.world.attachments.values().filter_map(|it| it.pod.as_ref());
        pods.map(|it| (it.to_string(), format!("uid of {it}"))).collect()
    }

    /// Returns what was done to sessions.
    fn reconcile(&mut self) -> Vec<Operation> {
        let alive = self.alive();
        let followed =
            self.programmed.follow(&self.world, &mut self.slots, &self.compiled, &mut self.current, &alive);
        self.compiled = compile_beside(&self.world, &mut self.slots, &self.programmed);
        let (operations, of_sessions) =
            diff_around(&self.current, &self.compiled.tables, followed.operations);
        for (index, operation) in operations.iter().enumerate() {
            self.kernel.apply(operation);
            if !of_sessions.contains(&index) {
                self.current.apply(operation);
            }
        }
        operations[of_sessions].to_vec()
    }

    fn change(
        &mut self,
        pod: &str,
        what: impl FnOnce(&mut Editor<'_, '_, '_, '_, '_>, &Tables) -> Done,
    ) -> Done {
        let Self { world, slots, compiled, programmed, current, kernel } = self;
        let mut base = Vec::new();
        let (done, found) = edit(world, slots, compiled, programmed, |editor| {
            let planned = match what(editor, current) {
                Done::Planned(planned) => planned,
                other => return other,
            };
            base = planned.base.clone();
            let all = planned.base.iter().chain(&planned.operations).chain(&planned.after);
            all.for_each(|it| kernel.apply(it));
            assert_eq!(editor.commit(*planned).pod, pod);
            Done::Nothing
        });
        base.iter().for_each(|it| current.apply(it));
        compiled.tables.next_hops.extend(found.tables.next_hops);
        compiled.tables.routes.extend(found.tables.routes);
        compiled.tables.routers.extend(found.tables.routers);
        done
    }

    fn put(&mut self, pod: &str, generation: u64, session: &Session) -> Result<(), (Kind, String)> {
        let uid = format!("uid of {pod}");
        let done = self.change(pod, |editor, current| {
            match editor.put((pod, &uid), generation, session, (current, false)) {
                Ok(planned) => Done::Planned(Box::new(planned)),
                Err(refusal) => Done::Refused(refusal.kind, refusal.to_string()),
            }
        });
        match done {
            Done::Refused(kind, message) => Err((kind, message)),
            _ => Ok(()),
        }
    }

    fn delete(&mut self, id: &str) {
        let Some(handle) = self.programmed.handle(POD, id) else { return };
        self.change(POD, |editor, _| {
            editor.delete(handle).map_or(Done::Nothing, |it| Done::Planned(Box::new(it)))
        });
    }

    fn sweep(&mut self, generation: u64) {
        for handle in self.programmed.handles(POD) {
            let shown = self.programmed.show(handle).expect("a session");
            if shown.generation != generation {
                self.delete(&shown.session.id);
            }
        }
    }

    /// An agent that starts over what this one has left.
    fn restart(&mut self) -> Vec<Operation> {
        let kept: Vec<Kept> = self.programmed.kept().collect();
        let (limits, kernel) = (self.programmed.limits, std::mem::take(&mut self.kernel));
        let world = std::mem::take(&mut self.world);
        *self =
            Self { world, slots: Slots::seed(&kernel), current: kernel.clone(), kernel, ..Self::default() };
        self.programmed.limits = limits;
        let handles: Vec<_> = kept.iter().map(|it| it.handle).collect();
        self.slots.release_counters(|it| limits.holder(it).is_some_and(|it| handles.contains(&it)));
        kept.into_iter().for_each(|it| self.programmed.restore(it));
        self.reconcile()
    }

    /// The sessions of the kernel with what their indices stand for.
    fn meaning(&self) -> Vec<String> {
        let tables = &self.kernel;
        let hop = |index: u32| {
            tables.next_hops.get(&index).map(|it: &NextHop| {
                let router = tables.routers.get(&it.scope).filter(|_| it.way[4].get() == 0);
                (NextHop { port: 0, scope: 0, ..*it }, tables.ports.get(&it.port).copied(), router.copied())
            })
        };
        let network = |it: u16| tables.networks.get(&it).cloned();
        let rules_of = |has: bool, set: u32| {
            let rules = tables.rules.iter().filter(|(key, _)| has && key.set == set);
            let shown = rules.map(|(key, it)| {
                let meters = it.meters.map(|it| (it.key.qer, it.rate));
                // The other direction's half says nothing.
                let (up, down) = match key.set & 1 {
                    0 => (hop(it.uplink.next_hop4), None),
                    _ => (None, hop(it.downlink.next_hop)),
                };
                let (way, qfi) = ((it.uplink.action, it.downlink.action), it.downlink.qfi);
                (key.number, it.filter, meters, it.usages.map(|it| it.urr), up, down, way, qfi, it.limited)
            });
            shown.map(|it| format!("{it:?}")).collect::<Vec<_>>()
        };
        let uplink = tables.uplink.iter().map(|(key, it)| {
            let plain = UplinkEntry { network: 0, next_hop4: 0, next_hop6: 0, counter: 0, rules: 0, ..*it };
            let rules = rules_of(it.flags & uplink_flags::RULES != 0, it.rules);
            format!(
                "{key:?} {plain:?} {:?} {:?} {:?} {rules:?}",
                network(it.network),
                hop(it.next_hop4),
                hop(it.next_hop6)
            )
        });
        let downlink = tables.downlink4.iter().map(|(key, it)| {
            let plain = DownlinkEntry { network: 0, next_hop: 0, counter: 0, scope: 0, rules: 0, ..*it };
            let router = tables.routers.get(&it.scope);
            let rules = rules_of(it.flags & downlink_flags::RULES != 0, it.rules);
            format!("{key:?} {plain:?} {:?} {:?} {router:?} {rules:?}", network(it.network), hop(it.next_hop))
        });
        uplink.chain(downlink).chain([self.left_over()]).collect()
    }

    /// Rules that no entry names; they are removed with the change that lets go of them. What a session has counted
    /// stays with it, also while it is not in the tables.
    fn left_over(&self) -> String {
        let tables = &self.kernel;
        let up = tables.uplink.values().filter(|it| it.flags & uplink_flags::RULES != 0).map(|it| it.rules);
        let down =
            tables.downlink4.values().filter(|it| it.flags & downlink_flags::RULES != 0).map(|it| it.rules);
        let named: BTreeSet<u32> = up.chain(down).collect();
        let left = tables.rules.keys().filter(|it| !named.contains(&it.set)).count();
        let sessions = 0..u32::try_from(self.programmed.records.len()).unwrap_or(u32::MAX);
        let counted: BTreeSet<_> = sessions.flat_map(|it| self.programmed.belongings(it).usages).collect();
        let usages = tables.usages.difference(&counted).count();
        format!("{left} rules, {usages} usages too many")
    }
}

enum Done {
    Planned(Box<super::Planned>),
    Refused(Kind, String),
    Nothing,
}

fn plain(number: u32) -> Plain {
    Plain {
        ue: vec![format!("10.60.9.{}", number + 1)],
        access: "core/n3".to_owned(),
        data: "core/n6".to_owned(),
        teid: 0x9000 + number,
        local: String::new(),
        peer: "10.30.0.10".to_owned(),
        peer_teid: 0xa000 + number,
        qfi: Some(9),
    }
}

fn session(number: u32) -> Session {
    plain(number).session(format!("s{number}"))
}

#[derive(Clone, Debug)]
enum Step {
    /// Session, generation, and how it differs from the plain one.
    Put(u32, u64, u8),
    Delete(u32),
    Sweep(u64),
    World(Variant),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u32..12, 0_u64..3, 0_u8..8).prop_map(|(number, generation, kind)| Step::Put(number, generation, kind)),
        2 => (0_u32..12).prop_map(Step::Delete),
        1 => (0_u64..3).prop_map(Step::Sweep),
        2 => variant().prop_map(Step::World),
        1 => Just(Step::Restart),
    ]
}

fn put_of(number: u32, kind: u8) -> Session {
    let peer = ["10.30.0.10", "10.30.0.11", "", "10.30.0.10"][usize::from(kind % 4)];
    let qfi = (kind != 3).then_some(7);
    let mut session = Plain { peer: peer.to_owned(), qfi, ..plain(number) }.session(format!("s{number}"));
    if kind >= 4 {
        with_rules(&mut session, kind);
    }
    session
}

/// A flow of its own each way, a rate for the session, and a usage.
fn with_rules(session: &mut Session, kind: u8) {
    let mut flows = session.pdrs.clone();
    for (flow, id) in flows.iter_mut().zip(11..) {
        let flow_description = format!("permit out 17 from any 53,{} to assigned", 1000 + u32::from(kind));
        let sdf = SdfFilter { flow_description, ..SdfFilter::default() };
        flow.pdi.as_mut().expect("a PDI").sdf_filters.push(sdf);
        (flow.id, flow.precedence, flow.qer_ids) = (id, 5, vec![8]);
    }
    session.qers.push(Qer { id: 8, qfi: Some(5), uplink_mbr: Some(1000), ..Qer::default() });
    session.pdrs.extend(flows);
    if kind > 5 {
        let volume_quota = Some(VolumeLimit { total: Some(99), ..VolumeLimit::default() });
        session.urrs = vec![Urr { id: 4, volume: true, volume_quota, ..Urr::default() }];
        session.pdrs.iter_mut().for_each(|it| it.urr_ids = vec![4]);
    }
}

proptest! {
    /// Whatever happens in whatever order: the tables are those of an agent that is told the outcome at once, and
    /// those of the agent that comes after.
    #[test]
    fn single_changes_lead_where_a_whole_compilation_leads(steps in proptest::collection::vec(step(), 1..25)) {
        let mut node = Node::new(build(&Variant::default()));
        let mut wanted: BTreeMap<u32, (u64, u8)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Put(number, generation, kind) => {
                    // Without its endpoints it is refused, and is what it was.
                    if node.put(POD, generation, &put_of(number, kind)).is_ok() {
                        wanted.insert(number, (generation, kind));
                    }
                }
                Step::Delete(number) => {
                    node.delete(&format!("s{number}"));
                    wanted.remove(&number);
                }
                Step::Sweep(generation) => {
                    node.sweep(generation);
                    wanted.retain(|_, (it, _)| *it == generation);
                }
                Step::World(variant) => {
                    node.world = build(&variant);
                    node.reconcile();
                }
                Step::Restart => prop_assert_eq!(node.restart(), vec![]),
            }
            prop_assert_eq!(node.programmed.len(), wanted.len());
        }
        let mut fresh = Node::new(node.world.clone());
        for (number, (generation, kind)) in &wanted {
            let _ = fresh.put(POD, *generation, &put_of(*number, *kind));
        }
        prop_assert_eq!(node.meaning(), fresh.meaning());
        node.reconcile();
        fresh.reconcile();
        prop_assert_eq!(node.meaning(), fresh.meaning());
    }
}

#[test]
fn a_change_writes_its_own_entries_only() {
    let mut node = Node::new(world(&[]));
    for number in 0..10 {
        node.put(POD, 1, &session(number)).expect("a session");
    }
    let before = node.kernel.clone();
    let moved = Plain { peer: "10.30.0.77".to_owned(), ..plain(3) }.session("s3");
    node.put(POD, 1, &moved).expect("a session");
    let changed = node.kernel.downlink4.iter().filter(|(key, it)| before.downlink4.get(key) != Some(it));
    assert_eq!(changed.count(), 1);
    assert_eq!(node.kernel.uplink, before.uplink);
    // A neighbour that is learned touches no session.
    let pod = node.world.pods.get_mut("upf-0").expect("the pod");
    pod.neighbours.clear();
    assert_eq!(node.reconcile(), []);
    assert_eq!(node.kernel.uplink.len(), 10);
}

#[test]
fn counters_are_the_sessions_own_and_start_at_zero() {
    let mut node = Node::new(world(&[]));
    node.put(POD, 1, &session(0)).expect("a session");
    node.put(POD, 1, &session(1)).expect("a session");
    let counters: Vec<_> = node.kernel.uplink.values().map(|it| it.counter).collect();
    assert_eq!(counters, [399, 397], "from the end of the table");
    node.delete("s0");
    let (uid, put) = (format!("uid of {POD}"), session(2));
    node.change(POD, |editor, current| {
        let planned = editor.put((POD, &uid), 1, &put, (current, false)).expect("a session");
        let is_new = |it: &Operation| {
            matches!(
                it,
                Operation::SetUplink { new_counter: true, entry: UplinkEntry { counter: 399, .. }, .. }
                    | Operation::SetDownlink4 { new_counter: true, .. }
            )
        };
        assert!(planned.operations.iter().all(is_new), "{:?}", planned.operations);
        Done::Planned(Box::new(planned))
    });
    let again = Plain { qfi: None, ..plain(2) }.session("s2");
    node.change(POD, |editor, current| {
        let planned = editor.put((POD, &uid), 1, &again, (current, false)).expect("a session");
        let goes_on = |it: &Operation| {
            matches!(
                it,
                Operation::SetUplink { new_counter: false, .. }
                    | Operation::SetDownlink4 { new_counter: false, .. }
            )
        };
        assert!(planned.operations.iter().all(goes_on), "{:?}", planned.operations);
        Done::Planned(Box::new(planned))
    });
}

#[test]
fn the_last_word_of_a_journal_on_a_handle_counts() {
    let mut node = Node::new(world(&[]));
    for number in 0..3 {
        node.put(POD, 1, &session(number)).expect("a session");
    }
    let mut journal: Vec<Kept> = node.programmed.kept().collect();
    node.delete("s1");
    node.delete("s2");
    journal.extend([1, 2].map(|handle| Kept { handle, ..Kept::default() }));
    node.put(POD, 2, &session(7)).expect("a session");
    journal.extend(node.programmed.kept().filter(|it| it.generation == 2));
    let mut restored = Programmed::default();
    journal.into_iter().for_each(|it| restored.restore(it));
    let known = |it: &Programmed| -> Vec<_> {
        (0..4).map(|handle| it.show(handle).map(|it| (it.session.id, it.generation))).collect()
    };
    assert_eq!(known(&restored), known(&node.programmed));
    assert_eq!((restored.len(), restored.handle(POD, "s1"), restored.handle(POD, "s7")), (2, None, Some(1)));
}

#[test]
fn after_a_restart_there_is_room_for_as_many_as_before() {
    let mut node = Node::new(world(&[]));
    node.put(POD, 1, &session(0)).expect("a session");
    let counters = node.programmed.counters(0);
    for counter in [counters.uplink, counters.downlink] {
        assert_eq!(node.programmed.limits.holder(counter), Some(0));
    }
    assert_eq!(node.programmed.limits.holder(node.programmed.limits.counters), None);
    assert_eq!(node.restart(), []);
    for number in 1..10 {
        node.put(POD, 1, &session(number)).expect("the table has room");
    }
}

#[test]
fn what_the_kernel_refuses_is_undone() {
    let mut node = Node::new(world(&[]));
    node.put(POD, 1, &session(0)).expect("a session");
    let before = node.kernel.clone();
    let moved = Plain { teid: 0x7777, peer: "10.30.0.77".to_owned(), ..plain(0) }.session("s0");
    let uid = format!("uid of {POD}");
    let Node { world, slots, compiled, programmed, current, kernel } = &mut node;
    let (planned, _) = edit(world, slots, compiled, programmed, |editor| {
        editor.put((POD, &uid), 2, &moved, (current, false)).expect("a plan")
    });
    planned.operations.iter().for_each(|it| kernel.apply(it));
    assert_ne!(kernel.uplink, before.uplink);
    Editor::undo(&planned).iter().for_each(|it| kernel.apply(it));
    assert_eq!((&kernel.uplink, &kernel.downlink4), (&before.uplink, &before.downlink4));
}

#[test]
fn a_change_of_rules_is_a_new_set_and_can_be_undone() {
    let mut node = Node::new(world(&[]));
    node.put(POD, 1, &put_of(0, 4)).expect("a session");
    let before = node.kernel.clone();
    // Two filters and the rest, each way.
    assert_eq!((before.rules.len(), before.meters.len(), before.usages.len()), (6, 1, 0));
    let set = |it: &Tables| it.uplink.values().next().map(|it| it.rules);
    let uid = format!("uid of {POD}");
    let Node { world, slots, compiled, programmed, current, kernel } = &mut node;
    let (planned, _) = edit(world, slots, compiled, programmed, |editor| {
        editor.put((POD, &uid), 2, &put_of(0, 6), (current, false)).expect("a plan")
    });
    planned.operations.iter().for_each(|it| kernel.apply(it));
    assert_ne!(set(kernel), set(&before));
    Editor::undo(&planned).iter().for_each(|it| kernel.apply(it));
    assert_eq!(*kernel, before);

    node.put(POD, 2, &put_of(0, 6)).expect("a session");
    assert_eq!((node.kernel.rules.len(), node.kernel.usages.len()), (6, 1));
    node.put(POD, 2, &put_of(0, 0)).expect("a plain one");
    assert_eq!((node.kernel.rules.len(), node.kernel.meters.len(), node.kernel.usages.len()), (0, 0, 0));
    assert!(node.kernel.uplink.values().all(|it| it.flags & uplink_flags::RULES == 0));
    node.put(POD, 2, &put_of(0, 7)).expect("a session");
    node.delete("s0");
    assert_eq!((node.kernel.rules.len(), node.kernel.meters.len(), node.kernel.usages.len()), (0, 0, 0));
}

#[test]
fn gates_and_drop_are_drops() {
    let mut node = Node::new(world(&[]));
    let mut closed = session(0);
    closed.qers = vec![Qer { id: 1, downlink_gate: Gate::Closed.into(), qfi: Some(9), ..Qer::default() }];
    node.put(POD, 1, &closed).expect("a session");
    let entry = node.kernel.downlink4.values().next().expect("a downlink");
    assert_eq!(entry.action, SessionAction::Drop as u8);
    let entry = node.kernel.uplink.values().next().expect("an uplink");
    assert_eq!(entry.action, SessionAction::Forward as u8);
    let mut dropped = session(0);
    dropped.fars[0].apply_action = ApplyAction::Drop.into();
    node.put(POD, 1, &dropped).expect("a session");
    let entry = node.kernel.uplink.values().next().expect("an uplink");
    assert_eq!(entry.action, SessionAction::Drop as u8);
}

#[track_caller]
fn refused(node: &mut Node, pod: &str, session: &Session, kind: Kind, part: &str) {
    let before = node.kernel.clone();
    let (got, message) = node.put(pod, 1, session).expect_err(part);
    assert_eq!((got, message.contains(part)), (kind, true), "{message}");
    assert_eq!((&node.kernel.uplink, &node.kernel.downlink4), (&before.uplink, &before.downlink4));
}

#[test]
fn what_is_anothers_is_refused_by_name() {
    let mut both =
        world(&[super::super::tests::session(1).replacen("\"ue\"", "\"pod\":\"core/upf-0\",\"ue\"", 1)]);
    attach(&mut both, "upf-1", 51);
    let mut node = Node::new(both);
    node.put(POD, 1, &session(0)).expect("a session");
    let other = "core/upf-1";
    // The tunnel ends at another address there, so its TEID is free; the user is not.
    refused(
        &mut node,
        other,
        &session(0),
        Kind::PermissionDenied,
        "10.60.9.1 is that of session s0 of pod core/upf-0",
    );
    let mut local = plain(1).session("mine");
    local.pdrs[0].pdi.as_mut().expect("a PDI").local_f_teid.as_mut().expect("an F-TEID").address =
        "10.30.0.50".to_owned();
    refused(&mut node, other, &local, Kind::PermissionDenied, "10.30.0.50 is an address of pod core/upf-0");
    let outside = Plain { ue: vec!["10.61.0.1".to_owned()], ..plain(1) }.session("x");
    refused(
        &mut node,
        other,
        &outside,
        Kind::PermissionDenied,
        "10.61.0.1 is in none of the uePools of core/n6",
    );
    let unknown = Plain { data: "core/n7".to_owned(), ..plain(1) }.session("x");
    refused(&mut node, POD, &unknown, Kind::NotFound, "core/n7 is no network with fast-path metadata");
    let same = Plain { teid: 0x9000, ..plain(1) }.session("x");
    refused(&mut node, POD, &same, Kind::AlreadyExists, "0x9000 is that of session s0 of pod core/upf-0");
    let of_nad = Plain { teid: 0x1001, ..plain(1) }.session("x");
    refused(&mut node, POD, &of_nad, Kind::AlreadyExists, "0x1001 is that of a static session of a NAD");
    let key =
        node.world.attachments.keys().find(|it| it.container == "upf-1" && it.interface == "net2").cloned();
    node.world.attachments.remove(&key.expect("an attachment"));
    node.reconcile();
    let detached = plain(5).session("x");
    refused(&mut node, other, &detached, Kind::PermissionDenied, "pod core/upf-1 is not attached to core/n6");
}

#[test]
fn quotas_and_room_are_kept() {
    let mut node = Node::new(world(&[]));
    node.programmed.limits = Limits { counters: 400, per_pod: 2 };
    node.put(POD, 1, &session(0)).expect("a session");
    node.put(POD, 1, &session(1)).expect("a session");
    refused(
        &mut node,
        POD,
        &session(2),
        Kind::ResourceExhausted,
        "pod core/upf-0 has 2 sessions, which is its quota",
    );
    node.put(POD, 2, &session(1)).expect("a change is no session more");
    node.programmed.limits = Limits { counters: 5, per_pod: 9 };
    refused(&mut node, POD, &session(2), Kind::ResourceExhausted, "room for 2 sessions");
}

/// How a session is made wrong, and what is said of it.
type Wrong<'a> = (&'a dyn Fn(&mut Session), Kind, &'a str);

#[test]
fn rules_that_cannot_be_are_refused_by_name() {
    let mut node = Node::new(world(&[]));
    let wrong = |change: &dyn Fn(&mut Session)| {
        let mut it = session(0);
        change(&mut it);
        it
    };
    let cases: [Wrong<'_>; 9] = [
        (&|it| it.id.clear(), Kind::InvalidArgument, "id: has 0 bytes"),
        (&|it| it.pdrs[1].id = 1, Kind::InvalidArgument, "PDR 1: there are two"),
        (&|it| it.pdrs[0].far_id = 7, Kind::InvalidArgument, "PDR 1: far_id: there is no FAR 7"),
        (&|it| it.pdrs[0].qer_ids = vec![4], Kind::InvalidArgument, "PDR 1: qer_ids: there is no QER 4"),
        (
            &|it| it.fars[1].forwarding_parameters = None,
            Kind::InvalidArgument,
            "FAR 2: forwarding_parameters",
        ),
        (&|it| it.qers[0].qfi = Some(64), Kind::InvalidArgument, "64 should be 0 to 63"),
        (&|it| it.pdrs.clear(), Kind::InvalidArgument, "pdrs: there is none"),
        (
            &|it| {
                let mut more = it.pdrs[1].clone();
                more.id = 3;
                it.pdrs.push(more);
            },
            Kind::InvalidArgument,
            "PDR 3: precedence: 100 is that of PDR 2",
        ),
        (
            &|it| {
                let mut more = it.pdrs[0].clone();
                (more.id, more.precedence) = (3, 200);
                more.pdi.as_mut().expect("a PDI").local_f_teid = Some(FTeid { teid: 9, ..FTeid::default() });
                it.pdrs.push(more);
            },
            Kind::Unimplemented,
            "PDR 3: its network or F-TEID is another",
        ),
    ];
    for (change, kind, part) in cases {
        refused(&mut node, POD, &wrong(change), kind, part);
    }
}

#[test]
fn sessions_go_with_their_pod() {
    let mut node = Node::new(world(&[]));
    node.put(POD, 1, &session(0)).expect("a session");
    let attachments = std::mem::take(&mut node.world.attachments);
    node.reconcile();
    assert_eq!((node.programmed.len(), node.kernel.uplink.len()), (0, 0));
    node.world.attachments = attachments;
    node.reconcile();
    assert_eq!(node.kernel.uplink.len(), 0, "a later pod of the name starts with nothing");
    assert!(node.world.networks.contains_key(&name("core/n3")));
    node.put(POD, 1, &session(0)).expect("a session");
    assert_eq!(node.kernel.uplink.len(), 1);
}
