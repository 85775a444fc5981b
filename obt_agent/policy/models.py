"""Which models a server may name. Pure.

Patterns are shell patterns on canonical names, so that another spelling of a name, another case or a default
written out is the same name. What a pattern leaves out is filled in:

- no tag: every tag;
- an allow pattern without a slash: Ollama's own library (``registry.ollama.ai/library/``); with one slash: a
  namespace there, unless the first part holds a dot or a colon and so is a host;
- a deny pattern without a slash: a model of that name in every namespace of every registry.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterable, Sequence

from obt_agent.config.schema import ModelsPolicy
from obt_agent.errors import InvalidParams, NotPermitted
from obt_agent.ollama.names import DEFAULT_HOST, DEFAULT_NAMESPACE, CanonicalName, canonical
from obt_agent.ollama.payloads import InstalledModel


def full_pattern(pattern: str, *, deny: bool) -> str:
    """The pattern with what it leaves out, in lower case."""
    text = pattern.strip().lower()
    if text == "*":
        return text
    if ":" not in text.rpartition("/")[2]:
        text += ":*"
    slashes = text.count("/")
    if slashes == 0:
        return f"*/{text}" if deny else f"{DEFAULT_HOST}/{DEFAULT_NAMESPACE}/{text}"
    first = text.partition("/")[0]
    if slashes == 1 and not set(first) & set(".:*"):
        return f"{DEFAULT_HOST}/{text}"
    return text


def compiled(patterns: Iterable[str], *, deny: bool = False) -> re.Pattern[str]:
    """One expression that matches what any of the patterns matches (nothing when there are none)."""
    parts = [fnmatch.translate(full_pattern(pattern, deny=deny)) for pattern in patterns]
    return re.compile("|".join(parts) or r"(?!)")


def is_cloud_name(name: CanonicalName) -> bool:
    """Whether Ollama serves the model of this name from its cloud: tag ``cloud`` or ending in ``-cloud``."""
    return name.tag == "cloud" or name.tag.endswith("-cloud") or name.model.endswith("-cloud")


class InstalledIndex:
    """What Ollama has, prepared for many decisions: made in one pass over the list.

    Args:
        installed: the models.
        deny: matches canonical names that are denied.
    """

    def __init__(self, installed: Sequence[InstalledModel], deny: re.Pattern[str]) -> None:
        names = [(_text(model.name), model) for model in installed]
        # The first of several entries with one name, as Ollama lists them.
        self.by_name = dict(reversed(names))
        # A copy under an allowed name has the digest of the denied model.
        denied = (model.digest for name, model in names if deny.match(name))
        self.denied_digests = frozenset(digest for digest in denied if digest)


class ModelRules:
    """Decisions on names of models.

    Args:
        models: allow and deny patterns.
        remote_models: whether models whose prompts leave the machine are allowed.
        registries: hosts that models may come from.
    """

    def __init__(self, models: ModelsPolicy, *, remote_models: bool, registries: Collection[str]) -> None:
        self._allow = compiled(models.allow)
        self._deny = compiled(models.deny, deny=True)
        self._remote_models = remote_models
        self._registries = compiled_hosts(registries)
        # The last list and its index. A list that a peer makes long is checked once for each of its models,
        # and with every command: without the index 10,000 models cost the event loop 10,000 passes.
        self._indexed: tuple[InstalledModel, ...] = ()
        self._index = InstalledIndex((), self._deny)

    def check(self, name: str, installed: Sequence[InstalledModel] = ()) -> CanonicalName:
        """Refuse a name that the owner does not allow.

        Args:
            name: as the server wrote it.
            installed: what Ollama has: shows stubs of remote models and other names of a denied model.

        Raises:
            InvalidParams: it is no name.
            NotPermitted: ``policy_key`` says which line refuses it.
        """
        found = canonical(name)
        text = str(found)
        if self._deny.match(text):
            raise _refused(found, "policy.models.deny", "the host's owner denies this model")
        if not self._allow.match(text):
            raise _refused(found, "policy.models.allow", "the host's owner does not allow this model")
        index = self._index_of(installed)
        here = index.by_name.get(text)
        if here is not None and here.digest in index.denied_digests:
            raise _refused(found, "policy.models.deny", "it is another name of a model that is denied")
        if not self._remote_models and (is_cloud_name(found) or (here is not None and _is_remote(here))):
            raise _refused(found, "policy.remote_models", "its prompts would leave this machine")
        return found

    def check_registry(self, name: CanonicalName) -> None:
        """Refuse a name whose registry is not on the list: Ollama would dial its host.

        Raises:
            NotPermitted: with ``policy_key``.
        """
        if not self._registries.match(name.host):
            why = f"the registry {name.host!r} is not on the list"
            raise _refused(name, "policy.registries", why)

    def find(self, name: str, installed: Sequence[InstalledModel]) -> InstalledModel | None:
        """Return the model of this name, however it is written. Raises ``InvalidParams``."""
        return self._index_of(installed).by_name.get(str(canonical(name)))

    def _index_of(self, installed: Sequence[InstalledModel]) -> InstalledIndex:
        # Only a tuple cannot have changed since. It is kept, so that no other object can have its identity.
        if not isinstance(installed, tuple):
            return InstalledIndex(installed, self._deny)
        if installed is not self._indexed:
            self._indexed, self._index = installed, InstalledIndex(installed, self._deny)
        return self._index

    def allows(self, name: str, installed: Sequence[InstalledModel], *, digest: str = "") -> bool:
        """Return whether a list may show the model; ``digest`` is that of a loaded one."""
        try:
            self.check(name, installed)
        except (NotPermitted, InvalidParams):
            return False
        # A copy that was deleted while it is loaded is in no list any more, and still is the denied model.
        return digest not in self._index_of(installed).denied_digests


def compiled_hosts(hosts: Collection[str]) -> re.Pattern[str]:
    """One expression for shell patterns on hosts, in lower case."""
    return re.compile("|".join(fnmatch.translate(host.strip().lower()) for host in hosts) or r"(?!)")


def _text(name: str) -> str:
    try:
        return str(canonical(name))
    except InvalidParams:
        return name.lower()


def _is_remote(model: InstalledModel) -> bool:
    return bool(model.remote_host or model.remote_model)


def _refused(name: CanonicalName, key: str, why: str) -> NotPermitted:
    message = f"{name.short}: {why} ({key} in the agent's configuration)."
    return NotPermitted(message, policy_key=key, model=name.short, host=name.host)
