"""Reader of plain tables: any CSV file (comma, semicolon or tab) whose second line says the units.

    # site: XX-Abc
    # latitude: 61.8
    # longitude: 24.3
    # label: end
    # time_zone: UTC
    time,nee,temperature,soil_moisture
    -,umol m-2 s-1,K,percent
    2005-06-30 00:30,1.2,285.4,31.0

Columns are named as in `landcal_jax.io.quantities`, with `x_uncertainty` and `x_filled`, or as in FLUXNET; time is `time`, `date`,
`datetime`, `TIMESTAMP`, `TIMESTAMP_START` or `TIMESTAMP_END`. The lines with # are optional; further ones are label (start,
middle, end), step (ISO 8601), missing (values besides -9999: `# missing: -999, -99.99`), title, source, references, license.
Other columns are left out and named. A date without an hour names its own day, also as an end.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from landcal_jax.errors import complain
from landcal_jax.io.normal import Column, normalise, step_of
from landcal_jax.io.normal import said as said_of
from landcal_jax.io.quantities import quantity
from landcal_jax.io.readers.delimited import Sheet, compact_stamps, iso_stamps
from landcal_jax.io.readers.fluxnet import CHOICES, METHANE
from landcal_jax.io.recognition import Format, Head
from landcal_jax.io.units import convert

TIMES = ("TIMESTAMP_START", "time", "date", "datetime", "TIMESTAMP", "TIMESTAMP_END")
SEPARATORS = (",", ";", "\t")
KEYS = ("site", "latitude", "longitude", "label", "step", "time_zone", "missing", "title", "source", "references", "license")
# FLUXNET name -> quantity. Base names are unique; uncertainties of FLUXNET follow their flux.
FLUXNET = {column: name for name, (columns, _) in (CHOICES | METHANE).items() for column in columns} | {
    "NEE_VUT_REF_RANDUNC": "nee_uncertainty", "NEE_CUT_REF_RANDUNC": "nee_uncertainty", "LE_RANDUNC": "latent_heat_uncertainty",
    "H_RANDUNC": "sensible_heat_uncertainty"}
FRACTIONS = ("albedo", "relative_humidity", "soil_moisture", "fapar")  # below 1 % never in a whole record
CLUSTERS = 3.0  # times: fractions and percent in one column leave a gap as wide between them
DATE = re.compile(r"\"?\d{4}")


def read_table(path: str | Path, site: str | None = None) -> xr.Dataset:
    """Read a plain table with a row of units (see the module) into the normal form.

    `site`: its code, where the file does not say it or holds several in a column `site`.
    Sums over a step have the unit "mm per step". Raises ValueError when the row of units is not there (and shows the row to add), when a
    fraction stands under percent or percent under a fraction, or for what `normalise` refuses.
    """
    sheet = Sheet(path, _separator(Head(Path(path))) or ",", what="a CSV table")
    path, about = Path(path), _comments(sheet)
    stamp = next((name for name in TIMES if name in sheet.names), None)
    named = {name: theirs for name in sheet.names if (theirs := _quantity_of(name))}
    if stamp is None or not named:
        raise ValueError(complain(f"a column of time ({', '.join(TIMES)}) and columns of the normal form, such as nee, in {path.name}",
                                  f"{', '.join(sheet.names[:12])}", "rename the columns as in landcal_jax.io.quantities or as in FLUXNET"))
    units = dict(zip(sheet.names, _units_row(sheet, stamp, named), strict=True))
    marks = {f"{theirs}_QC": name for theirs, name in named.items() if theirs in FLUXNET and f"{theirs}_QC" in sheet.names}
    frame, said = sheet.read([*named, *marks], texts=[stamp, *(["site"] if "site" in sheet.names else [])]), list[str]()
    frame, site = _one_site(frame, site, about, sheet, said)
    time, label, dates = _time(frame, stamp, about, path, said)
    chosen = _chosen(named, said)
    fills = (-9999.0, *_missing(about, path))
    columns = {name: _column(name, theirs, frame, units[theirs], fills, path, said) for name, theirs in chosen.items()}
    rest = [name for name in sheet.names if name and name not in (*named, *marks, *TIMES, "site")]
    if rest:
        said.append(f"Columns that are not read: {', '.join(rest)}.")
    place = {key: _number(about, key, path) for key in ("latitude", "longitude") if key in about}
    if len(place) < 2:
        said.append("The file does not say where the site is: give latitude= and longitude= (or --latitude and --longitude).")
    given = {key: about[key] for key in ("step", "time_zone", "title", "source", "references", "license") if key in about}
    ds = normalise(columns, time, path=path, site=site, label=label, dates=dates, fills=fills, history=[*sheet.history, *said],
                   **place, **given)
    return _with_marks(ds, {name: frame[column] for column, name in marks.items() if chosen.get(name) == column.removesuffix("_QC")})


def _with_marks(ds: xr.Dataset, marks: dict[str, pd.Series]) -> xr.Dataset:
    """`ds` with `x_filled` from the columns `_QC` of FLUXNET: 0 is measured in a half-hour, the share of good data in a day."""
    for name, quality in marks.items():
        quality = quality.to_numpy(dtype=float)
        quality = np.where(quality == -9999.0, np.nan, quality)
        share = (quality > 0).astype(float) if step_of(ds).startswith("PT") else np.clip(1.0 - quality, 0.0, 1.0)
        about = quantity(f"{name}_filled")
        ds[f"{name}_filled"] = ("time", np.where(np.isnan(quality), np.nan, share), {"units": about.units, "long_name": about.long_name})
    return said_of(ds, *(f"{name}_filled is from the column _QC of FLUXNET." for name in marks))


# ---------------------------------------------------------------------- what the table says


def _separator(head: Head) -> str | None:
    """The separator of the header, if the table has a column of time and one that is known."""
    header = next((line for line in head.lines if line.strip() and not line.startswith("#")), "")
    for separator in SEPARATORS:
        names = [cell.strip().strip('"') for cell in header.split(separator)]
        if set(names) & set(TIMES) and any(_quantity_of(name) for name in names):
            return separator
    return None


def _quantity_of(name: str) -> str | None:
    """The quantity that a column of this name holds; None if there is none."""
    if name in FLUXNET:
        return FLUXNET[name]
    try:
        quantity(name)
    except KeyError:
        return None
    return name


def _comments(sheet: Sheet) -> dict[str, str]:
    about = {}
    for line in sheet.comments:
        key, colon, value = line.partition(":")
        key = key.strip().lower().replace(" ", "_")
        if colon and key in KEYS:
            if about.setdefault(key, value.strip()) != value.strip():
                got = f"{about[key]} and {value.strip()}"
                raise ValueError(complain(f"one {key} in {sheet.path.name}", got, "one file holds one site"))
    if about.get("label", "start") not in ("start", "middle", "end"):
        raise ValueError(complain(f"# label: start, middle or end in {sheet.path.name}", repr(about["label"]), "say what the stamps label"))
    if about.get("step") and not re.fullmatch(r"P(1[MY]|\d+D|T\d+[HM])", about["step"]):
        raise ValueError(complain(f"# step: PT30M, PT1H, P1D, P1M or the like in {sheet.path.name}", repr(about["step"]),
                                  "write the step as an ISO 8601 duration, or leave it out"))
    return about


def _number(about: dict[str, str], key: str, path: Path) -> float:
    try:
        return float(about[key])
    except ValueError as error:
        raise ValueError(complain(f"# {key}: a number in {path.name}", repr(about[key]), "write it with a point, such as 61.85")) from error


def _missing(about: dict[str, str], path: Path) -> list[float]:
    """The values that a line `# missing: -999, -99.99` declares."""
    texts = [text for text in re.split(r"[,;\s]+", about.get("missing", "")) if text]
    return [_number({"missing": text}, "missing", path) for text in texts]


def _units_row(sheet: Sheet, stamp: str, named: dict[str, str]) -> list[str]:
    """The row of units; ValueError that shows the one to add where there is none."""
    first = sheet.cells(sheet.rows[0])
    place = sheet.names.index(stamp)
    if len(first) <= place or DATE.match(first[place]):
        usual = [quantity(named[name]).units if name in named else "-" for name in sheet.names]
        raise ValueError(complain(
            f"the units in line {sheet.first + 1} of {sheet.path.name}, below the header", f"data at once: {sheet.rows[0][:60]}",
            f"add a line such as\n          {sheet.separator.join(usual)}\n          with the units in which your columns really are"))
    units = sheet.take_units()
    if len(units) != len(sheet.names):
        raise ValueError(complain(f"{len(sheet.names)} units in line {sheet.first} of {sheet.path.name}, one a column", f"{len(units)}",
                                  "write - for a column without a unit"))
    bare = [name for name in named if not units[sheet.names.index(name)]]
    if bare:
        raise ValueError(complain(f"a unit of {bare[0]} in line {sheet.first} of {sheet.path.name}", "none",
                                  f"write it, such as {quantity(named[bare[0]]).units!r}; 1 for a fraction"))
    return units


def _one_site(frame: pd.DataFrame, site: str | None, about: dict[str, str], sheet: Sheet, said: list[str]) -> tuple[pd.DataFrame, str]:
    if "site" not in frame:
        if site and "site" in about and site != about["site"]:
            said.append(f"site was given by the user as {site}; the file says {about['site']}.")
        elif not site and "site" not in about:
            said.append("The file does not say which site this is: give site=\"XX-Abc\" (or --site), or a line `# site: XX-Abc`.")
        return frame, site or about.get("site", "unknown")
    sites = list(dict.fromkeys(frame["site"]))
    if (site and site not in sites) or (not site and len(sites) > 1):
        got = repr(site) if site else f"{len(sites)} sites: {', '.join(sites[:8])}{', ...' * (len(sites) > 8)}"
        raise ValueError(complain(f"one site of {sheet.path.name}" + (f": {', '.join(sites[:8])}" if site else ""), got,
                                  f'select one of them: site="{sites[0]}" (or --site {sites[0]})'))
    if len(sites) > 1:
        said.append(f"The file holds {len(sites)} sites ({', '.join(sites[:8])}); this is {site}.")
    return frame[frame["site"] == (site or sites[0])], site or sites[0]


def _time(frame: pd.DataFrame, stamp: str, about: dict[str, str], path: Path, said: list[str]) -> tuple[pd.DatetimeIndex, str, bool]:
    """Stamps, what they label, and whether they are dates without an hour."""
    cells = frame[stamp]
    digits = len(cells.iloc[0])
    if cells.iloc[0].isdigit() and digits in (12, 8, 6):
        time = compact_stamps(cells, path, digits)
    else:
        time = iso_stamps(cells, path)
    meant = {"TIMESTAMP_START": "start", "TIMESTAMP_END": "end"}.get(stamp)
    label = about.get("label", meant or "start")
    if meant and label != meant:
        raise ValueError(complain(f"# label: {meant} in {path.name}, as its column {stamp} says", repr(label), "correct one of them"))
    if not meant and "label" not in about:
        said.append("The file does not say what its stamps label; they were taken as the start of each step (else add `# label: end`).")
    return time, label, bool((cells.str.len() <= 10).all())


def _chosen(named: dict[str, str], said: list[str]) -> dict[str, str]:
    """Quantity -> column, the first by FLUXNET's preference where two columns hold one quantity."""
    order, chosen = list(FLUXNET), {}
    for theirs in sorted(named, key=lambda name: order.index(name) if name in order else -1):
        name = named[theirs]
        if name in chosen:
            said.append(f"{name} is {chosen[name]}; {theirs} was not taken.")
        chosen.setdefault(name, theirs)
    orphans = [name for name in chosen if name.endswith(("_uncertainty", "_filled")) and name.rsplit("_", 1)[0] not in chosen]
    for name in orphans:
        said.append(f"{name} was left out: there is no {name.rsplit('_', 1)[0]}.")
        del chosen[name]
    return chosen


