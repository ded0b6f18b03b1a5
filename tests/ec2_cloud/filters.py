"""Filters of the Describe calls, by AWS's rules: values of a filter are alternatives, filters must all hold,
`*` and `?` are wildcards.

Invariant: a filter that AWS does not know is refused; one that AWS knows and that is not in the tables here is
reported on standard error and matches nothing, for a test that needs it must see that it is missing.
"""

import re
import sys
from datetime import datetime
from functools import cache

from botocore.loaders import Loader

from errors import AwsError

_MAX_VALUES = 200


@cache
def _model():
    return Loader().load_service_model("ec2", "service-2")


@cache
def known(action):
    """Names of an action's filters, as its documentation in AWS's model lists them."""
    shapes = _model()["shapes"]
    members = shapes[_model()["operations"][action]["input"]["shape"]]["members"]
    text = (members.get("Filters") or members.get("Filter") or {}).get("documentation", "")
    return {re.sub(r"[<:].*", "", name) for name in re.findall(r"<li>\s*<p>\s*<code>(.*?)</code>", text)}


def apply(action, filters, table, objects):
    """Those of the objects that pass all filters."""
    for entry in filters:
        name, values = entry.get("Name"), [v for v in entry.get("Values", [])]
        if not name:
            raise AwsError("InvalidParameterValue", "The filter 'null' is invalid")
        if len(values) > _MAX_VALUES:
            raise AwsError("FilterLimitExceeded", f"The maximum number of filter values is {_MAX_VALUES}.")
        of = _reader(action, name, table)
        patterns = [_pattern(v) for v in values]
        objects = [o for o in objects if any(p.fullmatch(t) for t in _texts(of(o)) for p in patterns)]
    return objects


def _reader(action, name, table):
    if name.startswith("tag:"):
        key = name[4:]
        return lambda o: [t["value"] for t in o.get_tags() if t["key"] == key]
    if name == "tag-key":
        return lambda o: [t["key"] for t in o.get_tags()]
    if name == "tag-value":
        return lambda o: [t["value"] for t in o.get_tags()]
    if name in table:
        return table[name]
    if name not in known(action):
        raise AwsError("InvalidParameterValue", f"The filter '{name}' is invalid")
    print(f"filter {name} of {action} is not implemented and matches nothing", file=sys.stderr, flush=True)
    return lambda o: None


def _pattern(value):
    parts = re.split(r"(\\.|[*?])", str(value))
    special = {"*": ".*", "?": "."}
    return re.compile("".join(special.get(p) or re.escape(p[1:] if p.startswith("\\") else p) for p in parts), re.S)


def _texts(value):
    if value is None:
        return []
    if isinstance(value, (list, set, tuple)):
        return [t for v in value for t in _texts(v)]
    if isinstance(value, bool):
        return ["true" if value else "false"]
    if isinstance(value, datetime):
        return [value.strftime("%Y-%m-%dT%H:%M:%S.000Z")]
    return [str(value)]


def _path(*names):
    """Reads attributes or keys one below the other."""

    def read(obj):
        for name in names:
            obj = obj.get(name) if isinstance(obj, dict) else getattr(obj, name, None)
        return obj

    return read


def _each(many, read):
    return lambda obj: [read(x) for x in many(obj)]


def _nics(instance):
    return instance.nics.values()


def _mappings(instance):
    return instance.block_device_mapping.values()


