//! The runner, over hosts that do not exist: order, conditions, loops, variables, tags, batches, failures.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::atomic::Ordering;

use septet::{error::Kind, playbook::Event};
use serde_json::json;
use support::{Case, vars};

/// A play on the control host.
fn one(tasks: &str) -> Case {
    Case::playbook(&format!(
        "- hosts: control\n  gather_facts: false\n  tasks:\n{}",
        tasks.lines().map(|l| format!("    {l}\n")).collect::<String>()
    ))
}

#[test]
fn order_of_events() {
    let told = Case::playbook(
        "- name: First\n  hosts: control\n  pre_tasks: [{debug: {msg: pre}}]\n  post_tasks: [{debug: {msg: post}}]\n  tasks:\n    - name: File\n      copy: {content: a, dest: /a}\n      notify: [two, group]\n    - name: Text\n      debug: {msg: text}\n    - name: Told at once\n      set_fact: {a: 1}\n      notify: never\n  handlers:\n    - name: never\n      debug: {msg: x}\n    - name: one\n      listen: group\n      copy: {content: b, dest: /b}\n      notify: three\n    - name: two\n      debug: {msg: two}\n    - name: three\n      debug: {msg: three}\n- name: Second\n  hosts: control\n  tasks: [{debug: {msg: second}}]\n- name: Nobody\n  hosts: kafka9*\n  tasks: [{debug: {}}]\n",
    )
    .told();
    insta::assert_snapshot!(told);
}

