//! Filters about lists and maps.

use minijinja::{
    Environment, Error, Value,
    value::{Kwargs, Rest, Tuple, ValueKind},
};

use super::{bad, items};

fn flatten_into(value: &Value, levels: i64, skip_nulls: bool, out: &mut Vec<Value>) -> Result<(), Error> {
    for item in items(value, "flatten")? {
        let null = item.is_none() || matches!(item.as_str(), Some("None" | "null"));
        if null && skip_nulls {
            continue;
        }
        match item.kind() {
            ValueKind::Seq | ValueKind::Iterable if levels != 0 => flatten_into(&item, levels - 1, skip_nulls, out)?,
            _ => out.push(item),
        }
    }
    Ok(())
}

fn flatten(value: &Value, levels: Option<i64>, kw: Kwargs) -> Result<Vec<Value>, Error> {
    let levels = levels.or(kw.get::<Option<i64>>("levels")?).unwrap_or(-1);
    let skip_nulls = kw.get::<Option<bool>>("skip_nulls")?.unwrap_or(true);
    kw.assert_all_used()?;
    let mut out = Vec::new();
    flatten_into(value, levels, skip_nulls, &mut out)?;
    Ok(out)
}

fn once(list: impl IntoIterator<Item = Value>) -> Vec<Value> {
    let mut out: Vec<Value> = Vec::new();
    for item in list {
        if !out.contains(&item) {
            out.push(item);
        }
    }
    out
}

fn folded(value: &Value) -> Value {
    value.as_str().map_or_else(|| value.clone(), |s| Value::from(s.to_lowercase()))
}

fn unique(value: &Value, case_sensitive: Option<bool>, kw: Kwargs) -> Result<Vec<Value>, Error> {
    let exact = case_sensitive.or(kw.get::<Option<bool>>("case_sensitive")?).unwrap_or(false);
    let attribute = kw.get::<Option<Value>>("attribute")?;
    kw.assert_all_used()?;
    let mut seen: Vec<Value> = Vec::new();
    let mut out = Vec::new();
    for item in items(value, "unique")? {
        let by = match &attribute {
            Some(a) => item.get_item(a)?,
            None => item.clone(),
        };
        let by = if exact { by } else { folded(&by) };
        if !seen.contains(&by) {
            seen.push(by);
            out.push(item);
        }
    }
    Ok(out)
}

fn union(a: &Value, b: &Value) -> Result<Vec<Value>, Error> {
    Ok(once(items(a, "union")?.into_iter().chain(items(b, "union")?)))
}

fn intersect(a: &Value, b: &Value) -> Result<Vec<Value>, Error> {
    let b = items(b, "intersect")?;
    Ok(once(items(a, "intersect")?.into_iter().filter(|v| b.contains(v))))
}

fn difference(a: &Value, b: &Value) -> Result<Vec<Value>, Error> {
    let b = items(b, "difference")?;
    Ok(once(items(a, "difference")?.into_iter().filter(|v| !b.contains(v))))
}

fn symmetric_difference(a: &Value, b: &Value) -> Result<Vec<Value>, Error> {
    let (mut left, right) = (difference(a, b)?, difference(b, a)?);
    left.extend(right);
    Ok(left)
}

fn zip(a: &Value, others: Rest<Value>) -> Result<Vec<Value>, Error> {
    let all = std::iter::once(a).chain(others.iter()).map(|v| items(v, "zip")).collect::<Result<Vec<_>, _>>()?;
    let len = all.iter().map(Vec::len).min().unwrap_or(0);
    Ok((0..len).map(|i| Value::from(Tuple::from(all.iter().map(|l| l[i].clone()).collect::<Vec<_>>()))).collect())
}

fn zip_longest(a: &Value, others: Rest<Value>, kw: Kwargs) -> Result<Vec<Value>, Error> {
    let fill = kw.get::<Option<Value>>("fillvalue")?.unwrap_or_else(|| Value::from(()));
    kw.assert_all_used()?;
    let all = std::iter::once(a).chain(others.iter()).map(|v| items(v, "zip_longest")).collect::<Result<Vec<_>, _>>()?;
    let len = all.iter().map(Vec::len).max().unwrap_or(0);
    let row = |i: usize| all.iter().map(|l| l.get(i).cloned().unwrap_or_else(|| fill.clone())).collect::<Vec<_>>();
    Ok((0..len).map(|i| Value::from(Tuple::from(row(i)))).collect())
}

/// Most rows that `product` makes.
const MAX_ROWS: usize = 100_000;

fn product(a: &Value, others: Rest<Value>) -> Result<Vec<Value>, Error> {
    let mut rows: Vec<Vec<Value>> = vec![Vec::new()];
    for list in std::iter::once(a).chain(others.iter()) {
        let list = items(list, "product")?;
        if rows.len().saturating_mul(list.len()) > MAX_ROWS {
            return Err(bad(format!("`product` makes over {MAX_ROWS} rows")));
        }
        rows = rows.iter().flat_map(|r| list.iter().map(|v| r.iter().cloned().chain([v.clone()]).collect::<Vec<_>>())).collect();
    }
    Ok(rows.into_iter().map(|r| Value::from(Tuple::from(r))).collect())
}

