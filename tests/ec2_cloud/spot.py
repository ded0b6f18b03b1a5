"""Spot requests that come with RunInstances.

Invariant: the instance of a request is always launched at once; capacity that is missing is a fault's business.
"""

from moto.core.utils import utcnow
from moto.ec2.utils import random_spot_request_id

from errors import AwsError
from resources import Tagged


class SpotRequest(Tagged):
    def __init__(self, backend, instance, options):
        self.ec2_backend = backend
        self.id = self.spot_instance_request_id = random_spot_request_id()
        self.instance = instance
        self.instance_id = instance.id
        self.type = options.get("SpotInstanceType", "one-time")
        self.spot_price = options.get("MaxPrice")
        self.instance_interruption_behavior = options.get("InstanceInterruptionBehavior", "terminate")
        self.launched_availability_zone = instance.availability_zone
        self.product_description = "Linux/UNIX"
        self.create_time = utcnow()
        self.state = "active"
        self.status = {"Code": "fulfilled", "Message": "Your Spot request is fulfilled."}

    def close(self, code):
        if self.state == "active":
            self.state = "closed"
            self.status = {"Code": code, "Message": "Your Spot Instance was terminated."}

    def cancel(self):
        if self.state == "active":
            self.state = "cancelled"
            self.status = {
                "Code": "request-canceled-and-instance-running",
                "Message": "Your Spot request is canceled, but your instance is still running.",
            }


def market(args):
    """Options of a launch on the spot market, None for one that is not."""
    options = args.get("InstanceMarketOptions")
    if options is None:
        return None
    if options.get("MarketType") != "spot":
        raise AwsError("InvalidParameterValue", "Value for parameter marketType is invalid.")
    options = options.get("SpotOptions", {})
    behavior, kind = (
        options.get("InstanceInterruptionBehavior", "terminate"),
        options.get("SpotInstanceType", "one-time"),
    )
    if behavior != "terminate" and kind == "one-time":
        raise AwsError(
            "InvalidParameterCombination",
            f"Interruption behavior '{behavior}' is only supported for persistent Spot Instance requests.",
        )
    return options


def request(backend, instance, options, tags):
    made = SpotRequest(backend, instance, options)
    backend.spot_instance_requests[made.id] = made
    made.add_tags(tags)
    instance.lifecycle = "spot"
    instance.spot_instance_request_id = made.id
    instance.spot_persistent = made.type == "persistent"
