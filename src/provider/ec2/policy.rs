//! Errors of EC2's for a person: which call, on what, and what to do; where a permission is missing, the statement that gives it.
//!
//! The statements are those of the policy that ships with Septet (`policy.json`), which suffices for all it does.

use septet_ec2::ApiError;
use serde_json::{Value, json};

use crate::error::Error;

/// The policy that suffices.
pub const POLICY: &str = include_str!("policy.json");

fn actions(statement: &Value) -> Vec<&str> {
    match &statement["Action"] {
        Value::String(s) => vec![s.as_str()],
        Value::Array(a) => a.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// The partition that AWS's words are about: `aws`, `aws-us-gov`, `aws-cn` or another.
fn partition(message: &str) -> &str {
    let named = message.split("arn:").skip(1).filter_map(|rest| rest.split_once(':')).map(|(p, _)| p);
    named.into_iter().find(|p| p.starts_with("aws") && p.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')).unwrap_or("aws")
}

/// Statements of the policy that allow an action, for that action alone, in a partition of AWS.
fn statements(action: &str, partition: &str) -> Vec<Value> {
    let policy: Value = serde_json::from_str(&POLICY.replace("arn:aws:", &format!("arn:{partition}:"))).unwrap_or_default();
    let all = policy["Statement"].as_array().cloned().unwrap_or_default();
    let with = all.into_iter().filter(|s| actions(s).contains(&action));
    with.map(|mut s| {
        s["Action"] = json!(action);
        s
    })
    .collect()
}

/// The action that EC2 refuses, and the resource where EC2 names it.
fn forbidden(e: &ApiError) -> (String, Option<String>) {
    let words: Vec<&str> = e.message.split_whitespace().collect();
    let after = |what: &[&str]| {
        let at = words.windows(what.len()).position(|w| w == what)?;
        words.get(at + what.len()).map(|w| w.trim_end_matches(['.', ',']).to_owned())
    };
    let service = match e.action {
        "GetParameter" => "ssm",
        "GetServiceQuota" => "servicequotas",
        "GetCallerIdentity" => "sts",
        _ => "ec2",
    };
    let action = after(&["perform:"]).unwrap_or_else(|| format!("{service}:{}", e.action));
    (action, after(&["on", "resource:"]))
}

/// The variable that sets the proxy for AWS's servers, if there is one.
fn proxy() -> Option<&'static str> {
    ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"].into_iter().find(|n| std::env::var_os(n).is_some_and(|v| !v.is_empty()))
}

fn hint(e: &ApiError) -> Option<String> {
    Some(match e.code.as_str() {
        _ if e.is_unauthorized() => {
            let (action, _) = forbidden(e);
            let list: Vec<String> = statements(&action, partition(&e.message)).iter().map(ToString::to_string).collect();
            match list.is_empty() {
                true => format!("allow {action} for the owner of these credentials"),
                false => format!("add to the policy of the owner of these credentials:\n{}", list.join(",\n")),
            }
        }
        "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => {
            "the credentials have expired, or this machine's clock is wrong: sign in again (`aws sso login`), and look at `date`".into()
        }
        _ if e.is_credentials() => {
            "check the profile, the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE), this machine's clock (`date`) and that the region is enabled for the account; `aws configure` and `aws sso login` set credentials".into()
        }
        "OptInRequired" => "the account is not subscribed to this yet: EC2's console asks for it".into(),
        "PendingVerification" => "AWS still verifies the account for this region; that takes up to a few hours".into(),
        "VcpuLimitExceeded" | "InstanceLimitExceeded" | "MaxSpotInstanceCountExceeded" | "VolumeLimitExceeded" | "VpcLimitExceeded" => {
            "the account's quota does not allow more: choose smaller types, remove something, or ask for more under Service Quotas".into()
        }
        "OperationNotPermitted" => "it is protected: switch its protection off in EC2's console if it may go".into(),
        _ if e.is_throttle() => "this account sends EC2 too many requests; run the same command again in a minute".into(),
        "Timeout" | "Connection" => {
            let hint = "check the network and the endpoint; the same command resumes from here";
            match proxy() {
                Some(name) => format!("{hint}. Calls go through the proxy in {name}, except to what NO_PROXY lists"),
                None => format!("{hint}. No proxy is set (HTTPS_PROXY)"),
            }
        }
        "MissingRegion" => "set `region` below `ec2:`".into(),
        _ => return None,
    })
}

/// An error of EC2's for a person.
pub fn explain(doing: &str, e: ApiError) -> Error {
    let message = match e.is_unauthorized() {
        true => {
            let (action, on) = forbidden(&e);
            let on = on.map(|r| format!(" on {r}")).unwrap_or_default();
            format!("{doing}: these credentials may not {action}{on}")
        }
        false => format!("{doing}: {e}"),
    };
    let error = Error::failed(message);
    match hint(&e) {
        Some(h) => error.hint(h),
        None => error,
    }
}

/// Seconds that this machine's clock may differ: EC2 refuses at five minutes.
pub const MAX_SKEW_S: i64 = 240;
/// What to do about it.
pub const CLOCK_HINT: &str = "set this machine's clock (`timedatectl set-ntp true`)";

/// How much this machine's clock differs, for a person.
pub fn skewed(skew_s: i64) -> String {
    format!("this machine's clock differs by {skew_s} s from EC2's, which refuses requests at 300 s")
}

/// An error of a command's first calls. Where credentials are refused, that is said, and whether the clock is the reason: EC2 tells
/// its time in answers that refuse, too.
pub fn explain_first(doing: &str, e: ApiError, skew_s: Option<i64>) -> Error {
    match skew_s.filter(|s| s.abs() > MAX_SKEW_S) {
        _ if !e.is_credentials() => explain(doing, e),
        Some(skew) => Error::failed(format!("{doing}: {}\n  {e}", skewed(skew))).hint(CLOCK_HINT),
        None => explain(&format!("{doing}: these credentials are not accepted"), e),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn api(action: &'static str, code: &str, message: &str) -> ApiError {
        ApiError { action, code: code.into(), status: 403, message: message.into() }
    }

    #[test]
    fn the_policy_has_its_form() {
        let policy: Value = serde_json::from_str(POLICY).unwrap();
        assert!(POLICY.split_whitespace().collect::<String>().len() < 6144, "AWS takes no longer one");
        for s in policy["Statement"].as_array().unwrap() {
            assert_eq!(s["Effect"], "Allow");
            assert!(s["Sid"].as_str().unwrap().bytes().all(|b| b.is_ascii_alphanumeric()), "{s}");
            for a in actions(s) {
                let (service, name) = a.split_once(':').unwrap();
                assert!(["ec2", "ssm", "servicequotas"].contains(&service) && !name.contains('*'), "{a}");
            }
        }
    }

    #[test]
    fn the_page_on_ec2_shows_the_same_policy() {
        assert!(include_str!("../../../docs/ec2.md").contains(POLICY));
    }

    #[test]
    fn a_missing_permission_is_named_with_the_statement_that_gives_it() {
        let words = "You are not authorized to perform this operation. User: arn:aws:iam::1:user/x is not authorized to perform: ec2:StopInstances on resource: arn:aws:ec2:us-east-1:1:instance/i-1 because no identity-based policy allows the ec2:StopInstances action.";
        let e = explain("cannot stop p-kafka01", api("StopInstances", "UnauthorizedOperation", words));
        assert_eq!(e.message, "cannot stop p-kafka01: these credentials may not ec2:StopInstances on arn:aws:ec2:us-east-1:1:instance/i-1");
        let hint = e.hint.unwrap();
        let statement: Value = serde_json::from_str(hint.split_once('\n').unwrap().1).unwrap();
        assert_eq!((&statement["Action"], &statement["Sid"]), (&json!("ec2:StopInstances"), &json!("ChangeOurs")));
        let e = explain("x", api("GetParameter", "AccessDeniedException", "no"));
        assert!(e.message.ends_with("may not ssm:GetParameter"), "{e}");
    }

    #[test]
    fn statements_are_of_the_partition_that_refused() {
        let words = "User: arn:aws-us-gov:iam::1:user/x is not authorized to perform: ec2:RunInstances on resource: arn:aws-us-gov:ec2:us-gov-west-1:1:instance/*";
        let hint = explain("x", api("RunInstances", "UnauthorizedOperation", words)).hint.unwrap();
        assert!(hint.contains("arn:aws-us-gov:ec2:*:*:volume/*") && !hint.contains("arn:aws:"), "{hint}");
        assert_eq!(partition("arn:AWS$:x arn:aws-cn:ec2"), "aws-cn");
        assert_eq!(partition("no"), "aws");
    }

    #[test]
    fn a_wrong_clock_is_named_where_credentials_are_refused() {
        let e = || api("DescribeInstances", "AuthFailure", "AWS was not able to validate the provided access credentials");
        let clock = explain_first("cannot list instances", e(), Some(-1000));
        assert!(clock.message.starts_with("cannot list instances: this machine's clock differs by -1000 s"), "{clock}");
        assert_eq!(clock.hint.as_deref(), Some(CLOCK_HINT));
        let credentials = explain_first("cannot list instances", e(), Some(3));
        assert!(
            credentials.message.starts_with("cannot list instances: these credentials are not accepted: DescribeInstances"),
            "{credentials}"
        );
        let other = explain_first("x", api("DescribeInstances", "InternalError", "oops"), Some(-1000));
        assert!(!other.message.contains("clock"), "{other}");
    }

    #[test]
    fn other_errors_keep_their_words_and_get_a_hint() {
        let e = explain("cannot launch a", api("RunInstances", "VcpuLimitExceeded", "You have requested more"));
        assert_eq!(e.message, "cannot launch a: RunInstances: You have requested more (VcpuLimitExceeded)");
        assert!(e.hint.is_some());
        assert_eq!(explain("x", api("DeleteVpc", "Strange", "")).hint, None);
    }
}
