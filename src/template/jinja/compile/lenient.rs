//! `a.b.c | default(x)` and `a.b.c is defined` where `a` is not defined: Ansible passes over that, the engine does not. So the
//! look-ups right before these become a filter that does.
//!
//! Invariant: jumps lead to the same instructions as before.

use std::collections::HashSet;

use minijinja::{
    Value,
    machinery::{Instruction, Instructions},
};

use super::NO_LOCAL;

/// The filter that stands for `.` and `[]`.
const GET: &str = "septet_get";

/// Values that an instruction takes from the stack before it puts one there; `None` for all but plain expressions.
fn takes(instruction: &Instruction<'_>) -> Option<usize> {
    use Instruction as I;
    Some(match instruction {
        I::LoadConst(_) | I::Lookup(_) => 0,
        I::GetAttr(_) | I::Neg | I::Not => 1,
        I::GetItem | I::Add | I::Sub | I::Mul | I::Div | I::IntDiv | I::Rem | I::Pow | I::Eq | I::Ne | I::StringConcat | I::In => 2,
        I::Slice => 4,
        I::BuildList(Some(n)) | I::BuildTuple(Some(n)) => *n,
        I::BuildMap(n) | I::BuildKwargs(n) => 2 * n,
        I::ApplyFilter(_, Some(n), _) | I::PerformTest(_, Some(n), _) | I::CallFunction(_, Some(n)) | I::CallMethod(_, Some(n)) => {
            usize::from(*n)
        }
        _ => return None,
    })
}

/// The instruction before the expression that ends at `at`.
fn before(instructions: &Instructions<'_>, at: u32) -> Option<u32> {
    let (mut at, mut needed) = (at, 1usize);
    loop {
        needed = needed - 1 + takes(instructions.get(at)?)?;
        if needed == 0 {
            return at.checked_sub(1);
        }
        at = at.checked_sub(1)?;
    }
}

/// The look-ups that may pass over what is not defined.
fn found(instructions: &Instructions<'_>) -> HashSet<u32> {
    let mut out = HashSet::new();
    let mut at = 0;
    while let Some(instruction) = instructions.get(at) {
        let arguments = match instruction {
            Instruction::ApplyFilter("default" | "d" | "mandatory", Some(n), _)
            | Instruction::PerformTest("defined" | "undefined", Some(n), _) => Some(n.saturating_sub(1)),
            _ => None,
        };
        let mut end = arguments.and_then(|_| at.checked_sub(1));
        for _ in 0..arguments.unwrap_or(0) {
            end = end.and_then(|e| before(instructions, e));
        }
        while let Some(e) = end {
            end = match instructions.get(e) {
                Some(Instruction::GetAttr(_)) => e.checked_sub(1),
                Some(Instruction::GetItem) => e.checked_sub(1).and_then(|key| before(instructions, key)),
                _ => break,
            };
            out.insert(e);
        }
        at += 1;
    }
    out
}

/// Replaces them.
pub(super) fn look_ups(instructions: &mut Instructions<'_>) {
    let found = found(instructions);
    if found.is_empty() {
        return;
    }
    // Where each instruction goes: an attribute becomes two, its name and the filter.
    let mut places = Vec::new();
    let (mut at, mut next) = (0, 0);
    while let Some(instruction) = instructions.get(at) {
        places.push(next);
        next += if found.contains(&at) && matches!(instruction, Instruction::GetAttr(_)) { 2 } else { 1 };
        at += 1;
    }
    places.push(next);
    let place = |target: u32| places.get(target as usize).copied().unwrap_or(next);
    let mut out = Instructions::new(instructions.name(), instructions.source());
    let mut at = 0;
    while let Some(old) = instructions.get(at) {
        use Instruction as I;
        let get = || I::ApplyFilter(GET, Some(2), NO_LOCAL);
        let new = match old.clone() {
            I::GetAttr(name) if found.contains(&at) => vec![I::LoadConst(Value::from(name)), get()],
            I::GetItem if found.contains(&at) => vec![get()],
            I::Iterate(t) => vec![I::Iterate(place(t))],
            I::Jump(t) => vec![I::Jump(place(t))],
            I::JumpIfFalse(t) => vec![I::JumpIfFalse(place(t))],
            I::JumpIfFalseOrPop(t) => vec![I::JumpIfFalseOrPop(place(t))],
            I::JumpIfTrueOrPop(t) => vec![I::JumpIfTrueOrPop(place(t))],
            I::BuildMacro(name, t, flags) => vec![I::BuildMacro(name, place(t), flags)],
            other => vec![other],
        };
        for instruction in new {
            match (instructions.get_span(at), instructions.get_line(at)) {
                (Some(span), _) => out.add_with_span(instruction, span),
                (None, Some(line)) => out.add_with_line(instruction, u16::try_from(line).unwrap_or(u16::MAX)),
                (None, None) => out.add(instruction),
            };
        }
        at += 1;
    }
    *instructions = out;
}
