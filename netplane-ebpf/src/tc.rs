//! The TC programs, for masters without native XDP, and for what pods under one master send each other.

use crate::skb::SkbFrame;
use crate::{counters, maps, tables};
use aya_ebpf::bindings::{__sk_buff, BPF_F_INGRESS, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use netplane_common::decide::packed;
use netplane_common::frame::Frame;
use netplane_common::map::{NO_INDEX, PodKey, RELEASED, TC_PASSED};
use netplane_common::verdict::{Kind, Packed};
use netplane_common::wire::ethernet::Ethernet;

const DROP: i32 = TC_ACT_SHOT;
/// To whoever comes next: other programs on the device, then the kernel.
const PASS: i32 = TC_ACT_UNSPEC;

/// On a master's ingress where XDP does not run, and at the far end of the offload wire: there come packets as
/// on a wire, with the index of the master that they came in by.
#[classifier]
#[inline(always)]
fn netplane_tc(mut ctx: TcContext) -> i32 {
    if came_back(&ctx) {
        return PASS;
    }
    let mut place = Place::of(&ctx);
    if place.ifindex == place.far {
        // What the agent releases is marked beside that, for the program that has rules.
        let mark = field(&ctx, |it| it.mark) & !RELEASED;
        place = Place { ifindex: mark, near: 0, ..place };
    }
    let action = run(&mut ctx, place, true);
    if action == PASS && place.is_far_end() { give_back(&ctx, place.ifindex) } else { action }
}

/// On a master's ingress beside native XDP, which never sees what pods under the master send each other.
/// What has come through the driver it has counted already.
#[classifier]
#[inline(always)]
fn netplane_tc_local(mut ctx: TcContext) -> i32 {
    if came_back(&ctx) {
        return PASS;
    }
    let is_from_pod = field(&ctx, |it| it.napi_id) == 0;
    let place = Place::of(&ctx);
    run(&mut ctx, place, is_from_pod)
}

/// Where a frame is.
#[derive(Clone, Copy)]
struct Place {
    /// The master that it came in by.
    ifindex: u32,
    /// Ends of the offload wire, 0 where there is none; no near end for a frame that has come through it.
    near: u32,
    far: u32,
}

impl Place {
    #[inline(always)]
    fn of(ctx: &TcContext) -> Self {
        let wire = maps::WIRE.get(0).copied().unwrap_or_default();
        Self { ifindex: field(ctx, |it| it.ifindex), near: wire.near, far: wire.far }
    }

    #[inline(always)]
    fn is_far_end(self) -> bool {
        self.near == 0 && self.far != 0
    }
}

/// On a frame that is to be answered: tail-called by the others, with what they know in the control buffer.
#[classifier]
#[inline(always)]
fn netplane_tc_answer(ctx: TcContext) -> i32 {
    let mut frame = SkbFrame::<true>::new(&ctx, 0);
    let verdict = packed(&mut frame, &tables::Maps::<false>, field(&ctx, |it| it.cb[0]));
    answered(frame.skb(), verdict, frame.tag())
}

/// What becomes of it. A function that is called: older verifiers give a program and all that it calls just enough stack
/// for the decision.
#[inline(never)]
fn answered(skb: *mut __sk_buff, verdict: Packed, tag: u32) -> i32 {
    let (ctx, mut frame) = (TcContext::new(skb), SkbFrame::<true>::with_tag(skb, tag));
    let (ifindex, is_far_end) = (field(&ctx, |it| it.cb[0]), field(&ctx, |it| it.cb[1]));
    match verdict.kind() {
        Kind::Answer => {
            counters::count(verdict, frame.len());
            let port = verdict.port();
            match port {
                NO_INDEX if is_for_pod(frame.skb(), ifindex) != 0 => deliver(&mut frame, ifindex),
                NO_INDEX => leave(&mut frame, ifindex),
                _ => leave_by(&mut frame, port),
            }
        }
        Kind::PassCounted => {
            counters::count(verdict, frame.len());
            if is_far_end != 0 { give_back(&ctx, ifindex) } else { PASS }
        }
        Kind::Drop => {
            counters::count_drop(&ctx, verdict, frame.len());
            DROP
        }
        // The tables have changed meanwhile: as if the packet had been lost on its way.
        _ => DROP,
    }
}

/// On a frame of a session with rules: as the answering one.
#[classifier]
#[inline(always)]
fn netplane_tc_rules(mut ctx: TcContext) -> i32 {
    let mut frame = SkbFrame::<false, true>::new(&ctx, 0);
    let verdict = packed(&mut frame, &tables::Maps::<true>, field(&ctx, |it| it.cb[0]));
    let [ifindex, is_far_end, count_passed, ..] = *ctx.cb_mut() else {
        return DROP;
    };
    match verdict.kind() {
        Kind::Transmit => leave(&mut frame, ifindex),
        Kind::Redirect => leave_by(&mut frame, verdict.port()),
        Kind::Pass | Kind::PassCounted => {
            if verdict.kind() == Kind::PassCounted && count_passed != 0 {
                counters::count(verdict, frame.len());
            }
            if is_far_end != 0 { give_back(&ctx, ifindex) } else { PASS }
        }
        Kind::Drop => {
            counters::count_drop(&ctx, verdict, frame.len());
            DROP
        }
        Kind::ToAnswer => {
            // SAFETY: a program of the same type, in an element of the map or not.
            unsafe { maps::TC_ANSWER.tail_call(&ctx, 0) };
            counters::count_drop(&ctx, verdict, frame.len());
            DROP
        }
        // The agent has a copy; or the tables have changed meanwhile: as if the packet had been lost on its way.
        _ => DROP,
    }
}

#[inline(always)]
fn run(ctx: &mut TcContext, place: Place, count_passed: bool) -> i32 {
    let ifindex = place.ifindex;
    let mut frame = SkbFrame::<false>::new(ctx, place.near);
    let verdict = packed(&mut frame, &tables::Maps::<true>, ifindex);
    match verdict.kind() {
        Kind::Pass => PASS,
        Kind::PassCounted => {
            if count_passed {
                counters::count(verdict, frame.len());
            }
            PASS
        }
        Kind::Transmit => leave(&mut frame, ifindex),
        Kind::Redirect => leave_by(&mut frame, verdict.port()),
        Kind::Drop => {
            counters::count_drop(ctx, verdict, frame.len());
            DROP
        }
        Kind::ToAnswer => {
            let [first, second, ..] = ctx.cb_mut() else {
                return DROP;
            };
            (*first, *second) = (ifindex, u32::from(place.is_far_end()));
            // SAFETY: a program of the same type, in an element of the map or not.
            unsafe { maps::TC_ANSWER.tail_call(ctx, 0) };
            counters::count_drop(ctx, verdict, frame.len());
            DROP
        }
        Kind::ToRules => {
            let [first, second, third, ..] = ctx.cb_mut() else {
                return DROP;
            };
            (*first, *second) = (ifindex, u32::from(place.is_far_end()));
            *third = u32::from(count_passed);
            // SAFETY: as above.
            unsafe { maps::TC_RULES.tail_call(ctx, 0) };
            DROP
        }
        Kind::Unfinished => {
            ctx.set_mark(ifindex);
            to(place.near, 0)
        }
        // Never: this frame cannot be answered, and has no rules.
        Kind::Answer | Kind::Buffered => DROP,
    }
}

/// Whether an answer goes to a pod under the master. A function that is called: its key must not take room on the
/// program's stack.
#[inline(never)]
fn is_for_pod(skb: *mut __sk_buff, ifindex: u32) -> u32 {
    // By a helper: the compiler would handle a packet pointer here in a way that the verifier refuses.
    let Ok(ethernet) = TcContext::new(skb).load::<Ethernet>(0) else {
        return 0;
    };
    // SAFETY: the program only reads, and nothing of the value.
    u32::from(unsafe { maps::PODS.get(PodKey::new(ifindex, ethernet.destination)) }.is_some())
}

/// From the wire back to the master that the frame came in by, as if nothing had happened to it.
#[inline(always)]
fn give_back(ctx: &TcContext, ifindex: u32) -> i32 {
    ctx.set_mark(TC_PASSED);
    to(ifindex, u64::from(BPF_F_INGRESS))
}

/// The interface index of a master in the device map; 0 if it has vanished.
#[inline(always)]
fn device(port: u32) -> u32 {
    maps::DEVICES.get(port).copied().unwrap_or(0)
}

/// Out by a master of the device map, or to a pod under it.
#[inline(always)]
fn leave_by<const ANSWERS: bool, const RULES: bool>(frame: &mut SkbFrame<ANSWERS, RULES>, port: u32) -> i32 {
    if port & Packed::LOCAL == 0 {
        leave(frame, device(port))
    } else {
        deliver(frame, device(port & !Packed::LOCAL))
    }
}

/// To a pod under a master: received by it, as what pods send each other is.
#[inline(always)]
fn deliver<const ANSWERS: bool, const RULES: bool>(
    frame: &mut SkbFrame<ANSWERS, RULES>,
    ifindex: u32,
) -> i32 {
    if ifindex == 0 || frame.finish().is_none() { DROP } else { to(ifindex, u64::from(BPF_F_INGRESS)) }
}

/// Out by a device. To none: dropped, as a frame already rewritten cannot be passed.
#[inline(always)]
fn leave<const ANSWERS: bool, const RULES: bool>(frame: &mut SkbFrame<ANSWERS, RULES>, ifindex: u32) -> i32 {
    if ifindex == 0 || frame.finish().is_none() { DROP } else { to(ifindex, 0) }
}

/// Whether this has been decided on at the wire's end and is to be passed.
#[inline(always)]
fn came_back(ctx: &TcContext) -> bool {
    let is_back = field(ctx, |it| it.mark) == TC_PASSED;
    if is_back {
        ctx.set_mark(0);
    }
    is_back
}

#[inline(always)]
fn to(ifindex: u32, flags: u64) -> i32 {
    // SAFETY: the helper takes numbers; it is carried out after the program has ended.
    unsafe { bpf_redirect(ifindex, flags) as i32 }
}

#[inline(always)]
fn field(ctx: &TcContext, get: impl FnOnce(&__sk_buff) -> u32) -> u32 {
    // SAFETY: the kernel's context, which lives as long as the program runs.
    get(unsafe { &*ctx.skb.skb })
}
