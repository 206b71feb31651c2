"""Where a service is: by the variables that AWS's SDKs read, as botocore reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

_REGION: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)+")

# Of botocore's partitions.json: the partition of a region, its domain, and its domain for IPv6 too.
_PARTITIONS: Final = (
    ("cn-", "amazonaws.com.cn", "api.amazonwebservices.com.cn"),
    ("us-iso-", "c2s.ic.gov", "api.aws.ic.gov"),
    ("us-isob-", "sc2s.sgov.gov", "api.aws.scloud"),
    ("eu-isoe-", "cloud.adc-e.uk", "api.cloud-aws.adc-e.uk"),
    ("us-isof-", "csp.hci.ic.gov", "api.aws.hci.ic.gov"),
    ("eusc-", "amazonaws.eu", "api.amazonwebservices.eu"),
    ("", "amazonaws.com", "api.aws"),
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``authority`` is what the Host header says: the port only where it is not the scheme's."""

    secure: bool
    host: str
    port: int
    authority: str

    @classmethod
    def of(cls, service: str, region: str, environ: Mapping[str, str]) -> Endpoint:
        """Of ``service`` ("dynamodb", "kms") in ``region``.

        ``AWS_ENDPOINT_URL_<SERVICE>`` goes before ``AWS_ENDPOINT_URL``, either before the region's
        own; one that is empty does not count. The regional one follows ``AWS_USE_FIPS_ENDPOINT``
        and ``AWS_USE_DUALSTACK_ENDPOINT``. Raise `ValueError` for a URL that is no endpoint.
        """
        if environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() != "true":
            for name in (f"AWS_ENDPOINT_URL_{service.upper()}", "AWS_ENDPOINT_URL"):
                if environ.get(name):
                    return cls.parse(environ[name])
        host = regional_host(
            service,
            region,
            fips=environ.get("AWS_USE_FIPS_ENDPOINT", "").lower() == "true",
            dual_stack=environ.get("AWS_USE_DUALSTACK_ENDPOINT", "").lower() == "true",
        )
        return cls(secure=True, host=host, port=443, authority=host)

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        parts = urlsplit(url)
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or parts.path not in ("", "/")
            or parts.query
            or parts.fragment
            or parts.username is not None
            or parts.password is not None
        ):
            # Not the URL itself: somebody may have put a password into it.
            raise ValueError("AWS endpoint: scheme, host and port, and nothing else")
        secure = parts.scheme == "https"
        usual = 443 if secure else 80
        port = parts.port if parts.port is not None else usual
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        authority = host if port == usual else f"{host}:{port}"
        return cls(secure=secure, host=parts.hostname, port=port, authority=authority)


def region_of(environ: Mapping[str, str]) -> str:
    """``AWS_REGION`` is Lambda's own word; elsewhere there may be ``AWS_DEFAULT_REGION`` alone.

    Raise `ValueError` for none, or one that is not a region's name: it becomes part of a host.
    """
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or ""
    if not _REGION.fullmatch(region):
        raise ValueError("AWS region: none, or not a region's name")
    return region


def regional_host(service: str, region: str, *, fips: bool, dual_stack: bool) -> str:
    domain, both = next(
        (domain, both) for prefix, domain, both in _PARTITIONS if region.startswith(prefix)
    )
    if fips and region.startswith("us-gov-") and service == "dynamodb" and not dual_stack:
        fips = False  # there, DynamoDB's one endpoint is a FIPS endpoint
    name = f"{service}-fips" if fips else service
    return f"{name}.{region}.{both if dual_stack else domain}"
