"""What a call needs to be allowed: actions on resources, each with its condition context.

Invariant: as on AWS, a call is allowed only if all of its needs are; tags at creation need ec2:CreateTags with
ec2:CreateAction besides the creating action itself.
"""

from dataclasses import dataclass

import catalog
import resources
from calls import ACCOUNT

_CREATES = {
    "CreateVolume": "volume",
    "CreateSecurityGroup": "security-group",
    "CreateVpc": "vpc",
    "CreateSubnet": "subnet",
    "CreateInternetGateway": "internet-gateway",
    "CreateRouteTable": "route-table",
    "CreateNetworkInterface": "network-interface",
    "CreatePlacementGroup": "placement-group",
    "ImportKeyPair": "key-pair",
    "CreateKeyPair": "key-pair",
}
# Actions of which only one of the mentioned resources counts.
_ONLY = {
    "CreateRoute": "RouteTableId",
    "ReplaceRoute": "RouteTableId",
    "DeleteRoute": "RouteTableId",
    "AuthorizeSecurityGroupIngress": "GroupId",
    "AuthorizeSecurityGroupEgress": "GroupId",
    "RevokeSecurityGroupIngress": "GroupId",
    "RevokeSecurityGroupEgress": "GroupId",
}


@dataclass
class Need:
    action: str
    resource: str
    context: dict


def needs(world, call):
    """All that a call needs."""
    base = {"aws:RequestedRegion": call.region}
    if call.service == "ssm":
        return [Need(f"ssm:{call.action}", a, base) for a in _parameters(call)]
    if call.service == "servicequotas":
        code = f"{call.params.get('ServiceCode', '*')}/{call.params.get('QuotaCode', '*')}"
        return [Need(f"servicequotas:{call.action}", f"arn:aws:servicequotas:{call.region}:{ACCOUNT}:{code}", base)]
    if call.service != "ec2":
        return [Need(f"{call.service}:{call.action}", "*", base)]
    return _Ec2(world.backend(call.region), call, {**base, "ec2:Region": call.region}).needs()


def _parameters(call):
    names = [v for k, v in call.params.items() if k == "Name" or k.startswith("Names.") or k == "Path"]
    # Public parameters belong to no account.
    return [
        f"arn:aws:ssm:{call.region}:{'' if n.startswith('/aws/') else ACCOUNT}:parameter/{n.lstrip('/')}" for n in names
    ] or ["*"]


