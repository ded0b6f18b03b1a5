//! Playbooks: what every mistake in one is answered with, when it is read and when it is run.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use septet::{
    error::Kind,
    playbook::{
        Event,
        model::{Serial, Work, is_user_name},
    },
};
use serde_json::json;
use support::Case;

/// One snapshot of many mistakes that are found before anything is run.
fn answers(cases: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, text) in cases {
        let _ = writeln!(out, "## {name}\n{}\n", Case::playbook(text).parse_error());
    }
    out
}

fn tasks(text: &str) -> String {
    let indented: String = text.lines().map(|l| format!("    {l}\n")).collect();
    format!("- hosts: control\n  tasks:\n{indented}")
}

#[test]
fn mistakes_in_plays() {
    let said = answers(&[
        ("empty", ""),
        ("no play", "[]\n"),
        ("a map", "hosts: all\n"),
        ("a play is a text", "- all\n"),
        ("hosts missing", "- name: x\n  tasks: []\n"),
        ("unknown keyword", "- hosts: all\n  taks: []\n"),
        ("unknown keyword, nothing near", "- hosts: all\n  strategy: free\n"),
        ("duplicate keyword", "- hosts: all\n  tasks: []\n  tasks: []\n"),
        ("tasks is a map", "- hosts: all\n  tasks: {debug: {}}\n"),
        ("vars is a list", "- hosts: all\n  vars: [a]\n"),
        ("serial 0", "- hosts: all\n  serial: 0\n"),
        ("serial text", "- hosts: all\n  serial: some\n"),
        ("serial 0%", "- hosts: all\n  serial: 0%\n"),
        ("serial 101%", "- hosts: all\n  serial: [1, 101%]\n"),
        ("serial negative", "- hosts: all\n  serial: -1\n"),
        ("serial is a map", "- hosts: all\n  serial: {n: 1}\n"),
        ("become is no boolean", "- hosts: all\n  become: maybe\n"),
        ("import with something else", "- import_playbook: other.yml\n  hosts: all\n"),
    ]);
    insta::assert_snapshot!(said);
}

#[test]
fn mistakes_in_tasks() {
    let case = |t: &str| tasks(t);
    let said = answers(&[
        ("unknown module", &case("- name: Say\n  debgu: {msg: x}")),
        ("unknown module, nothing near", &case("- yum: {name: x}")),
        ("unknown module of a collection", &case("- ansible.posix.sysctl: {name: x}")),
        ("unknown keyword", &case("- debug: {msg: x}\n  regster: y")),
        ("unknown keyword before the module", &case("- whne: true\n  debug: {msg: x}")),
        ("two modules", &case("- debug: {msg: x}\n  command: ls")),
        ("no module", &case("- name: nothing")),
        ("no module, a condition", &case("- when: true")),
        ("a task is a text", &case("- debug")),
        ("arguments are a list", &case("- copy: [a, b]")),
        ("words without =", &case("- copy: src=a b")),
        ("notify without handler", &case("- debug: {}\n  notify: restart broker")),
        ("retries no number", &case("- command: ls\n  retries: many")),
        ("delay too long", &case("- command: ls\n  delay: 3601")),
        ("ignore_errors no boolean", &case("- command: ls\n  ignore_errors: 1")),
        ("loop_control unknown", &case("- command: ls\n  loop_control: {lop_var: x}")),
        ("include with a module", &case("- include_tasks: x.yml\n  debug: {}")),
        ("include without file", &case("- include_tasks: {}")),
        ("become_user is a list", &case("- command: ls\n  become_user: [a]")),
        (
            "notify with a near handler",
            "- hosts: all\n  tasks:\n    - debug: {}\n      notify: [Restart brokr]\n  handlers:\n    - name: Restart broker\n      debug: {}\n",
        ),
    ]);
    insta::assert_snapshot!(said);
}