INSTANCES = {
    "architecture": _path("architecture"),
    "availability-zone": _path("availability_zone"),
    "block-device-mapping.delete-on-termination": _each(_mappings, _path("delete_on_termination")),
    "block-device-mapping.device-name": lambda i: list(i.block_device_mapping),
    "block-device-mapping.status": _each(_mappings, _path("status")),
    "block-device-mapping.volume-id": _each(_mappings, _path("volume_id")),
    "client-token": _path("client_token"),
    "dns-name": _path("public_dns_name"),
    "hypervisor": _path("hypervisor"),
    "iam-instance-profile.arn": _path("iam_instance_profile", "Arn"),
    "image-id": _path("image_id"),
    "instance-id": _path("id"),
    "instance-lifecycle": _path("lifecycle"),
    "instance-state-code": _path("state_code"),
    "instance-state-name": _path("state"),
    "instance-type": _path("instance_type"),
    "instance.group-id": _each(_path("security_groups"), _path("id")),
    "instance.group-name": _each(_path("security_groups"), _path("name")),
    "ip-address": _path("public_ip"),
    "key-name": _path("key_name"),
    "launch-index": _path("ami_launch_index"),
    "launch-time": _path("launch_time"),
    "metadata-options.http-tokens": _path("metadata_options", "http_tokens"),
    "monitoring-state": _path("monitoring_state"),
    "network-interface.addresses.association.public-ip": _each(_nics, _path("public_ip")),
    "network-interface.addresses.primary": lambda i: True if i.nics else None,
    "network-interface.addresses.private-ip-address": _each(_nics, _path("private_ip_address")),
    "network-interface.association.public-ip": _each(_nics, _path("public_ip")),
    "network-interface.availability-zone": _each(_nics, _path("availability_zone")),
    "network-interface.description": _each(_nics, _path("description")),
    "network-interface.group-id": lambda i: [g.id for n in _nics(i) for g in n.group_set],
    "network-interface.group-name": lambda i: [g.name for n in _nics(i) for g in n.group_set],
    "network-interface.mac-address": _each(_nics, _path("mac_address")),
    "network-interface.network-interface-id": _each(_nics, _path("id")),
    "network-interface.private-dns-name": _path("private_dns_name"),
    "network-interface.status": _each(_nics, _path("status")),
    "network-interface.subnet-id": _each(_nics, _path("subnet", "id")),
    "network-interface.vpc-id": _each(_nics, _path("subnet", "vpc_id")),
    "owner-id": _path("owner_id"),
    "placement-group-name": _path("placement", "group_name"),
    "private-dns-name": _path("private_dns_name"),
    "private-ip-address": _path("private_ip"),
    "reservation-id": _path("reservation_id"),
    "root-device-name": _path("root_device_name"),
    "root-device-type": _path("root_device_type"),
    "source-dest-check": _path("source_dest_check"),
    "spot-instance-request-id": _path("spot_instance_request_id"),
    "state-reason-code": _path("state_reason", "code"),
    "subnet-id": _path("subnet_id"),
    "tenancy": _path("placement", "tenancy"),
    "virtualization-type": _path("virtualization_type"),
    "vpc-id": _path("vpc_id"),
}

STATUSES = {
    "availability-zone": _path("availability_zone"),
    "instance-state-code": _path("state_code"),
    "instance-state-name": _path("state"),
    "instance-status.status": _path("instance_status", "Status"),
    "system-status.status": _path("system_status", "Status"),
}

VOLUMES = {
    "attachment.delete-on-termination": _path("attachment", "delete_on_termination"),
    "attachment.device": _path("attachment", "device"),
    "attachment.instance-id": _path("attachment", "instance", "id"),
    "attachment.status": _path("attachment", "status"),
    "availability-zone": _path("zone", "name"),
    "create-time": _path("create_time"),
    "encrypted": _path("encrypted"),
    "size": _path("size"),
    "snapshot-id": _path("snapshot_id"),
    "status": _path("status"),
    "volume-id": _path("id"),
    "volume-type": _path("volume_type"),
}

INTERFACES = {
    "addresses.association.public-ip": _path("public_ip"),
    "addresses.private-ip-address": _each(_path("private_ip_addresses"), _path("PrivateIpAddress")),
    "association.public-ip": _path("public_ip"),
    "attachment.attachment-id": _path("attachment_id"),
    "attachment.delete-on-termination": _path("delete_on_termination"),
    "attachment.device-index": _path("device_index"),
    "attachment.instance-id": _path("instance", "id"),
    "attachment.status": lambda n: "attached" if n.attachment_id else None,
    "availability-zone": _path("availability_zone"),
    "description": _path("description"),
    "group-id": lambda n: [g.id for g in n.group_set],
    "group-name": lambda n: [g.name for g in n.group_set],
    "interface-type": _path("interface_type"),
    "mac-address": _path("mac_address"),
    "network-interface-id": _path("id"),
    "owner-id": _path("owner_id"),
    "private-ip-address": _path("private_ip_address"),
    "requester-managed": _path("requester_managed"),
    "source-dest-check": _path("source_dest_check"),
    "status": _path("status"),
    "subnet-id": _path("subnet", "id"),
    "vpc-id": _path("subnet", "vpc_id"),
}


def _rules(prefix, read):
    def each(of):
        return lambda group: [of(r) for r in read(group)]

    return {
        f"{prefix}.cidr": each(_path("ip_range", "CidrIp")),
        f"{prefix}.from-port": each(_path("from_port")),
        f"{prefix}.group-id": each(_path("source_group", "GroupId")),
        f"{prefix}.ipv6-cidr": each(_path("ip_range", "CidrIpv6")),
        f"{prefix}.protocol": each(_path("ip_protocol")),
        f"{prefix}.to-port": each(_path("to_port")),
    }


