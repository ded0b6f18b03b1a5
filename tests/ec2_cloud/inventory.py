"""Everything that exists, in a form that is easy to assert on.

Invariant: this reads, and leaves out nothing of the kinds it lists; tags are plain {key: value}.
"""

import base64

import resources


def inventory(world, region=None):
    backend = world.backend(region)
    view = _View(world, backend)
    return {
        "region": backend.region_name,
        "default_vpc": getattr(backend.get_default_vpc(), "id", None),
        "instances": [view.instance(i) for i in resources.instances(backend)],
        "volumes": [view.volume(v) for v in backend.volumes.values()],
        "security_groups": [view.group(g) for g in resources.groups(backend)],
        "key_pairs": [view.key(k) for k in backend.key_pairs.values()],
        "network_interfaces": [view.interface(n) for n in backend.enis.values()],
        "vpcs": [view.vpc(v) for v in backend.vpcs.values()],
        "subnets": [view.subnet(s) for s in resources.subnets(backend)],
        "internet_gateways": [view.gateway(g) for g in backend.internet_gateways.values()],
        "route_tables": [view.routes(t) for t in backend.route_tables.values()],
        "spot_requests": [view.spot(s) for s in backend.spot_instance_requests.values()],
        "placement_groups": [view.placement(g) for g in backend.placement_groups.values()],
    }


class _View:
    def __init__(self, world, backend):
        self._world, self._backend = world, backend

    def _tags(self, resource):
        return dict(self._backend.tags.get(resource.id, {}))

    def instance(self, i):
        tags = self._tags(i)
        options = i.metadata_options
        return {
            "id": i.id,
            "state": i.state,
            "state_reason": getattr(i.state_reason, "code", None),
            "type": i.instance_type,
            "name": tags.get("Name"),
            "tags": tags,
            "private_ip": i.private_ip,
            "public_ip": i.public_ip,
            "subnet": i.subnet_id,
            "vpc": i.vpc_id,
            "zone": i.availability_zone,
            "groups": sorted({g.id for n in i.nics.values() for g in n.group_set}),
            "key": i.key_name,
            "user_data": _decoded(i.user_data),
            "user_data_error": self._world.machines.error(i),
            "volumes": [
                {"id": m.volume_id, "device": d, "delete_on_termination": m.delete_on_termination, "state": m.status}
                for d, m in i.get_block_device_mapping
            ],
            "lifecycle": i.lifecycle or "on-demand",
            "spot_request": i.spot_instance_request_id,
            "placement_group": i.placement.group_name or None,
            "metadata_options": {
                "http_tokens": options.http_tokens,
                "http_endpoint": options.http_endpoint,
                "http_put_response_hop_limit": options.http_put_response_hop_limit,
                "instance_metadata_tags": options.instance_metadata_tags,
            },
            "image": i.image_id,
            "architecture": i.architecture,
            "client_token": i.client_token,
            "shutdown_behavior": i.instance_initiated_shutdown_behavior,
            "termination_protection": bool(i.disable_api_termination),
            "ebs_optimized": bool(i.ebs_optimized),
            "monitoring": i.monitoring_state,
            "iam_instance_profile": (i.iam_instance_profile or {}).get("Arn"),
        }

    def volume(self, v):
        attachment = v.attachment
        return {
            "id": v.id,
            "state": v.status,
            "size": v.size,
            "type": v.volume_type,
            "iops": v.iops,
            "throughput": v.throughput,
            "encrypted": bool(v.encrypted),
            "kms_key_id": v.kms_key_id,
            "zone": v.zone.name,
            "snapshot": v.snapshot_id,
            "attachment": attachment
            and {
                "instance": attachment.instance.id,
                "device": attachment.device,
                "state": attachment.status,
                "delete_on_termination": attachment.delete_on_termination,
            },
            "tags": self._tags(v),
        }

    def group(self, g):
        return {
            "id": g.id,
            "name": g.name,
            "description": g.description,
            "vpc": g.vpc_id,
            "default": g.is_default,
            "ingress": sorted(map(_rule, g.ingress_rules)),
            "egress": sorted(map(_rule, g.egress_rules)),
            "descriptions": {_rule(r): r.description for r in g.ingress_rules + g.egress_rules if r.description},
            "tags": self._tags(g),
        }

    def key(self, k):
        return {
            "id": k.id,
            "name": k.key_name,
            "type": k.key_type,
            "fingerprint": k.key_fingerprint,
            "public_key": k.public_key,
            "tags": self._tags(k),
        }

    def interface(self, n):
        return {
            "id": n.id,
            "private_ip": n.private_ip_address,
            "public_ip": n.public_ip,
            "subnet": n.subnet.id,
            "vpc": n.vpc_id,
            "instance": n.instance.id if n.instance else None,
            "groups": sorted({g.id for g in n.group_set}),
            "delete_on_termination": bool(n.delete_on_termination),
            "description": n.description,
            "tags": self._tags(n),
        }

    def vpc(self, v):
        return {
            "id": v.id,
            "cidr": v.cidr_block,
            "default": v.is_default,
            "dns_support": bool(v.enable_dns_support),
            "dns_hostnames": bool(v.enable_dns_hostnames),
            "tags": self._tags(v),
        }

    def subnet(self, s):
        return {
            "id": s.id,
            "cidr": s.cidr_block,
            "vpc": s.vpc_id,
            "zone": s.availability_zone,
            "default_for_az": bool(s.default_for_az),
            "map_public_ip_on_launch": bool(s.map_public_ip_on_launch),
            "tags": self._tags(s),
        }

    def gateway(self, g):
        return {"id": g.id, "vpc": g.vpc.id if g.vpc else None, "tags": self._tags(g)}

    def routes(self, t):
        return {
            "id": t.id,
            "vpc": t.vpc_id,
            "main": t.main_association_id is not None,
            "routes": [
                {"destination": r.destination_cidr_block, "target": r.gateway_id or r.nat_gateway_id, "state": r.state}
                for r in t.routes
            ],
            "associations": [{"id": a, "subnet": s} for a, s in t._associations.items()],
            "tags": self._tags(t),
        }

    def spot(self, s):
        return {
            "id": s.id,
            "state": s.state,
            "type": s.type,
            "instance": s.instance_id,
            "max_price": s.spot_price,
            "tags": self._tags(s),
        }

    def placement(self, g):
        return {"id": g.id, "name": g.group_name, "strategy": g.strategy, "tags": self._tags(g)}


def _rule(rule):
    """A rule as text: `tcp 22 10.0.0.0/8`, `tcp 9092-9093 sg-…`, `all 0.0.0.0/0`."""
    peer = rule.ip_range.get("CidrIp") or rule.ip_range.get("CidrIpv6") or rule.source_group.get("GroupId")
    peer = peer or rule.prefix_list_id
    if rule.ip_protocol == "-1":
        return f"all {peer}"
    ports = str(rule.from_port) if rule.from_port == rule.to_port else f"{rule.from_port}-{rule.to_port}"
    return f"{rule.ip_protocol} {ports} {peer}"


def _decoded(user_data):
    if user_data is None:
        return None
    return base64.b64decode(str(user_data)).decode("utf-8", "replace")
