"""Security groups and key pairs, where moto's are not EC2's.

Invariant: a call that adds or removes several rules does all or nothing; two rules are the same if they let the same
traffic through, whatever their descriptions.
"""

import base64
import hashlib

from moto.core.responses import ActionResult
from moto.ec2.models.security_groups import SecurityGroupRule

import resources
from errors import AwsError


def check_rules(args):
    """Raises AWS's error for rules that say too little."""
    permissions = args.get("IpPermissions", [])
    if not permissions and "IpProtocol" in args:
        permissions = [args]
    if not permissions and not args.get("SecurityGroupRuleIds"):
        raise AwsError("MissingParameter", "The request must contain the parameter ipPermissions")
    for permission in permissions:
        protocol = str(permission.get("IpProtocol", ""))
        if not protocol:
            raise AwsError(
                "InvalidParameterValue",
                "Invalid value 'null' for protocol. VPC security group rules must specify protocols explicitly.",
            )
        low, high = permission.get("FromPort"), permission.get("ToPort")
        if protocol in ("tcp", "udp", "6", "17"):
            if low is None or high is None:
                raise AwsError(
                    "InvalidParameterValue",
                    "Invalid value for portRange. Must specify both from and to ports with TCP/UDP.",
                )
            if not 0 <= low <= high <= 65535:
                raise AwsError("InvalidParameterValue", f"Invalid TCP/UDP port range ({low}:{high})")
        elif protocol in ("icmp", "1") and (low is None or high is None):
            raise AwsError("InvalidParameterValue", "Invalid value for ICMP type and code")
        elif protocol not in ("-1", "icmp", "1", "icmpv6", "58") and not protocol.isdigit():
            raise AwsError("InvalidParameterValue", f"Invalid value '{protocol}' for IP protocol. Unknown protocol.")
        sources = ("IpRanges", "Ipv6Ranges", "UserIdGroupPairs", "PrefixListIds", "CidrIp", "SourceSecurityGroupName")
        if not any(permission.get(s) for s in sources):
            raise AwsError("MissingParameter", "The request must contain the parameter ipRanges or groups")


def check_create(backend, args):
    name, description = args.get("GroupName", ""), args.get("Description", "")
    if name.startswith("sg-"):
        raise AwsError(
            "InvalidParameterValue", "Value for parameter GroupName is invalid. Group names may not start with 'sg-'."
        )
    for what, text in (("GroupName", name), ("GroupDescription", description)):
        allowed = text.isascii() and all(c.isalnum() or c in " ._-:/()#,@[]+=&;{}!$*" for c in text)
        if not text or len(text) > 255 or not allowed:
            raise AwsError(
                "InvalidParameterValue",
                f"Value ({text}) for parameter {what} is invalid. Character sets beyond ASCII are not supported.",
            )
    vpc = args.get("VpcId") or getattr(backend.get_default_vpc(), "id", None)
    if vpc is None:
        raise AwsError("VPCIdNotSpecified", "No default VPC for this user")
    if any(g.name == name and g.vpc_id == vpc for g in resources.groups(backend)):
        raise AwsError("InvalidGroup.Duplicate", f"The security group '{name}' already exists for VPC '{vpc}'")


def _same(rule, other):
    def traffic(r):
        return (
            r.ip_protocol,
            r.from_port,
            r.to_port,
            r.ip_range.get("CidrIp"),
            r.ip_range.get("CidrIpv6"),
            r.source_group.get("GroupId"),
            r.prefix_list_id,
        )

    return traffic(rule) == traffic(other)


def _fingerprint(material):
    """EC2's for ed25519: SHA-256 of the key's blob in base64, with padding and without a prefix."""
    blob = base64.b64decode(material.split()[1])
    return base64.b64encode(hashlib.sha256(blob).digest()).decode()


def install(response):
    SecurityGroupRule.__eq__ = _same
    SecurityGroupRule.description = property(lambda r: (r.ip_range or r.source_group).get("Description"))

    def changing(name, change):
        """A call on the rules of one group; they are put back if it fails half way."""

        def method(self):
            group = self.ec2_backend.get_security_group_by_name_or_id(
                self.params.get("GroupId") or self.params.get("GroupName")
            )
            if group is None:
                raise AwsError(
                    "InvalidGroup.NotFound", f"The security group '{self.params.get('GroupName')}' does not exist"
                )
            before = list(group.ingress_rules), list(group.egress_rules)
            try:
                added = []
                for arguments in self._process_rules_from_querystring():
                    added += change(getattr(self.ec2_backend, name), arguments)
            except Exception:
                group.ingress_rules, group.egress_rules = before
                raise
            return ActionResult({"Return": True, "SecurityGroupRules": added})

        return method

    def authorize(call, arguments):
        return call(**arguments)[0]

    def revoke(call, arguments):
        del arguments["sgrule_tags"]
        call(**arguments)
        return []

    for direction in ("ingress", "egress"):
        for verb, change in (("authorize", authorize), ("revoke", revoke)):
            name = f"{verb}_security_group_{direction}"
            setattr(response, name, changing(name, change))

    imported = response.import_key_pair
    delete = response.delete_key_pair

    def import_key_pair(self):
        result = imported(self)
        key = self.ec2_backend.key_pairs[self.params["KeyName"]]
        if key.key_type == "ed25519":
            key.key_fingerprint = _fingerprint(key.material_public)
        return result

    def delete_key_pair(self):
        if "KeyPairId" in self.params:
            key = resources.find(self.ec2_backend, self.params["KeyPairId"])
            self.params["KeyName"] = key.key_name
        return delete(self)

    response.import_key_pair = import_key_pair
    response.delete_key_pair = delete_key_pair
