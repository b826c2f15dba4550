"""A bucket of an S3-compatible store."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from http import HTTPStatus
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from collector.model.errors import UsageError
from collector.shipping.store import MOST, StoreError, StoreFullError

# A server that restarts is waited for; one that is gone is left to the next run.
_RETRIES = {"max_retries": 6, "retry_timeout": timedelta(seconds=30)}
_URL = re.compile(r"s3://([a-z0-9][a-z0-9._-]{1,62})(?:/([^?#]*))?")
# S3's own words for what goes wrong, which say more than the status.
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
# The library dies of what is not one.
_ENDPOINT = re.compile(r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?(?:/[!-~]*)?")
# Without keys the library asks the cloud's own service at this address, or at the one that a container is given.
_NO_KEYS = re.compile(r"169\.254\.(169\.254|170\.2)|fd00:ec2|InvalidCredentials|CredentialsNotLoaded")
_STATUS = re.compile(r"status code: (\d{3})")
_REFUSED = {"401", "403"}
_FULL = ("EntityTooLarge", "QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "no space left")
_REGION = "it is in another region: set AWS_REGION"
_ADVICE = {
    "NoSuchBucket": "there is no such bucket: make it first",
    "InternalError": "its server fails (InternalError), for example because its disk is full: look at its own log",
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
}
_NO_LOCATION = "redirect without LOCATION"
# What is sent in a header: the library panics at what cannot stand in one.
_IN_HEADER = re.compile(r"aws_\w*(key|token|region)\w*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_UNREACHED = "error sending request"


class Bucket:
    """A bucket, or a prefix in it.

    Args:
        url: ``s3://bucket/prefix``.
        settings: AWS_ACCESS_KEY_ID and the like; None: those of the environment. AWS_ENDPOINT_URL names another
            server than Amazon's.

    Raises:
        UsageError: it is not such a URL, or a setting makes no sense.
    """

    def __init__(self, url: str, settings: Mapping[str, str] | None = None) -> None:
        found = _URL.fullmatch(url)
        if "@" in url.partition("://")[2].partition("/")[0]:
            raise UsageError("s3:// with credentials in it: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead")
        if not found:
            raise UsageError(
                f"'{url}' is not s3://BUCKET/PREFIX (a bucket's name: 2 to 63 of a-z, 0-9, '.', '_' and '-')"
            )
        self.name = url
        given: Any = {key.lower(): value for key, value in (settings or {}).items()}
        # Plain HTTP only where the operator's own endpoint says so; secrets are never sent, requests are signed.
        known = {key.lower(): value for key, value in os.environ.items()} | given
        endpoints = {key: value for key, value in known.items() if key.startswith("aws_endpoint")}
        for key, value in endpoints.items():
            address = _ENDPOINT.fullmatch(value)
            if address is None or int(address["port"] or 0) >= 2**16:
                raise UsageError(f"{key.upper()} is not a URL such as https://s3.example.org")
        for key, value in known.items():
            if _IN_HEADER.fullmatch(key) and _CONTROL.search(value):
                raise UsageError(f"{key.upper()} holds a line break or another control character: enter it again")
        plain = any(value.startswith("http://") for value in endpoints.values())
        try:
            self._store = S3Store(
                found[1],
                prefix=(found[2] or "").strip("/") or None,
                config=given,
                client_options={"timeout": "60s", "connect_timeout": "10s", "allow_http": plain},
                retry_config=_RETRIES,  # type: ignore[arg-type]
            )
        except (BaseError, TypeError, ValueError) as error:
            said = _first_line(error)
            # It quotes what it cannot use, which may be a secret in the wrong place.
            for key, value in known.items():
                said = said.replace(value, "...") if value and key.startswith("aws_") else said
            raise UsageError(f"{url}: {said}") from None

    def names(self, prefix: str) -> list[str]:
        """See `Store`."""
        with self._in_one_line():
            return sorted(str(one["path"]) for batch in obstore.list(self._store, prefix=prefix) for one in batch)

    def folders(self, prefix: str) -> list[str]:
        """See `Store`."""
        with self._in_one_line():
            found = obstore.list_with_delimiter(self._store, prefix=prefix)["common_prefixes"]
            return sorted(str(path).rstrip("/").rpartition("/")[2] for path in found)

    def read(self, name: str, most: int = MOST) -> bytes | None:
        """See `Store`."""
        with self._in_one_line():
            try:
                found = obstore.get(self._store, name)
                if found.meta["size"] > most:
                    return bytes(obstore.get_range(self._store, name, start=0, length=most))
                return bytes(found.bytes())
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise
                return None

    def write(self, name: str, data: bytes) -> None:
        """See `Store`."""
        with self._in_one_line():
            obstore.put(self._store, name, data)

    def claim(self, name: str, data: bytes) -> bytes:
        """See `Store`. On a server that ignores the condition the last of those who claim at once holds it."""
        held = self.read(name)
        if held is not None:
            return held
        with self._in_one_line():
            try:
                obstore.put(self._store, name, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                pass
            except BaseError as error:
                if "NotImplemented" not in str(error):
                    raise
                obstore.put(self._store, name, data)
        return self.read(name) or data

    def remove(self, name: str) -> None:
        """See `Store`."""
        with self._in_one_line():
            try:
                obstore.delete(self._store, name)
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise

    @contextmanager
    def _in_one_line(self) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as error:
            text = str(error)
            code = _CODE.search(text)
            word = code[1] if code else ""
            answers = set(_STATUS.findall(text))
            if any(sign in text for sign in _FULL) or "507" in answers:
                raise StoreFullError(
                    f"no space left in {self.name}: free some; the next run continues from here"
                ) from None
            if isinstance(error, PermissionDeniedError | UnauthenticatedError) or answers & _REFUSED:
                raise StoreError(
                    f"{self.name} refuses access ({word or 'no reason given'}): check AWS_ACCESS_KEY_ID, "
                    "AWS_SECRET_ACCESS_KEY and what they may do"
                ) from None
            if _NO_KEYS.search(text):
                raise StoreError(
                    f"{self.name} needs credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the "
                    "environment, or name a file of them"
                ) from None
            if _UNREACHED in text:
                raise StoreError(
                    f"the server of {self.name} does not answer: try again later, or check its URL"
                ) from None
            reason = _ADVICE.get(word) or word or _answer(text) or _first_line(error)
            raise StoreError(f"{self.name} cannot be used: {reason}") from None


def _answer(text: str) -> str | None:
    """What a server answered that gives no code of S3's; None: it did not."""
    if _NO_LOCATION in text:
        return _REGION
    if not (found := _STATUS.findall(text)):
        return None
    status = int(found[-1])
    later = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS
    advice = "try again later" if later else "is it an S3-compatible store? check its URL"
    return f"its server answers with HTTP status {status}: {advice}"


def _first_line(error: Exception) -> str:
    """What an error says, without where in the program; requests are signed, so that it holds no secret."""
    return (str(error) or type(error).__name__).splitlines()[0][:300]
