"""The figures and the report, drawn from a synthetic dataset in the layout of posterior.nc."""

import json
import re
from html import escape
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from posterior_example import example

from landcal_jax import plot, report
from landcal_jax.plot_style import fixed_text, number_text, spread_text, unit_text


@pytest.fixture(scope="module")
def ds() -> xr.Dataset:
    return example(years=4, draws=200)


@pytest.fixture(scope="module")
def html(ds: xr.Dataset) -> str:
    return report.render(ds)


def few(ds: xr.Dataset, number: int = 4) -> xr.Dataset:
    """The dataset with few parameters, so that a report takes seconds."""
    return ds.isel(parameter=slice(0, number), parameter_2=slice(0, number))


def text_of(html: str) -> str:
    """Text and attribute texts of a page as a reader gets them; fails on tags that are not closed in order."""
    found, stack, void = [], [], {"meta", "img", "br"}

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            found.extend(value for name, value in attrs if name == "alt")
            if tag not in void:
                stack.append(tag)

        def handle_endtag(self, tag):
            assert stack.pop() == tag

        def handle_data(self, data):
            found.append(data)

    Reader().feed(html)
    assert not stack
    return " ".join(found)


def line(figure: Figure, label: str, axis: int = 0) -> np.ndarray:
    """The y values of the line with that label."""
    return next(line.get_ydata() for line in figure.axes[axis].get_lines() if line.get_label().startswith(label))


# -------------------------------------------------------------------------------------------------------------- figures

def test_cost_draws_every_term_and_their_sum(ds):
    figure = plot.cost(ds)
    assert figure.axes[0].get_yscale() == "log"
    np.testing.assert_allclose(line(figure, "total"), ds["cost"].sum("term").values)
    np.testing.assert_allclose(line(figure, "latent heat"), ds["cost"].sel(term="latent_heat").values)
    assert np.isnan(line(figure, "prior")[0])  # exactly zero at the start: no place on a logarithmic axis
    np.testing.assert_allclose(line(plot.cost(ds["cost"]), "nee"), ds["cost"].sel(term="nee").values)


def test_series_of_a_long_record_has_means_and_two_daily_years(ds):
    figure = plot.series(ds, "nee")
    assert len(figure.axes) == 3
    assert unit_text("gC m-2 d-1") == "gC m⁻² d⁻¹" and "gC m⁻² d⁻¹" in figure.axes[0].get_ylabel()
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert "15-day means" in titles[0] and "calibrated" in titles[1] and "held-out" in titles[2]
    year = titles[2][:4]
    np.testing.assert_allclose(line(figure, "predictive", 2), ds["nee_predictive_median"].sel(nee_time=year).values[0])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[0].startswith("observed") and "held-out days" in labels and any("90 %" in label for label in labels)


def test_means_compare_model_and_observation_over_the_same_days(ds):
    figure = plot.series(ds, "nee")
    observed, prior = ds["nee_observed"].values[0], ds["nee_prior"].values[0]
    window = next(number for number in range(60) if 3 <= np.isfinite(observed[15 * number:][:15]).sum() < 15)
    days = slice(15 * window, 15 * window + 15)
    assert line(figure, "prior")[window] == pytest.approx(prior[days][np.isfinite(observed[days])].mean())


def test_series_of_a_period_is_one_daily_panel(ds):
    figure = plot.series(ds, "latent_heat", period=("2004-03-01", "2004-05-31"))
    assert len(figure.axes) == 1 and "W m⁻²" in figure.axes[0].get_ylabel()
    expected = ds["latent_heat_prior"].sel(latent_heat_time=slice("2004-03-01", "2004-05-31")).values[0]
    np.testing.assert_allclose(line(figure, "prior"), expected)
    with pytest.raises(ValueError, match="Expected: a period within the record"):
        plot.series(ds, "nee", period=("1990-01-01", "1990-12-31"))


def test_fit_shows_the_year_before_and_after_the_split(ds):
    figure = plot.fit(ds, "nee")
    held = ds["nee_held_out"].values
    assert len(figure.axes) == 1
    assert any(text.get_text() == "held out" for text in figure.axes[0].texts)
    assert 0 < len(line(figure, "predictive")) <= 731 and held.any()


def test_seasonal_has_a_panel_for_each_kind_of_day(ds):
    figure = plot.seasonal(ds, "nee")
    assert [axis.get_title(loc="left").split(" days")[0] for axis in figure.axes] == ["Calibrated", "Held-out"]
    assert len(line(figure, "calibrated run")) == 36
    assert len(plot.seasonal(example(years=1, held_out=False, draws=10), "nee").axes) == 1


