"""EC2 actions that this cloud does itself, in the place of moto's.

Invariant: `PREPARE` holds checks without effect, which a dry run makes too; `GUARDS` holds those of the state of
things, which it does not make; what is left of an action after them does not fail.
"""

from botocore import xform_name
from moto.core.responses import ActionResult, EmptyResult
from moto.core.utils import camelcase_to_underscores
from moto.ec2.responses import EC2Response
from moto.ec2.utils import parse_user_data, public_key_parse, random_resource_id

import addresses
import catalog
import dependencies
import groups
import launch
import resources
import states
import volumes
from calls import ACCOUNT
from errors import AwsError

_METADATA_OPTIONS = (
    "HttpTokens",
    "HttpPutResponseHopLimit",
    "HttpEndpoint",
    "HttpProtocolIpv6",
    "InstanceMetadataTags",
)
_YES_OR_NO = ("disableApiTermination", "disableApiStop", "ebsOptimized", "sourceDestCheck")
_ONLY_WHEN_STOPPED = ("InstanceType", "UserData", "Kernel", "Ramdisk", "EbsOptimized")


class PlacementGroup(resources.Tagged):
    def __init__(self, backend, name, strategy, partitions):
        self.ec2_backend = backend
        self.id = self.group_id = f"pg-{random_resource_id(17)}"
        self.group_name, self.strategy, self.partition_count = name, strategy, partitions
        self.state = "available"
        self.group_arn = f"arn:aws:ec2:{backend.region_name}:{ACCOUNT}:placement-group/{name}"


def _prepare_volume(world, backend, args):
    zone = args.get("AvailabilityZone")
    if zone not in {z.name for z in backend.describe_availability_zones()}:
        raise AwsError("InvalidZone.NotFound", f"The zone '{zone}' does not exist.")
    if "Size" not in args and "SnapshotId" not in args:
        raise AwsError("MissingParameter", "The request must contain the parameter size/snapshot")
    volumes.check(args)


def _shutdown_behavior(args):
    """The behavior that a ModifyInstanceAttribute asks for, in either of its two places; None if it asks for none."""
    if args.get("Attribute") == "instanceInitiatedShutdownBehavior":
        return args.get("Value")
    return args.get("InstanceInitiatedShutdownBehavior", {}).get("Value")


def _prepare_modify(world, backend, args):
    behavior = _shutdown_behavior(args)
    if behavior not in (None, "stop", "terminate"):
        raise AwsError(
            "InvalidParameterValue", f"Value ({behavior}) for parameter instanceInitiatedShutdownBehavior is invalid."
        )
    if args.get("Attribute") == "instanceType":
        catalog.instance_type(args.get("Value"))
    if "InstanceType" in args:
        catalog.instance_type(args["InstanceType"].get("Value"))


def _prepare_interface(world, backend, args):
    if "PrivateIpAddress" in args:
        addresses.check(backend, backend.get_subnet(args["SubnetId"]), args["PrivateIpAddress"])


def _prepare_key(world, backend, args):
    if args["KeyName"] in backend.key_pairs:
        raise AwsError("InvalidKeyPair.Duplicate", f"The keypair '{args['KeyName']}' already exists.")


def _prepare_import(world, backend, args):
    _prepare_key(world, backend, args)
    try:
        public_key_parse(args["PublicKeyMaterial"])
    except ValueError:
        raise AwsError("InvalidKey.Format", "Key is not in valid OpenSSH public key format") from None


def _prepare_key_deletion(world, backend, args):
    if not ("KeyName" in args or "KeyPairId" in args):
        raise AwsError("MissingParameter", "The request must contain the parameter KeyName or KeyPairId")


PREPARE = {
    "RunInstances": launch.resolve,
    "CreateVolume": _prepare_volume,
    "CreateSecurityGroup": lambda world, backend, args: groups.check_create(backend, args),
    "AuthorizeSecurityGroupIngress": lambda world, backend, args: groups.check_rules(args),
    "AuthorizeSecurityGroupEgress": lambda world, backend, args: groups.check_rules(args),
    "RevokeSecurityGroupIngress": lambda world, backend, args: groups.check_rules(args),
    "RevokeSecurityGroupEgress": lambda world, backend, args: groups.check_rules(args),
    "ModifyInstanceAttribute": _prepare_modify,
    "CreateNetworkInterface": _prepare_interface,
    "ImportKeyPair": _prepare_import,
    "CreateKeyPair": _prepare_key,
    "DeleteKeyPair": _prepare_key_deletion,
}