# ---------------------------------------------------------------------- values


def _column(
    name: str, theirs: str, frame: pd.DataFrame, unit: str, fills: tuple[float, ...], path: Path, said: list[str],
) -> Column:
    values = frame[theirs].to_numpy(dtype=float)
    missing = np.isin(values, fills)
    target = quantity(name).units
    if unit in ("mm", "kg m-2") and target == "mm d-1":
        raise ValueError(complain(f"{name} of {path.name} as a rate, such as mm d-1, or as a sum over the step", repr(unit),
                                  "write 'mm per step' if it is the sum over each step"))
    valid = values[~missing & np.isfinite(values)]
    if name in FRACTIONS and _in_percent(unit):
        _check_percent(f"{name} ({theirs}) of {path.name} in {unit}, as the row of units says", valid)
    if name in ("snow_depth", "canopy_height") and unit == "cm" and valid.size and 0 < np.max(valid) <= 3.0:
        said.append(f"{name} ({theirs}) reaches only {np.max(valid):g} cm: check whether it is in m.")
    if unit == "1" and target not in ("1", "m3 m-3", "kg kg-1"):
        raise ValueError(complain(f"{name} ({theirs}) of {path.name} in a unit that can become {target!r}", "'1'",
                                  f"write its unit, such as {target!r}"))
    return Column(values, unit, theirs)


