"""Image references: read, compared however they are written, and which image a user means by one.

The rules are those of Docker and Podman (github.com/distribution/reference): a name without a registry is Docker
Hub's, one without a folder there is an official image, one without a tag or digest means ``latest``, and a digest
outweighs a tag. Repositories are lower case everywhere, so a capital letter makes no difference; in a tag it does.
Podman keeps what was built on a host under ``localhost/`` and finds it without that, too.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

_HUB = "docker.io"
_HUB_PREFIX = re.compile(r"(index\.)?docker\.io/")
_OFFICIAL = re.compile(r"library/([^/]+)")
_LOCAL = "localhost/"
_LATEST = "latest"
_ID = re.compile(r"(?:sha256:)?([0-9a-f]{4,64})", re.IGNORECASE)
_WHOLE_ID = re.compile(r"(sha256:)?[0-9a-f]{64}", re.IGNORECASE)
_MOST_SIMILAR = 3
_LEAST_LIKENESS = 0.75


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference in parts.

    Attributes:
        repository: as Docker shows it: ``debian``, ``group/name``, ``registry.example.org:5000/name``.
        tag: its tag, None if it names none.
        digest: its digest with the algorithm, None if it names none.
    """

    repository: str
    tag: str | None
    digest: str | None

    @classmethod
    @lru_cache(maxsize=65536)
    def parse(cls, text: str) -> Reference:
        """The parts of a reference; text that is not one comes out as a repository that no image has."""
        name, _, digest = text.strip().partition("@")
        head, _, tail = name.rpartition(":")
        tag = None
        # A colon before a slash is that of a registry's port.
        if head and "/" not in tail:
            name, tag = head, tail or None
        name = name.lower()
        name = name[found.end() :] if (found := _HUB_PREFIX.match(name)) else name
        name = found[1] if (found := _OFFICIAL.fullmatch(name)) else name
        return cls(name, tag, digest.lower() or None)

    def __str__(self) -> str:
        """As Docker shows it: the digest, else the tag."""
        return f"{self.repository}@{self.digest}" if self.digest else f"{self.repository}:{self.tag or _LATEST}"

    @property
    def on_hub(self) -> bool:
        """Whether its registry is Docker Hub, which short names leave out."""
        first, slash, _ = self.repository.partition("/")
        return not slash or not ("." in first or ":" in first or first == "localhost")

    def repositories(self) -> tuple[str, ...]:
        """The repository in each way in which it is written, the shortest first."""
        if self.repository.startswith(_LOCAL):
            return (self.repository.removeprefix(_LOCAL), self.repository)
        if not self.on_hub:
            return (self.repository,)
        paths = (self.repository,) if "/" in self.repository else (self.repository, f"library/{self.repository}")
        return (*paths, *(f"{host}{_HUB}/{path}" for host in ("", "index.") for path in paths))


def familiar(name: str) -> str:
    """A reference as Docker shows it: without its default registry, with the default tag, the digest before a tag."""
    return str(Reference.parse(name))


def repository(name: str) -> str:
    """A reference's repository as Docker shows it. The log's `repository_of` is the same in SQL."""
    return Reference.parse(name).repository


@lru_cache(maxsize=65536)
def aliases(name: str) -> frozenset[str]:
    """What may be meant by a reference, each as `familiar` has it: by tag, by digest, and without ``localhost/``."""
    read = Reference.parse(name)
    tagged = [f":{read.tag or _LATEST}"] if read.tag or not read.digest else []
    digest = [f"@{read.digest}"] if read.digest else []
    repositories = {read.repository, read.repository.removeprefix(_LOCAL)}
    return frozenset(known + end for known in repositories for end in (*tagged, *digest))


def all_aliases(names: Iterable[str]) -> frozenset[str]:
    """The `aliases` of all names."""
    return frozenset().union(*map(aliases, names))


