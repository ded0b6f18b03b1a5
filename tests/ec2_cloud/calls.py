"""One AWS call as it came in, and the log of all of them (this cloud's CloudTrail).

Invariant: a call is in the log before it has any effect; its `result` is null until it is answered.
"""

import itertools
import json
import re
import threading
import time
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from moto.core.model import OperationModel
from moto.core.parse import EC2QueryParser
from moto.core.utils import get_service_model

from errors import AwsError

ACCOUNT = "123456789012"
_CREDENTIAL = re.compile(r"Credential=([^/]+)/[^/]+/([^/]+)/([^/]+)/aws4_request")


@dataclass
class Call:
    service: str
    action: str
    params: dict
    access_key: str
    region: str
    dry_run: bool
    method: str
    path: str
    query: str
    headers: dict
    body: bytes
    _args: dict = field(default=None)

    @property
    def operation(self) -> OperationModel:
        """AWS's model of the EC2 action."""
        try:
            return get_service_model("ec2").operation_model(self.action)
        except Exception:
            raise AwsError("InvalidAction", f"The action {self.action} is not valid for this web service.") from None

    @property
    def args(self):
        """The parameters of an EC2 action by AWS's model: nested, with numbers and booleans."""
        if self._args is None:
            try:
                self._args = EC2QueryParser(self.operation).parse({"values": self.params})
            except ValueError as e:
                raise AwsError("InvalidParameterValue", f"A parameter is not of its type: {e}") from None
        return self._args


def parse(method, path, query, headers, body):
    """Makes a call of an HTTP request."""
    credential = _CREDENTIAL.search(headers.get("authorization", ""))
    access_key, region, service = credential.groups() if credential else ("", "us-east-1", "ec2")
    target = headers.get("x-amz-target")
    if target:
        action = target.rsplit(".", 1)[-1]
        params = flatten(json.loads(body or b"{}"))
    else:
        params = dict(parse_qsl(query, keep_blank_values=True))
        params.update(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
        action = params.pop("Action", "")
        params.pop("Version", None)
    dry_run = params.get("DryRun", "").lower() == "true" if service == "ec2" else False
    return Call(service, action, params, access_key, region, dry_run, method, path, query, headers, body)


def flatten(value, prefix=""):
    """{"A": {"B": [1]}} becomes {"A.B.1": "1"}, the form EC2's own parameters have."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = ((str(i + 1), v) for i, v in enumerate(value))
    else:
        return {prefix: "true" if value is True else "false" if value is False else "" if value is None else str(value)}
    flat = {}
    for key, inner in items:
        flat.update(flatten(inner, f"{prefix}.{key}" if prefix else key))
    return flat


class CallLog:
    def __init__(self):
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._entries = []

    def begin(self, call):
        entry = {
            "n": next(self._numbers),
            "service": call.service,
            "action": call.action,
            "params": call.params,
            "access_key": call.access_key,
            "result": None,
            "dry_run": call.dry_run,
            "at": time.time(),
        }
        with self._lock:
            self._entries.append(entry)
        return entry

    def list(self):
        with self._lock:
            return [dict(e) for e in self._entries]

    def clear(self):
        with self._lock:
            self._entries.clear()