def _in_percent(unit: str) -> bool:
    try:
        return abs(float(convert(1.0, unit, "1")) - 0.01) < 1e-12
    except ValueError:
        return False


def _check_percent(expected: str, valid: np.ndarray) -> None:
    """Raise ValueError where most values of a column of percent are fractions, or a part of them, apart from the rest."""
    low, high = valid[(valid > 0) & (valid <= 1.0)], valid[valid > 1.0]
    if low.size > high.size:
        few = f" but for {high.size} up to {high.max():g}" if high.size else ""
        raise ValueError(complain(expected, f"values from {valid.min():g} to {low.max():g}, which are fractions{few}",
                                  "write 1 for its unit" + (", and correct or remove the others" if few else "")))
    # A few per cent are possible where they pass into more; apart from the rest, they are another unit.
    if low.size > 1 and np.percentile(high, 1) > CLUSTERS * np.percentile(low, 99):
        rest = f"{high.size} from {high.min():g} to {high.max():g}"
        got = f"{low.size} values from {low.min():g} to {low.max():g}, as fractions are, and {rest}"
        raise ValueError(complain(expected, got, "bring all of them into one unit"))


FORMATS = (Format("plain table with a row of units (CSV)", lambda head: _separator(head) is not None, read_table,
                  "any quantity of the normal form, named so or as in FLUXNET"),)