@lru_cache(maxsize=65536)
def spellings(name: str) -> tuple[str, ...]:
    """Each way to write a reference, and its repository alone: one of these a pattern has to match."""
    read = Reference.parse(name)
    ends = ["", f":{read.tag or _LATEST}"] if read.tag or not read.digest else [""]
    if read.digest:
        ends.append(f"@{read.digest}")
    return tuple(known + end for known in read.repositories() for end in ends)


@lru_cache(maxsize=1024)
def normal_glob(glob: str) -> str:
    """A glob on references in the form that `spellings` has: lower case but for the tag, no tag beside a digest."""
    name, at, digest = glob.strip().partition("@")
    head, colon, tag = name.rpartition(":")
    if not head or "/" in tag:
        head, colon, tag = name, "", ""
    if "[" in head:
        return glob.strip()
    return f"{head.lower()}@{digest.lower()}" if at else f"{head.lower()}{colon}{tag}"


def bare_id(image: str) -> str:
    """An image's ID, or a digest, without its algorithm."""
    return image.removeprefix("sha256:")


def digest_of(name: str) -> str:
    """The digest in ``name@digest``."""
    return name.rpartition("@")[2]


def split_tag(name: str) -> tuple[str, str]:
    """The two parts of ``name:tag``, as an engine takes them to tag an image."""
    repository, _, tag = name.rpartition(":")
    return repository, tag


def is_id(text: str) -> bool:
    """Whether a text is an image's whole ID, with or without its algorithm, and no name."""
    return _WHOLE_ID.fullmatch(text) is not None


def meant(text: str, images: Mapping[str, Collection[str]]) -> list[str]:
    """The images that a user who writes `text` means; the first of these that finds any decides.

    1. a name or digest, 2. the beginning of an ID, from 4 digits on, 3. a name without a tag: all of the
    repository (`debian` is `debian:latest`, and if there is none, every `debian`), 4. a glob.

    Args:
        text: what the user writes.
        images: every name of each image, by its ID.

    Returns:
        their IDs, in the order of `images`.
    """
    text = text.strip()
    named = familiar(text)
    found = [image for image, names in images.items() if named in all_aliases(names)]
    if not found and (digits := _ID.fullmatch(text)):
        start, whole = digits[1].lower(), f"@sha256:{digits[1].lower()}"
        found = [
            image
            for image, names in images.items()
            if bare_id(image).startswith(start) or any(familiar(name).endswith(whole) for name in names)
        ]
    read = Reference.parse(text)
    if not found and read.tag is None and read.digest is None:
        found = [image for image, names in images.items() if any(_is_of(read, name) for name in names)]
    if not found:
        glob = normal_glob(text)
        found = [
            image
            for image, names in images.items()
            if any(fnmatchcase(written, glob) for name in names for written in spellings(name))
        ]
    return found


def _is_of(wanted: Reference, name: str) -> bool:
    """Whether a name is of the wanted repository."""
    return wanted.repository in {repository(name), repository(name).removeprefix(_LOCAL)}


def similar(text: str, images: Mapping[str, Collection[str]]) -> list[str]:
    """Names to suggest where a user wrote one that is not known.

    Those that contain it, the shortest first; if none does, those whose end looks like it, the most similar first.
    """
    wanted = Reference.parse(text).repository
    names = {name for known in images.values() for name in known if "@" not in name}
    if found := [name for name in names if wanted and wanted in familiar(name)]:
        return sorted(found, key=lambda name: (len(name), name))[:_MOST_SIMILAR]
    parts = wanted.count("/") + 1
    ends: dict[str, list[str]] = {}
    for name in sorted(names):
        ends.setdefault("/".join(Reference.parse(familiar(name)).repository.split("/")[-parts:]), []).append(name)
    like = difflib.get_close_matches(wanted, ends, n=_MOST_SIMILAR, cutoff=_LEAST_LIKENESS)
    return [name for end in like for name in ends[end]][:_MOST_SIMILAR]
