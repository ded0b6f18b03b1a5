"""What an account has in every region before anybody does anything, and moto's own classes set right.

Invariant: `install` is called once, before moto has made anything. What is there in the beginning is not new.
"""

import ipaddress

from moto.ec2.models import EC2Backend
from moto.ec2.models.availability_zones_and_regions import Zone
from moto.ec2.models.elastic_network_interfaces import NetworkInterface
from moto.ec2.models.route_tables import Route
from moto.ec2.responses import EC2Response

import actions
import addresses
import catalog
import describe
import groups
import resources
import states
import volumes


def _route_state(route):
    """A route to a gateway that is not attached any more leads nowhere."""
    if route.gateway is not None and route.gateway.id.startswith("igw-"):
        vpc = getattr(route.gateway, "vpc", None)
        return "active" if vpc and vpc.id == route.route_table.vpc_id else "blackhole"
    return "active"


def _prepare_backend(world):
    """Every region begins with what a new account has, and with what moto's backend lacks."""
    made = EC2Backend.__init__
    make_vpc = EC2Backend.create_vpc
    make_subnet = EC2Backend.create_subnet

    def __init__(self, region_name, account_id):
        self.placement_groups = {}
        made(self, region_name, account_id)
        catalog.add_images(self)
        gateway = self.create_internet_gateway()
        gateway.vpc = self.default_vpc
        table = next(t for t in self.route_tables.values() if t.vpc_id == self.default_vpc.id)
        self.create_route(table.id, "0.0.0.0/0", gateway_id=gateway.id)
        world.births.always(self)

    def create_vpc(self, cidr_block, *args, is_default=False, **kwargs):
        if is_default and world.default_cidr:
            cidr_block = world.default_cidr
        return make_vpc(self, cidr_block, *args, is_default=is_default, **kwargs)

    def create_default_subnet(self, availability_zone):
        # A sixteenth of the network each, as in AWS's own default networks.
        network = ipaddress.ip_network(self.get_default_vpc().cidr_block)
        taken = [s.cidr for s in resources.subnets(self)]
        parts = network.subnets(prefixlen_diff=4)
        block = next(p for p in parts if not any(p.overlaps(t) for t in taken))
        subnet = self.create_subnet(self.get_default_vpc().id, str(block), availability_zone=availability_zone)
        subnet.default_for_az = subnet.map_public_ip_on_launch = True
        return subnet

    def create_subnet(self, *args, **kwargs):
        # moto takes the first subnet of a zone for the default one, whatever its network.
        subnet = make_subnet(self, *args, **kwargs)
        subnet.default_for_az = subnet.map_public_ip_on_launch = False
        return subnet

    EC2Backend.__init__ = __init__
    EC2Backend.create_vpc = create_vpc
    EC2Backend.create_subnet = create_subnet
    EC2Backend.create_default_subnet = create_default_subnet


def install(world):
    """Makes moto's EC2 this world's."""
    for part in (addresses, states, volumes, catalog):
        part.install()
    groups.install(EC2Response)
    actions.install(world)
    describe.install(world, EC2Response)
    NetworkInterface.group_set = property(lambda eni: eni._group_set)
    Route.state = property(_route_state)
    Zone.opt_in_status = "opt-in-not-required"
    Zone.group_name = property(lambda z: f"{z.region_name}-zg-1")
    Zone.network_border_group = property(lambda z: z.region_name)
    # moto answers fixed states here, which hide what is true of a repeated call.
    for path in ("RunInstances.Reservation.Instances.Instance.State", "CreateVolumeResponse.State"):
        EC2Response.RESPONSE_KEY_PATH_TO_TRANSFORMER.pop(path, None)
    _prepare_backend(world)
