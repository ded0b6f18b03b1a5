"""What cannot be deleted or taken apart because something else needs it.

Invariant: these checks look at what exists now, so an interface of an instance that is shutting down still counts.
"""

import resources
from errors import AwsError


def _violation(message):
    return AwsError("DependencyViolation", message)


def delete_security_group(backend, args):
    group = backend.get_security_group_by_name_or_id(args.get("GroupId") or args.get("GroupName", ""))
    if group is None:
        raise AwsError(
            "InvalidGroup.NotFound", f"The security group '{args.get('GroupName')}' does not exist in default VPC"
        )
    if group.is_default:
        raise AwsError(
            "CannotDelete", f'the specified group: "{group.id}" name: "{group.name}" cannot be deleted by a user'
        )
    worn = any(group.id in {g.id for g in eni.group_set} for eni in backend.enis.values())
    named = any(
        rule.source_group.get("GroupId") == group.id
        for other in resources.groups(backend)
        if other.id != group.id
        for rule in other.ingress_rules + other.egress_rules
    )
    if worn or named:
        raise _violation(f"resource {group.id} has a dependent object")


def delete_subnet(backend, args):
    if any(eni.subnet.id == args["SubnetId"] for eni in backend.enis.values()):
        raise _violation(f"The subnet '{args['SubnetId']}' has dependencies and cannot be deleted.")


def delete_vpc(backend, args):
    vpc = args["VpcId"]
    in_use = (
        any(s.vpc_id == vpc for s in resources.subnets(backend))
        or any(g.vpc and g.vpc.id == vpc for g in backend.internet_gateways.values())
        or any(t.vpc_id == vpc and t.main_association_id is None for t in backend.route_tables.values())
        or any(g.vpc_id == vpc and not g.is_default for g in resources.groups(backend))
        or any(eni.vpc_id == vpc for eni in backend.enis.values())
    )
    if in_use:
        raise _violation(f"The vpc '{vpc}' has dependencies and cannot be deleted.")


def attach_internet_gateway(backend, args):
    gateway = backend.internet_gateways[args["InternetGatewayId"]]
    if gateway.vpc:
        raise AwsError(
            "Resource.AlreadyAssociated", f"resource {gateway.id} is already attached to network {gateway.vpc.id}"
        )
    if any(g.vpc and g.vpc.id == args["VpcId"] for g in backend.internet_gateways.values()):
        raise AwsError("InvalidParameterValue", f"Network {args['VpcId']} already has an internet gateway attached")


def detach_internet_gateway(backend, args):
    vpc = args["VpcId"]
    gateway = backend.internet_gateways[args["InternetGatewayId"]]
    attached = gateway.vpc and gateway.vpc.id == vpc
    if attached and any(eni.vpc_id == vpc and eni.public_ip for eni in backend.enis.values()):
        raise _violation(
            f"Network {vpc} has some mapped public address(es). Please unmap those public address(es) before detaching"
            " the gateway."
        )


def delete_internet_gateway(backend, args):
    gateway = backend.internet_gateways[args["InternetGatewayId"]]
    if gateway.vpc:
        raise _violation(f"The internetGateway '{gateway.id}' has dependencies and cannot be deleted.")


def delete_route_table(backend, args):
    table = backend.route_tables[args["RouteTableId"]]
    if table.all_associations_ids:
        raise _violation(f"The routeTable '{table.id}' has dependencies and cannot be deleted.")


def disassociate_route_table(backend, args):
    if any(t.main_association_id == args["AssociationId"] for t in backend.route_tables.values()):
        raise AwsError(
            "InvalidParameterValue", f"cannot disassociate the main route table association {args['AssociationId']}"
        )


def create_route(backend, args):
    gateway = backend.internet_gateways.get(args.get("GatewayId"))
    table = backend.route_tables[args["RouteTableId"]]
    if gateway and not (gateway.vpc and gateway.vpc.id == table.vpc_id):
        raise AwsError(
            "InvalidParameterValue",
            f"route table {table.id} and network gateway {gateway.id} belong to different networks",
        )


def associate_route_table(backend, args):
    if "SubnetId" not in args:
        return
    table, subnet = backend.route_tables[args["RouteTableId"]], backend.get_subnet(args["SubnetId"])
    if table.vpc_id != subnet.vpc_id:
        raise AwsError(
            "InvalidParameterValue", f"Route table {table.id} and subnet {subnet.id} belong to different networks"
        )
    # A second association of a subnet with another table is refused, with the same table it is answered again.
    for other in backend.route_tables.values():
        if subnet.id in other._associations.values() and other.id != table.id:
            raise AwsError(
                "Resource.AlreadyAssociated",
                f"the specified association for route table {table.id} conflicts with an existing association",
            )


def delete_network_interface(backend, args):
    eni = backend.enis[args["NetworkInterfaceId"]]
    if eni.instance:
        raise AwsError("InvalidParameterValue", f"Network interface '{eni.id}' is currently in use.")


def delete_placement_group(backend, args):
    names = {g.group_name for g in backend.placement_groups.values()}
    if args["GroupName"] not in names:
        raise AwsError("InvalidPlacementGroup.Unknown", f"The Placement Group '{args['GroupName']}' is unknown.")
    for instance in resources.instances(backend):
        if instance.placement.group_name == args["GroupName"] and instance.state != "terminated":
            raise AwsError(
                "InvalidPlacementGroup.InUse",
                f"The placement group '{args['GroupName']}' is in use and may not be deleted.",
            )


GUARDS = {
    "DeleteSecurityGroup": delete_security_group,
    "DeleteSubnet": delete_subnet,
    "DeleteVpc": delete_vpc,
    "AttachInternetGateway": attach_internet_gateway,
    "DetachInternetGateway": detach_internet_gateway,
    "DeleteInternetGateway": delete_internet_gateway,
    "DeleteRouteTable": delete_route_table,
    "DisassociateRouteTable": disassociate_route_table,
    "CreateRoute": create_route,
    "AssociateRouteTable": associate_route_table,
    "DeleteNetworkInterface": delete_network_interface,
    "DeletePlacementGroup": delete_placement_group,
}
