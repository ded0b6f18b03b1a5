"""The life of an instance: pending, running, stopping, stopped, shutting-down, terminated.

Invariant: a state follows the one before it only through `_reach`, which asks for the state it comes from; an
instance that was terminated meanwhile is never revived by a transition that was under way. Addresses, interfaces
and volumes are given back when an instance is terminated, not when it begins to be.
"""

from datetime import datetime, timezone

from moto.ec2.models.instances import InstanceState, StateReason

import addresses
import resources
import volumes
from errors import AwsError

CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}


class States:
    def __init__(self, world):
        self._world = world

    def launch(self, instance):
        _set(instance, "pending")
        self._world.machines.launch(instance, self._then(instance, "pending", "running"))

    def start(self, backend, ids):
        """Returns [(instance, state before)]."""
        chosen = _chosen(backend, ids)
        for instance in chosen:
            if instance.state not in ("stopped", "running", "pending"):
                raise AwsError(
                    "IncorrectInstanceState",
                    f"The instance '{instance.id}' is not in a state from which it can be started.",
                )
        return [(i, self._start(backend, i)) for i in chosen]

    def _start(self, backend, instance):
        before = _copy(instance)
        if before.name == "stopped":
            _set(instance, "pending")
            instance.launch_time = datetime.now(timezone.utc).replace(tzinfo=None)
            if instance.wants_public_ip:
                instance.nics[0].public_ip = addresses.public(backend)
            self._world.machines.start(instance, self._then(instance, "pending", "running"))
        return before

    def check_stop(self, backend, ids, force=False):
        for instance in _chosen(backend, ids):
            if instance.state not in ("running", "stopping", "stopped"):
                raise AwsError(
                    "IncorrectInstanceState",
                    f"This instance '{instance.id}' is not in a state from which it can be stopped.",
                )
            if instance.disable_api_stop and not force:
                raise AwsError(
                    "OperationNotPermitted",
                    f"The instance '{instance.id}' may not be stopped. Modify its 'disableApiStop' instance attribute"
                    " and try again.",
                )
            if instance.lifecycle == "spot" and not instance.spot_persistent:
                raise AwsError(
                    "UnsupportedOperation",
                    f"You can't stop the Spot Instance '{instance.id}' because it is associated with a one-time Spot"
                    " Instance request. You can only stop Spot Instances associated with persistent Spot Instance"
                    " requests.",
                )

    def stop(self, backend, ids, force=False):
        self.check_stop(backend, ids, force)
        return [(i, self._stop(i)) for i in _chosen(backend, ids)]

    def _stop(self, instance):
        before = _copy(instance)
        if before.name == "running":
            _set(instance, "stopping", "Client.UserInitiatedShutdown", "User initiated")
            self._world.machines.stop(instance, self._then(instance, "stopping", "stopped"))
        return before

    def kill(self, instance):
        """The instance dies of itself, as when its power fails: it ends up stopped."""
        if instance.state != "running":
            raise AwsError("IncorrectInstanceState", f"The instance '{instance.id}' is not running.")
        _set(instance, "stopping", "Client.InstanceInitiatedShutdown", "")
        self._world.machines.kill(instance, self._then(instance, "stopping", "stopped"))

    def powered_off(self, instance):
        """The instance's own system has shut down: it stops or ends, as its attribute says. Protection against a
        termination or a stop does not count then."""
        if instance.state not in ("pending", "running"):
            return
        if instance.instance_initiated_shutdown_behavior == "terminate":
            _set(instance, "shutting-down", "Client.InstanceInitiatedShutdown", "")
            self._world.machines.terminate(instance, self._then(instance, "shutting-down", "terminated"))
        else:
            _set(instance, "stopping", "Client.InstanceInitiatedShutdown", "")
            self._world.machines.stop(instance, self._then(instance, "stopping", "stopped"))

    def check_terminate(self, backend, ids):
        for instance in _chosen(backend, ids):
            if instance.disable_api_termination and instance.state != "terminated":
                raise AwsError(
                    "OperationNotPermitted",
                    f"The instance '{instance.id}' may not be terminated. Modify its 'disableApiTermination' instance"
                    " attribute and try again.",
                )

    def terminate(self, backend, ids, force=False):
        if not force:
            self.check_terminate(backend, ids)
        return [(i, self._terminate(i)) for i in _chosen(backend, ids)]

    def _terminate(self, instance):
        before = _copy(instance)
        if before.name not in ("shutting-down", "terminated"):
            _set(instance, "shutting-down", "Client.UserInitiatedShutdown", "User initiated")
            self._world.machines.terminate(instance, self._then(instance, "shutting-down", "terminated"))
        return before

    def reboot(self, backend, ids):
        for instance in _chosen(backend, ids):
            if instance.state not in ("running", "pending"):
                raise AwsError(
                    "IncorrectInstanceState",
                    f"The instance '{instance.id}' is not in a state from which it can be rebooted.",
                )
            self._world.machines.reboot(instance)

    def fail(self, instance, reason):
        """A launch that cannot be done after all, as AWS has them with a broken volume: the instance terminates."""
        if instance.state == "pending":
            _set(instance, "shutting-down", "Server.InternalError", "")
            instance.state_reason.message = f"Server.InternalError: {reason}"
            self._world.machines.terminate(instance, self._then(instance, "shutting-down", "terminated"))

    def _then(self, instance, source, target):
        return lambda: self._world.later(lambda: self._reach(instance, source, target))

    def _reach(self, instance, source, target):
        if instance.state != source:
            return
        instance._state = InstanceState(target, CODES[target])
        if target == "running":
            instance.state_reason = None
        elif target == "stopped":
            _release_public(instance)
        elif target == "terminated":
            _give_back(self._world, instance)


