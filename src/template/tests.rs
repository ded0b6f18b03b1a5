#![allow(clippy::unwrap_used)]
use serde_json::json;

use super::*;

fn renderer(vars: Value) -> Renderer {
    Renderer::new(vars.as_object().unwrap())
}

#[test]
fn values_keep_their_types_and_variables_refer_to_others() {
    let r = renderer(
        json!({"n": 3, "l": [1, 2], "a": "{{ b }}!", "b": "{{ n }}", "bad": "{{ nope }}", "m": {"x": "{{ n }}", "y": "{{ nope }}"}}),
    );
    assert_eq!(r.value(&json!("{{ n }}")).unwrap(), json!(3));
    assert_eq!(r.value(&json!({"x": ["{{ l }}", "n={{ n }}"]})).unwrap(), json!({"x": [[1, 2], "n=3"]}));
    assert_eq!(r.value(&json!("{{ a }}")).unwrap(), json!("3!"));
    assert_eq!(r.value(&json!("{{ m.x + 1 }}")).unwrap(), json!(4));
    assert_eq!(r.value(&json!("{% if n > 1 %}{{ n }}{% endif %}")).unwrap(), json!(3));
    assert_eq!(r.value(&json!("{% if n > 9 %}{{ n }}{% endif %}")).unwrap(), json!(null));
    assert_eq!(r.value(&json!(" {{ n }}")).unwrap(), json!(" 3"));
    assert!(r.condition("n > 2 and nope is not defined").unwrap());
    assert!(!r.condition("n in [1, 2]").unwrap());
    let e = r.value(&json!("{{ nope }}")).unwrap_err();
    assert!(e.to_string().contains("`nope` is not defined"), "{e}");
    let e = r.file("t.j2", "a\n{{ bad }}", Whitespace::default()).unwrap_err().to_string();
    assert!(e.contains("t.j2:2:") && e.contains("`bad` is not defined, since `nope` is not defined"), "{e}");
}

#[test]
fn a_variable_is_never_older_than_what_it_depends_on() {
    let mut r = renderer(json!({"version": "1.0", "archive": "kafka-{{ version }}.tgz", "loop": "{{ loop2 }}", "loop2": "{{ loop }}"}));
    assert_eq!(r.text("t", "{{ archive }}").unwrap(), "kafka-1.0.tgz");
    r.set("version", &json!("2.0"));
    assert_eq!(r.text("t", "{{ archive }}").unwrap(), "kafka-2.0.tgz");
    let e = r.text("t", "{{ loop2 }}").unwrap_err().to_string();
    assert!(e.contains("refers to itself"), "{e}");
}

#[test]
fn what_was_said_is_not_rendered() {
    let r = Renderer::over(vec![Layer::data(json!({"r": {"stdout": "{{ x }}"}}).as_object().unwrap().clone())]);
    assert_eq!(r.text("t", "{{ r.stdout }}").unwrap(), "{{ x }}");
}