class _Ec2:
    def __init__(self, backend, call, base):
        self.backend, self.call, self.args, self.base = backend, call, call.args, base
        self.tags = {
            s.get("ResourceType"): {t.get("Key"): t.get("Value", "") for t in s.get("Tags", [])}
            for s in self.args.get("TagSpecifications", [])
        }

    def needs(self):
        action = self.call.action
        if action.startswith("Describe") and action != "DescribeInstanceAttribute":
            return [Need(f"ec2:{action}", "*", self.base)]
        if action == "RunInstances":
            found = self._run()
        else:
            found = self._existing() + self._created()
        return (found or [Need(f"ec2:{action}", "*", self.base)]) + self._tagging()

    def _need(self, resource, **context):
        return Need(f"ec2:{self.call.action}", resource, {**self.base, **context})

    def arn(self, kind, name):
        account = "" if kind in ("image", "snapshot") else ACCOUNT
        return f"arn:aws:ec2:{self.call.region}:{account}:{kind}/{name}"

    def _tag_context(self, kind):
        tags = self.tags.get(kind)
        if not tags:
            return {}
        return {"aws:TagKeys": list(tags), **{f"aws:RequestTag/{k}": v for k, v in tags.items()}}

    def _of(self, resource_id):
        """A need for a resource that is there, by its id."""
        kind = resources.kind_of(resource_id)
        resource = resources.find(self.backend, resource_id)
        name = getattr(resource, "key_name", None) if kind.name == "key-pair" else None
        return self._need(self.arn(kind.name, name or resource_id), **self._facts(kind.name, resource_id, resource))

    def _facts(self, kind, resource_id, resource):
        context = {}
        for key, value in self.backend.tags.get(resource_id, {}).items():
            context[f"aws:ResourceTag/{key}"] = context[f"ec2:ResourceTag/{key}"] = value
        if kind == "instance" and resource is not None:
            context["ec2:InstanceType"] = resource.instance_type
        vpc = getattr(resource, "vpc_id", None)
        if vpc:
            context["ec2:Vpc"] = self.arn("vpc", vpc)
        zone = getattr(resource, "availability_zone", None)
        if zone:
            context["ec2:AvailabilityZone"] = zone
        return context

    def _existing(self):
        action = self.call.action
        found = []
        for path, value in resources.mentioned(self.args):
            kind = resources.kind_of(value)
            if kind is None or action in _ONLY and path != _ONLY[action]:
                continue
            if kind.name == "route-table-association":
                found += [self._of(t.id) for t in self.backend.route_tables.values() if value in t.all_associations_ids]
            else:
                found.append(self._of(value))
        if action == "DeleteKeyPair" and "KeyName" in self.args:
            name = self.args["KeyName"]
            key = self.backend.key_pairs.get(name)
            found.append(self._need(self.arn("key-pair", name), **self._facts("key-pair", key and key.id, key)))
        if action in ("CreateTags", "DeleteTags"):
            tags = {t.get("Key"): t.get("Value") for t in self.args.get("Tags", [])}
            context = {"aws:TagKeys": list(tags)} if tags else {}
            context.update({f"aws:RequestTag/{k}": v for k, v in tags.items() if v is not None})
            for need in found:
                need.context.update(context)
        return found

    def _created(self):
        kind = _CREATES.get(self.call.action)
        if kind is None:
            return []
        context = self._tag_context(kind)
        if kind == "volume":
            context.update(self._volume_context(self.args))
        return [self._need(self.arn(kind, self._name_of_new(kind)), **context)]

    def _name_of_new(self, kind):
        if kind == "key-pair":
            return self.args.get("KeyName", "*")
        return self.args.get("GroupName", "*") if kind == "placement-group" else "*"

    def _volume_context(self, spec):
        context = {
            "ec2:Encrypted": "true" if spec.get("Encrypted") else "false",
            "ec2:VolumeType": spec.get("VolumeType", "gp2"),
        }
        size = spec.get("VolumeSize") or spec.get("Size")
        if size:
            context["ec2:VolumeSize"] = str(size)
        zone = spec.get("AvailabilityZone")
        return {**context, "ec2:AvailabilityZone": zone} if zone else context

    def _tagging(self):
        """ec2:CreateTags for what is tagged by the call that makes it."""
        return [
            Need(
                "ec2:CreateTags",
                self.arn(kind, self._name_of_new(kind)),
                {**self.base, "ec2:CreateAction": self.call.action, **self._tag_context(kind)},
            )
            for kind in self.tags
        ]

    def _run(self):
        args = self.args
        interface = (args.get("NetworkInterfaces") or [{}])[0]
        image = self.backend.amis.get(args.get("ImageId"))
        subnet_id = args.get("SubnetId") or interface.get("SubnetId")
        subnet = resources.find(self.backend, subnet_id) if subnet_id else self._default_subnet()
        place = (
            {"ec2:Vpc": self.arn("vpc", subnet.vpc_id), "ec2:AvailabilityZone": subnet.availability_zone}
            if subnet
            else {}
        )
        market = "spot" if "InstanceMarketOptions" in args else "on-demand"
        instance = {
            "ec2:InstanceType": args.get("InstanceType", "m1.small"),
            "ec2:InstanceMarketType": market,
            "ec2:MetadataHttpTokens": args.get("MetadataOptions", {}).get("HttpTokens", "optional"),
            "ec2:Tenancy": args.get("Placement", {}).get("Tenancy", "default"),
            "ec2:AvailabilityZone": place.get("ec2:AvailabilityZone", ""),
        }
        found = [self._need(self.arn("instance", "*"), **instance, **self._tag_context("instance"))]
        found += [
            self._need(self.arn("volume", "*"), **self._volume_context(spec), **self._tag_context("volume"))
            for spec in self._volumes(image)
        ]
        eni = {**place, "ec2:Subnet": self.arn("subnet", subnet.id)} if subnet else place
        found.append(self._need(self.arn("network-interface", "*"), **eni, **self._tag_context("network-interface")))
        groups = args.get("SecurityGroupIds") or interface.get("Groups") or []
        if subnet:
            found.append(self._of(subnet.id))
            groups = groups or [self.backend.get_default_security_group(subnet.vpc_id).id]
        found += [self._of(g) for g in groups if resources.kind_of(g)]
        if image:
            owner = {"ec2:Owner": image.owner_alias or image.owner_id}
            found.append(self._need(self.arn("image", image.id), **owner))
        if "KeyName" in args:
            key = self.backend.key_pairs.get(args["KeyName"])
            found.append(
                self._need(self.arn("key-pair", args["KeyName"]), **self._facts("key-pair", key and key.id, key))
            )
        if market == "spot":
            found.append(
                self._need(self.arn("spot-instances-request", "*"), **self._tag_context("spot-instances-request"))
            )
        group = args.get("Placement", {}).get("GroupName")
        return found + ([self._need(self.arn("placement-group", group))] if group else [])

    def _default_subnet(self):
        zone = self.args.get("Placement", {}).get("AvailabilityZone")
        kind = self.args.get("InstanceType", "m1.small")
        zones = [zone] if zone else catalog.zones_of(kind, self.call.region)
        return next(
            (s for s in resources.subnets(self.backend) if s.default_for_az and s.availability_zone in zones), None
        )

    def _volumes(self, image):
        devices = {m["DeviceName"]: m["Ebs"] for m in image.block_device_mappings} if image else {}
        for mapping in self.args.get("BlockDeviceMappings", []):
            name = mapping.get("DeviceName")
            devices[name] = {**devices.get(name, {}), **mapping.get("Ebs", {})}
        return devices.values()
