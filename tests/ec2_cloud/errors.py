"""What AWS answers when it refuses: one exception for all services, and its rendering in each service's form.

Invariant: whatever leaves this server as an error is one of these renderings, never HTML.
"""

import json
import uuid
from xml.sax.saxutils import escape


class AwsError(Exception):
    """A refusal with AWS's code, message and HTTP status."""

    def __init__(self, code, message, status=400):
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.status = code, message, status


def internal_error():
    return AwsError("InternalError", "An internal error has occurred", 500)


def render(error, service):
    """Returns (status, content type, body) of an error in the form of a service."""
    request_id = str(uuid.uuid4())
    if service in ("ssm", "servicequotas"):
        body = json.dumps({"__type": error.code, "message": error.message})
        return error.status, "application/x-amz-json-1.1", body.encode()
    code, message = escape(error.code), escape(error.message)
    if service in ("sts", "iam"):
        kind = "Sender" if error.status < 500 else "Receiver"
        body = (
            f"<ErrorResponse><Error><Type>{kind}</Type><Code>{code}</Code><Message>{message}</Message></Error>"
            f"<RequestId>{request_id}</RequestId></ErrorResponse>"
        )
    else:
        body = (
            f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
            f"<RequestID>{request_id}</RequestID></Response>"
        )
    return error.status, "text/xml;charset=UTF-8", ('<?xml version="1.0" encoding="UTF-8"?>\n' + body).encode()
