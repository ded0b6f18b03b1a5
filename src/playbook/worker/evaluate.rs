//! What a worker evaluates on this machine: conditions, items of loops, places of templates, and what actions would do on hosts that
//! do not exist. Pure.

use std::sync::Arc;

use septet_agent_protocol::{Action, Outcome, Status};
use serde_json::{Value, json};

use crate::{
    error::Result,
    playbook::model::{LoopKind, Task, Work},
    template::Renderer,
    yaml::{Node, NodeKind},
};

/// Whether all conditions hold.
pub(super) fn holds(renderer: &Renderer, conditions: &[Node]) -> Result<bool> {
    for node in conditions {
        let on = match &node.kind {
            NodeKind::Scalar(Value::Bool(b)) => *b,
            _ => renderer.condition(&node.string()?).map_err(|e| e.at(node.place()))?,
        };
        if !on {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The template in a node that cannot be rendered.
pub(super) fn place_of_template(node: &Node, renderer: &Renderer) -> Option<crate::error::Place> {
    match &node.kind {
        NodeKind::Scalar(Value::String(s)) => renderer.text("value", s).is_err().then(|| node.place()),
        NodeKind::Scalar(_) => None,
        NodeKind::List(l) => l.iter().find_map(|n| place_of_template(n, renderer)),
        NodeKind::Map(m) => m.iter().find_map(|(_, v)| place_of_template(v, renderer)),
    }
}

/// The first template in a node.
pub(super) fn first_template(node: &Node) -> Option<crate::error::Place> {
    match &node.kind {
        NodeKind::Scalar(Value::String(s)) => crate::template::is_template(s).then(|| node.place()),
        NodeKind::Scalar(_) => None,
        NodeKind::List(l) => l.iter().find_map(first_template),
        NodeKind::Map(m) => m.iter().find_map(|(_, v)| first_template(v)),
    }
}

/// Gives a task of an included file what the including one has; what it has of its own wins.
pub(super) fn given(inner: &mut Task, task: &Task) {
    if let Work::Block { tasks, rescue, always } = &mut inner.work {
        tasks.iter_mut().chain(rescue).chain(always).for_each(|t| given(t, task));
        return;
    }
    let own = std::mem::replace(&mut inner.vars, task.vars.clone());
    inner.vars.extend(own);
    let own = std::mem::replace(&mut inner.environment, task.environment.clone());
    inner.environment.extend(own);
    inner.r#become = inner.r#become.or(&task.r#become);
    let mut reads = (*inner.reads).clone();
    reads.add_value(&Value::Object(task.vars.clone()));
    reads.add_value(&Value::Object(task.environment.clone()));
    inner.reads = Arc::new(reads);
}

/// The items of a loop.
pub(super) fn items_of(value: Value, kind: LoopKind) -> Result<Vec<Value>, String> {
    match (kind, value) {
        (LoopKind::List, Value::Array(a)) => Ok(a),
        (LoopKind::List, _) => Err("a loop needs a list".into()),
        // As in Ansible: one level of lists in the list is flattened.
        (LoopKind::Items, Value::Array(a)) => Ok(a
            .into_iter()
            .flat_map(|v| match v {
                Value::Array(inner) => inner,
                other => vec![other],
            })
            .collect()),
        (LoopKind::Items, Value::Null) => Ok(Vec::new()),
        (LoopKind::Items, one) => Ok(vec![one]),
        (LoopKind::Dict, Value::Object(o)) => Ok(o.into_iter().map(|(k, v)| json!({ "key": k, "value": v })).collect()),
        (LoopKind::Dict, _) => Err("`with_dict` needs a mapping".into()),
        (LoopKind::Indexed, value) => Ok(items_of(value, LoopKind::Items)?.into_iter().enumerate().map(|(i, v)| json!([i, v])).collect()),
    }
}

/// What an action would do on a host that does not exist yet.
pub(super) fn imagined(action: &Action, tail: &[u8], no_log: bool) -> Outcome {
    match action {
        Action::Copy { path, content: septet_agent_protocol::Content::Tail, .. } if !no_log => {
            let text = String::from_utf8_lossy(tail);
            let diff = similar::TextDiff::from_lines("", text.as_ref()).unified_diff().header("/dev/null", path).to_string();
            Outcome::changed_if(true).with_diff(Some(diff))
        }
        Action::Command { argv, .. } => {
            let none = Vec::<Value>::new();
            let outcome = Outcome::new(Status::Skipped).with("msg", "Command would have run if not in check mode").with("rc", 0);
            let outcome = outcome.with("cmd", argv.clone()).with("stdout", "").with("stderr", "");
            outcome.with("stdout_lines", none.clone()).with("stderr_lines", none)
        }
        Action::Stat { .. } => Outcome::ok().with("stat", json!({ "exists": false })),
        Action::WaitFor { .. } | Action::Slurp { .. } => Outcome::new(Status::Skipped),
        _ => Outcome::changed_if(true),
    }
}
