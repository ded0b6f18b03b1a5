"""Kinds of EC2 resources by their ids: how to find them, what AWS says when they are not there, since when they are.

Invariant: `live` names every resource that exists, and tags of what is gone are gone with it.
"""

import re
import time
from dataclasses import dataclass
from itertools import chain
from typing import Callable

from errors import AwsError


def instances(backend):
    return [i for r in backend.reservations.values() for i in r.instances]


def groups(backend):
    return [g for of_vpc in backend.groups.values() for g in of_vpc.values()]


def subnets(backend):
    return [s for of_zone in backend.subnets.values() for s in of_zone.values()]


def group_rules(backend):
    return [rule for g in groups(backend) for rule in chain(g.ingress_rules, g.egress_rules)]


def _associations(backend):
    return [_Named(a) for t in backend.route_tables.values() for a in t.all_associations_ids]


@dataclass
class _Named:
    id: str


class Tagged:
    """Tags for what moto has no class of; its own base class works in its own modules only."""

    def get_tags(self):
        return [{"key": k, "value": v} for k, v in self.ec2_backend.tags.get(self.id, {}).items()]

    tag_list = tag_set = property(get_tags)

    def add_tags(self, tags):
        if tags:
            self.ec2_backend.create_tags([self.id], tags)


@dataclass
class Kind:
    name: str
    objects: Callable
    code: str
    message: str

    def not_found(self, ids):
        ids = list(ids)
        text = ", ".join(ids)
        message = self.message.format(text)
        if len(ids) > 1 and self.name == "instance":
            message = f"The instance IDs '{text}' do not exist"
        return AwsError(self.code, message)

    def malformed(self, value):
        if self.name == "security-group":
            return AwsError("InvalidGroupId.Malformed", f'Invalid id: "{value}"')
        if self.name == "volume":
            return AwsError(
                "InvalidParameterValue", f"Value ({value}) for parameter volumeId is invalid. Expected: 'vol-...'."
            )
        return AwsError(self.code.replace(".NotFound", ".Malformed"), f'Invalid id: "{value}"')


KINDS = {
    "i": Kind("instance", instances, "InvalidInstanceID.NotFound", "The instance ID '{}' does not exist"),
    "vol": Kind("volume", lambda b: b.volumes.values(), "InvalidVolume.NotFound", "The volume '{}' does not exist."),
    "sg": Kind("security-group", groups, "InvalidGroup.NotFound", "The security group '{}' does not exist"),
    "subnet": Kind("subnet", subnets, "InvalidSubnetID.NotFound", "The subnet ID '{}' does not exist"),
    "vpc": Kind("vpc", lambda b: b.vpcs.values(), "InvalidVpcID.NotFound", "The vpc ID '{}' does not exist"),
    "igw": Kind(
        "internet-gateway",
        lambda b: b.internet_gateways.values(),
        "InvalidInternetGatewayID.NotFound",
        "The internetGateway ID '{}' does not exist",
    ),
    "rtb": Kind(
        "route-table",
        lambda b: b.route_tables.values(),
        "InvalidRouteTableID.NotFound",
        "The routeTable ID '{}' does not exist",
    ),
    "eni": Kind(
        "network-interface",
        lambda b: b.enis.values(),
        "InvalidNetworkInterfaceID.NotFound",
        "The networkInterface ID '{}' does not exist",
    ),
    "key": Kind(
        "key-pair", lambda b: b.key_pairs.values(), "InvalidKeyPair.NotFound", "The key pair ID '{}' does not exist"
    ),
    "sir": Kind(
        "spot-instances-request",
        lambda b: b.spot_instance_requests.values(),
        "InvalidSpotInstanceRequestID.NotFound",
        "The spot instance request ID '{}' does not exist",
    ),
    "ami": Kind("image", lambda b: b.amis.values(), "InvalidAMIID.NotFound", "The image id '[{}]' does not exist"),
    "rtbassoc": Kind(
        "route-table-association",
        _associations,
        "InvalidAssociationID.NotFound",
        "The association ID '{}' does not exist",
    ),
    "sgr": Kind(
        "security-group-rule",
        group_rules,
        "InvalidSecurityGroupRuleId.NotFound",
        "The security group rule ID '{}' does not exist",
    ),
    "pg": Kind(
        "placement-group",
        lambda b: b.placement_groups.values(),
        "InvalidPlacementGroup.Unknown",
        "The placement group '{}' is unknown.",
    ),
}

# What a parameter of this name must hold.
_PREFIX_OF = {
    "InstanceId": "i",
    "VolumeId": "vol",
    "GroupId": "sg",
    "SecurityGroupId": "sg",
    "SubnetId": "subnet",
    "VpcId": "vpc",
    "InternetGatewayId": "igw",
    "RouteTableId": "rtb",
    "NetworkInterfaceId": "eni",
    "KeyPairId": "key",
    "SpotInstanceRequestId": "sir",
    "ImageId": "ami",
    "AssociationId": "rtbassoc",
    "SecurityGroupRuleId": "sgr",
    "GatewayId": None,
    "Resources": None,
    "Groups": None,
}
_ID = re.compile(r"^([a-z]+)-[0-9a-f]{8,17}$")


def kind_of(resource_id):
    """The kind an id is of, or None."""
    match = _ID.match(resource_id)
    return KINDS.get(match[1]) if match else None


def find(backend, resource_id):
    """The resource of an id, or None."""
    kind = kind_of(resource_id)
    if kind is None:
        return None
    return next((o for o in kind.objects(backend) if o.id == resource_id), None)


def mentioned(args, path=""):
    """All (path of the parameter, id) in the parameters of an action."""
    found = []
    for name, value in args.items():
        here = f"{path}.{name}" if path else name
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                found += mentioned(item, here)
            elif isinstance(item, str) and _holds_id(name):
                found.append((here, item))
    return found


def _holds_id(name):
    return name in _PREFIX_OF or name.removesuffix("s") in _PREFIX_OF


def check(backend, args, there):
    """Raises AWS's error for the first id that is malformed or of nothing; `there` says what is something."""
    for path, value in mentioned(args):
        name = path.rsplit(".", 1)[-1]
        prefix = _PREFIX_OF.get(name, _PREFIX_OF.get(name.removesuffix("s")))
        if prefix and not re.match(rf"^{prefix}-[0-9a-f]{{8,17}}$", value):
            raise KINDS[prefix].malformed(value)
        kind = kind_of(value)
        if kind is None and name == "Resources":
            raise AwsError("InvalidID", f"The ID '{value}' is not valid")
        if kind is not None and not there(find(backend, value)):
            raise kind.not_found([value])


def live(backend):
    """Ids of everything but images, which are not anybody's to make here."""
    return {o.id for k in KINDS.values() if k.name != "image" for o in k.objects(backend)}


class Births:
    """Since when things are, for the time in which EC2 does not yet know of what it has just made."""

    def __init__(self, settings):
        self._settings = settings
        self._born = {}

    def always(self, backend):
        """Notes that what there is has been there for ever: what an account has before anybody does anything."""
        self._born.update(dict.fromkeys(live(backend), float("-inf")))

    def scan(self, backend):
        """Notes what is new; to be called after every action."""
        now = time.monotonic()
        alive = live(backend)
        for resource_id in alive:
            self._born.setdefault(resource_id, now)
        for resource_id in [i for i in backend.tags if kind_of(i) and not i.startswith("ami-") and i not in alive]:
            del backend.tags[resource_id]

    def visible(self, resource):
        age = time.monotonic() - self._born.get(getattr(resource, "id", None), float("-inf"))
        return age * 1000 >= float(self._settings.consistency_ms)