#[test]
fn when_loop_register_and_facts() {
    let told = one(r#"- set_fact: {n: 3, l: [a, b], m: "{{ index + 1 }}"}
- debug: {msg: "n={{ n }} m={{ m }}"}
  when: n == 3 and m == 2
- debug: {msg: never}
  when: [true, n > 3]
- debug: {msg: "{{ item }}"}
  loop: "{{ l }}"
- debug: {msg: "{{ x.k }}-{{ x.v }}"}
  loop: [{k: 1, v: one}, {k: 2, v: two}]
  loop_control: {loop_var: x}
  when: x.k == 2
- debug: {msg: none of them}
  loop: [1, 2]
  when: item > 2
- debug: {msg: nothing to loop over}
  loop: []
- name: Asked
  command: hostname
  register: asked
- debug: {msg: "skipped={{ asked.skipped }} changed={{ asked.changed }} failed={{ asked.failed }}"}
- copy: {content: "{{ item }}", dest: "/{{ item }}"}
  loop: [p, q]
  register: files
- debug: {msg: "{{ files.changed }} {{ files.results | length }} {{ files.results[1].item }}"}
- debug: {msg: x}
  when: false
  register: skipped
- debug: {msg: "{{ skipped.skipped }}"}
- assert: {that: [n == 3, "'a' in l", files is defined]}
- debug: {var: l}
- debug: {msg: "an item is not left behind"}
  when: item is not defined
  vars: {item2: 1}
- set_fact: {kept: "{{ item }}"}
  loop: [1, 2, 3]
- debug: {msg: "{{ kept }}"}
"#)
    .told();
    insta::assert_snapshot!(told);
}

#[test]
fn a_failure_stops_the_host_the_play_and_the_run() {
    let ran = Case::playbook(
        "- hosts: coordinators\n  gather_facts: false\n  tasks:\n    - copy: {content: a, dest: /a}\n      notify: h\n    - name: Fails\n      fail: {msg: \"on {{ index }}\"}\n      when: index == 2\n    - name: After\n      debug: {msg: after}\n  handlers:\n    - name: h\n      debug: {msg: handler}\n- hosts: all\n  tasks: [{debug: {msg: later}}]\n",
    )
    .run();
    let recap = &ran.recap;
    assert!(recap.failed());
    assert_eq!(recap.pending_handlers, [("peter-zk02".to_owned(), "h".to_owned())]);
    assert_eq!(ran.hosts_with("After"), ran.hosts_with("handler: h"));
    let mut after = ran.hosts_with("After");
    after.sort();
    assert_eq!(after, ["peter-zk01", "peter-zk03"]);
    // The second play did not begin.
    assert_eq!(ran.all_hosts().len(), 3);
    insta::assert_snapshot!(ran.host("peter-zk02"));
    let c = &recap.hosts["peter-zk02"];
    assert_eq!((c.ok, c.changed, c.failed, c.skipped), (0, 1, 1, 0));
    let c = &recap.hosts["peter-zk03"];
    assert_eq!((c.ok, c.changed, c.failed, c.skipped), (2, 1, 0, 1));
}

#[test]
fn failures_that_do_not_matter_and_failures_that_are_made() {
    let told = one(r#"- name: Ignored
  fail: {msg: no}
  ignore_errors: true
  register: r
- debug: {msg: "failed={{ r.failed }} msg={{ r.msg }}"}
- name: Our own mistake, ignored
  debug: {msg: x}
  when: nowhere > 1
  ignore_errors: true
  register: mistake
- debug: {msg: "failed={{ mistake.failed }}"}
- name: Not failed
  fail: {msg: no}
  failed_when: false
- name: Not changed
  copy: {content: x, dest: /x}
  changed_when: false
- name: Changed
  debug: {msg: x}
  changed_when: index == 1
- name: Tried
  debug: {msg: x}
  until: 1 == 2
  retries: 2
  delay: 0
  ignore_errors: true
- name: Assertion
  assert: {that: index == 2, fail_msg: "index is {{ index }}"}
- name: Not reached
  debug: {msg: x}
"#)
    .told();
    insta::assert_snapshot!(told);
}

#[test]
fn included_tasks_see_and_leave_variables() {
    let told = Case::playbook(
        "- hosts: control\n  gather_facts: false\n  tasks:\n    - set_fact: {a: 1, which: inner}\n    - include_tasks: \"tasks/{{ which }}.yml\"\n    - debug: {msg: \"b={{ b }} r={{ r.changed }}\"}\n    - include_tasks: tasks/inner.yml\n      when: b == 3\n    - include_tasks: {file: tasks/empty.yml}\n  handlers:\n    - name: h\n      debug: {msg: handler}\n",
    )
    .file("tasks/inner.yml", "- debug: {msg: \"a={{ a }}\"}\n- set_fact: {b: 2}\n- copy: {content: x, dest: /x}\n  register: r\n  notify: h\n- include_tasks: deeper.yml\n")
    .file("tasks/deeper.yml", "- debug: {msg: deeper}\n")
    .file("tasks/empty.yml", "")
    .told();
    insta::assert_snapshot!(told);
}

#[test]
fn included_tasks_may_be_given_variables() {
    let told = one("- include_tasks: inner.yml\n  vars: {x: 1, y: 1}\n")
        .file("inner.yml", "- debug: {msg: \"x={{ x }} y={{ y }}\"}\n  vars: {y: 2}\n- include_tasks: deeper.yml\n")
        .file("deeper.yml", "- debug: {msg: \"x={{ x }} deeper\"}\n")
        .run();
    assert_eq!(told.messages(), ["x=1 y=2", "x=1 deeper"]);
    // What would be ignored is refused.
    let e = one("- include_tasks: inner.yml\n  loop: [1, 2]\n").error();
    assert!(e.message.contains("`loop` has no effect on include_tasks"), "{e}");
}

#[test]
fn tags() {
    let playbook = "- hosts: control\n  gather_facts: false\n  tasks:\n    - {name: a, debug: {}, tags: a}\n    - {name: ab, debug: {}, tags: [a, b]}\n    - {name: none, debug: {}}\n    - {name: always, debug: {}, tags: always}\n    - {name: never, debug: {}, tags: [never, n]}\n- hosts: control\n  gather_facts: false\n  tags: play\n  tasks:\n    - {name: play, debug: {}}\n";
    let names = |tags: &[&str], skip: &[&str]| {
        let owned = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
        let ran = Case::playbook(playbook).options(|o| (o.tags, o.skip_tags) = (owned(tags), owned(skip))).run();
        ran.events
            .iter()
            .filter_map(|e| match e {
                Event::Task { task, .. } => Some(task.as_str()),
                _ => None,
            })
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(names(&[], &[]), "a ab none always play");
    assert_eq!(names(&["a"], &[]), "a ab always");
    assert_eq!(names(&["a"], &["b"]), "a always");
    assert_eq!(names(&[], &["a", "play"]), "none always");
    assert_eq!(names(&["n"], &[]), "always never");
    assert_eq!(names(&["play"], &[]), "always play");
    assert_eq!(names(&["all"], &["always"]), "a ab none play");
    assert_eq!(names(&[], &["all"]), "always");
    assert_eq!(names(&["nothing"], &[]), "always");
}

#[test]
fn serial_goes_in_batches() {
    let begins = |serial: &str| {
        let ran =
            Case::playbook(&format!("- hosts: all\n  serial: {serial}\n  gather_facts: false\n  tasks:\n    - {{name: t, debug: {{}}}}\n"))
                .run();
        ran.hosts_with("t")
    };
    let in_order = ["peter-control01", "peter-zk01", "peter-zk02", "peter-zk03", "peter-kafka01", "peter-kafka02", "peter-kafka03"];
    assert_eq!(begins("1"), in_order);
    // One, then half of all (three) at a time: a batch ends before the next begins.
    let list = begins("[1, 50%]");
    assert_eq!(list[0], in_order[0]);
    let mut second = list[1..4].to_vec();
    second.sort();
    assert_eq!(second, in_order[1..4]);

    let ran = Case::playbook(
        "- hosts: brokers\n  serial: 1\n  gather_facts: false\n  tasks:\n    - fail: {msg: x}\n      when: index == 2\n    - {name: t, debug: {}}\n",
    )
    .run();
    assert_eq!(ran.hosts_with("t"), ["peter-kafka01"]);
    assert!(!ran.all_hosts().contains("peter-kafka03"), "the batch after the failed one did not begin");
}

#[test]
fn limit_and_forks() {
    let playbook = "- hosts: brokers\n  gather_facts: false\n  tasks: [{name: t, debug: {}}]\n";
    let hosts = |limit: &str| {
        let mut l = Case::playbook(playbook).options(|o| o.limit = Some(limit.into())).run().hosts_with("t");
        l.sort();
        l.join(" ")
    };
    assert_eq!(hosts("all"), "peter-kafka01 peter-kafka02 peter-kafka03");
    assert_eq!(hosts("kafka02,zk01"), "peter-kafka02");
    assert_eq!(hosts("all:!kafka0[12]"), "peter-kafka03");
    assert_eq!(hosts("control"), "");
    let e = Case::playbook(playbook).options(|o| o.limit = Some("kafka9".into())).error();
    assert!(e.message.contains("no host or group is called `kafka9`"), "{e}");
    for forks in 1..=3 {
        let ran = Case::playbook(playbook).options(|o| o.forks = forks).run();
        assert_eq!(ran.hosts_with("t").len(), 3);
    }
}

#[test]
fn precedence_of_variables() {
    let inventory = "cluster: local\nprefix: peter\nvars: {a: all, b: all, c: all, d: all, e: all, f: all, g: all, log_retention_hours: 1}\ngroups:\n  control:\n    vars: {b: group, c: group, d: group, e: group, f: group, g: group}\n    hosts: {1: {c: host, d: host, e: host, f: host, g: host}}\n";
    let case = Case::playbook(
        "- hosts: control\n  gather_facts: false\n  vars: {d: play, e: play, f: play, g: play}\n  tasks:\n    - set_fact: {e: fact, g: fact, h: fact}\n    - debug: {msg: \"{{ a }} {{ b }} {{ c }} {{ d }} {{ e }} {{ f }} {{ g }} {{ h }} {{ log_retention_hours }} {{ num_partitions }}\"}\n      vars: {f: task, g: task, h: task}\n    - debug: {msg: \"{{ f }} {{ g }}\"}\n",
    )
    .inventory(inventory)
    .options(|o| o.extra_vars = vars(json!({"g": "extra"})));
    assert_eq!(case.run().messages(), ["all group host play fact task extra fact 1 3", "play extra"]);
}

#[test]
fn who_a_host_is_cannot_be_said_by_a_variable() {
    let own = "{{ septet.index }} {{ septet.prefix }} {{ septet.role }}";
    let case = one(&format!("- debug: {{msg: \"{{{{ inventory_hostname }}}} {{{{ index }}}} {{{{ groups.brokers | length }}}} {{{{ prefix }}}} {{{{ role }}}} {own}\"}}"))
        .inventory(
            "cluster: local\nprefix: peter\nvars: {inventory_hostname: x, index: 9, groups: {brokers: []}, prefix: paul, role: x}\n",
        );
    assert_eq!(case.run().messages(), ["peter-control01 9 3 paul x 1 peter control"]);
}

#[test]
fn a_host_sees_the_others_and_itself() {
    let ran = one("- debug: {msg: \"{{ groups.all | length }} {{ group_names[0] }} {{ hostvars['peter-kafka02'].index }} {{ hostvars['peter-kafka02'].fqdn }} {{ ansible_check_mode }}\"}").run();
    assert_eq!(ran.messages(), ["7 control 2 peter-kafka02.foo.bar True"]);
}

#[test]
fn facts_stay_with_their_host_from_play_to_play() {
    let ran = Case::playbook(
        "- hosts: brokers\n  gather_facts: false\n  tasks: [{set_fact: {mine: \"{{ index * 10 }}\"}}]\n- hosts: brokers\n  serial: 1\n  gather_facts: false\n  tasks: [{debug: {msg: \"{{ mine }}\"}}]\n- hosts: control\n  gather_facts: false\n  tasks: [{debug: {msg: \"{{ mine is defined }}\"}}]\n",
    )
    .run();
    assert_eq!(ran.messages(), ["10", "20", "30", "false"]);
}

#[test]
fn secrets_are_not_told() {
    let told = one(
        "- name: Secret\n  copy: {content: 'hunter2', dest: \"/{{ item }}\"}\n  loop: [hunter2]\n  no_log: true\n- name: No diff\n  copy: {content: quiet, dest: /q}\n  diff: false\n- name: Fails\n  copy: {content: hunter2, dest: /x, mode: hunter2}\n  no_log: true\n",
    );
    let ran = told.run();
    let all = format!("{:?}", ran.events);
    assert!(!all.contains("hunter2") && !all.contains("+quiet"), "{all}");
    assert_eq!(ran.recap.hosts["peter-control01"].changed, 2);
}

/// What hosts say is data, whatever it looks like; a template in it is not ours to render.
#[test]
fn what_is_learnt_is_not_rendered() {
    let ran = one(
        "- set_fact: {x: 1}\n- fail: {msg: \"{{ '{{' }} x {{ '}}' }}\"}\n  ignore_errors: true\n  register: r\n- debug: {var: r.msg}\n",
    )
    .run();
    assert_eq!(ran.messages(), ["{{ x }}", "{{ x }}"]);
}

#[test]
fn an_interruption_stops_before_the_next_task() {
    let case = Case::playbook("- hosts: control\n  tasks: [{name: t, debug: {}}]\n");
    case.interrupted.store(true, Ordering::SeqCst);
    let e = case.error();
    assert_eq!((e.kind, e.message.as_str()), (Kind::Interrupted, "interrupted"));
}

#[test]
fn a_loop_has_a_limit() {
    let told = one("- debug: {msg: x}\n  loop: '{{ range(10001) }}'\n").told();
    assert!(told.contains("a loop over 10001 items; the limit is 10000"), "{told}");
}

#[test]
fn many_tasks_are_told_in_their_order() {
    let tasks: String = (0..500).map(|i| format!("- debug: {{msg: '{i}'}}\n")).collect();
    let ran = one(&tasks).run();
    let expected: Vec<String> = (0..500).map(|i| i.to_string()).collect();
    assert_eq!(ran.messages(), expected);
}

#[test]
fn json_events_keep_their_shape() {
    let ran = one("- copy: {content: \"a\\n\", dest: /a}\n- debug: {msg: m}\n  loop: [1]\n").run();
    let lines: Vec<String> = ran.events.iter().map(|e| serde_json::to_string(e).unwrap()).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn septet_is_not_a_name_for_a_variable() {
    let e = one("- set_fact: {septet: 1}\n").told();
    assert!(e.contains("holds Septet's own variables"), "{e}");
    for (text, place) in [("  vars: {septet: 1}\n  tasks: []\n", ":2:"), ("  tasks:\n    - debug:\n      register: septet\n", ":4:")] {
        let e = Case::playbook(&format!("- hosts: all\n{text}")).parse_error();
        assert!(e.contains("holds Septet's own variables") && e.contains(place), "{e}");
    }
    let e = septet::inventory::Inventory::parse(std::path::Path::new("i.yml"), "cluster: c\nprefix: p\nvars: {septet: 1}\n").unwrap_err();
    assert!(e.message.contains("holds Septet's own variables"), "{e}");
}

/// As in Ansible: a host that failed is left out of later plays, the others go on, unless the play says otherwise.
#[test]
fn a_run_goes_on_without_the_failed_hosts_where_it_is_to() {
    let playbook = |fatal: &str| {
        format!(
            "- hosts: brokers\n  gather_facts: false\n{fatal}  tasks:\n    - fail: {{msg: x}}\n      when: septet.index == 2\n- hosts: all\n  gather_facts: false\n  tasks: [{{name: later, debug: {{}}}}]\n"
        )
    };
    let later = |fatal: &str, keep_going: bool| {
        let mut hosts = Case::playbook(&playbook(fatal)).options(|o| o.keep_going = keep_going).run().hosts_with("later");
        hosts.sort();
        hosts.len()
    };
    assert_eq!((later("", true), later("", false), later("  any_errors_fatal: true\n", true)), (6, 0, 0));
}

#[test]
fn blocks_rescue_and_always() {
    let ran = one(r#"- name: Outer
  vars: {x: 1}
  when: septet.index == 1
  tags: t
  block:
    - debug: {msg: "x={{ x }}"}
    - block:
        - fail: {msg: "x is {{ x }}"}
        - debug: {msg: never}
      rescue:
        - debug: {msg: rescued}
      always:
        - debug: {msg: always}
- debug: {msg: after}
- block:
    - fail: {msg: again}
  always:
    - debug: {msg: also}
- debug: {msg: not reached}
"#)
    .run();
    assert_eq!(ran.messages(), ["x=1", "x is 1", "rescued", "always", "after", "again", "also"]);
    let c = &ran.recap.hosts["peter-control01"];
    assert_eq!((c.rescued, c.failed), (1, 1));
}

#[test]
fn imported_tasks_variables_in_files_and_flushed_handlers() {
    let ran = Case::playbook(
        "- hosts: control\n  gather_facts: false\n  vars: {a: 1, b: 1}\n  vars_files: [more.yml]\n  tasks:\n    - import_tasks: sub/in.yml\n      vars: {c: 3}\n    - meta: flush_handlers\n    - debug: {msg: last}\n  handlers:\n    - {name: h, debug: {msg: handled}}\n",
    )
    .file("more.yml", "b: 2\n")
    .file("vars/more.yml", "b: 2\n")
    .file("sub/in.yml", "- copy: {content: x, dest: /x}\n  notify: h\n- template: {src: t.j2, dest: /t}\n- debug: {msg: \"{{ a }} {{ b }} {{ c }}\"}\n")
    .file("sub/templates/t.j2", "beside\n")
    .run();
    assert_eq!(ran.messages(), ["1 2 3", "handled", "last"]);
    assert_eq!(ran.files("peter-control01")["/t"], "beside\n");
}

#[test]
fn loops_as_in_ansible() {
    let ran = one(r#"- debug: {msg: "{{ item }}"}
  with_items: [[1, 2], [[3]], 4]
- debug: {msg: "{{ item.key }}={{ item.value }}"}
  with_dict: {a: 1}
- debug: {msg: "{{ item.0 }}:{{ item.1 }}"}
  with_indexed_items: [x, y]
- debug: {msg: "{{ i }} {{ ansible_loop.last }} {{ x }}"}
  loop: [p, q]
  loop_control: {loop_var: x, index_var: i, extended: true}
"#)
    .run();
    assert_eq!(ran.messages(), ["1", "2", "[\n  3\n]", "4", "a=1", "0:x", "1:y", "0 False p", "1 True q"]);
}

// ---- what the shipped playbooks would do ----