/// Expression and what ansible-core 2.19 makes of it.
#[test]
fn filters_and_tests_as_in_ansible() {
    let r = renderer(json!({
        "t": true, "n": null, "l": [1, "two"], "d": {"a": 1, "b": ["x", null, true], "c": 1.0}, "e": "",
        "users": [{"name": "ann", "age": 3, "ok": true}, {"name": "bob", "age": 2, "ok": false}],
        "r": {"changed": true, "failed": false}, "s": {"changed": false, "skipped": true},
    }));
    for (expression, expected) in [
        ("t ~ ' ' ~ l ~ ' ' ~ d", json!("True [1, 'two'] {'a': 1, 'b': ['x', None, True], 'c': 1.0}")),
        ("d | to_json", json!(r#"{"a": 1, "b": ["x", null, true], "c": 1.0}"#)),
        ("{'b': 'é', 'a': [1,{'x':2}], 'c': {}} | to_json", json!(r#"{"b": "\u00e9", "a": [1, {"x": 2}], "c": {}}"#)),
        ("{'b': 1, 'a': []} | to_nice_json", json!("{\n    \"a\": [],\n    \"b\": 1\n}")),
        ("4 / 2", json!(2.0)),
        ("7 // 2 ~ ' ' ~ -7 % 3 ~ ' ' ~ 2 ** 10", json!("3 2 1024")),
        ("1e16 | string", json!("1e+16")),
        ("nope | default('x')", json!("x")),
        ("nope.a | default('x')", json!("x")),
        ("nope.a['b'].c | default(nope2.d | default('y'))", json!("y")),
        ("d.zz.b is defined or nope['x'] is not undefined or d.a is not defined", json!(false)),
        ("(nope.a | default(1)) + (2 if nope.b is defined else 3)", json!(4)),
        ("e | default('x')", json!("")),
        ("e | default('x', true)", json!("x")),
        ("e | d('x', boolean=True)", json!("x")),
        ("'yes' | bool", json!(true)),
        ("'0x1f' | int(base=16)", json!(31)),
        ("'abc' | int", json!(0)),
        ("[1, true, none] | join(',')", json!("1,True,None")),
        ("'a-b c' | title ~ 'hELLO' | capitalize", json!("A-B CHello")),
        ("'a.b.c' | replace('.', '-', 1)", json!("a-b.c")),
        ("'abc' | regex_replace('(b)', '<\\\\1>')", json!("a<b>c")),
        ("'abc' | regex_replace('^(?P<x>a)', '\\\\g<x>\\\\g<x>')", json!("aabc")),
        ("'k=v' | regex_search('(\\\\w)=(\\\\w)', '\\\\2')", json!(["v"])),
        ("'k=v' | regex_search('z')", json!(null)),
        ("'a1b22' | regex_findall('[0-9]+')", json!(["1", "22"])),
        ("'a,b' | split(',')", json!(["a", "b"])),
        ("' a ' | trim", json!("a")),
        ("'x' | b64encode | b64decode", json!("x")),
        ("'/a/b.c' | basename ~ ' ' ~ '/a/b.c' | dirname", json!("b.c /a")),
        ("{'a': 1, 'b': {'x': 1}} | combine({'b': {'y': 2}}, recursive=true)", json!({"a": 1, "b": {"x": 1, "y": 2}})),
        ("{'a': 1} | dict2items", json!([{"key": "a", "value": 1}])),
        ("[{'key': 'a', 'value': 1}] | items2dict", json!({"a": 1})),
        ("users | map(attribute='name') | list", json!(["ann", "bob"])),
        ("users | selectattr('ok') | map(attribute='name') | first", json!("ann")),
        ("users | selectattr('age', 'lt', 3) | map(attribute='name') | list", json!(["bob"])),
        ("users | rejectattr('name', 'equalto', 'ann') | list | length", json!(1)),
        ("users | sort(attribute='age') | map(attribute='age') | list", json!([2, 3])),
        ("users | sum(attribute='age')", json!(5)),
        ("[3, 1, 2] | sort(reverse=true)", json!([3, 2, 1])),
        ("['a', 'A', 'b'] | unique", json!(["a", "b"])),
        ("[1, 2] | union([2, 3]) ~ [1, 2] | difference([2]) ~ [1, 2] | intersect([2])", json!("[1, 2, 3][1][2]")),
        ("['a', ['b', ['c']]] | flatten(1)", json!(["a", "b", ["c"]])),
        ("[1, 5, 3] | min ~ [1, 5, 3] | max ~ [1, 5] | last", json!("155")),
        ("'a b' | quote", json!("'a b'")),
        ("'x' | hash", json!("11f6ad8ec52a2984abaafd7c3b516503785c2072")),
        ("'x' | hash('sha256') | length", json!(64)),
        ("t | ternary('a', 'b')", json!("a")),
        ("'a\nb' | indent", json!("a\n    b")),
        ("'hello\nw' | comment", json!("#\n# hello\n# w\n#")),
        ("'1.10' is version('1.9', '>')", json!(true)),
        ("'abc' is match('b') or 'abc' is search('b')", json!(true)),
        ("[1, 2] is subset([1, 2, 3]) and [1, 2, 3] is superset([1])", json!(true)),
        ("r is changed and r is succeeded and r is not failed and s is skipped and r is not skipped", json!(true)),
        ("'x' is truthy and '' is falsy", json!(true)),
        ("'%02d-%s' | format(7, 'x')", json!("07-x")),
        ("'a' in ['a'] and 'z' not in 'abc'", json!(true)),
        ("'a.b'.split('.') | last ~ 'x'.upper()", json!("bX")),
        ("[1, 2] | map('string') | list", json!(["1", "2"])),
        ("{'a': {'b': 2}}['a']['b']", json!(2)),
        ("users[0].name", json!("ann")),
        ("lookup('vars', 'e') ~ (query('items', [1, 2]) | length)", json!("2")),
        ("'true' == t", json!(false)),
        ("none | type_debug ~ 1 | type_debug ~ '1' | type_debug", json!("NoneTypeintstr")),
        ("range(1, 4) | list", json!([1, 2, 3])),
        ("[1, 2] | zip(['a', 'b']) | list", json!([[1, "a"], [2, "b"]])),
    ] {
        assert_eq!(r.expression(expression).map_err(|e| e.to_string()), Ok(expected), "{expression}");
    }
}

#[test]
fn what_ansible_refuses_is_refused() {
    let r = renderer(json!({"n": 5, "s": "false", "l": [1], "a": 1, "yes": true}));
    for (bad, why) in [
        ("s > 3", "cannot be compared"),
        ("n < [1]", "cannot be compared"),
        ("nope == 1", "`nope` is not defined"),
        ("not nope", "`nope` is not defined"),
        ("a == 1 and nope", "`nope` is not defined"),
        ("(nope ~ 'x') == 'x'", "`nope` is not defined"),
        ("a in [nope]", "not defined"),
        ("n.x == 1", "`n.x` is not defined"),
        ("[nope]", "not defined"),
        ("nope | upper", "`nope` is not defined"),
        ("nope is changed", "`nope` is not defined"),
        ("n is changed", "tests what a task registered"),
        ("n | shout", "unknown filter `shout`"),
        ("n is shouted", "unknown test `shouted`"),
        ("'1.2.3.4' | ipaddr", "filter `ipaddr` is not supported"),
        ("'x' | password_hash('sha512')", "filter `password_hash` is not supported"),
        ("lookup('pipe', 'ls')", "lookup `pipe` is not supported"),
        ("'maybe' | bool", "neither true nor false"),
        ("nope | default(value=1)", "write `default(…)`"),
    ] {
        let e = r.expression(bad).expect_err(bad).to_string();
        assert!(e.contains(why), "{bad}: {e}");
    }
    for bad in ["s", "n", "l", "''", "nope"] {
        assert!(r.condition(bad).is_err(), "{bad}");
    }
    for (good, on) in [
        ("nope is defined", false),
        ("nope is not defined or nope > 1", true),
        ("nope is defined and nope.x == 1", false),
        ("a == 2 and nope", false),
        ("yes or nope", true),
        ("nope | default(0) > 0", false),
        ("s | bool", false),
        ("{{ n == 5 }}", true),
        ("True", true),
    ] {
        assert_eq!(r.condition(good).map_err(|e| e.to_string()), Ok(on), "{good}");
    }
}

#[test]
fn text_in_templates() {
    let r = renderer(json!({"t": true, "n": null, "l": [1, 2], "s": "a\\b"}));
    let file = |text: &str| r.file("t.j2", text, Whitespace::default()).unwrap();
    assert_eq!(file("{{ t }}\n[{{ n }}]\n{% for i in l %}\n- {{ i }}\n{% endfor %}\nend\n"), "True\n[]\n- 1\n- 2\nend\n");
    assert_eq!(file("{% if t %}\nx\n{% endif %}\n"), "x\n");
    assert_eq!(file("a\r\nb\r\n"), "a\nb\n");
    assert_eq!(file("x\n\n"), "x\n\n");
    assert_eq!(r.value(&json!("{{ '\\d' }}")).unwrap(), json!("\\d"));
    assert_eq!(r.value(&json!({"a": "{{ omit }}", "b": ["{{ nope | default(omit) }}", 1]})).unwrap(), json!({"b": [1]}));
    let lstrip = Whitespace { lstrip_blocks: true, ..Whitespace::default() };
    assert_eq!(r.file("t.j2", "  {% if t %}\nx\n  {% endif %}\n", lstrip).unwrap(), "x\n");
    assert_eq!(r.file("t", "{{ t }} {{ l | length }}\n", Whitespace::default()).unwrap(), "true 2\n");
}

#[test]
fn a_template_cannot_run_without_end() {
    let e = renderer(json!({})).expression("range(100000000) | map('string') | list | length").unwrap_err().to_string();
    assert!(e.contains("fuel") || e.contains("range"), "{e}");
}

#[test]
fn the_names_that_are_asked_for() {
    let r = renderer(json!({"archive": "kafka-{{ version }}.tgz", "deep": "{{ archive }}", "dyn": "{{ vars['x'] }}"}));
    let names: HashSet<String> = ["version".to_owned()].into();
    let asks = |v: Value| r.asks_for(&Reads::of_value(&v), &names);
    assert!(asks(json!(["a {{ deep }}"])));
    assert!(!asks(json!("{{ other }} version")));
    assert!(!asks(json!("{% for version in [1] %}{{ version }}{% endfor %}")));
    assert!(asks(json!("{{ dyn }}")));
    let mut reads = Reads::of_value(&json!({}));
    reads.add_expression("version is defined");
    assert!(r.asks_for(&reads, &names));
}

#[test]
fn what_is_wrong_is_found_before_anything_is_run() {
    assert!(check_text("{{ a }} {% if x %}{% endif %}").is_ok());
    for (bad, why) in [("{{ a b }}", "syntax error"), ("{{ a | shout }}", "unknown filter `shout`"), ("{% if a %}", "syntax error")] {
        assert!(check_text(bad).unwrap_err().message.contains(why), "{bad}");
    }
    assert!(check_expression("a is shouted").unwrap_err().message.contains("unknown test"));
    let e = check_file("t.j2", "one\ntwo {{ a | shout }}\n", Whitespace::default()).unwrap_err().to_string();
    assert!(e.contains("t.j2:2:") && e.contains("unknown filter"), "{e}");
}
