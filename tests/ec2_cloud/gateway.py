"""The way of a call through this cloud: logged, struck by faults, authorized, checked, done, answered.

Invariant: whatever goes wrong in here is answered as an error in AWS's form and told on standard error.
"""

import io
import json
import re
import sys
import traceback
import uuid
from dataclasses import dataclass

from moto.core.exceptions import ServiceException
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

import actions
import describe
import iam
import parameters
import resources
import tokens
from calls import ACCOUNT
from errors import AwsError, internal_error, render

_DRY_RUN = AwsError("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)
_QUOTAS = {
    "L-1216C47A": "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances",
    "L-34B43A08": "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests",
}
# Actions that say themselves what of their ids is not there, for they hide what is too new to be seen.
_OWN_LOOKUP = {"DescribeInstances", "DescribeInstanceStatus", *describe.LISTINGS}
_NO_LIMIT = 1_000_000
_CODE = re.compile(rb"<Code>(.*?)</Code>|\"__type\"\s*:\s*\"(?:[^\"#]*#)?([^\"]*)\"")


@dataclass
class Answer:
    status: int
    headers: list
    body: bytes
    # "reset" or "hang": what is done to the connection instead of answering
    end: str | None = None

    @property
    def result(self):
        if self.end:
            return self.end
        if self.status < 400:
            return "ok"
        found = _CODE.search(self.body)
        return (found[1] or found[2]).decode() if found else f"HTTP {self.status}"


class Gateway:
    def __init__(self, world):
        self._world = world
        self._tokens = tokens.Tokens()
        self._moto = DomainDispatcherApplication(create_backend_app)

    def answer(self, call):
        entry = self._world.calls.begin(call)
        fault = self._world.faults.strike(call)
        if fault and fault.when == "before":
            answer = self._struck(fault, call)
        else:
            answer = self._done(call)
            if fault:
                answer = self._struck(fault, call)
        entry["result"] = answer.result
        return answer

    @staticmethod
    def _struck(fault, call):
        if fault.kind == "error":
            return _error(fault.error(), call)
        return Answer(0, [], b"", fault.kind)

    def _done(self, call):
        try:
            with self._world.state():
                iam.authorize(self._world, call)
                if call.service == "ec2":
                    return self._ec2(call)
                if call.service == "servicequotas":
                    return self._quota(call)
                if (call.service, call.action) == ("sts", "GetCallerIdentity"):
                    return self._identity(call)
                return self._ask_moto(call)
        except AwsError as e:
            return _error(e, call)
        except ServiceException as e:
            # moto's own refusals, where they are raised outside of moto.
            return _error(AwsError(e.code, e.message), call)
        except Exception:
            print(f"{call.service} {call.action} {json.dumps(call.params)}", file=sys.stderr)
            traceback.print_exc()
            sys.stderr.flush()
            return _error(internal_error(), call)

    def _ec2(self, call):
        world, backend = self._world, self._world.backend(call.region)
        parameters.check(call)
        tokens.check(call)
        made = None if call.dry_run else self._tokens.replay(call)
        if isinstance(made, Answer):
            return made
        if made is None:
            resources.check(backend, call.args, self._there(call))
            prepare = actions.PREPARE.get(call.action)
            if prepare:
                prepare(world, backend, call.args)
            if call.dry_run:
                raise _DRY_RUN
            guard = actions.GUARDS.get(call.action)
            if guard:
                guard(backend, call.args)
        world.made, world.replay = None, made
        answer = self._ask_moto(call)
        if made is None and answer.status < 400:
            self._tokens.remember(call, world.made or answer)
        world.births.scan(backend)
        return answer

    def _there(self, call):
        """What of the ids in a call counts as being there."""
        if call.action in _OWN_LOOKUP:
            return lambda resource: True
        visible = self._world.births.visible
        hidden = call.action.startswith("Describe") or self._world.settings.late_everywhere
        return lambda resource: resource is not None and (visible(resource) or not hidden)

    def _ask_moto(self, call):
        if (call.service, call.action) == ("ec2", ""):
            raise AwsError("MissingAction", "The request must contain the parameter Action")
        status = []
        body = b"".join(self._moto(_environ(call), lambda s, h, e=None: status.append((s, h))))
        code, headers = int(status[0][0].split()[0]), status[0][1]
        kept = [(k, v) for k, v in headers if k.lower() in ("content-type", "x-amzn-requestid", "x-amzn-errortype")]
        return Answer(code, kept, body)

    def _quota(self, call):
        code = call.params.get("QuotaCode")
        if call.action not in ("GetServiceQuota", "GetAWSDefaultServiceQuota"):
            return self._ask_moto(call)
        if call.params.get("ServiceCode") != "ec2" or code not in _QUOTAS:
            raise AwsError("NoSuchResourceException", "The specified quota does not exist.")
        quota = {
            "ServiceCode": "ec2",
            "ServiceName": "Amazon Elastic Compute Cloud (Amazon EC2)",
            "QuotaArn": f"arn:aws:servicequotas:{call.region}:{ACCOUNT}:ec2/{code}",
            "QuotaCode": code,
            "QuotaName": _QUOTAS[code],
            "Value": float(self._world.settings.vcpu_limit or _NO_LIMIT),
            "Unit": "None",
            "Adjustable": True,
            "GlobalQuota": False,
        }
        return Answer(200, [("Content-Type", "application/x-amz-json-1.1")], json.dumps({"Quota": quota}).encode())

    def _identity(self, call):
        arn = iam.identify(self._world.settings, call).arn
        user_id = ACCOUNT if arn.endswith(":root") else "AIDA" + arn.rsplit("/", 1)[-1].upper()
        body = (
            '<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
            f"<Arn>{arn}</Arn><UserId>{user_id}</UserId><Account>{ACCOUNT}</Account></GetCallerIdentityResult>"
            f"<ResponseMetadata><RequestId>{uuid.uuid4()}</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
        )
        return Answer(200, [("Content-Type", "text/xml")], body.encode())


def _error(error, call):
    status, kind, body = render(error, call.service)
    return Answer(status, [("Content-Type", kind), ("x-amzn-RequestId", str(uuid.uuid4()))], body)


def _environ(call):
    """The call as WSGI has it."""
    environ = {
        "REQUEST_METHOD": call.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": call.path,
        "QUERY_STRING": call.query,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(call.body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in call.headers.items():
        key = name.upper().replace("-", "_")
        environ[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"] = value
    return environ