def test_residuals_have_four_panels_with_units(ds):
    figure = plot.residuals(ds, "latent_heat")
    assert len(figure.axes) == 4
    assert "days" in figure.axes[1].get_xlabel() and "W m⁻²" in figure.axes[2].get_ylabel()
    record = plot.records(ds, "latent_heat")[0]
    expected = (record["observed"] - record["map"]).dropna()
    np.testing.assert_allclose(np.sort(line(figure, "one value", 2)), np.sort(expected))


def test_autocorrelation_ignores_gaps():
    values = np.sin(2 * np.pi * np.arange(400) / 20)
    values[::7] = np.nan
    correlation, pairs = plot.autocorrelation(values, 20)
    assert correlation[0] == 1 and pairs[0] == np.isfinite(values).sum()
    np.testing.assert_allclose(correlation[[10, 20]], [-1, 1], atol=0.02)


def test_parameters_draw_each_marginal_with_unit_and_markers(ds):
    figure = plot.parameters(ds)
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title(loc="left") for axis in shown] == list(ds["parameter"].values)
    assert shown[10].get_xlabel() == "gC m⁻² d⁻¹"
    assert shown[4].get_xscale() == "linear" and shown[0].get_xscale() == "log"
    marker = next(line for line in shown[2].get_lines() if line.get_label() == "MAP")
    assert marker.get_xdata()[0] == pytest.approx(ds["map"].values[2])
    assert any(line.get_label() == "truth" for line in shown[2].get_lines())
    one = plot.parameters(ds, ["uwue"])
    assert len(one.axes) == 1
    with pytest.raises(ValueError, match="Got: .*'nonsense'"):
        plot.parameters(ds, ["nonsense"])


def test_parameters_without_draws_use_the_moments(ds):
    figure = plot.parameters(few(ds).drop_vars(["theta", "prior_theta", "truth"]))
    assert np.nanmax(line(figure, "posterior", 2)) == pytest.approx(1)


def test_correlation_shows_the_lower_triangle(ds):
    axis = plot.correlation(ds).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == list(ds["parameter"].values[1:])
    drawn = np.ma.filled(axis.images[0].get_array(), np.nan)
    assert np.isnan(drawn[0]).all() and drawn[5, 2] == pytest.approx(ds["correlation"].values[5, 2])


def test_more_than_forty_parameters_are_reduced_to_the_best_constrained(ds):
    many = xr.concat([ds, ds.assign_coords(parameter=[f"{name}_2" for name in ds["parameter"].values])], "parameter",
                     data_vars="minimal", join="override", compat="override", coords="minimal")
    many["posterior_sd"] = many["prior_sd"] * np.linspace(0.1, 1, many.sizes["parameter"])
    assert sum(axis.get_visible() for axis in plot.parameters(many).axes) == 40


def test_a_wrong_name_is_refused_with_the_known_ones(ds):
    with pytest.raises(ValueError, match="Expected: a stream of this dataset: nee, latent_heat"):
        plot.series(ds, "gpp")
    with pytest.raises(ValueError, match="Expected: a site of this dataset"):
        plot.seasonal(ds, "nee", "elsewhere")
    with pytest.raises(ValueError, match="Expected: a variable `cost`"):
        plot.cost(ds.drop_vars("cost"))
    with pytest.raises(ValueError, match="one figure a site"):
        plot.series(example(sites=("a", "b"), years=1, draws=10), "nee")


def test_a_stream_without_observations_has_a_series_and_a_sentence(ds):
    blind = ds.drop_vars([name for name in ds.variables if str(name).startswith("latent_heat")]).copy(deep=True)
    blind["nee_observed"][:] = np.nan
    assert np.isfinite(line(plot.series(blind, "nee"), "predictive")).all()
    with pytest.raises(ValueError, match="Expected: at least one observation of nee"):
        plot.residuals(blind, "nee")
    text = text_of(report.render(few(blind.assign(score=blind["score"] * np.nan), 2)))
    assert "No observations, and so no scores, for: net ecosystem exchange at XX-Syn" in text


def test_figures_leave_no_trace_in_matplotlib(ds):
    matplotlib.get_backend()  # matplotlib fills this entry of its own accord when it is first read
    before = matplotlib.rcParams.copy()
    plot.seasonal(ds, "nee")
    assert matplotlib.rcParams == before


# ---------------------------------------------------------------------------------------------------- numbers in print

@pytest.mark.parametrize(("value", "text"), [(0.0, "0"), (-1.234, "−1.23"), (4.5e-5, "4.50 × 10⁻⁵"),
                                             (12345.6, "12\u202f346"), (np.nan, "not known"), (3e7, "3.00 × 10⁷")])
def test_number_text(value, text):
    assert number_text(value) == text


