"""The Describe calls: by id, by filter, page by page.

Invariant: every listing here treats ids, filters, pages and eventual consistency alike; a page is a cut through what
there was when the first page was asked for.
"""

import secrets
from dataclasses import dataclass, field
from typing import Callable

from moto.core.responses import ActionResult
from moto.ec2.models.availability_zones_and_regions import RegionsAndZonesBackend
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS, InstanceType, InstanceTypeBackend
from moto.ec2.models.instances import Reservation

import catalog
import filters
import resources
from errors import AwsError

_PAGE = 1000


@dataclass
class Listing:
    key: str
    objects: Callable
    filters: dict
    # Parameter that chooses -> (what it is compared with, AWS's error for those that are not there)
    choosers: dict = field(default_factory=dict)
    smallest_page: int = 5
    page: int = _PAGE


def _by_id(parameter, prefix):
    return {parameter: (lambda o: o.id, resources.KINDS[prefix].not_found)}


def _error(code, message):
    return lambda missing: AwsError(code, message.format(", ".join(missing)))


@dataclass
class _Tag:
    """A tag as DescribeTags has it; its id is that of what is tagged."""

    id: str
    resource_type: str
    key: str
    value: str

    @property
    def resource_id(self):
        return self.id

    def get_tags(self):
        return [{"key": self.key, "value": self.value}]


def _tags(backend):
    return [
        _Tag(resource_id, kind.name, key, value)
        for resource_id, tags in backend.tags.items()
        if (kind := resources.kind_of(resource_id))
        for key, value in tags.items()
    ]


LISTINGS = {
    "DescribeTags": Listing("Tags", _tags, filters.TAGS),
    "DescribeVolumes": Listing("Volumes", resources.KINDS["vol"].objects, filters.VOLUMES, _by_id("VolumeIds", "vol")),
    "DescribeNetworkInterfaces": Listing(
        "NetworkInterfaces", resources.KINDS["eni"].objects, filters.INTERFACES, _by_id("NetworkInterfaceIds", "eni")
    ),
    "DescribeSecurityGroups": Listing(
        "SecurityGroups",
        resources.groups,
        filters.GROUPS,
        {
            **_by_id("GroupIds", "sg"),
            "GroupNames": (
                lambda g: g.name,
                _error("InvalidGroup.NotFound", "The security group '{}' does not exist in default VPC"),
            ),
        },
    ),
    "DescribeSecurityGroupRules": Listing(
        "SecurityGroupRules", resources.group_rules, filters.GROUP_RULES, _by_id("SecurityGroupRuleIds", "sgr")
    ),
    "DescribeSubnets": Listing("Subnets", resources.subnets, filters.SUBNETS, _by_id("SubnetIds", "subnet")),
    "DescribeVpcs": Listing("Vpcs", resources.KINDS["vpc"].objects, filters.VPCS, _by_id("VpcIds", "vpc")),
    "DescribeInternetGateways": Listing(
        "InternetGateways",
        resources.KINDS["igw"].objects,
        filters.INTERNET_GATEWAYS,
        _by_id("InternetGatewayIds", "igw"),
    ),
    "DescribeRouteTables": Listing(
        "RouteTables", resources.KINDS["rtb"].objects, filters.ROUTE_TABLES, _by_id("RouteTableIds", "rtb")
    ),
    "DescribeKeyPairs": Listing(
        "KeyPairs",
        resources.KINDS["key"].objects,
        filters.KEY_PAIRS,
        {
            **_by_id("KeyPairIds", "key"),
            "KeyNames": (lambda k: k.key_name, _error("InvalidKeyPair.NotFound", "The key pair '{}' does not exist")),
        },
    ),
    "DescribeImages": Listing(
        "Images", resources.KINDS["ami"].objects, filters.IMAGES, _by_id("ImageIds", "ami"), smallest_page=1
    ),
    "DescribeInstanceTypes": Listing(
        "InstanceTypes",
        lambda b: InstanceTypeBackend.instance_types,
        {name: (lambda t, n=name: t.get_filter_value(n)) for name in InstanceType._filter_attributes},
        {
            "InstanceTypes": (
                lambda t: t["InstanceType"],
                _error("InvalidInstanceType", "The following supplied instance types do not exist: [{}]"),
            )
        },
        page=100,
    ),
    "DescribeAvailabilityZones": Listing(
        "AvailabilityZones",
        lambda b: RegionsAndZonesBackend.zones[b.region_name],
        filters.ZONES,
        {
            "ZoneNames": (lambda z: z.name, _error("InvalidParameterValue", "Invalid availability zone: [{}]")),
            "ZoneIds": (lambda z: z.zone_id, _error("InvalidParameterValue", "Invalid availability zone-id: [{}]")),
        },
    ),
    "DescribeSpotInstanceRequests": Listing(
        "SpotInstanceRequests",
        resources.KINDS["sir"].objects,
        filters.SPOT_REQUESTS,
        _by_id("SpotInstanceRequestIds", "sir"),
    ),
    "DescribePlacementGroups": Listing(
        "PlacementGroups",
        resources.KINDS["pg"].objects,
        filters.PLACEMENT_GROUPS,
        {
            "GroupNames": (
                lambda g: g.group_name,
                _error("InvalidPlacementGroup.Unknown", "The Placement Group '{}' is unknown."),
            )
        },
    ),
}
_INSTANCES = Listing("Instances", resources.instances, filters.INSTANCES, _by_id("InstanceIds", "i"))
_STATUSES = Listing("InstanceStatuses", resources.instances, filters.STATUSES, _by_id("InstanceIds", "i"))
_OFFERINGS = Listing("InstanceTypeOfferings", None, filters.OFFERINGS)


