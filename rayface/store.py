"""The model store: `name/version/{model.safetensors, config.json, metrics.json, README.md}` in a folder or bucket.

Only safetensors are read, hashes are checked, nothing a user supplies is ever unpickled. `config.json` is written
last: a version without it does not exist. `name/promoted.json` names the version that a bare `name` means;
without it, the newest. One's own versions are 1, 2, ...; those of the release (`weights/`) are r1, r2, ..., so that
`recognition@r1` is the same network whatever else a store holds.
"""

import datetime
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyarrow import fs

from rayface import terms
from rayface.configuration import from_dict, to_dict
from rayface.errors import RayfaceError
from rayface.pretrained import is_pretrained, load_pretrained, pretrained_info, pretrained_terms
from rayface.records import check_metadata, schema_metadata
from rayface.release import WEIGHTS as RELEASE_WEIGHTS
from rayface.storage import open_filesystem, write_bytes

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass
class LoadedModel:
    """A model read from the store, in eval mode, fp32, on the CPU."""

    name: str
    version: str
    system: str
    config: Any  # the system's typed configuration
    networks: "dict[str, nn.Module]"
    info: dict[str, Any]  # config.json

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.version}"


class ModelStore:
    """Versions of trained models under one address; `fallback` is read when a name is not found here.

    `commercial_only` (or RAYFACE_COMMERCIAL_ONLY=1): models that do not state that commercial use is allowed are
    listed and shown, but not handed out. `prefix` stands before the numbers of the versions that are saved here.
    """

    def __init__(
        self,
        uri: str | os.PathLike[str],
        fallback: "ModelStore | None" = None,
        commercial_only: bool = False,
        prefix: str = "",
    ) -> None:
        self.uri = str(uri)
        self.fs, self.root = open_filesystem(self.uri)
        self.fallback, self.prefix = fallback, prefix
        self.commercial_only = commercial_only or terms.commercial_only()

    def names(self) -> list[str]:
        own = {Path(info.path).name for info in self._children(self.root)}
        own = {name for name in own if self.versions(name)}
        return sorted(own | set(self.fallback.names() if self.fallback else ()))

    def versions(self, name: str) -> list[str]:
        """The versions here (not in the fallback), oldest first."""
        found = [Path(info.path).name for info in self._children(f"{self.root}/{name}")]
        complete = [v for v in found if _number(v) and self._exists(f"{self.root}/{name}/{v}/config.json")]
        return sorted(complete, key=_number)

    def info(self, ref: str) -> dict[str, Any]:
        """config.json of a model, its `metrics` and where it was found; what is known of a "pretrained:..." one."""
        return pretrained_info(ref) if is_pretrained(ref) else self._info(*self._resolve(ref))

    def usable(self, ref: str) -> dict[str, Any]:
        """`info` of a model that may be used here; the one place where terms are enforced.

        Raises RayfaceError for one whose terms are refused.
        """
        if self.commercial_only and is_pretrained(ref):  # known before the file is, which one would fetch for nothing
            terms.check_commercial(ref, pretrained_terms(ref))
        info = self.info(ref)
        if self.commercial_only:
            terms.check_commercial(f"{info['name']}@{info['version']}", info)
        return info

    def folder(self, ref: str) -> str:
        """Where a model lies; itself a reference to it, from any store that sees the folder."""
        store, name, version = self._resolve(ref)
        return f"{store.root}/{name}/{version}"

    def load_network(self, ref: str) -> "nn.Module":
        """A model's first released network, or the network that "pretrained:..." names, frozen and in eval mode."""
        if is_pretrained(ref):
            self.usable(ref)
            return load_pretrained(ref)
        return next(iter(self.load(ref).networks.values()))

    @staticmethod
    def _info(store: "ModelStore", name: str, version: str) -> dict[str, Any]:
        folder = f"{store.root}/{name}/{version}"
        info = json.loads(store._read(f"{folder}/config.json"))
        metrics = f"{folder}/metrics.json"
        info["metrics"] = json.loads(store._read(metrics)) if store._exists(metrics) else {}
        info["store"] = store.uri
        return info

    def load(self, ref: str) -> LoadedModel:
        """Networks of `name`, `name@version` or a folder holding one version.

        Raises RayfaceError: no such model, a hash that does not match, other class lists, terms that are refused.
        """
        from safetensors.torch import load

        from rayface.systems.base import get_system

        store, name, version = self._resolve(ref)
        info = self.usable(ref)
        data = store._read(f"{store.root}/{name}/{version}/model.safetensors")
        if hashlib.sha256(data).hexdigest() != info["sha256"]:
            raise RayfaceError(f"{name}@{version} in {store.uri}: model.safetensors does not match its sha256")
        check_metadata(info.get("schema"), f"{name}@{version}")
        system = get_system(info["system"])
        config = from_dict(system.config_class, info["config"], f"{name}@{version}")
        tensors = {key: v.float() if v.is_floating_point() else v for key, v in load(data).items()}
        states = {
            network: {k.removeprefix(f"{network}."): v for k, v in tensors.items() if k.startswith(f"{network}.")}
            for network in info["networks"]
        }
        networks = system.restore(config, info["networks"], states)
        for network, held in info.get("shared", {}).items():
            networks[network] = self._shared(f"{name}@{version}", network, held, (store, self))
        for module in networks.values():
            module.eval().requires_grad_(False)
        return LoadedModel(name, version, info["system"], config, networks, info)

    def save(
        self,
        name: str,
        system: str,
        config: Any,
        networks: "Mapping[str, nn.Module]",
        *,
        metrics: Mapping[str, Any] | None = None,
        card: str = "",
        half: bool = False,
        details: Mapping[str, Any] | None = None,
    ) -> str:
        """Write the next version and return its `name@version`; `details` are further keys of config.json."""
        import torch

        from rayface.networks.widths import read_widths

        shared = self._held_elsewhere(system, config, networks)
        details = {**(details or {}), "shared": shared} if shared else details
        networks = {key: network for key, network in networks.items() if key not in shared}
        dtype = torch.float16 if half else torch.float32
        states = {
            key: {k: v.to(dtype) if v.is_floating_point() else v for k, v in network.state_dict().items()}
            for key, network in networks.items()
        }
        widths = {key: read_widths(network) for key, network in networks.items()}
        return self.save_states(name, system, config, states, widths, metrics=metrics, card=card, details=details)

    def save_states(
        self,
        name: str,
        system: str,
        config: Any,
        states: "Mapping[str, Mapping[str, Tensor]]",
        widths: Mapping[str, Any],
        *,
        metrics: Mapping[str, Any] | None = None,
        card: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> str:
        """As `save`, of state dicts as they are (network -> parameter -> tensor); `widths` of each network."""
        from safetensors.torch import save

        tensors = {
            f"{key}.{parameter}": value.detach().cpu().contiguous().clone()
            for key, state in states.items()
            for parameter, value in state.items()
        }
        # one metadata key: safetensors writes several in random order, and equal models should be equal files
        data = save(tensors, metadata={"rayface": json.dumps(schema_metadata())})
        digest = hashlib.sha256(data).hexdigest()
        run = (details or {}).get("run")
        if run and (held := self.versions(name)):  # a run killed after its last step saves once, not twice
            newest = self.info(f"{name}@{held[-1]}")
            if newest["sha256"] == digest and newest.get("run") == run:
                return f"{name}@{held[-1]}"
        version = self._claim_version(name)
        info = {
            "name": name,
            "version": version,
            "system": system,
            "config": to_dict(config),
            "networks": dict(widths),
            "parameters": sum(value.numel() for value in tensors.values()),
            "dtype": str(next(v.dtype for v in tensors.values() if v.is_floating_point())).removeprefix("torch."),
            "sha256": digest,
            "schema": schema_metadata(),
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "licence": "unstated",
            "terms": "",
            "commercial_use": "unstated",
            **(details or {}),
        }
        folder = f"{self.root}/{name}/{version}"
        files = {
            "model.safetensors": data,
            "metrics.json": json.dumps(metrics or {}, indent=1).encode(),
            "README.md": (card or f"# {name} {version}\n\nTrained with rayface; no card was written.\n").encode(),
            "config.json": json.dumps(info, indent=1).encode(),
        }
        for file, content in files.items():
            write_bytes(content, f"{folder}/{file}", self.fs)
        return f"{name}@{version}"

    def _held_elsewhere(
        self, system: str, config: Any, networks: "Mapping[str, nn.Module]"
    ) -> dict[str, dict[str, str]]:
        """Those of `networks` that another model holds, as it is: which, and its hash. They are not stored again."""
        from rayface.systems.base import get_system

        found = {}
        for network, key in get_system(system).shared.items():
            reference = getattr(config, key)
            held = self._as_known_here(reference) if reference else None
            if held is None:
                continue
            ours = networks[network].state_dict()
            theirs = self._before_release().load_network(held["model"]).state_dict()
            if ours.keys() == theirs.keys() and all(ours[name].cpu().equal(theirs[name]) for name in ours):
                found[network] = held
        return found

    def _as_known_here(self, reference: str) -> dict[str, str] | None:
        """`model` (name@version) and `sha256` of what `reference` means; None where that names no such model here."""
        store = self._before_release()
        try:
            info = store.info(reference)
            model = f"{info['name']}@{info['version']}"  # a folder's may be another one's here
            return {"model": model, "sha256": info["sha256"]} if store.info(model)["sha256"] == info["sha256"] else None
        except RayfaceError as error:
            if error.kind != "unknown-model":
                raise
            return None

    def _shared(self, ref: str, network: str, held: Mapping[str, str], stores: "Sequence[ModelStore]") -> "nn.Module":
        """A network of the model `ref` that another one holds, of the first of `stores` that has it as it was.

        Raises RayfaceError where none has.
        """
        for store in stores:
            if store._as_known_here(held["model"]) == held:
                only = store.commercial_only or self.commercial_only
                return ModelStore(store.uri, store.fallback or release_store(), only).load_network(held["model"])
        raise RayfaceError(
            f"{ref}: its {network} is that of {held['model']} with the sha256 {held['sha256']}, which is not in "
            f"{self.uri} (any more): put it there, or train {ref.partition('@')[0]} again",
            kind="unknown-model",
        )

    def _before_release(self) -> "ModelStore":
        """This store with the release weights behind it."""
        return self if self.fallback else ModelStore(self.uri, release_store(), self.commercial_only)

    def _claim_version(self, name: str) -> str:
        """The next version number. In a local store its folder is made here, so two savers never share one."""
        folders = [Path(info.path).name for info in self._children(f"{self.root}/{name}")]
        version = f"{self.prefix}{max((_number(folder) for folder in folders), default=0) + 1}"
        if isinstance(self.fs, fs.LocalFileSystem):
            try:
                os.makedirs(f"{self.root}/{name}", exist_ok=True)
                os.mkdir(f"{self.root}/{name}/{version}")
            except FileExistsError:
                return self._claim_version(name)
            except OSError as error:
                raise RayfaceError(f"{self.root}/{name} cannot be written ({error}); choose another --store") from error
        return version

    def promote(self, ref: str) -> None:
        """Make `name@version` the one that a bare `name` means."""
        store, name, version = self._resolve(ref)
        if store is not self:
            raise RayfaceError(f"{ref} is in {store.uri}, not in {self.uri}: only this store's models are promoted")
        write_bytes(json.dumps({"version": version}).encode(), f"{self.root}/{name}/promoted.json", self.fs)

    def _resolve(self, ref: str) -> "tuple[ModelStore, str, str]":
        if "/" in ref and "@" not in ref:
            folder = Path(ref).expanduser().resolve()
            if not (folder / "config.json").is_file():
                raise RayfaceError(f"{ref!r} is not a model folder: it has no config.json", kind="unknown-model")
            return ModelStore(folder.parent.parent), folder.parent.name, folder.name
        name, _, version = ref.partition("@")
        store: ModelStore | None = self
        while store is not None:
            if found := store._version(name, version):
                return store, name, found
            store = store.fallback
        raise RayfaceError(
            f"no model {ref!r} in {self.uri}; {self._held()}. Train one with `rayface train`, or name another "
            "store with --store.",
            status=404,
            kind="unknown-model",
        )

    def _version(self, name: str, version: str) -> str | None:
        """The version here that `version` means, the promoted or else the newest one where it is ""; None: not here."""
        held = self.versions(name)
        if version or not held:
            return version if version in held else None
        promoted = f"{self.root}/{name}/promoted.json"
        if not self._exists(promoted):
            return held[-1]
        version = json.loads(self._read(promoted))["version"]
        if version not in held:
            raise RayfaceError(
                f"{promoted} names {name}@{version}, which is not there (any more); {self.uri} holds {name} "
                f"{', '.join(held)}: promote one of them with `rayface models promote`",
                kind="unknown-model",
            )
        return version

    def _held(self) -> str:
        """What this store holds, and those behind it, in words."""
        own = [f"{name} ({', '.join(held)})" for name in self.names() if (held := self.versions(name))]
        text = f"it holds {', '.join(own) or 'nothing'}"
        return text if self.fallback is None else f"{text}; behind it {self.fallback.uri}: {self.fallback._held()}"

    def _children(self, folder: str) -> list[fs.FileInfo]:
        infos = self.fs.get_file_info(fs.FileSelector(folder, allow_not_found=True))
        return [info for info in infos if info.type == fs.FileType.Directory]

    def _exists(self, path: str) -> bool:
        return self.fs.get_file_info(path).type == fs.FileType.File

    def _read(self, path: str) -> bytes:
        with self.fs.open_input_stream(path) as stream:
            return stream.read()


def _number(version: str) -> int:
    """Of a version's folder, "3" or "r3"; 0 for any other name."""
    found = re.fullmatch(r"r?(\d+)", version)
    return int(found[1]) if found else 0


def release_store() -> ModelStore:
    """The weights that come with rayface."""
    return ModelStore(RELEASE_WEIGHTS, prefix="r")


def open_store(uri: str | os.PathLike[str] | None = None, commercial_only: bool = False) -> ModelStore:
    """The store at `uri` (else $RAYFACE_STORE, else ./runs/store) with the release weights behind it."""
    return ModelStore(uri or os.environ.get("RAYFACE_STORE") or "runs/store", release_store(), commercial_only)