GROUPS = {
    "description": _path("description"),
    "group-id": _path("id"),
    "group-name": _path("name"),
    "owner-id": _path("owner_id"),
    "vpc-id": _path("vpc_id"),
    **_rules("ip-permission", _path("ingress_rules")),
    **_rules("egress.ip-permission", _path("egress_rules")),
}

GROUP_RULES = {"group-id": _path("group_id"), "security-group-rule-id": _path("id")}

SUBNETS = {
    "availability-zone": _path("availability_zone"),
    "availabilityZone": _path("availability_zone"),
    "availability-zone-id": _path("availability_zone_id"),
    "available-ip-address-count": _path("available_ip_address_count"),
    "cidr": _path("cidr_block"),
    "cidr-block": _path("cidr_block"),
    "cidrBlock": _path("cidr_block"),
    "default-for-az": _path("default_for_az"),
    "defaultForAz": _path("default_for_az"),
    "map-public-ip-on-launch": _path("map_public_ip_on_launch"),
    "owner-id": _path("owner_id"),
    "state": _path("state"),
    "subnet-id": _path("id"),
    "vpc-id": _path("vpc_id"),
}

VPCS = {
    "cidr": _path("cidr_block"),
    "cidr-block-association.cidr-block": _each(_path("cidr_block_association_set"), _path("cidr_block")),
    "dhcp-options-id": _path("dhcp_options_id"),
    "is-default": _path("is_default"),
    "isDefault": _path("is_default"),
    "owner-id": _path("owner_id"),
    "state": _path("state"),
    "vpc-id": _path("id"),
}

INTERNET_GATEWAYS = {
    "attachment.state": lambda g: "available" if g.vpc else None,
    "attachment.vpc-id": _path("vpc", "id"),
    "internet-gateway-id": _path("id"),
    "owner-id": _path("owner_id"),
}


def _routes(read):
    return lambda table: [read(r) for r in table.routes]


ROUTE_TABLES = {
    "association.gateway-id": lambda t: [i for i in t._associations.values() if i.startswith("igw")],
    "association.main": lambda t: t.main_association_id is not None,
    "association.route-table-association-id": lambda t: list(t.all_associations_ids),
    "association.route-table-id": lambda t: t.id if t.all_associations_ids else None,
    "association.subnet-id": lambda t: [i for i in t._associations.values() if i.startswith("subnet")],
    "owner-id": _path("owner_id"),
    "route-table-id": _path("id"),
    "route.destination-cidr-block": _routes(_path("destination_cidr_block")),
    "route.gateway-id": _routes(_path("gateway_id")),
    "route.origin": _routes(_path("origin")),
    "route.state": _routes(_path("state")),
    "vpc-id": _path("vpc_id"),
}

KEY_PAIRS = {"fingerprint": _path("key_fingerprint"), "key-name": _path("key_name"), "key-pair-id": _path("id")}

IMAGES = {
    "architecture": _path("architecture"),
    "block-device-mapping.volume-type": lambda i: [m["Ebs"]["VolumeType"] for m in i.block_device_mappings],
    "creation-date": _path("creation_date"),
    "description": _path("description"),
    "ena-support": lambda i: True,
    "hypervisor": _path("hypervisor"),
    "image-id": _path("id"),
    "image-type": _path("image_type"),
    "is-public": _path("is_public"),
    "name": _path("name"),
    "owner-alias": _path("owner_alias"),
    "owner-id": _path("owner_id"),
    "root-device-name": _path("root_device_name"),
    "root-device-type": _path("root_device_type"),
    "state": _path("state"),
    "virtualization-type": _path("virtualization_type"),
}

OFFERINGS = {"location": _path("Location"), "instance-type": _path("InstanceType")}

ZONES = {
    "group-name": _path("group_name"),
    "opt-in-status": _path("opt_in_status"),
    "region-name": _path("region_name"),
    "state": _path("state"),
    "zone-id": _path("zone_id"),
    "zone-name": _path("name"),
    "zone-type": _path("zone_type"),
}

SPOT_REQUESTS = {
    "instance-id": _path("instance_id"),
    "launched-availability-zone": _path("launched_availability_zone"),
    "spot-instance-request-id": _path("id"),
    "state": _path("state"),
    "status-code": _path("status", "Code"),
    "type": _path("type"),
}

TAGS = {
    "key": _path("key"),
    "resource-id": _path("id"),
    "resource-type": _path("resource_type"),
    "value": _path("value"),
}

PLACEMENT_GROUPS = {"group-name": _path("group_name"), "state": _path("state"), "strategy": _path("strategy")}