def _guard_modify(backend, args):
    names = {args["Attribute"][0].upper() + args["Attribute"][1:]} if "Attribute" in args else set(args)
    instance = resources.find(backend, args["InstanceId"])
    if instance.state == "terminated":
        raise AwsError(
            "IncorrectInstanceState", f"The instance '{instance.id}' is not in a valid state for this operation."
        )
    if names & set(_ONLY_WHEN_STOPPED) and instance.state != "stopped":
        raise AwsError("IncorrectInstanceState", f"The instance '{instance.id}' is not in the 'stopped' state.")
    asked = args.get("InstanceType", {}).get("Value") or (args.get("Value") if "InstanceType" in names else None)
    if asked:
        catalog.check_architecture(asked, backend.amis[instance.image_id])
        catalog.check_offered(asked, instance.availability_zone, backend.region_name)


def _guard_tags(backend, args):
    keys = {t["Key"] for t in args.get("Tags", [])}
    for resource_id in args["Resources"]:
        if len(keys | set(backend.tags.get(resource_id, {}))) > 50:
            raise AwsError("TagLimitExceeded", "The maximum number of Tags for a resource has been reached.")


def _guard_attach(backend, args):
    volume = backend.volumes[args["VolumeId"]]
    volumes.check_attach(volume, resources.find(backend, args["InstanceId"]), args["Device"])


def _guard_detach(backend, args):
    volumes.check_detach(backend.volumes[args["VolumeId"]], args.get("InstanceId"), args.get("Device"))


GUARDS = {
    **dependencies.GUARDS,
    "ModifyInstanceAttribute": _guard_modify,
    "CreateTags": _guard_tags,
    "AttachVolume": _guard_attach,
    "DetachVolume": _guard_detach,
    "DeleteVolume": lambda backend, args: volumes.check_delete(backend.volumes[args["VolumeId"]]),
}


def _tags(args):
    return {t["Key"]: t.get("Value", "") for s in args.get("TagSpecifications", []) for t in s["Tags"]}


def _instance_actions(world):
    def run_instances(self):
        world.made = world.replay or launch.run(world, self.ec2_backend, self.params)
        return ActionResult(world.made)

    def start_instances(self):
        pairs = world.states.start(self.ec2_backend, self.params["InstanceIds"])
        return ActionResult({"StartingInstances": states.transitions(pairs)})

    def stop_instances(self):
        pairs = world.states.stop(self.ec2_backend, self.params["InstanceIds"])
        return ActionResult({"StoppingInstances": states.transitions(pairs)})

    def terminate_instances(self):
        pairs = world.states.terminate(self.ec2_backend, self.params["InstanceIds"])
        return ActionResult({"TerminatingInstances": states.transitions(pairs)})

    def reboot_instances(self):
        world.states.reboot(self.ec2_backend, self.params["InstanceIds"])
        return EmptyResult()

    def cancel_spot_instance_requests(self):
        answers = []
        for request_id in self.params["SpotInstanceRequestIds"]:
            request = self.ec2_backend.spot_instance_requests[request_id]
            request.cancel()
            answers.append({"SpotInstanceRequestId": request_id, "State": request.state})
        return ActionResult({"CancelledSpotInstanceRequests": answers})

    def modify_instance_metadata_options(self):
        # What is not given stays as it is.
        options = resources.find(self.ec2_backend, self.params["InstanceId"]).metadata_options
        for name in _METADATA_OPTIONS:
            if name in self.params:
                setattr(options, xform_name(name), self.params[name])
        return ActionResult({"InstanceId": self.params["InstanceId"], "InstanceMetadataOptions": options})

    modify = EC2Response.modify_instance_attribute

    def modify_instance_attribute(self):
        instance = resources.find(self.ec2_backend, self.params["InstanceId"])
        if self.params.get("Attribute") in _YES_OR_NO:
            setattr(instance, camelcase_to_underscores(self.params["Attribute"]), self.params.get("Value") == "true")
            return EmptyResult()
        if "Groups" in self.params:
            _wear(instance.nics[0], [resources.find(self.ec2_backend, g) for g in self.params["Groups"]])
            return EmptyResult()
        behavior = _shutdown_behavior(self.params)
        if behavior:
            instance.instance_initiated_shutdown_behavior = behavior
            return EmptyResult()
        # On the wire the user data is base64 once, in whichever of its two places; moto decodes one of them.
        value = self.querystring.get("UserData.Value")
        if value is None and self.params.get("Attribute") == "userData":
            value = self.querystring.get("Value")
        if value is None:
            return modify(self)
        instance.user_data = parse_user_data(value[0])
        return EmptyResult()

    return [
        run_instances,
        start_instances,
        stop_instances,
        terminate_instances,
        reboot_instances,
        cancel_spot_instance_requests,
        modify_instance_metadata_options,
        modify_instance_attribute,
    ]


