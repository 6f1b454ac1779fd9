"""The catalogue: what it lists, how it fetches, and what it says when it cannot."""

import functools
import http.server
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from landcal_jax import data
from landcal_jax.io.files import sha256


@pytest.fixture
def made(tmp_path: Path) -> data.Source:
    """A small file below tmp_path/mirror, and the Source that describes it."""
    path = tmp_path / "mirror" / "flux_daily" / "made" / "FI-Xxx.txt"
    path.parent.mkdir(parents=True)
    path.write_text("carbon\n" * 50)
    return data.Source("flux_daily/made/FI-Xxx.txt", "https://example.org/FI-Xxx.txt", sha256(path),
                       path.stat().st_size, "CC0", "Nobody (2026): Nothing.")


@pytest.fixture
def server(tmp_path: Path, made: data.Source) -> Iterator[str]:
    """The address of a local web server for tmp_path/mirror."""
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    handler = functools.partial(quiet, directory=str(tmp_path / "mirror"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Keep tests off the user's cache, data folder and proxy, but for those that ask for real data."""
    if "data_dir" not in request.fixturenames:
        monkeypatch.delenv("LANDCAL_DATA", raising=False)
    monkeypatch.delenv("LANDCAL_DATA_URL", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(data, "cache_folder", lambda: tmp_path / "cache")


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_catalogue_is_whole() -> None:
    names = [site.name for site in data.sites()]
    assert names == sorted(names) and {"DK-Sor", "FI-Hyy", "FR-Pue", "IT-Noe"} <= set(names)
    files = [source for site in data.sites() for source in site.sources] + list(data.DOUGLAS_FILES)
    for source in files:
        assert re.fullmatch(r"[0-9a-f]{64}", source.sha256) and source.bytes > 0
        assert re.match(r"https://raw\.githubusercontent\.com/[\w-]+/[\w.-]+/[0-9a-f]{40}/", source.url), "not pinned"
        assert source.url.endswith(Path(source.path).name) and source.licence and "https://" in source.citation
    for site in data.sites():
        assert all(site.name in source.path for source in (site.flux, site.forcing))
        assert (site.coordinates is not None) == ("differland" in site.forcing.path)
    assert all(source.licence.startswith("none stated") for source in data.DOUGLAS_FILES)


def test_find_site() -> None:
    assert data.find_site("fi-hyy ").name == "FI-Hyy"
    with pytest.raises(ValueError, match=r"(?s)Expected: .*FI-Hyy.*Got: .*'FI-Hyt'.*Try: .*did you mean FI-Hyy"):
        data.find_site("FI-Hyt")
    with pytest.raises(ValueError, match=r"(?s)'Amazon'.*Try: +give your own files with --forcing and --flux"):
        data.find_site("Amazon")


def test_fetch_downloads_once(made: data.Source, server: str, tmp_path: Path,
                              capfd: pytest.CaptureFixture[str]) -> None:
    path = data.fetch(made, base_url=server)
    assert path == tmp_path / "cache" / made.path and sha256(path) == made.sha256
    (tmp_path / "mirror" / made.path).unlink()
    assert data.fetch(made, base_url=server) == path  # from the cache: the server no longer has it
    assert capfd.readouterr() == ("", "")


def test_fetch_from_a_mirror_named_by_the_environment(
        made: data.Source, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANDCAL_DATA_URL", server + "/")
    assert data.fetch(made).read_text().startswith("carbon")


def test_fetch_prefers_the_local_folder(made: data.Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANDCAL_DATA", str(tmp_path / "mirror"))
    local = data.fetch(made, base_url=f"http://127.0.0.1:{closed_port()}")
    assert local == tmp_path / "mirror" / made.path
    local.write_text("something else")
    with pytest.raises(ValueError, match=f"(?s)Expected: .*{made.sha256}.*Got: .*{sha256(local)}.*Try: .*example.org"):
        data.fetch(made)
    monkeypatch.setenv("LANDCAL_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="(?s)Expected: .*LANDCAL_DATA.*Got: .*nowhere"):
        data.fetch(made)


def test_fetch_falls_back_to_download_when_the_folder_lacks_the_file(
        made: data.Source, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("LANDCAL_DATA", str(tmp_path / "empty"))
    assert data.fetch(made, base_url=server) == tmp_path / "cache" / made.path


def test_fetch_refuses_a_corrupted_download(made: data.Source, server: str, tmp_path: Path) -> None:
    served = tmp_path / "mirror" / made.path
    served.write_text("truncat")
    with pytest.raises(ValueError, match=f"(?s)Expected: .*{made.sha256}.*Got: .*{sha256(served)}.*Try: .*try again"):
        data.fetch(made, base_url=server)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()], "nothing half-done is kept"


def test_fetch_replaces_a_damaged_cache(made: data.Source, server: str, tmp_path: Path) -> None:
    data.fetch(made, base_url=server).write_text("damaged")
    assert sha256(data.fetch(made, base_url=server)) == made.sha256


@pytest.mark.parametrize("missing_on_server", [False, True])
def test_fetch_without_network_says_one_sentence(made: data.Source, server: str, missing_on_server: bool) -> None:
    base_url = server if missing_on_server else f"http://127.0.0.1:{closed_port()}"
    source = replace(made, path="flux_daily/made/gone.nc") if missing_on_server else made
    with pytest.raises(data.DataNotFound) as caught:
        data.fetch(source, base_url=base_url)
    text = str(caught.value)
    for part in (Path(source.path).name, f"{base_url}/{source.path}", "LANDCAL_DATA", source.path, "without --site",
                 "404" if missing_on_server else "ConnectionError"):
        assert part in text
    assert text.startswith("Expected: ") and len(text.splitlines()) == 3


def test_citation_names_each_reference_once() -> None:
    site = data.find_site("FI-Hyy")
    text = data.citation(site.sources)
    assert text.count("10.1038/s41597-020-0534-3") == 1 and text.count("10.5194/essd-14-449-2022") == 1
    assert "CC-BY-4.0" in text and site.forcing.url in text
    assert set(site.flux.record()) == {"file", "sha256", "source", "license", "citation"}


def test_catalogue_matches_local_files(data_dir: Path) -> None:
    for source in (*data.DOUGLAS_FILES, *(source for site in data.sites() for source in site.sources)):
        path = data.fetch(source)
        assert path.is_relative_to(data_dir) and path.stat().st_size == source.bytes


@pytest.mark.parametrize(("name", "first", "days", "nee", "latent_heat"), [
    ("DK-Sor", "1997-01-01", 6574, 3051, 3126),
    ("FR-Pue", "2001-01-01", 3287, 632, 1518),
    ("FI-Hyy", "2006-01-01", 3287, 523, 1586),
])
def test_load_site(name: str, first: str, days: int, nee: int, latent_heat: int, data_dir: Path) -> None:
    forcing, flux, sources = data.load_site(name)
    assert str(forcing["time"].values[0])[:10] == first and forcing.sizes["time"] == days
    np.testing.assert_array_equal(forcing["time"], flux["time"])
    assert int(flux["nee"].notnull().sum()) == nee and int(flux["latent_heat"].notnull().sum()) == latent_heat
    assert not forcing.isnull().to_array().any()
    assert [source.sha256 for source in sources[:2]] == [flux.attrs["sha256"], forcing.attrs["sha256"]]
    assert sources[1].url in forcing.attrs["source"]


def test_every_site_loads(data_dir: Path) -> None:
    for site in data.sites():
        forcing, flux, _ = data.load_site(site.name)
        assert forcing.sizes["time"] > 3000 and int(flux["nee"].notnull().sum()) > 100, site.name
