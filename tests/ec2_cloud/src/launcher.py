"""moto's server on a free port of 127.0.0.1, made a bit more like EC2. Prints "ready PORT"; ends when its standard input does,
so that it never outlives the test that started it, however that ends.

What is added:
- Signatures are checked (version 4), as EC2 does; moto takes anything. Requests with the header X-Test-Unsigned are the tests'
  own and pass. Credentials that STS has handed out are known; it hands them out for the right web identity's token only.
- The fingerprint of an ed25519 key is SHA-256 of its blob in base64, as EC2 has it; moto would hash another form of it.
- An instance that is terminated already can be terminated again, also by two at once; moto would miss its network interface.

Arguments: the credentials, as JSON: {access key id: {"secret": text, "token": text or null}}; the folder with its log, which
goes when it ends; the token of the web identity.
"""

import base64
import copy
import datetime
import hashlib
import hmac
import io
import json
import os
import shutil
import sys
import threading
import urllib.parse

# Image, key pair and instance type must exist, as in EC2; and 1,300 images of moto's own are not loaded.
os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"
os.environ["MOTO_ENABLE_AMI_VALIDATION"] = "true"
os.environ["MOTO_ENABLE_KEYPAIR_VALIDATION"] = "true"
os.environ["MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION"] = "true"

import boto3  # noqa: E402

# There is one region: all that moto would read about the others takes most of the time of a start.
REGION = "us-east-1"
boto3.Session.get_available_regions = lambda self, service, partition_name="aws", *rest: (
    [REGION] if partition_name == "aws" else []
)

import moto.utilities.utils as utilities  # noqa: E402

load_all = utilities.load_resource
utilities.load_resource = lambda path: load_all(path) if "offerings" not in path or f"/{REGION}." in path else []

import moto.ec2.models.instances as instances  # noqa: E402
import moto.ec2.models.key_pairs as key_pairs  # noqa: E402
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: E402
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: E402
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app  # noqa: E402
from moto.sts.models import sts_backends  # noqa: E402
from werkzeug.serving import make_server  # noqa: E402

ERROR = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error><Code>{}</Code><Message>{}</Message></Error></Errors>'
    "<RequestID>00000000-0000-0000-0000-000000000000</RequestID></Response>"
)
NOT_VALIDATED = "AWS was not able to validate the provided access credentials"

moto_fingerprint = key_pairs.public_key_fingerprint


