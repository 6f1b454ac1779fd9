"""`ParameterTable`: a list of parameters that was read, its space, and its values for the model."""

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from landcal_jax.errors import complain
from landcal_jax.io.parameter_lists import entries as parameter_entries
from landcal_jax.io.parameter_lists.entries import Entry, Resolved, Spec
from landcal_jax.io.parameter_lists.printing import in_words

if TYPE_CHECKING:
    from landcal_jax.parameters import ParameterSpace


@dataclasses.dataclass(frozen=True, eq=False)
class ParameterTable:
    """A list of parameters that was read: its space, its cells, and the way back.

    `frame` has the verbatim cells as text, also of rows that are no parameters; `entries` what each parameter row
    says; `groups` maps a flag to the parameters that move with it; `odd` are sentences about what is odd in the list.
    """

    source: str
    format: str
    frame: pd.DataFrame
    entries: tuple[Entry, ...]
    groups: dict[str, tuple[str, ...]]
    coords: dict[str, tuple[str, ...]]
    odd: tuple[str, ...]
    prior: str
    share: float
    _resolved: Resolved = dataclasses.field(repr=False)
    _origin: Any = dataclasses.field(repr=False)
    _space: Any = dataclasses.field(default=None, repr=False)

    @functools.cached_property
    def space(self) -> "ParameterSpace":
        """The ParameterSpace; ValueError if no parameter of the list is free."""
        from landcal_jax.parameters import Parameter, ParameterSpace

        if self._space is not None:
            return self._space
        if all(spec.fixed.all() for spec in self._resolved.specs):
            raise ValueError(complain(f"at least one parameter with a range in {self.source}", "none that is free",
                                      "include one; or only=['name'], relative_range=0.2 when reading"))
        parameters, fixed = {}, {}
        for spec in self._resolved.specs:
            about = {"dims": spec.dims, "units": spec.units, "description": spec.description}
            if self.prior == "uniform":
                parameters[spec.name] = Parameter.uniform(spec.low, spec.high, spec.default, **about)
            else:
                parameters[spec.name] = Parameter.share_of_range(spec.default, spec.low, spec.high, self.share, **about)
            if spec.fixed.all():
                fixed[spec.name] = spec.value
            else:
                labels = self._labels_of(spec)
                fixed |= {labels[i]: spec.value[i] for i in np.ndindex(spec.value.shape) if spec.fixed[i]}
        dims = {dim for spec in self._resolved.specs for dim in spec.dims}
        return ParameterSpace(parameters, {dim: labels for dim, labels in self.coords.items() if dim in dims}, fixed=fixed)

    def _labels_of(self, spec: Spec) -> np.ndarray:
        labels = np.empty(spec.value.shape, object)
        for index in np.ndindex(spec.value.shape):
            names = (self.coords[dim][i] for dim, i in zip(spec.dims, index, strict=True))
            labels[index] = f"{spec.name}[{','.join(names)}]"
        return labels

    def values(self, theta: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Physical value of every parameter of the list that is known; the defaults of the space if theta is None.

        Members of a group are there in place of the group. theta may have leading axes and be traced by JAX; fixed
        parameters may be left out of it. Raises ValueError for a name that is not in the space.
        """
        return parameter_entries.values_of(self._resolved, self._complete(theta), self._void)

    @functools.cached_property
    def _void(self) -> dict[str, np.ndarray]:
        """0 for each element, NaN for those that are NaN in the list."""
        void = {}
        by_name = {entry.name: entry for entry in self.entries}
        for spec in self._resolved.specs:
            entry = by_name.get(spec.name)
            if entry is not None and spec.fixed.any() and self._space is None:
                known = np.isfinite(np.broadcast_to(entry.low, spec.low.shape)) | np.isfinite(
                    np.broadcast_to(entry.default, spec.low.shape))
                if not known.all():
                    void[spec.name] = np.where(known, 0.0, np.nan)
        return void

    def _complete(self, theta: Mapping[str, Any] | None) -> dict[str, Any]:
        specs = {spec.name: spec for spec in self._resolved.specs}
        if theta is None:
            return {name: np.where(spec.fixed, spec.value, spec.default) for name, spec in specs.items()}
        unknown = [name for name in theta if name not in specs]
        if unknown:
            near = difflib.get_close_matches(unknown[0], specs, n=2)
            raise ValueError(complain(f"theta of the space of {self.source}", f"also {', '.join(map(repr, unknown[:5]))}",
                                      " or ".join(near) or "table.space.names lists the parameters"))
        missing = [name for name, spec in specs.items() if name not in theta and not spec.fixed.all()]
        if missing:
            raise ValueError(complain(f"theta with every free parameter of {self.source}", f"no {', '.join(missing[:5])}",
                                      "theta = table.space.physical(z)"))
        return {name: theta.get(name, spec.value) for name, spec in specs.items()}

    def by_namelist(self, theta: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
        """Namelist (ecLand) or namelist file (LAVENDAR) -> values in the form that `patch_namelist` takes.

        Only what is calibrated: fixed parameters keep the value that the namelist has.
        """
        if self.format not in ("ecLand", "LAVENDAR", "namelist"):
            raise ValueError(complain("a list that names namelists (ecLand, LAVENDAR, namelist)", f"{self.source}, {self.format}",
                                      "values(theta)"))
        values, result = self.values(theta), {}
        for entry in self.entries:
            if not entry.status.startswith(("free", "moves")):
                continue
            if self.format == "LAVENDAR":
                file, key = entry.cells.keys[0] if len(entry.cells.keys) > 2 else "", entry.cells.key
            elif self.format == "ecLand":
                file, key = entry.place, f"{entry.place}.{entry.name}" if entry.place else entry.name
            else:
                file, key = self.source, entry.cells
            result.setdefault(file, {})[key] = values[entry.name]
        return result

    def __str__(self) -> str:
        return in_words(self.source, self.format, self.entries, self._resolved, self.coords, self.prior, self.share, self.odd)
