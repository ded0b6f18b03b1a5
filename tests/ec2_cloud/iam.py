"""Who calls, and whether policies let them: AWS's evaluation of identity-based policies, as far as tests need it.

Invariant: an explicit Deny beats an Allow, and what nothing allows is refused; a policy with anything in it that is
not implemented here is refused when it is set, never half understood.
"""

import base64
import fnmatch
import json
import re
from dataclasses import dataclass

import permissions
from calls import ACCOUNT
from errors import AwsError

_STATEMENT_KEYS = {"Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"}


@dataclass
class Identity:
    arn: str
    # None for the account's root, which may do everything.
    policies: list | None


_MAX_SKEW_S = 300


def check_settings(iam):
    """Raises an error for access keys whose policies cannot be evaluated."""
    for key, entry in (iam or {}).items():
        if "user" not in entry or "policy" not in entry:
            raise AwsError("InvalidSetting", f"iam.{key} needs user and policy")
        for statement in _statements(entry["policy"]):
            unknown = set(statement) - _STATEMENT_KEYS
            if unknown or statement.get("Effect") not in ("Allow", "Deny"):
                raise AwsError("InvalidSetting", f"iam.{key}: statement not understood: {json.dumps(statement)}")
            for operator in statement.get("Condition", {}):
                _operator(operator)


def identify(settings, call):
    """The caller by its access key; the root if IAM is off."""
    if settings.iam is None:
        return Identity(f"arn:aws:iam::{ACCOUNT}:root", None)
    entry = settings.iam.get(call.access_key)
    if entry is None:
        if call.service == "ec2":
            raise AwsError("AuthFailure", "AWS was not able to validate the provided access credentials", 401)
        code = "InvalidClientTokenId" if call.service == "sts" else "UnrecognizedClientException"
        raise AwsError(
            code, "The security token included in the request is invalid.", 403 if call.service == "sts" else 400
        )
    return Identity(f"arn:aws:iam::{ACCOUNT}:user/{entry['user']}", _statements(entry["policy"]))


def authorize(world, call):
    """Raises AWS's refusal unless the caller may do all that the call needs."""
    # A signature of another time than now is none.
    if abs(world.settings.clock_skew_s) > _MAX_SKEW_S and "x-amz-date" in call.headers:
        if call.service == "ec2":
            raise AwsError("AuthFailure", "AWS was not able to validate the provided access credentials", 401)
        raise AwsError("SignatureDoesNotMatch", "Signature expired", 403)
    identity = identify(world.settings, call)
    if identity.policies is None or (call.service, call.action) == ("sts", "GetCallerIdentity"):
        return
    for need in permissions.needs(world, call):
        context = {"aws:username": identity.arn.rsplit("/", 1)[-1], **need.context}
        verdict = _evaluate(identity.policies, need.action, need.resource, context)
        if verdict != "Allow":
            raise _refusal(call, identity, need, verdict)


def _statements(policy):
    policy = json.loads(policy) if isinstance(policy, str) else policy
    statements = policy.get("Statement", [])
    return statements if isinstance(statements, list) else [statements]


def _refusal(call, identity, need, verdict):
    why = (
        "with an explicit deny in an identity-based policy"
        if verdict == "Deny"
        else f"because no identity-based policy allows the {need.action} action"
    )
    said = f"User: {identity.arn} is not authorized to perform: {need.action} on resource: {need.resource} {why}"
    if call.service != "ec2":
        return AwsError(
            "AccessDenied" if call.service == "sts" else "AccessDeniedException",
            said,
            403 if call.service == "sts" else 400,
        )
    encoded = base64.urlsafe_b64encode(json.dumps([need.action, need.resource, need.context]).encode()).decode()
    return AwsError(
        "UnauthorizedOperation",
        f"You are not authorized to perform this operation. {said}. Encoded authorization failure message: {encoded}",
        403,
    )


def _evaluate(statements, action, resource, context):
    """ "Deny", "Allow" or None."""
    context = {k.lower(): v for k, v in context.items()}
    effects = {s["Effect"] for s in statements if _applies(s, action, resource, context)}
    return "Deny" if "Deny" in effects else "Allow" if effects else None


def _applies(statement, action, resource, context):
    if "Action" in statement:
        acts = any(_glob(a.lower(), action.lower()) for a in _list(statement["Action"]))
    else:
        acts = not any(_glob(a.lower(), action.lower()) for a in _list(statement.get("NotAction", "*")))
    if "Resource" in statement:
        concerns = any(_glob(_filled(r, context), resource) for r in _list(statement["Resource"]))
    else:
        concerns = not any(_glob(_filled(r, context), resource) for r in _list(statement.get("NotResource", "*")))
    return (
        acts
        and concerns
        and all(
            _holds(operator, key, _list(values), context)
            for operator, keys in statement.get("Condition", {}).items()
            for key, values in keys.items()
        )
    )


def _list(value):
    return value if isinstance(value, list) else [value]


def _glob(pattern, text):
    # fnmatch's brackets mean nothing in a policy.
    return fnmatch.fnmatchcase(text, re.sub(r"\[", "[[]", pattern))


def _filled(text, context):
    """Replaces policy variables such as ${aws:username}."""
    return re.sub(r"\$\{([^}]+)\}", lambda m: str(context.get(m[1].lower(), m[0])), text)


_COMPARISONS = {
    "StringEquals": lambda have, want: have == want,
    "StringEqualsIgnoreCase": lambda have, want: have.lower() == want.lower(),
    "StringLike": lambda have, want: _glob(want, have),
    "ArnEquals": lambda have, want: _glob(want, have),
    "ArnLike": lambda have, want: _glob(want, have),
    "Bool": lambda have, want: have.lower() == want.lower(),
    "NumericEquals": lambda have, want: float(have) == float(want),
    "NumericLessThan": lambda have, want: float(have) < float(want),
    "NumericLessThanEquals": lambda have, want: float(have) <= float(want),
    "NumericGreaterThan": lambda have, want: float(have) > float(want),
    "NumericGreaterThanEquals": lambda have, want: float(have) >= float(want),
}
_NEGATIONS = {
    "StringNotEquals": "StringEquals",
    "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase",
    "StringNotLike": "StringLike",
    "ArnNotEquals": "ArnEquals",
    "ArnNotLike": "ArnLike",
    "NumericNotEquals": "NumericEquals",
}


def _operator(name):
    """(set qualifier, negated, comparison, if exists) of an operator's name."""
    qualifier, _, rest = name.rpartition(":")
    if_exists = rest.endswith("IfExists")
    base = rest.removesuffix("IfExists")
    negated = base in _NEGATIONS
    comparison = _COMPARISONS.get(_NEGATIONS.get(base, base))
    if qualifier not in ("", "ForAllValues", "ForAnyValue") or (comparison is None and base != "Null"):
        raise AwsError("InvalidSetting", f"condition operator {name} is not implemented")
    return qualifier, negated, comparison, if_exists


def _holds(operator, key, wanted, context):
    qualifier, negated, comparison, if_exists = _operator(operator)
    have = context.get(key.lower())
    wanted = [_filled(str(w).lower() if isinstance(w, bool) else str(w), context) for w in wanted]
    if comparison is None:
        return (have is None) == (wanted[0].lower() == "true")
    if have is None:
        return if_exists or negated or qualifier == "ForAllValues"

    def matches(value):
        return any(comparison(str(value), w) for w in wanted) != negated

    values = _list(have)
    return all(map(matches, values)) if qualifier == "ForAllValues" else any(map(matches, values))