def _chosen(backend, ids):
    by_id = {i.id: i for i in resources.instances(backend)}
    return [by_id[i] for i in ids]


def _copy(instance):
    return InstanceState(instance.state, CODES[instance.state])


def _set(instance, name, code=None, reason=""):
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S GMT")
    instance._state = InstanceState(name, CODES[name])
    instance._reason = f"{reason} ({now})" if reason else ""
    if name == "pending":
        instance.state_reason = StateReason("pending", "pending")
    elif code:
        instance.state_reason = StateReason(f"{code}: {code.split('.')[1]}", code)


def _release_public(instance):
    if instance.wants_public_ip:
        for eni in instance.nics.values():
            eni.public_ip = None


def _give_back(world, instance):
    backend = instance.ec2_backend
    for mapping in list(instance.block_device_mapping.values()):
        volumes.detach_now(backend, backend.volumes[mapping.volume_id])
        if mapping.delete_on_termination:
            volumes.remove(world, backend, mapping.volume_id)
    for eni in instance.nics.values():
        backend.enis.pop(eni.id, None)
    instance.nics = {}
    instance._subnet_id = None
    instance.security_groups = []
    request = backend.spot_instance_requests.get(instance.spot_instance_request_id)
    if request:
        request.close("instance-terminated-by-user")


def install():
    """Makes moto's instances bear being without an interface, as terminated ones are."""
    from moto.ec2.models.instances import Instance

    def of_nic(name):
        return property(lambda self: getattr(self.nics[0], name) if self.nics else None)

    Instance.private_ip = Instance.private_ip_address = of_nic("private_ip_address")
    Instance.public_ip = Instance.public_ip_address = of_nic("public_ip")
    named = Instance.private_dns_name.fget
    Instance.private_dns_name = property(lambda self: named(self) if self.nics else "")
    # Without a public address EC2 answers an empty name.
    public = Instance.public_dns_name.fget
    Instance.public_dns_name = property(lambda self: public(self) or "")
    Instance.wants_public_ip = False
    Instance.spot_instance_request_id = None
    Instance.spot_persistent = False
    Instance.placement_group = None


def transitions(pairs):
    """[(instance, state before)] as EC2 answers it."""
    return [
        {
            "InstanceId": i.id,
            "CurrentState": {"Code": i.state_code, "Name": i.state},
            "PreviousState": {"Code": before.code, "Name": before.name},
        }
        for i, before in pairs
    ]