def fingerprint(key, hash_constructor):
    """As EC2 shows it."""
    if not isinstance(key, Ed25519PublicKey):
        return moto_fingerprint(key, hash_constructor)
    blob = base64.b64decode(key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode()


key_pairs.public_key_fingerprint = fingerprint


moto_terminate = instances.Instance.terminate
terminating = threading.Lock()


def terminate(instance):
    """Once; after that it says what it was before."""
    with terminating:
        gone = instance._state.name == "terminated"
        return copy.copy(instance._state) if gone else moto_terminate(instance)


instances.Instance.terminate = terminate


def header(environ, name):
    """A request's header, or None."""
    key = name.upper().replace("-", "_")
    return environ.get(key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key)


def known_key(key_id, credentials):
    """Secret and token of an access key, or None."""
    role = sts_backends["123456789012"]["aws"].get_assumed_role_from_access_key(key_id)
    if role:
        return {"secret": role.secret_access_key, "token": role.session_token}
    return credentials.get(key_id)


def fault(environ, body, credentials):
    """What EC2 has against a request's signature: None, or (status, code, message)."""
    form = dict(urllib.parse.parse_qsl(body.decode(errors="replace")))
    if form.get("Action") == "AssumeRoleWithWebIdentity":
        right = form.get("WebIdentityToken") == sys.argv[3]
        return None if right else (400, "InvalidIdentityToken", "No OpenIDConnect provider found in your account")
    authorization = header(environ, "Authorization") or ""
    scheme, _, rest = authorization.partition(" ")
    if not authorization:
        return 401, "AuthFailure", "Request is missing authentication information"
    if scheme != "AWS4-HMAC-SHA256":
        return 400, "IncompleteSignature", "Unsupported signature algorithm " + scheme
    fields = dict(field.strip().partition("=")[::2] for field in rest.split(","))
    try:
        key_id, date, region, service, end = fields["Credential"].split("/")
        names, signature = fields["SignedHeaders"].split(";"), fields["Signature"]
        moment = datetime.datetime.strptime(header(environ, "X-Amz-Date") or "", "%Y%m%dT%H%M%SZ")
    except (KeyError, ValueError) as error:
        return 400, "IncompleteSignature", "Authorization or X-Amz-Date is not in the right form: " + str(error)
    known = known_key(key_id, credentials)
    if not known or known["token"] != header(environ, "X-Amz-Security-Token"):
        return 401, "AuthFailure", NOT_VALIDATED
    now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
    if abs((now - moment).total_seconds()) > 300:
        return 400, "RequestExpired", "Request has expired."
    sent = [name[5:].lower().replace("_", "-") for name in environ if name.startswith("HTTP_X_AMZ_")]
    unsigned = [name for name in ["host", *sent] if name not in names]
    if unsigned or names != sorted(names) or service not in ("ec2", "sts") or end != "aws4_request":
        return 403, "SignatureDoesNotMatch", "Headers must be signed, in order, for service ec2: " + ", ".join(unsigned)
    if not moment.strftime("%Y%m%d") == date:
        return 403, "SignatureDoesNotMatch", "Date in Credential scope does not match X-Amz-Date"
    expected = sign(environ, body, names, known["secret"], (date, region, service, end))
    if not hmac.compare_digest(expected, signature):
        message = "The request signature we calculated does not match the signature you provided."
        return 403, "SignatureDoesNotMatch", message
    return None


def sign(environ, body, names, secret, scope):
    """The signature that a request should have."""
    query = sorted(urllib.parse.parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
    quote = lambda text: urllib.parse.quote(text, safe="-_.~")  # noqa: E731
    lines = [environ["REQUEST_METHOD"], urllib.parse.quote(environ.get("PATH_INFO", "") or "/", safe="/-_.~")]
    lines.append("&".join(quote(key) + "=" + quote(value) for key, value in query))
    lines += [name + ":" + " ".join((header(environ, name) or "").split()) for name in names]
    lines += ["", ";".join(names), hashlib.sha256(body).hexdigest()]
    request = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", header(environ, "X-Amz-Date"), "/".join(scope), request])
    key = ("AWS4" + secret).encode()
    for part in scope:
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def checked(application, credentials):
    """The application behind the check."""

    def answer(environ, start_response):
        if not environ.get("PATH_INFO", "").startswith("/moto-api") and header(environ, "X-Test-Unsigned") is None:
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            environ["wsgi.input"] = io.BytesIO(body)
            found = fault(environ, body, credentials)
            if found:
                text = ERROR.format(found[1], found[2]).encode()
                headers = [("Content-Type", "text/xml;charset=UTF-8"), ("Content-Length", str(len(text)))]
                start_response(str(found[0]) + " Refused", headers)
                return [text]
        return application(environ, start_response)

    return answer


def leash():
    """Ends the process when whoever started it is gone."""
    # The descriptor itself: a thread that holds the lock of sys.stdin would be in the way at the end.
    while os.read(0, 4096):
        pass
    shutil.rmtree(sys.argv[2], ignore_errors=True)
    os._exit(0)


def main():
    """Serves until the leash ends it."""
    threading.Thread(target=leash, daemon=True).start()
    application = checked(DomainDispatcherApplication(create_backend_app), json.loads(sys.argv[1]))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    print("ready", server.port, flush=True)
    # Nobody reads on.
    os.dup2(2, 1)
    server.serve_forever()


main()