def test_spread_text_keeps_two_digits_of_the_spread():
    assert spread_text(12.345, 0.67) == "12.35 ± 0.67" or spread_text(12.345, 0.67) == "12.34 ± 0.67"
    assert spread_text(3.21e-5, 1.1e-6) == "(3.21 ± 0.11) × 10⁻⁵"
    assert spread_text(2.0, np.nan) == "2.00"
    assert fixed_text(-0.0004, 2) == "0.00"


def test_unit_text():
    assert unit_text("W m-2") == "W m⁻²" and unit_text("1") == "dimensionless" and unit_text("degC-1") == "°C⁻¹"
    assert unit_text("gCO2 m-2") == "gCO2 m⁻²" and unit_text("m3 m-3") == "m³ m⁻³" and unit_text("hPa0.5") == "hPa⁰·⁵"


# --------------------------------------------------------------------------------------------------------------- report

def test_report_names_every_parameter_and_score(ds, html):
    text = text_of(html)
    for name in ds["parameter"].values:
        assert str(name) in text
    for stream in plot.streams(ds):
        for period in ds["period"].values:
            for stage in ds["stage"].values:
                score = ds["score"].sel(stream=stream, period=period, stage=stage).isel(site=0)
                assert fixed_text(float(score.sel(metric="r")), 3) in text
                assert fixed_text(float(score.sel(metric="chi_square")), 2) in text
                assert number_text(float(score.sel(metric="rmse"))) in text
    for sentence in json.loads(ds.attrs["warnings"]):
        assert sentence in text
    assert "near its upper bound" in text and "not constrained by these data" in text
    assert "RMSE of net ecosystem exchange went from" in text and "1 September 2006 to 31 December 2007" in text
    for record in json.loads(ds.attrs["data"]):
        assert all(value in text for value in record.values())
    assert ds.attrs["command"] in text and "└─ forward" in text and "jax 0.10.2" in text


def test_report_is_one_small_file_without_requests_or_scripts(html):
    assert len(html.encode()) < 4e6 and "<script" not in html
    sources = re.findall(r'\ssrc\s*=\s*"([^"]{0,40})', html)
    assert len(sources) == 9 and all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"<link|@import|url\(", html)
    assert all(target.startswith("#") or target == "https://example.org/flux/10.1234/syn"
               for target in re.findall(r'href="([^"]*)"', html))
    assert len(re.findall(r'<img [^>]*alt="[^"]{10,}"', html)) == 9
    assert '<html lang="en-GB">' in html and 'name="viewport"' in html


def test_report_of_two_sites_without_held_out_days_and_truth_escapes_names(tmp_path):
    ds = few(example(sites=("<b>x", "YY-Syn"), years=2, held_out=False, truth=False, draws=50))
    path = report.write(ds, tmp_path / "report.html")
    html = path.read_text(encoding="utf-8")
    assert "<b>x" not in html and escape("<b>x") in html
    text = text_of(html)
    assert "No days were held out" in text and "raised no warnings" in text and "Truth" not in text
    assert len(re.findall("Observed and modelled net ecosystem exchange at", text)) == 2
    assert "All sites are pooled" in text


def test_report_says_in_words_what_is_missing():
    ds = few(example(years=1, draws=10))
    dropped = ["theta", "prior_theta", "correlation", "cost", "truth", "description"]
    endings = ("_predictive_median", "_predictive_lower", "_predictive_upper", "_model_lower", "_model_upper",
               "_observed_sd", "_total_sd")
    ds = ds.drop_vars(dropped + [name for name in ds if str(name).endswith(endings)])
    ds["score"] = ds["score"].where(ds["metric"] != "chi_square")
    ds.attrs = {}
    text = text_of(report.render(ds))
    for words in ("not known", "No history of the cost was kept", "No posterior correlation was kept",
                  "No warnings were recorded", "No data files were recorded", "tree was not recorded"):
        assert words in text


def test_report_survives_a_file(tmp_path, ds):
    small = few(ds, 2).isel(nee_time=slice(700, 1100))
    small = small.drop_vars([name for name in small.variables if str(name).startswith("latent_heat")])
    small.to_netcdf(tmp_path / "posterior.nc")
    with xr.open_dataset(tmp_path / "posterior.nc") as read:
        assert text_of(report.render(read)) == text_of(report.render(small))


def test_report_refuses_attributes_that_are_not_json(ds):
    broken = few(ds, 2).assign_attrs(seconds="{compile: 3}")
    with pytest.raises(ValueError, match="Expected: JSON text in the attribute `seconds`"):
        report.render(broken)
    with pytest.raises(ValueError, match="Expected: a JSON list in the attribute `warnings`"):
        report.render(few(ds, 2).assign_attrs(warnings='"one"'))
