//! What goes wrong, and when.

use crate::{
    broker::Stop,
    controller::Admin,
    message::ZNODES,
    world::{Event, World},
    znodes::SESSION_TIMEOUT,
};

macro_rules! faults {
    ($($name:ident $weight:literal,)*) => {
        /// Kinds of faults, and what operators do.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind { $($name,)* }
        const KINDS: &[(Kind, i64)] = &[$((Kind::$name, $weight),)*];
    };
}

faults! {
    Kill 12,
    PowerCut 12,
    PowerCutOfAll 1,
    ShortPause 6,
    LongPause 8,
    CutOneWay 8,
    CutBothWays 8,
    CutOffFromBrokers 6,
    CutOffFromZnodes 8,
    CutOff 6,
    Loss 4,
    SlowLink 8,
    Reassign 8,
    CancelReassignment 3,
    ControlledStop 6,
    PreferredElection 5,
    RegistrationDeleted 5,
    ControllerDeleted 6,
    BounceOfController 4,
}

impl World {
    /// One fault.
    pub fn fault(&mut self) {
        let total: i64 = KINDS.iter().map(|(_, w)| w).sum();
        let mut at = self.ctx.rng.range(0, total);
        let kind = KINDS.iter().find(|(_, w)| {
            at -= w;
            at < 0
        });
        let Some((kind, _)) = kind else { return };
        if !self.cause(*kind) {
            return;
        }
        *self.faults.entry(*kind).or_default() += 1;
        self.ctx.now = self.now();
        self.trace.add(self.ctx.now, "FAULT", [*kind as i64, 0, 0, 0, 0]);
    }

    fn any_up(&mut self) -> Option<i32> {
        let up: Vec<i32> = self.brokers.iter().filter(|b| b.up).map(|b| b.id).collect();
        self.ctx.rng.pick(&up)
    }

    /// Ends a broker and has it begin again later.
    fn end(&mut self, id: i32, clean: bool, power_cut: bool) {
        let broker = &mut self.brokers[id as usize - 1];
        let lost = broker.end(clean, power_cut, &mut self.ctx);
        self.trace.add(self.ctx.now, "ends", [i64::from(id), i64::from(clean), lost, 0, 0]);
        let later = if self.ctx.rng.per_mille(400) { self.ctx.rng.range(5, 120) } else { self.ctx.rng.range(100, 1200) };
        self.after(later, Event::Start(id));
    }

    /// Whether a replica may lose what it has not synced: in each ISR that counts on it another is alive and has everything, and no
    /// proposal of its own is under way that would leave it alone there. Else more than one failure at a time would lose records.
    fn may_lose(&self, id: i32) -> bool {
        let intact = |r: i32, part: usize| {
            let b = &self.brokers[r as usize - 1];
            r != id && b.up && b.registered && self.ledger.complete(b, part) && !self.ledger.lossy.contains(&(r, part))
        };
        (0..self.parts).all(|part| {
            let Some(state) = self.znodes.state(part) else { return true };
            let proposal = self.brokers[id as usize - 1].parts.get(&part).and_then(|r| r.core.pending());
            !state.isr.contains(&id) || state.isr.iter().any(|r| intact(*r, part)) && proposal.is_none()
        })
    }

    fn cut(&mut self, directions: Vec<(i32, i32)>) {
        let lasts = if self.ctx.rng.per_mille(500) { self.ctx.rng.range(50, 500) } else { self.ctx.rng.range(500, 1500) };
        self.net.cut.extend(directions.iter().copied());
        self.after(lasts, Event::Mend(directions));
    }

    fn cause(&mut self, kind: Kind) -> bool {
        let Some(id) = self.any_up() else { return false };
        let n = self.brokers.len() as i32;
        let other = 1 + (id - 1 + self.ctx.rng.range(1, i64::from(n)) as i32) % n;
        let others: Vec<i32> = (1..=n).filter(|r| *r != id).collect();
        let both = |list: &[i32]| list.iter().flat_map(|r| [(id, *r), (*r, id)]).collect::<Vec<_>>();
        let part = self.ctx.rng.range(0, self.parts as i64) as usize;
        let controller = self.brokers.iter().position(|b| b.ctl.is_some());
        match kind {
            Kind::Kill => self.end(id, false, false),
            Kind::PowerCut if self.may_lose(id) => self.end(id, false, true),
            Kind::PowerCutOfAll => (1..=n).filter(|r| self.brokers[*r as usize - 1].up).collect::<Vec<_>>().into_iter().for_each(|r| {
                self.end(r, false, true);
            }),
            Kind::ShortPause | Kind::LongPause => {
                let lasts =
                    if kind == Kind::ShortPause { self.ctx.rng.range(30, 400) } else { SESSION_TIMEOUT + self.ctx.rng.range(50, 600) };
                self.brokers[id as usize - 1].paused_until = self.ctx.now + lasts;
            }
            Kind::CutOneWay => self.cut(vec![(id, other)]),
            Kind::CutBothWays => self.cut(both(&[other])),
            Kind::CutOffFromBrokers => self.cut(both(&others)),
            Kind::CutOffFromZnodes => self.cut(both(&[ZNODES])),
            Kind::CutOff => self.cut(both(&[&others[..], &[ZNODES]].concat())),
            Kind::Loss => {
                self.net.loss = self.ctx.rng.range(10, 200);
                self.after(400, Event::EndLoss);
            }
            Kind::SlowLink => {
                let directions = if self.ctx.rng.per_mille(500) { vec![(id, other)] } else { both(&[other]) };
                self.net.slow.extend(directions.iter().copied());
                self.after(700, Event::Speed(directions));
            }
            Kind::Reassign | Kind::CancelReassignment | Kind::PreferredElection => {
                let first = self.ctx.rng.range(0, i64::from(n)) as i32;
                let target = (0..3).map(|i| 1 + (first + i) % n).collect();
                let Some(ctl) = controller.and_then(|at| self.brokers[at].ctl.as_mut()) else { return false };
                ctl.admin.push_back(match kind {
                    Kind::Reassign => Admin::Reassign(part, Some(target)),
                    Kind::CancelReassignment => Admin::Reassign(part, None),
                    _ => Admin::Prefer(part),
                });
            }
            Kind::ControlledStop if self.brokers[id as usize - 1].stop == Stop::No => self.brokers[id as usize - 1].ask_to_stop(&self.ctx),
            Kind::RegistrationDeleted => self.znodes.delete_registration(id),
            Kind::ControllerDeleted => self.znodes.delete_controller(),
            // A broker dies and comes back at once, and the controller dies with it.
            Kind::BounceOfController => {
                let Some(at) = controller.filter(|at| self.brokers[*at].up) else { return false };
                self.end(at as i32 + 1, false, false);
                self.znodes.delete_controller();
                if id != at as i32 + 1 {
                    let lose = self.may_lose(id);
                    self.end(id, false, lose);
                }
            }
            Kind::PowerCut | Kind::ControlledStop => return false,
        }
        true
    }
}