fn map_of(value: &Value, of: &str) -> Result<Vec<(Value, Value)>, Error> {
    if value.kind() != ValueKind::Map {
        return Err(bad(format!("`{of}` needs a mapping, not {}", value.kind())));
    }
    value.try_iter()?.map(|k| Ok((k.clone(), value.get_item(&k)?))).collect()
}

/// How lists with one name in two maps are put together.
fn merge_lists(how: &str, old: &Value, new: &Value) -> Result<Value, Error> {
    let (a, b) = (items(old, "combine")?, items(new, "combine")?);
    Ok(Value::from(match how {
        "keep" => a,
        "append" => [a, b].concat(),
        "prepend" => [b, a].concat(),
        "append_rp" => a.into_iter().filter(|v| !b.contains(v)).chain(b.iter().cloned()).collect(),
        "prepend_rp" => b.iter().cloned().chain(a.into_iter().filter(|v| !b.contains(v))).collect::<Vec<_>>(),
        _ => b,
    }))
}

fn merge(a: &Value, b: &Value, recursive: bool, lists: &str, depth: usize) -> Result<Value, Error> {
    if depth > 50 {
        return Err(bad("`combine`: nested deeper than 50"));
    }
    let mut out = map_of(a, "combine")?;
    for (k, v) in map_of(b, "combine")? {
        match out.iter_mut().find(|(o, _)| *o == k) {
            Some((_, old)) => {
                let is_list = |v: &Value| matches!(v.kind(), ValueKind::Seq | ValueKind::Iterable);
                *old = if recursive && old.kind() == ValueKind::Map && v.kind() == ValueKind::Map {
                    merge(old, &v, recursive, lists, depth + 1)?
                } else if is_list(old) && is_list(&v) && lists != "replace" {
                    merge_lists(lists, old, &v)?
                } else {
                    v
                };
            }
            None => out.push((k, v)),
        }
    }
    Ok(Value::from_pairs(out))
}

fn combine(a: &Value, others: Rest<Value>, kw: Kwargs) -> Result<Value, Error> {
    let recursive = kw.get::<Option<bool>>("recursive")?.unwrap_or(false);
    let lists = kw.get::<Option<String>>("list_merge")?.unwrap_or_else(|| "replace".into());
    kw.assert_all_used()?;
    if !["replace", "keep", "append", "prepend", "append_rp", "prepend_rp"].contains(&lists.as_str()) {
        return Err(bad(format!("`combine`: unknown list_merge `{lists}`")));
    }
    let mut out = Value::from_pairs(Vec::<(Value, Value)>::new());
    let mut all = Vec::new();
    for one in std::iter::once(a).chain(others.iter()) {
        match one.kind() {
            ValueKind::Seq | ValueKind::Iterable => flatten_into(one, -1, true, &mut all)?,
            _ => all.push(one.clone()),
        }
    }
    for one in all {
        out = merge(&out, &one, recursive, &lists, 0)?;
    }
    Ok(out)
}

fn dict2items(value: &Value, kw: Kwargs) -> Result<Vec<Value>, Error> {
    let key = kw.get::<Option<String>>("key_name")?.unwrap_or_else(|| "key".into());
    let name = kw.get::<Option<String>>("value_name")?.unwrap_or_else(|| "value".into());
    kw.assert_all_used()?;
    Ok(map_of(value, "dict2items")?.into_iter().map(|(k, v)| Value::from_pairs([(key.clone(), k), (name.clone(), v)])).collect())
}

fn items2dict(value: &Value, kw: Kwargs) -> Result<Value, Error> {
    let key = kw.get::<Option<String>>("key_name")?.unwrap_or_else(|| "key".into());
    let name = kw.get::<Option<String>>("value_name")?.unwrap_or_else(|| "value".into());
    kw.assert_all_used()?;
    let mut out = Vec::new();
    for item in items(value, "items2dict")? {
        let (k, v) = (item.get_attr(&key)?, item.get_attr(&name)?);
        if k.is_undefined() || v.is_undefined() {
            return Err(bad(format!("`items2dict`: an item has no `{key}` or `{name}`")));
        }
        out.retain(|(o, _): &(Value, Value)| *o != k);
        out.push((k, v));
    }
    Ok(Value::from_pairs(out))
}

/// A value from a container by key, and from what is in it by further keys.
fn extract(key: &Value, container: &Value, more: Option<Value>) -> Result<Value, Error> {
    let mut out = container.get_item(key)?;
    let more = match more {
        None => Vec::new(),
        Some(m) if matches!(m.kind(), ValueKind::Seq | ValueKind::Iterable) => items(&m, "extract")?,
        Some(m) => vec![m],
    };
    for key in more {
        out = out.get_item(&key)?;
    }
    if out.is_undefined() {
        return Err(bad(format!("`extract`: `{key}` is not there")));
    }
    Ok(out)
}