def _volume_actions(world):
    def create_volume(self):
        args = self.params
        if world.replay is None:
            world.made = volumes.create(self.ec2_backend, args["AvailabilityZone"], args, _tags(args))
            volumes.begin(world, world.made)
        return ActionResult(world.replay or world.made)

    def attach_volume(self):
        backend, args = self.ec2_backend, self.params
        instance, volume = resources.find(backend, args["InstanceId"]), backend.volumes[args["VolumeId"]]
        attachment = volumes.attach(world, volume, instance, args["Device"], False)
        world.machines.attach(instance, volume.id)
        return ActionResult(attachment)

    def detach_volume(self):
        backend = self.ec2_backend
        return ActionResult(volumes.detach(world, backend, backend.volumes[self.params["VolumeId"]]))

    def delete_volume(self):
        backend = self.ec2_backend
        volumes.delete(world, backend, backend.volumes[self.params["VolumeId"]])
        return EmptyResult()

    return [create_volume, attach_volume, detach_volume, delete_volume]


def _wear(eni, chosen):
    """An interface and its instance have the same groups."""
    eni._group_set = chosen
    if eni.instance:
        eni.instance.security_groups = chosen


def _network_actions(world):
    delete_the_subnet, delete_the_vpc = EC2Response.delete_subnet, EC2Response.delete_vpc

    def delete_subnet(self):
        # The subnet's association with a route table goes with it.
        for table in self.ec2_backend.route_tables.values():
            table._associations = {a: s for a, s in table._associations.items() if s != self.params["SubnetId"]}
        return delete_the_subnet(self)

    def delete_vpc(self):
        world.machines.delete_network(self.params["VpcId"])
        return delete_the_vpc(self)

    modify = EC2Response.modify_network_interface_attribute

    def modify_network_interface_attribute(self):
        if "Groups" not in self.params:
            return modify(self)
        eni = self.ec2_backend.enis[self.params["NetworkInterfaceId"]]
        _wear(eni, [resources.find(self.ec2_backend, g) for g in self.params["Groups"]])
        return EmptyResult()

    def create_placement_group(self):
        args, backend = self.params, self.ec2_backend
        if any(g.group_name == args.get("GroupName") for g in backend.placement_groups.values()):
            raise AwsError(
                "InvalidPlacementGroup.Duplicate", f"The placement group '{args['GroupName']}' already exists."
            )
        group = PlacementGroup(backend, args["GroupName"], args.get("Strategy", "cluster"), args.get("PartitionCount"))
        backend.placement_groups[group.id] = group
        group.add_tags(_tags(args))
        return ActionResult({"PlacementGroup": group})

    def delete_placement_group(self):
        groups_ = self.ec2_backend.placement_groups
        for group_id in [i for i, g in groups_.items() if g.group_name == self.params["GroupName"]]:
            del groups_[group_id]
        return EmptyResult()

    return [
        delete_subnet,
        delete_vpc,
        modify_network_interface_attribute,
        create_placement_group,
        delete_placement_group,
    ]


def install(world):
    """Puts these in the place of moto's."""
    for method in _instance_actions(world) + _volume_actions(world) + _network_actions(world):
        setattr(EC2Response, method.__name__, method)
