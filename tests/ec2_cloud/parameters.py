"""Checks of parameters that are alike for all EC2 actions: required ones, tags, values from a fixed set.

Invariant: these checks have no effect, so a dry run makes them too.
"""

from errors import AwsError

# What may be tagged by the call that makes it. An action that is not here takes no tags.
_TAGGABLE = {
    "RunInstances": {"instance", "volume", "network-interface", "spot-instances-request"},
    "CreateVolume": {"volume"},
    "CreateSecurityGroup": {"security-group"},
    "AuthorizeSecurityGroupIngress": {"security-group-rule"},
    "AuthorizeSecurityGroupEgress": {"security-group-rule"},
    "ImportKeyPair": {"key-pair"},
    "CreateKeyPair": {"key-pair"},
    "CreateVpc": {"vpc"},
    "CreateSubnet": {"subnet"},
    "CreateInternetGateway": {"internet-gateway"},
    "CreateRouteTable": {"route-table"},
    "CreateNetworkInterface": {"network-interface"},
    "CreatePlacementGroup": {"placement-group"},
}

# Members whose unknown values the action itself has a word for.
_OWN_WORD = {"InstanceType", "InstanceTypes"}


def check(call):
    shape = call.operation.input_shape
    if shape is None:
        return
    _check_known(call, shape)
    _check_structure(shape, call.args)
    tag_specifications = call.args.get("TagSpecifications", [])
    for specification in tag_specifications:
        kind = specification.get("ResourceType")
        if kind not in _TAGGABLE.get(call.action, {kind}):
            raise AwsError(
                "InvalidParameterValue", f"'{kind}' is not a valid taggable resource type for this operation."
            )
        if not specification.get("Tags"):
            raise AwsError("InvalidParameterValue", "Tag specification must have at least one tag")
        check_tags(specification["Tags"])
    kinds = [s.get("ResourceType") for s in tag_specifications]
    if len(kinds) != len(set(kinds)):
        raise AwsError("InvalidParameterValue", "The same resource type may not be specified more than once")
    if call.action in ("CreateTags", "DeleteTags"):
        check_tags(call.args.get("Tags", []), delete=call.action == "DeleteTags")


def check_tags(tags, delete=False):
    """AWS's limits on the tags of one request."""
    keys = [t.get("Key", "") for t in tags]
    for key in keys:
        if key.lower().startswith("aws:"):
            raise AwsError("InvalidParameterValue", "Tag keys starting with 'aws:' are reserved for internal use")
        if not key:
            raise AwsError("InvalidParameterValue", "Tag key cannot be null or empty")
        if len(key) > 128:
            raise AwsError("InvalidParameterValue", f"Tag key exceeds the maximum length of 128 characters: {key}")
        if keys.count(key) > 1 and not delete:
            raise AwsError("InvalidParameterValue", f"Duplicate tag key '{key}' specified.")
    for tag in tags:
        if len(tag.get("Value") or "") > 256:
            raise AwsError("InvalidParameterValue", "Tag value exceeds the maximum length of 256 characters")
    if len(tags) > 50:
        raise AwsError("TagLimitExceeded", "More than 50 tags specified")


def _check_known(call, shape):
    """A top-level parameter that the action does not have is a mistake that AWS points out."""
    known = {_query_name(m, name) for name, m in shape.members.items()}
    for name in call.params:
        if name.split(".")[0] not in known and not name.startswith(("X-Amz-", "AWSAccessKeyId")):
            raise AwsError("UnknownParameter", f"The parameter {name.split('.')[0]} is not recognized")


def _query_name(shape, name):
    if "queryName" in shape.serialization:
        return shape.serialization["queryName"]
    name = shape.serialization.get("name", name)
    return name[0].upper() + name[1:]


def _check_structure(shape, value):
    for name in shape.required_members:
        if name not in value:
            raise AwsError("MissingParameter", f"The request must contain the parameter {name[0].lower()}{name[1:]}")
    for name, inner in value.items():
        _check_value(shape.members[name], name, inner)


def _check_value(shape, name, value):
    if shape.type_name == "structure" and isinstance(value, dict):
        _check_structure(shape, value)
    elif shape.type_name == "list":
        for item in value:
            _check_value(shape.member, name, item)
    elif shape.type_name == "string" and shape.enum and name not in _OWN_WORD and value not in shape.enum:
        raise AwsError(
            "InvalidParameterValue", f"Value ({value}) for parameter {name[0].lower()}{name[1:]} is invalid."
        )