fn subelements(value: &Value, path: &Value, kw: Kwargs) -> Result<Vec<Value>, Error> {
    let skip = kw.get::<Option<bool>>("skip_missing")?.unwrap_or(false);
    kw.assert_all_used()?;
    let all = if value.kind() == ValueKind::Map {
        map_of(value, "subelements")?.into_iter().map(|(_, v)| v).collect()
    } else {
        items(value, "subelements")?
    };
    let path: Vec<String> = match path.as_str() {
        Some(p) => p.split('.').map(str::to_owned).collect(),
        None => items(path, "subelements")?.iter().map(ToString::to_string).collect(),
    };
    let mut out = Vec::new();
    for one in all {
        let mut inner = one.clone();
        for step in &path {
            inner = if inner.is_undefined() { inner } else { inner.get_attr(step)? };
        }
        if inner.is_undefined() && skip {
            continue;
        }
        for sub in items(&inner, "subelements")? {
            out.push(Value::from(Tuple::from([one.clone(), sub])));
        }
    }
    Ok(out)
}

/// A list with one more at its end: `files | concat(with='/etc/x')`.
fn concat(value: &Value, kw: Kwargs) -> Result<Vec<Value>, Error> {
    let mut out = items(value, "concat")?;
    out.extend(kw.get::<Option<Value>>("with")?);
    kw.assert_all_used()?;
    Ok(out)
}

fn extreme(value: &Value, of: &'static str, kw: &Kwargs, wanted: std::cmp::Ordering) -> Result<Value, Error> {
    let attribute = kw.get::<Option<Value>>("attribute")?;
    kw.get::<Option<bool>>("case_sensitive")?;
    kw.assert_all_used()?;
    let mut best: Option<(Value, Value)> = None;
    for item in items(value, of)? {
        let by = match &attribute {
            Some(a) => item.get_item(a)?,
            None => item.clone(),
        };
        let better = match &best {
            None => true,
            Some((b, _)) => super::super::checks::order(&by, b)? == wanted,
        };
        if better {
            best = Some((by, item));
        }
    }
    best.map(|(_, item)| item).ok_or_else(|| bad(format!("`{of}` of an empty list")))
}

fn min(value: &Value, kw: Kwargs) -> Result<Value, Error> {
    extreme(value, "min", &kw, std::cmp::Ordering::Less)
}

fn max(value: &Value, kw: Kwargs) -> Result<Value, Error> {
    extreme(value, "max", &kw, std::cmp::Ordering::Greater)
}

fn sort(value: &Value, args: Rest<Value>, kw: Kwargs) -> Result<Vec<Value>, Error> {
    let reverse = match args.first() {
        Some(v) => v.is_true(),
        None => kw.get::<Option<bool>>("reverse")?.unwrap_or(false),
    };
    let exact = match args.get(1) {
        Some(v) => v.is_true(),
        None => kw.get::<Option<bool>>("case_sensitive")?.unwrap_or(false),
    };
    let attribute = kw.get::<Option<String>>("attribute")?;
    kw.assert_all_used()?;
    let list = if value.kind() == ValueKind::Map { value.try_iter()?.collect() } else { items(value, "sort")? };
    let mut keyed = Vec::new();
    for item in list {
        let mut keys = Vec::new();
        for path in attribute.as_deref().unwrap_or("").split(',') {
            let mut by = item.clone();
            for step in path.split('.').filter(|s| !s.is_empty()) {
                by = match step.parse::<usize>() {
                    Ok(i) => by.get_item_by_index(i)?,
                    Err(_) => by.get_attr(step)?,
                };
            }
            if by.is_undefined() {
                return Err(Error::new(minijinja::ErrorKind::UndefinedError, format!("`sort`: `{path}` of an item is undefined")));
            }
            keys.push(if exact { by } else { folded(&by) });
        }
        keyed.push((keys, item));
    }
    let mut failed = None;
    keyed.sort_by(|(a, _), (b, _)| {
        for (a, b) in a.iter().zip(b) {
            match super::super::checks::order(a, b) {
                Ok(std::cmp::Ordering::Equal) => {}
                Ok(o) => return if reverse { o.reverse() } else { o },
                Err(e) => {
                    failed.get_or_insert(e);
                }
            }
        }
        std::cmp::Ordering::Equal
    });
    match failed {
        Some(e) => Err(e),
        None => Ok(keyed.into_iter().map(|(_, v)| v).collect()),
    }
}

pub(super) fn add(env: &mut Environment<'static>) {
    env.add_filter("flatten", flatten);
    env.add_filter("unique", unique);
    env.add_filter("union", union);
    env.add_filter("intersect", intersect);
    env.add_filter("difference", difference);
    env.add_filter("symmetric_difference", symmetric_difference);
    env.add_filter("zip", zip);
    env.add_filter("zip_longest", zip_longest);
    env.add_filter("product", product);
    env.add_filter("combine", combine);
    env.add_filter("dict2items", dict2items);
    env.add_filter("items2dict", items2dict);
    env.add_filter("extract", extract);
    env.add_filter("subelements", subelements);
    env.add_filter("concat", concat);
    env.add_filter("min", min);
    env.add_filter("max", max);
    env.add_filter("sort", sort);
}