class Describer:
    def __init__(self, world):
        self._world = world
        self._pages = {}

    def list(self, action, listing, backend, args, objects=None):
        """Returns (objects of this page, token of the next page or None)."""
        if "NextToken" in args:
            known = self._pages.get(args["NextToken"])
            if known is None or known[0] != action:
                raise AwsError("InvalidNextToken", "The specified NextToken is not valid.")
            found = known[1]
        else:
            found = self._all(action, listing, backend, args, objects)
        return self._cut(action, listing, args, found)

    def _all(self, action, listing, backend, args, objects):
        found = listing.objects(backend) if objects is None else objects
        found = [o for o in found if self._world.births.visible(o)]
        for parameter, (of, error) in listing.choosers.items():
            if args.get(parameter):
                missing = [v for v in args[parameter] if v not in {of(o) for o in found}]
                if missing:
                    raise error(missing)
                found = [o for o in found if of(o) in args[parameter]]
        return filters.apply(action, args.get("Filters", args.get("Filter", [])), listing.filters, found)

    def _cut(self, action, listing, args, found):
        size = args.get("MaxResults")
        if size is not None:
            if size < listing.smallest_page or size > 10000:
                raise AwsError(
                    "InvalidParameterValue",
                    f"Value ( {size} ) for parameter maxResults is invalid. Expecting a value of"
                    f" {listing.smallest_page} or more.",
                )
            for parameter in listing.choosers:
                if args.get(parameter):
                    raise AwsError(
                        "InvalidParameterCombination",
                        f"The parameter {parameter} cannot be used with the parameter maxResults",
                    )
        size = min(size or listing.page, int(self._world.settings.page_size or listing.page))
        if len(found) <= size:
            return found, None
        token = secrets.token_hex(24)
        self._pages[token] = (action, found[size:])
        return found[:size], token


def _reservations(instances):
    """Instances as DescribeInstances has them: within the reservations they were launched in."""
    by_id = {}
    for instance in instances:
        if instance.reservation_id not in by_id:
            by_id[instance.reservation_id] = Reservation(instance.reservation_id, instance.owner_id)
        by_id[instance.reservation_id].instances.append(instance)
    return list(by_id.values())


def _owned(backend, args):
    """Images by owner, as `Owners` says it."""
    owners = [backend.account_id if o == "self" else o for o in args.get("Owners", [])]
    images = backend.amis.values()
    images = [i for i in images if not owners or i.owner_id in owners or i.owner_alias in owners]
    return catalog.shown(images, args)


def install(world, response):
    """Puts these listings in the place of moto's."""
    describer = Describer(world)

    def plain(action, listing):
        def method(self):
            objects = None
            if action == "DescribeImages":
                objects = _owned(self.ec2_backend, self.params)
            elif action == "DescribeAvailabilityZones":
                objects = catalog.zones(world, listing.objects(self.ec2_backend))
            page, token = describer.list(action, listing, self.ec2_backend, self.params, objects)
            return ActionResult({listing.key: page, "NextToken": token})

        return method

    def describe_instances(self):
        page, token = describer.list("DescribeInstances", _INSTANCES, self.ec2_backend, self.params)
        return ActionResult({"Reservations": _reservations(page), "NextToken": token})

    def describe_instance_status(self):
        shown = resources.instances(self.ec2_backend)
        if not self.params.get("IncludeAllInstances"):
            asked = self.params.get("InstanceIds", [])
            hidden = [i for i in shown if i.state != "running"]
            shown = [i for i in shown if i not in hidden]
            # One that is asked for by its id exists even if it is not shown.
            gone = [i.id for i in hidden]
            self.params["InstanceIds"] = [i for i in asked if i not in gone]
            if asked and not self.params["InstanceIds"]:
                return ActionResult({"InstanceStatuses": []})
        page, token = describer.list("DescribeInstanceStatus", _STATUSES, self.ec2_backend, self.params, shown)
        return ActionResult({"InstanceStatuses": page, "NextToken": token})

    def describe_instance_type_offerings(self):
        kind = self.params.get("LocationType", "region")
        offered = INSTANCE_TYPE_OFFERINGS[kind].get(self.ec2_backend.region_name, [])
        offered = catalog.offerings(world, kind, offered)
        page, token = describer.list(
            "DescribeInstanceTypeOfferings", _OFFERINGS, self.ec2_backend, self.params, offered
        )
        return ActionResult({"InstanceTypeOfferings": page, "NextToken": token})

    def describe_key_pairs(self):
        path = "DescribeKeyPairsResult.KeyPairs.KeyPairInfo.PublicKey"
        if self.params.get("IncludePublicKey"):
            self._include_in_response(path)
        else:
            self._exclude_from_response(path)
        return plain("DescribeKeyPairs", LISTINGS["DescribeKeyPairs"])(self)

    for action, listing in LISTINGS.items():
        setattr(response, _snake(action), plain(action, listing))
    response.describe_instances = describe_instances
    response.describe_instance_status = describe_instance_status
    response.describe_instance_type_offerings = describe_instance_type_offerings
    response.describe_key_pairs = describe_key_pairs


def _snake(action):
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in action).lstrip("_")