#[test]
fn files_that_are_not_there() {
    let none = Case::new().parse("p.yml").unwrap_err().to_string();
    assert!(none.starts_with("no file `p.yml`\nhint: searched "), "{none}");
    let imported = Case::playbook("- hosts: all\n- import_playbook: gone.yml\n").parse_error();
    insta::assert_snapshot!(imported, @r"
    no file `gone.yml`
      --> p.yml:2:20
       |
     2 | - import_playbook: gone.yml
       |                    ^
    hint: searched DIR and its playbooks/, and the files that ship with septet
    ");
}

#[test]
fn playbooks_that_import_one_another_in_a_circle() {
    let itself = Case::playbook("- import_playbook: p.yml\n").parse_error();
    let through = Case::playbook("- import_playbook: sub/a.yml\n")
        .file("sub/a.yml", "- import_playbook: b.yml\n")
        .file("sub/b.yml", "- hosts: all\n- import_playbook: a.yml\n")
        .parse_error();
    let mut deep = Case::playbook("- import_playbook: 0.yml\n");
    for i in 0..30 {
        deep = deep.file(&format!("{i}.yml"), format!("- import_playbook: {}.yml\n", i + 1));
    }
    insta::assert_snapshot!(format!("{itself}\n\n{through}\n\n{}\n", deep.parse_error()));
}

#[test]
fn the_same_playbook_may_be_imported_twice() {
    let plays =
        Case::playbook("- import_playbook: a.yml\n- import_playbook: a.yml\n").file("a.yml", "- hosts: all\n").parse("p.yml").unwrap();
    assert_eq!(plays.len(), 2);
}

#[test]
fn hostile_playbooks_are_refused_quickly() {
    let begun = Instant::now();
    let big = Case::playbook(&format!("- hosts: all\n# {}\n", "x".repeat(10_000_000)));
    let huge = Case::playbook(&"- hosts: all\n".repeat(1_500_000));
    let many = Case::playbook(&"- hosts: all\n".repeat(100_000));
    let mut bomb = "- hosts: all\n  vars:\n    a0: &a0 [lol]\n".to_owned();
    for i in 1..20 {
        let _ = writeln!(bomb, "    a{i}: &a{i} [{}]", vec![format!("*a{}", i - 1); 10].join(","));
    }
    let errors = [big, huge, many, Case::playbook(&bomb)].map(|c| c.parse_error().lines().next().unwrap().to_owned());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    insta::assert_snapshot!(errors.join("\n"), @r"
    p.yml: 10000016 bytes are over the limit of 4194304
    DIR/p.yml: 19500000 bytes are over the limit of 16777216
    more than 200000 nodes
    more than 200000 nodes once its aliases are followed
    ");
}

#[test]
fn arguments_as_words_and_as_free_text() {
    let plays = Case::playbook(&tasks(
        r#"- command: ls -l "/a b" {{ x | default('c d') }}
- shell: echo a=b | wc -c
  args: {chdir: /tmp}
- copy: src=a dest="/b c" mode='0644'
- ansible.builtin.file: path=/x/{{ a + ' ' + b }} state=directory
- debug:
- debug: msg="a 'b' {{ c == \"d e\" }}""#,
    ))
    .file("files/a", "")
    .parse("p.yml")
    .unwrap();
    let arguments: Vec<_> = plays[0]
        .tasks
        .iter()
        .map(|t| match &t.work {
            Work::Module { name, arguments, .. } => json!({ *name: arguments }),
            _ => json!(null),
        })
        .collect();
    assert_eq!(
        arguments,
        [
            json!({"command": {"cmd": r#"ls -l "/a b" {{ x | default('c d') }}"#}}),
            json!({"shell": {"cmd": "echo a=b | wc -c", "chdir": "/tmp"}}),
            json!({"copy": {"src": "a", "dest": "/b c", "mode": "0644"}}),
            json!({"file": {"path": "/x/{{ a + ' ' + b }}", "state": "directory"}}),
            json!({"debug": {}}),
            json!({"debug": {"msg": r#"a 'b' {{ c == "d e" }}"#}}),
        ]
    );
}

#[test]
fn keywords_become_what_they_say() {
    let plays = Case::playbook(
        "- hosts: [brokers, '!kafka02']\n  serial: [1, 50%]\n  become: yes\n  gather_facts: no\n  tags: a, b\n  tasks:\n    - name: T\n      command: ls\n      become: false\n      tags: [c, 'd,e']\n      loop: [1]\n      loop_control: {loop_var: x, label: y}\n      when: a\n      until: [b, c]\n      retries: 7\n      delay: 0\n      notify: H\n      register: r\n  handlers:\n    - name: other\n      listen: H\n      debug:\n",
    )
    .parse("p.yml")
    .unwrap();
    let (play, task) = (&plays[0], &plays[0].tasks[0]);
    assert_eq!((play.name.as_str(), play.hosts.as_str()), ("brokers:!kafka02", "brokers:!kafka02"));
    assert_eq!(play.serial, [Serial::Count(1), Serial::Percent(50)]);
    assert_eq!(play.tags, ["a", "b"]);
    assert_eq!(task.tags, ["c", "d", "e"]);
    assert!(!play.gather_facts);
    assert_eq!(task.r#become.or(&play.r#become).target(), None);
    assert_eq!(play.r#become.target().as_deref(), Some("root"));
    assert_eq!((task.loop_var.as_str(), task.retries, task.delay_s), ("x", 7, 0));
    assert_eq!((task.when.len(), task.until.as_ref().unwrap().len()), (1, 2));
    assert_eq!(task.register.as_deref(), Some("r"));
    assert!(task.place().ends_with("p.yml:7"), "{}", task.place());
    for (serial, all, n) in [(Serial::Percent(50), 3, 1), (Serial::Percent(1), 3, 1), (Serial::Count(9), 3, 9)] {
        assert_eq!(serial.of(all), n);
    }
}

/// One snapshot of many mistakes that are found when the task is run.
fn told(cases: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, t) in cases {
        let text =
            format!("- hosts: control\n  gather_facts: false\n  tasks:\n{}", t.lines().map(|l| format!("    {l}\n")).collect::<String>());
        let all = Case::playbook(&text)
            .file("templates/syntax.conf", "one\ntwo {% if a %}\nthree\n")
            .file("templates/open.conf", "one\ntwo {{ a b }}\n")
            .file("templates/undefined.conf", "one\ntwo\n  x={{ nowhere }}\n")
            .file("templates/deep.conf", "{{ inventory_hostname.first.second }}\n")
            .file("templates/filter.conf", "a\n{{ index | shout }}\n")
            .file("templates/type.conf", "a\nb {{ inventory_hostname | pad(width=2) }}\n")
            .file("templates/binary.conf", [0xff, 0xfe])
            .told();
        let shown: String = if all.starts_with("error") {
            all
        } else {
            all.lines()
                .filter(|l| l.starts_with("      |") || l.starts_with("error"))
                .map(|l| format!("{}\n", l.trim_start_matches("      | ")))
                .collect()
        };
        let _ = writeln!(out, "## {name}\n{shown}");
    }
    out
}

#[test]
fn mistakes_in_arguments() {
    let said = told(&[
        ("unknown argument", "- copy: {content: x, dest: /x, mod: '0644'}"),
        ("unknown argument, nothing near", "- hostname: {name: x, frobnicate: 1}"),
        ("unknown argument as a word", "- file: path=/x stat=directory"),
        ("argument missing", "- file: {state: directory}"),
        ("mode without quotes", "- copy: {content: x, dest: /x, mode: 644}"),
        ("mode not octal", "- copy: {content: x, dest: /x, mode: '0689'}"),
        ("mode with letters", "- copy:\n    content: x\n    dest: /x\n    mode: u=rw"),
        ("not one of the words", "- file: {path: /x, state: dir}"),
        ("src and content", "- copy: {src: a, content: b, dest: /x}"),
        ("neither src nor content", "- copy: {dest: /x}"),
        ("file not there", "- copy: {src: gone.txt, dest: /x}"),
        ("template not there", "- template: {src: gone.conf, dest: /x}"),
        ("number out of range", "- wait_for: {port: 70000}"),
        ("port and path", "- wait_for: {port: 1, path: /x}"),
        ("boolean expected", "- systemd: {name: x, enabled: maybe}"),
        ("unit missing", "- systemd: {state: started}"),
        ("empty command", "- command: ''"),
        ("cmd and argv", "- command: {cmd: ls, argv: [ls]}"),
        ("line missing", "- lineinfile: {path: /x}"),
        ("marker without mark", "- blockinfile: {path: /x, block: b, marker: '#'}"),
        ("fact of a bad name", "- set_fact: {'a-b': 1}"),
        ("msg and var", "- debug: {msg: a, var: b}"),
        ("append false", "- user: {name: x, append: false}"),
    ]);
    insta::assert_snapshot!(said);
}

#[test]
fn mistakes_in_templates() {
    let said = told(&[
        ("undefined variable", "- name: Say\n  debug: {msg: 'a {{ nowhere }}'}"),
        ("undefined variable as a whole", "- debug:\n    msg: '{{ nowhere }}'"),
        ("undefined variable in var", "- debug: {var: nowhere}"),
        ("undefined in a second argument", "- copy:\n    content: x\n    dest: '/{{ nowhere }}'"),
        ("undefined in a loop", "- debug: {msg: x}\n  loop: '{{ nowhere }}'"),
        ("a loop over a number", "- debug: {msg: x}\n  loop: '{{ index }}'"),
        ("syntax error in an argument", "- debug: {msg: '{{ index + }}'}"),
        ("unknown filter", "- debug: {msg: '{{ index | shout }}'}"),
        ("a filter without names of arguments", "- debug: {msg: \"{{ x | default('a') }}\"}"),
        ("syntax error in a when", "- debug: {msg: x}\n  when: index ="),
        ("undefined in a when", "- debug: {msg: x}\n  when:\n    - index == 1\n    - nowhere > 1"),
        ("a when that is a list in a list", "- debug: {msg: x}\n  when: [[a]]"),
        ("syntax error in an assert", "- assert: {that: ['index ==']}"),
        ("a variable that refers to an undefined one", "- debug: {msg: '{{ a }}'}\n  vars: {a: '{{ b }}', b: '{{ c }}'}"),
        ("variables that refer to one another", "- debug: {msg: '{{ a }}'}\n  vars: {a: '{{ b }}', b: '{{ a }}'}"),
        ("file: block not closed", "- template: {src: syntax.conf, dest: /x}"),
        ("file: syntax", "- template: {src: open.conf, dest: /x}"),
        ("file: undefined", "- template: {src: undefined.conf, dest: /x}"),
        ("file: field of a text", "- template: {src: deep.conf, dest: /x}"),
        ("file: unknown filter", "- template: {src: filter.conf, dest: /x}"),
        ("file: wrong type", "- template: {src: type.conf, dest: /x}"),
        ("file: not text", "- template: {src: binary.conf, dest: /x}"),
    ]);
    insta::assert_snapshot!(said);
}

#[test]
fn mistakes_in_included_files() {
    let include = "- hosts: control\n  gather_facts: false\n  tasks:\n    - include_tasks: \"{{ 'inner' }}.yml\"\n";
    let case = |inner: &str| {
        let told = Case::playbook(include).file("inner.yml", inner).told();
        told.lines().filter(|l| l.starts_with("      |")).map(|l| format!("{}\n", l.trim_start_matches("      | "))).collect::<String>()
    };
    let out = [
        ("module", case("- debug: {msg: x}\n- debgu: {msg: x}\n")),
        ("a playbook", case("- hosts: all\n  tasks: []\n")),
        ("a map", case("debug: {}\n")),
        ("yaml", case("- debug: {msg: \"x}\n")),
        ("itself", case("- include_tasks: inner.yml\n")),
        ("gone", case("- include_tasks: gone.yml\n")),
        ("undefined", case("- include_tasks: '{{ nowhere }}.yml'\n")),
    ]
    .map(|(name, text)| format!("## {name}\n{text}"))
    .join("\n");
    insta::assert_snapshot!(out);
}

#[test]
fn unknown_hosts_are_told_at_the_play() {
    insta::assert_snapshot!(Case::playbook("- hosts: all\n\n- hosts: broker\n").error(), @r"
    no host or group is called `broker`
      --> p.yml:3:3
       |
     3 | - hosts: broker
       |   ^
    hint: did you mean `brokers`?
    ");
    let e = Case::playbook("- hosts: ''\n").error();
    assert!(e.message.contains("the host pattern is empty"), "{e}");
}

/// Messages of tasks on the control host.
fn said(t: &str) -> Vec<String> {
    Case::playbook(&tasks(t).replace("  tasks:", "  gather_facts: false\n  tasks:")).run().messages()
}

#[test]
fn an_undefined_name_in_a_condition_is_an_error_as_in_ansible() {
    for (condition, name) in
        [("nmae == 'x'", "nmae"), ("not nmae", "nmae"), ("index == 1 and nmae", "nmae"), ("(index == 1) and nmae", "nmae")]
    {
        let told = Case::playbook(&tasks(&format!("- debug: {{msg: x}}\n  when: {condition}"))).told();
        assert!(told.contains(&format!("`{name}` is not defined")) && told.contains("failed=1"), "{told}");
    }
    let fine = "- debug: {msg: a}\n  when: nmae is not defined or nmae == 1\n- debug: {msg: b}\n  when: nmae | default(1) == 1\n- debug: {msg: c}\n  when: index == 2 and nmae\n";
    assert_eq!(said(fine), ["a", "b"]);
}

#[test]
fn conditions_on_a_result_see_the_item() {
    let told = said(
        r#"- debug: {msg: "{{ item }}"}
  loop: [1, 2]
  register: r
  until: item > 0
  changed_when: item == 2
  failed_when: item == 3
- debug: {msg: "{{ r.results[0].changed }} {{ r.results[1].changed }} {{ r.results[1].item }}"}
- debug: {msg: tests}
  when: r is changed and r is succeeded and r is not failed and r is not skipped
- debug: {msg: "{{ i.n }}"}
  loop: [{n: 5}]
  loop_control: {loop_var: i}
  failed_when: i.n == 4
"#,
    );
    assert_eq!(told, ["1", "2", "False True 2", "tests", "5"]);
    // Once, even if nothing is retried.
    let told = said("- debug: {msg: ''}\n  until: index == 2\n  retries: 0\n");
    assert_eq!(told, ["`until` does not hold after 1 tries"]);
    assert_eq!(said("- command: ls\n  register: r\n  until: r.rc > 0\n  retries: 0\n- debug: {msg: 'on'}\n"), ["on"]);
}

#[test]
fn the_rest_of_a_loop_runs_after_an_item_that_failed() {
    let ran = Case::playbook(
        "- hosts: control\n  gather_facts: false\n  tasks:\n    - name: Loop\n      assert: {that: item.ok, success_msg: \"{{ item.n }}\", fail_msg: \"no {{ item.n }}\"}\n      loop: [{ok: true, n: 1}, {ok: false, n: 2}, {n: 3}, {ok: true, n: 4}]\n    - name: After\n      debug: {}\n",
    )
    .run();
    let told = ran.host("peter-control01");
    assert!(told.contains("| 1\n") && told.contains("| no 2\n") && told.contains("| 4\n"), "{told}");
    assert!(!told.contains("After"), "{told}");
    assert_eq!(ran.recap.hosts["peter-control01"].failed, 1);
    let told = said(
        r#"- assert: {that: item != 2, quiet: true}
  loop: [1, 2, 3]
  ignore_errors: true
  register: r
- debug: {msg: "{{ r.failed }} {{ r.results | length }} {{ r.results[2].failed }}"}
"#,
    );
    assert_eq!(told.last().unwrap(), "True 3 False");
}

#[test]
fn items_that_are_skipped_are_among_the_results() {
    let told = said(
        r#"- debug: {msg: "{{ item }}"}
  loop: [1, 2, 3]
  when: item != 2
  register: r
- debug: {msg: "{{ r.results | length }} {{ r.results[1].skipped }} {{ r.results[1].item }} {{ r.skipped }}"}
- debug: {msg: x}
  loop: [1, 2]
  when: item > 5
  register: all
- debug: {msg: "{{ all.results | length }} {{ all.skipped }}"}
- debug: {msg: x}
  loop: []
  register: no_items
- debug: {msg: "{{ no_items.results | length }} {{ no_items.skipped }}"}
- debug: {msg: x}
  loop: "{{ nowhere }}"
  when: index == 2
"#,
    );
    assert_eq!(told, ["1", "3", "3 True 2 False", "2 True", "0 True"]);
}

#[test]
fn names_of_handlers_are_rendered_and_checked() {
    let play = |notify: &str, handler: &str| {
        Case::playbook(&format!(
            "- hosts: control\n  gather_facts: false\n  vars: {{what: broker}}\n  tasks:\n    - copy: {{content: a, dest: /a}}\n      notify: \"{notify}\"\n    - debug: {{msg: next}}\n  handlers:\n    - name: \"{handler}\"\n      debug: {{msg: handled}}\n"
        ))
        .run()
    };
    for (notify, handler) in
        [("restart {{ what }}", "restart broker"), ("restart broker", "restart {{ what }}"), ("{{ what }}", "{{ what }}")]
    {
        assert_eq!(play(notify, handler).messages(), ["next", "handled"], "{notify} {handler}");
    }
    let ran = play("restart {{ what }}s", "restart broker");
    let told = ran.told();
    assert!(told.contains("notifies `restart brokers`, and there is no such handler") && told.contains("p.yml:5"), "{told}");
    assert!(told.contains("did you mean `restart broker`?") && !told.contains("next"), "{told}");

    let e = Case::playbook("- hosts: all\n  handlers:\n    - name: a\n      notify: b\n      debug:\n").parse_error();
    assert!(e.contains("notifies `b`, and there is no such handler") && e.contains("p.yml:3:"), "{e}");
    let told = Case::playbook("- hosts: control\n  gather_facts: false\n  tasks: [{include_tasks: i.yml}]\n")
        .file("i.yml", "- debug: {msg: x}\n  notify: gone\n")
        .told();
    assert!(told.contains("notifies `gone`, and there is no such handler") && told.contains("i.yml:1"), "{told}");
}

#[test]
fn handlers_that_an_interruption_kept_back_are_named() {
    let case = Case::playbook(
        "- hosts: control\n  gather_facts: false\n  tasks:\n    - name: Changes\n      copy: {content: a, dest: /a}\n      notify: h\n    - include_tasks: i.yml\n  handlers:\n    - name: h\n      debug: {msg: handled}\n",
    )
    .file("i.yml", "- debug: {msg: ''}\n  loop: '{{ range(5000) }}'\n");
    let plays = case.parse("p.yml").unwrap();
    let (events, result) = case.run_until(&plays, Some("Changes"));
    assert_eq!(result.unwrap_err().kind, Kind::Interrupted);
    let pending: Vec<&Event> = events.iter().filter(|e| matches!(e, Event::PendingHandler { .. })).collect();
    assert_eq!(pending, [&Event::PendingHandler { host: "peter-control01".into(), handler: "h".into() }]);
    assert!(!events.iter().any(|e| matches!(e, Event::Task { msg, .. } if msg == "handled")));
}

#[test]
fn only_names_of_users_become_one() {
    for (name, ok) in [
        ("root", true),
        ("_a-b9$", true),
        ("", false),
        ("$", false),
        ("-u", false),
        ("a b", false),
        ("Root", false),
        ("a;b", false),
        ("a$b", false),
        ("0", false),
        ("ab\n", false),
        (&"a".repeat(32), true),
        (&"a".repeat(33), false),
    ] {
        assert_eq!(is_user_name(name), ok, "{name:?}");
    }
    let e = Case::playbook(&tasks("- command: ls\n  become_user: '-i; id'")).parse_error();
    assert!(e.contains("`-i; id` is not a user's name") && e.contains("p.yml:4:"), "{e}");
    let told = |user: &str| {
        Case::playbook(&format!(
            "- hosts: control\n  gather_facts: false\n  vars: {{who: kafka, bad: 'x y'}}\n  tasks:\n    - file: {{path: /a, state: directory}}\n      become: true\n      become_user: \"{user}\"\n"
        ))
        .told()
    };
    assert!(told("{{ who }}").contains("Changed"));
    assert!(told("{{ bad }}").contains("`x y` is not a user's name"));
    assert!(told("{{ nowhere }}").contains("`nowhere` is not defined"));
}

#[test]
fn included_tasks_inherit_whom_to_become() {
    let told = |inner: &str| {
        Case::playbook("- hosts: control\n  gather_facts: false\n  vars: {bad: 'x y'}\n  tasks:\n    - include_tasks: i.yml\n      become: true\n      become_user: '{{ bad }}'\n      environment: {A: '{{ index }}'}\n")
            .file("i.yml", format!("- file: {{path: /a, state: directory}}\n{inner}"))
            .told()
    };
    assert!(told("").contains("`x y` is not a user's name"));
    assert!(told("  become_user: kafka\n").contains("Changed"));
    assert!(told("  become: false\n").contains("Changed"));
}

#[test]
fn others_see_a_hosts_variables_as_that_host_does() {
    let inventory = "cluster: local\nprefix: peter\nvars: {top: 'all-{{ role }}'}\ngroups:\n  control:\n    vars: {base: 9}\n  brokers:\n    vars: {base: 1, rack: 'r{{ base }}', fact: '{{ ansible_memtotal_mb }}'}\n";
    let case = Case::playbook(&tasks(
        "- debug: {msg: \"{{ hostvars['peter-kafka01'].rack }} {{ hostvars['peter-kafka01'].top }} {{ hostvars['peter-kafka01'].fact is defined }} {{ hostvars['peter-kafka02'].index }}\"}",
    ))
    .inventory(inventory);
    assert_eq!(case.run().messages(), ["r1 all-broker False 2"]);
}

/// What of Ansible is not supported is named, with what to do instead.
#[test]
fn what_is_left_out_has_a_hint() {
    let said = answers(&[
        ("roles", "- hosts: all\n  roles: [common]\n"),
        ("remote_user", "- hosts: all\n  remote_user: root\n"),
        ("connection", "- hosts: all\n  connection: local\n"),
        ("vars_prompt", "- hosts: all\n  vars_prompt: [{name: x}]\n"),
        ("apt", &tasks("- apt: {name: x, state: present}")),
        ("ansible.builtin.dnf", &tasks("- ansible.builtin.dnf: {name: x}")),
        ("get_url", &tasks("- get_url: {url: x, dest: /y}")),
        ("delegate_to", &tasks("- command: ls\n  delegate_to: localhost")),
        ("local_action", &tasks("- local_action: command ls")),
        ("run_once", &tasks("- command: ls\n  run_once: true")),
        ("with_sequence", &tasks("- debug:\n  with_sequence: end=3")),
        ("include_role", &tasks("- include_role: {name: x}")),
        ("meta", &tasks("- meta: end_play")),
        ("a template in import_tasks", &tasks("- import_tasks: \"{{ x }}.yml\"")),
        ("a directory", &tasks("- copy: {src: some/, dest: /x}")),
    ]);
    insta::assert_snapshot!(said);
}

/// All that is wrong is said together, before any host is touched: keywords, arguments, templates, files.
#[test]
fn all_errors_are_told_at_once() {
    let case = Case::playbook(&tasks(
        r#"- yum: {name: x}
- debug: {msg: "{{ a b }}"}
- debug: {msg: x}
  when: x is shouted
- template: {src: gone.j2, dest: /x}
- template: {src: bad.j2, dest: /x}
- copy: {src: gone, dest: /x, mod: 1}
- file: {path: /x, stat: directory}
- include_tasks: in.yml
- command: ls
  regster: x"#,
    ))
    .file("templates/bad.j2", "one\ntwo {{ x | shout }}\n")
    .file("in.yml", "- debgu:\n");
    insta::assert_snapshot!(case.parse_error());
}
